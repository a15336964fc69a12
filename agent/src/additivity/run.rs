//! Measuring one network's gap.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use wattfarm_cost::Hash;
use wattfarm_cost::measurement::{Recipe, Subject};
use wattfarm_cost::network::{Network, Step};

use super::{Gap, Share};
use crate::executor::Executor;
use crate::recipe::{Clock, Confidence, Failure, Pulse, Scratch, measure, median_interval};

/// Calls of a network during which each step is timed by itself.
const STEP_CALLS: usize = 7;

/// Measures a network whole, its layers alone, its layers once more, and the network once more.
///
/// # Errors
/// The first failure of a measurement.
pub fn gap(
    platform: &str,
    network: &Network,
    executor: &Executor,
    scratch: &mut Scratch,
    clock: &dyn Clock,
) -> Result<Gap, Failure> {
    let whole = Subject::Network(network.clone());
    let mut bench = Bench {
        executor,
        scratch,
        clock,
    };
    let before_ms = bench.median_ms(&whole)?;
    let steps_before_ms = bench.steps_ms(network)?;
    let first = bench.layers_ms(network, false)?;
    let second = bench.layers_ms(network, true)?;
    let steps_after_ms = bench.steps_ms(network)?;
    let after_ms = bench.median_ms(&whole)?;

    let mut by_kind: BTreeMap<String, Share> = BTreeMap::new();
    let (mut layers_ms, mut free_ms) = ([0.0; 2], 0.0);
    for (index, node) in network.nodes().iter().enumerate() {
        let within_ms = f64::midpoint(steps_before_ms[index], steps_after_ms[index]);
        let Step::Layer(layer) = &node.step else {
            free_ms += within_ms;
            continue;
        };
        let hash = layer.hash();
        let alone_ms = [first[&hash], second[&hash]];
        layers_ms[0] += alone_ms[0];
        layers_ms[1] += alone_ms[1];
        let share = by_kind.entry(layer.kind().name().to_owned()).or_default();
        share.count += 1;
        share.within_ms += within_ms;
        share.alone_ms += super::mean(alone_ms);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Gap {
        platform: platform.to_owned(),
        recipe: Recipe::LAYER,
        network: network.name().to_owned(),
        batch: network.batch(),
        measured_at_ms: now.unwrap_or_default().as_millis() as u64,
        whole_ms: [before_ms, after_ms],
        layers_ms,
        by_kind,
        free_ms,
    })
}

struct Bench<'a> {
    executor: &'a Executor,
    scratch: &'a mut Scratch,
    clock: &'a dyn Clock,
}

impl Bench<'_> {
    fn median_ms(&mut self, subject: &Subject) -> Result<f64, Failure> {
        let mut workload = self.executor.build(subject)?;
        let pulse = Pulse::default();
        let recipe = Recipe::of(subject);
        let found = measure(recipe, workload.as_mut(), self.scratch, self.clock, &pulse)?;
        Ok(found.median_ms)
    }

    /// Each different layer once, in the network's order or the other way round.
    fn layers_ms(
        &mut self,
        network: &Network,
        is_backwards: bool,
    ) -> Result<BTreeMap<Hash, f64>, Failure> {
        let mut layers: Vec<_> = network.layers().map(|(_, layer)| layer).collect();
        if is_backwards {
            layers.reverse();
        }
        let mut found = BTreeMap::new();
        for layer in layers {
            let hash = layer.hash();
            if let std::collections::btree_map::Entry::Vacant(entry) = found.entry(hash) {
                entry.insert(self.median_ms(&Subject::Layer(layer.clone()))?);
            }
        }
        Ok(found)
    }

    /// What each step takes inside the network: medians, in ms.
    fn steps_ms(&mut self, network: &Network) -> Result<Vec<f64>, Failure> {
        let subject = Subject::Network(network.clone());
        let mut workload = self.executor.build(&subject)?;
        let mut samples = vec![Vec::with_capacity(STEP_CALLS); network.nodes().len()];
        for call in 0..=STEP_CALLS {
            workload.write_inputs()?;
            let clock = self.clock;
            let mut last = clock.now();
            workload.call_in_steps(&mut |index| {
                let now = clock.now();
                // The first call warms up. A workload that knows no steps tells of one: the others took nothing.
                if call > 0 {
                    samples[index].push(now.saturating_sub(last).as_secs_f64() * 1e3);
                }
                last = clock.now();
            })?;
        }
        let median = |samples: &Vec<f64>| match samples.is_empty() {
            true => 0.0,
            false => median_interval(samples, Confidence::P95).median,
        };
        Ok(samples.iter().map(median).collect())
    }
}
