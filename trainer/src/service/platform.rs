//! What has been measured on one platform, whatever model it is for.

use std::collections::BTreeMap;
use std::time::Duration;

use wattfarm_cost::Hash;
use wattfarm_cost::measurement::{Measurement, Recipe, Subject};
use wattfarm_cost::model::Additivity;
use wattfarm_cost::network::Network;

/// More networks than these say nothing new of how a platform adds up: the newest are kept.
const NETWORKS_MAX: usize = 256;

/// One platform's measurements.
#[derive(Debug, Default)]
pub(super) struct PlatformBook {
    /// Each layer's runtimes by the recipe of today, in ms, with the place of their measurement. What was measured by an
    /// older recipe is worth measuring again.
    layers: BTreeMap<Hash, Vec<(u64, f64)>>,
    /// The newest measurement of each network.
    networks: BTreeMap<Hash, Whole>,
    pub(super) last_arrival: Duration,
}

/// A network that was measured whole.
#[derive(Debug)]
struct Whole {
    sequence: u64,
    runtime_ms: f64,
    /// What it is the sum of: layers that move something, one by one.
    layers: Vec<Hash>,
}

impl PlatformBook {
    pub(super) fn take(&mut self, now: Duration, measurement: &Measurement) {
        let runtime_ms = measurement.reading.runtime.median_ms;
        let sequence = measurement.sequence;
        match &measurement.subject {
            Subject::Layer(layer) => {
                self.last_arrival = now;
                if measurement.recipe == Recipe::LAYER {
                    let own = self.layers.entry(layer.hash()).or_default();
                    own.push((sequence, runtime_ms));
                }
            }
            Subject::Network(network) if measurement.recipe == Recipe::NETWORK => {
                self.take_network(sequence, runtime_ms, network);
            }
            Subject::Network(_) => (),
        }
    }

    fn take_network(&mut self, sequence: u64, runtime_ms: f64, network: &Network) {
        let layers = network.layers().filter(|(_, layer)| !layer.is_view());
        let whole = Whole {
            sequence,
            runtime_ms,
            layers: layers.map(|(_, layer)| layer.hash()).collect(),
        };
        self.networks.insert(network.hash(), whole);
        if self.networks.len() > NETWORKS_MAX {
            let oldest = self.networks.iter().min_by_key(|(_, one)| one.sequence);
            if let Some((&hash, _)) = oldest {
                self.networks.remove(&hash);
            }
        }
    }

    /// A measurement has been retracted. Of a network the one before it is not remembered.
    pub(super) fn retract(&mut self, sequence: u64) {
        self.networks.retain(|_, whole| whole.sequence != sequence);
        self.layers.retain(|_, own| {
            own.retain(|(place, _)| *place != sequence);
            !own.is_empty()
        });
    }

    pub(super) fn is_measured(&self, layer: &Hash) -> bool {
        self.layers.contains_key(layer)
    }

    /// How far the networks whose every layer has been measured are from their layers' sums; `None` without any.
    pub(super) fn additivity(&self) -> Option<Additivity> {
        let newest_ms = |hash: &Hash| self.layers.get(hash)?.last().map(|(_, ms)| *ms);
        let gap = |whole: &Whole| {
            let sum = (whole.layers.iter()).try_fold(0.0, |sum, hash| Some(sum + newest_ms(hash)?));
            sum.filter(|sum| *sum > 0.0)
                .map(|sum: f64| (whole.runtime_ms / sum).ln())
        };
        let gaps: Vec<f64> = self.networks.values().filter_map(gap).collect();
        let mean =
            |of: fn(f64) -> f64| gaps.iter().map(|gap| of(*gap)).sum::<f64>() / gaps.len() as f64;
        (!gaps.is_empty()).then(|| Additivity {
            networks: gaps.len() as u32,
            mean: mean(|gap| gap),
            rms: mean(|gap| gap * gap).sqrt(),
        })
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
}
