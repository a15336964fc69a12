//! The additivity gap: how far the sum of a network's layers, each measured alone, is from the network measured whole.
//! No prediction made of measured layers can be better than this gap, so a recipe is judged by it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use wattfarm_cost::Hash;
use wattfarm_cost::measurement::{Recipe, Subject};
use wattfarm_cost::network::Network;

use crate::executor::Executor;
use crate::recipe::{Clock, Failure, Scratch, measure};

/// One network's figures, in ms.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// The network's name.
    pub network: String,
    /// Items in a batch.
    pub batch: u64,
    /// The network measured whole before its layers.
    pub whole_before_ms: f64,
    /// The network measured whole after its layers: the difference is the machine's own drift.
    pub whole_after_ms: f64,
    /// Sum over its layers, each measured alone.
    pub layers_ms: f64,
    /// The same by kind.
    pub by_kind: BTreeMap<&'static str, f64>,
}

impl Gap {
    /// The sum's relative difference to the mean of both whole measurements, in percent.
    pub fn percent(&self) -> f64 {
        (self.layers_ms / f64::midpoint(self.whole_before_ms, self.whole_after_ms) - 1.0) * 100.0
    }

    /// How much the network's own two measurements differ, in percent.
    pub fn drift_percent(&self) -> f64 {
        (self.whole_after_ms / self.whole_before_ms - 1.0) * 100.0
    }
}

/// Measures a network whole, each of its different layers alone, and the network again.
pub fn gap(
    network: &Network,
    executor: &Executor,
    scratch: &mut Scratch,
    clock: &dyn Clock,
) -> Result<Gap, Failure> {
    let never = AtomicBool::new(false);
    let mut median = |subject: &Subject| {
        let mut workload = executor.build(subject)?;
        measure(
            Recipe::of(subject),
            workload.as_mut(),
            scratch,
            clock,
            &never,
        )
        .map(|runtime| runtime.median_ms)
    };
    let whole = Subject::Network(network.clone());
    let whole_before_ms = median(&whole)?;
    let mut known: BTreeMap<Hash, f64> = BTreeMap::new();
    let (mut layers_ms, mut by_kind) = (0.0, BTreeMap::new());
    for (_, layer) in network.layers() {
        let hash = layer.hash();
        let ms = match known.get(&hash) {
            Some(&ms) => ms,
            None => median(&Subject::Layer(layer.clone()))?,
        };
        known.insert(hash, ms);
        layers_ms += ms;
        *by_kind.entry(layer.kind().name()).or_insert(0.0) += ms;
    }
    let whole_after_ms = median(&whole)?;
    let (network, batch) = (network.name().to_owned(), network.batch());
    Ok(Gap {
        network,
        batch,
        whole_before_ms,
        whole_after_ms,
        layers_ms,
        by_kind,
    })
}
