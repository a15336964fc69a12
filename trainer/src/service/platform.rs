//! What has been measured on one platform, whatever model it is for.

use std::collections::BTreeMap;
use std::time::Duration;

use wattfarm_cost::Hash;
use wattfarm_cost::id::AgentId;
use wattfarm_cost::measurement::{Measurement, Recipe, Subject};
use wattfarm_cost::model::Additivity;

/// More networks than these say nothing new of how a platform adds up: the newest are kept.
const NETWORKS_MAX: usize = 256;

/// Networks are measured one after another, with nobody else on the machine if it can be had: nothing is fitted because of
/// one before they have stopped for this long.
const SETTLED: Duration = Duration::from_secs(30);

/// One platform's measurements.
#[derive(Debug, Default)]
pub(super) struct PlatformBook {
    /// Each layer's runtimes by the recipe of today. What was measured by an older recipe is worth measuring again.
    layers: BTreeMap<Hash, Vec<Alone>>,
    /// The newest measurement of each network.
    networks: BTreeMap<Hash, Whole>,
    /// When a layer last came.
    pub(super) last_arrival: Duration,
    /// When a network last came.
    last_network: Duration,
    /// Changes until now.
    pub(super) changes: u64,
}

/// A layer that was measured.
#[derive(Debug)]
struct Alone {
    sequence: u64,
    agent: AgentId,
    runtime_ms: f64,
}

/// A network that was measured whole.
#[derive(Debug)]
struct Whole {
    sequence: u64,
    agent: AgentId,
    runtime_ms: f64,
    /// What it is the sum of: layers that move something, one by one.
    layers: Vec<Hash>,
}

impl PlatformBook {
    pub(super) fn take(&mut self, now: Duration, measurement: &Measurement) {
        let runtime_ms = measurement.reading.runtime.median_ms;
        let (sequence, agent) = (measurement.sequence, measurement.agent);
        self.changes += 1;
        match &measurement.subject {
            Subject::Layer(layer) => {
                self.last_arrival = now;
                if measurement.recipe == Recipe::LAYER {
                    let own = self.layers.entry(layer.hash()).or_default();
                    own.push(Alone {
                        sequence,
                        agent,
                        runtime_ms,
                    });
                }
            }
            Subject::Network(network) if measurement.recipe == Recipe::NETWORK => {
                self.last_network = now;
                let layers = network.layers().filter(|(_, layer)| !layer.is_view());
                let whole = Whole {
                    sequence,
                    agent,
                    runtime_ms,
                    layers: layers.map(|(_, layer)| layer.hash()).collect(),
                };
                self.take_network(network.hash(), whole);
            }
            Subject::Network(_) => (),
        }
    }

    fn take_network(&mut self, hash: Hash, whole: Whole) {
        self.networks.insert(hash, whole);
        if self.networks.len() > NETWORKS_MAX {
            let oldest = self.networks.iter().min_by_key(|(_, one)| one.sequence);
            if let Some((&hash, _)) = oldest {
                self.networks.remove(&hash);
            }
        }
    }

    /// A measurement has been retracted. Of a network the one before it is not remembered.
    pub(super) fn retract(&mut self, sequence: u64) {
        let held = |book: &Self| {
            (
                book.networks.len(),
                book.layers.values().map(Vec::len).sum::<usize>(),
            )
        };
        let before = held(self);
        self.networks.retain(|_, whole| whole.sequence != sequence);
        self.layers.retain(|_, own| {
            own.retain(|alone| alone.sequence != sequence);
            !own.is_empty()
        });
        self.changes += u64::from(held(self) != before);
    }

    /// Whether there are networks, and nothing has come for a while: what they add up to is worth telling.
    pub(super) fn is_settled(&self, now: Duration) -> bool {
        !self.networks.is_empty() && now >= self.last_arrival.max(self.last_network) + SETTLED
    }

    pub(super) fn is_measured(&self, layer: &Hash) -> bool {
        self.layers.contains_key(layer)
    }

    /// How far the networks whose every layer their own device has measured are from their layers' sums; `None` without any.
    /// Devices differ by more than the gap, so that others' figures do not count.
    pub(super) fn additivity(&self) -> Option<Additivity> {
        let newest_ms = |hash: &Hash, agent: AgentId| {
            let own = self.layers.get(hash)?;
            let by_agent = own.iter().rfind(|alone| alone.agent == agent);
            by_agent.map(|alone| alone.runtime_ms)
        };
        let gap = |whole: &Whole| {
            let layers = whole.layers.iter();
            let sum = layers
                .map(|hash| newest_ms(hash, whole.agent))
                .sum::<Option<f64>>();
            sum.filter(|sum| *sum > 0.0)
                .map(|sum: f64| (whole.runtime_ms / sum).ln())
        };
        Additivity::of(self.networks.values().filter_map(gap))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{measurement, measurement_of_network, relu};
    use super::*;

    /// The tests' network is one relu of 8 features, and everything in these tests takes 0.5 ms.
    #[test]
    fn networks_are_held_against_the_sums_of_their_layers() {
        let mut book = PlatformBook::default();
        book.take(Duration::ZERO, &measurement_of_network(1));
        assert_eq!(book.additivity(), None, "its layer is not measured");
        let mut layer = measurement(2, relu(8));
        layer.reading.runtime.median_ms = 0.4;
        book.take(Duration::ZERO, &layer);
        let gap = (0.5f64 / 0.4).ln();
        let found = book.additivity().expect("one network");
        assert_eq!(found.networks, 1);
        assert!((found.mean - gap).abs() < 1e-12 && (found.rms - gap).abs() < 1e-12);

        let older = Measurement {
            recipe: Recipe::LayerInNetwork1,
            ..measurement(3, relu(9))
        };
        book.take(Duration::ZERO, &older);
        assert!(!book.is_measured(&relu(9).hash()), "by today's recipe");

        // The newest counts; without it the one before, and without any no network.
        book.take(Duration::ZERO, &measurement(4, relu(8)));
        assert_eq!(book.additivity().map(|found| found.rms), Some(0.0));
        book.retract(4);
        assert!(book.additivity().is_some_and(|found| found.rms > 0.2));
        book.retract(2);
        assert_eq!(
            (book.additivity(), book.is_measured(&relu(8).hash())),
            (None, false)
        );
        book.take(Duration::ZERO, &measurement(5, relu(8)));
        book.retract(1);
        assert_eq!(book.additivity(), None);
    }

    #[test]
    fn a_network_is_held_against_its_own_device() {
        let mut book = PlatformBook::default();
        book.take(Duration::ZERO, &measurement_of_network(1));
        let of = |sequence, agent: &str, runtime_ms| {
            let mut layer = measurement(sequence, relu(8));
            layer.agent = agent.parse().expect("an id");
            layer.reading.runtime.median_ms = runtime_ms;
            layer
        };
        let own = measurement_of_network(1).agent.to_string();
        book.take(Duration::ZERO, &of(2, &own, 0.5));
        let stranger = "0190b7a0-0000-7000-8000-00000000ffff";
        book.take(Duration::ZERO, &of(3, stranger, 0.4));
        assert_eq!(book.additivity().map(|found| found.rms), Some(0.0));
        book.retract(2);
        assert_eq!(book.additivity(), None);
    }
}
