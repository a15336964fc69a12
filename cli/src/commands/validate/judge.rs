//! Predictions held against measurements. NeuralPower's equations 3 to 8.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use wattfarm_cost::model::NetworkPrediction;
use wattfarm_cost::{Hash, Kind, Measurement, Network};

use crate::render::number::{NONE, figure};
use crate::render::table::{Column, table};

/// The paper's mean accuracy over its five networks on a Titan X, in percent: of runtime, power and energy.
const PAPERS: [f64; 3] = [88.24, 88.34, 97.21];

/// The paper's accuracy of energy with two swapped figures of its table 6 put right, in percent.
const PAPERS_ENERGY_CORRECTED: f64 = 95.12;

/// One figure of a network, three times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Triple {
    /// As predicted; `None` unless every layer has a model.
    pub(super) predicted: Option<f64>,
    /// Of its layers, each measured by itself; `None` unless all were.
    pub(super) layers: Option<f64>,
    /// Of the whole network.
    pub(super) measured: Option<f64>,
}

impl Triple {
    pub(super) fn predicted_error_percent(&self) -> Option<f64> {
        Some(error_percent(self.predicted?, self.measured?))
    }

    pub(super) fn layers_error_percent(&self) -> Option<f64> {
        Some(error_percent(self.layers?, self.measured?))
    }
}

fn error_percent(found: f64, truth: f64) -> f64 {
    100.0 * (found - truth) / truth
}

/// One layer, predicted and measured by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct JudgedLayer {
    pub(super) layer: String,
    pub(super) kind: Kind,
    pub(super) hash: Hash,
    pub(super) runtime_ms_predicted: Option<f64>,
    pub(super) runtime_ms_low: Option<f64>,
    pub(super) runtime_ms_high: Option<f64>,
    pub(super) runtime_ms_measured: Option<f64>,
    pub(super) power_w_predicted: Option<f64>,
    pub(super) power_w_measured: Option<f64>,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Judged {
    pub(super) network: String,
    pub(super) batch: u64,
    pub(super) runtime_ms: Triple,
    pub(super) power_w: Triple,
    pub(super) energy_mj: Triple,
    pub(super) layers: Vec<JudgedLayer>,
}

impl Judged {
    /// A network's prediction against the newest measurements of it and its layers.
    pub(super) fn new(
        network: &Network,
        prediction: &NetworkPrediction,
        measurements: &BTreeMap<Hash, Measurement>,
    ) -> Self {
        let readings = |hash: &Hash| measurements.get(hash).map(|found| &found.reading);
        let power = |hash: &Hash| Some(readings(hash)?.power.as_ref()?.mean_w);
        let layers: Vec<JudgedLayer> = prediction
            .layers
            .iter()
            .map(|layer| JudgedLayer {
                layer: layer.name.clone(),
                kind: layer.kind,
                hash: layer.hash,
                runtime_ms_predicted: layer.runtime_ms,
                runtime_ms_low: layer.runtime_ms_low,
                runtime_ms_high: layer.runtime_ms_high,
                runtime_ms_measured: readings(&layer.hash).map(|own| own.runtime.median_ms),
                power_w_predicted: layer.power_w,
                power_w_measured: power(&layer.hash),
            })
            .collect();
        // What costs nothing is not measured, and is nothing in the sum.
        let views = network.layers().filter(|(_, layer)| layer.is_view());
        let views: BTreeSet<Hash> = views.map(|(_, layer)| layer.hash()).collect();
        let working = || layers.iter().filter(|layer| !views.contains(&layer.hash));
        let time: Option<f64> = working().map(|layer| layer.runtime_ms_measured).sum();
        let energy: Option<f64> = working()
            .map(|layer| Some(layer.runtime_ms_measured? * layer.power_w_measured?))
            .sum();
        let whole = network.hash();
        let total = &prediction.total;
        Self {
            network: prediction.network.clone(),
            batch: prediction.batch,
            runtime_ms: Triple {
                predicted: total.runtime_ms.filter(|_| total.items_per_s.is_some()),
                layers: time,
                measured: readings(&whole).map(|own| own.runtime.median_ms),
            },
            power_w: Triple {
                predicted: total.power_w,
                layers: energy.zip(time).map(|(energy, time)| energy / time),
                measured: power(&whole),
            },
            energy_mj: Triple {
                predicted: total.energy_mj,
                layers: energy,
                measured: readings(&whole).and_then(|own| own.energy_mj()),
            },
            layers,
        }
    }
}

/// A kind's error over layers, each counted once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct KindErrors {
    pub(super) kind: Kind,
    /// Layers that were predicted and measured.
    pub(super) layers: usize,
    pub(super) runtime_rmspe_percent: Option<f64>,
    pub(super) power_rmspe_percent: Option<f64>,
}

/// Root mean square; `None` of nothing.
fn root_mean_square(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0u32, 0.0), |(count, sum), value| {
        (count + 1, sum + value * value)
    });
    (count > 0).then(|| (sum / f64::from(count)).sqrt())
}

/// Errors by layer kind.
pub(super) fn by_kind(networks: &[Judged]) -> Vec<KindErrors> {
    let mut distinct: BTreeMap<Hash, &JudgedLayer> = BTreeMap::new();
    for layer in networks.iter().flat_map(|network| &network.layers) {
        distinct.entry(layer.hash).or_insert(layer);
    }
    let mut kinds: BTreeMap<Kind, Vec<&JudgedLayer>> = BTreeMap::new();
    for layer in distinct.into_values() {
        if layer.runtime_ms_predicted.is_some() && layer.runtime_ms_measured.is_some() {
            kinds.entry(layer.kind).or_default().push(layer);
        }
    }
    let errors = |(kind, layers): (Kind, Vec<&JudgedLayer>)| {
        let of = |predicted: fn(&JudgedLayer) -> Option<f64>,
                  measured: fn(&JudgedLayer) -> Option<f64>| {
            let each = layers
                .iter()
                .filter_map(|layer| Some(error_percent(predicted(layer)?, measured(layer)?)));
            root_mean_square(each)
        };
        KindErrors {
            kind,
            layers: layers.len(),
            runtime_rmspe_percent: of(
                |layer| layer.runtime_ms_predicted,
                |layer| layer.runtime_ms_measured,
            ),
            power_rmspe_percent: of(
                |layer| layer.power_w_predicted,
                |layer| layer.power_w_measured,
            ),
        }
    };
    kinds.into_iter().map(errors).collect()
}

/// Root mean square of the networks' relative errors, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Errors {
    runtime: Option<f64>,
    power: Option<f64>,
    energy: Option<f64>,
}

impl Errors {
    pub(super) fn of(networks: &[Judged]) -> Self {
        let of = |triple: fn(&Judged) -> Triple| {
            let errors = networks.iter().map(triple);
            root_mean_square(errors.filter_map(|triple| triple.predicted_error_percent()))
        };
        Self {
            runtime: of(|judged| judged.runtime_ms),
            power: of(|judged| judged.power_w),
            energy: of(|judged| judged.energy_mj),
        }
    }
}

/// 100 less the error, as the paper counts accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Accuracy {
    runtime: Option<f64>,
    power: Option<f64>,
    energy: Option<f64>,
}

impl Accuracy {
    pub(super) fn of(errors: &Errors) -> Self {
        let accuracy = |error: Option<f64>| error.map(|error| 100.0 - error);
        Self {
            runtime: accuracy(errors.runtime),
            power: accuracy(errors.power),
            energy: accuracy(errors.energy),
        }
    }

    /// What, ours, and the paper's.
    pub(super) fn rows(&self) -> [[String; 3]; 3] {
        let percent = |value: Option<f64>| value.map_or_else(|| NONE.to_owned(), figure);
        let [runtime, power, energy] = PAPERS.map(|value| format!("{value:.2}"));
        [
            ["runtime".to_owned(), percent(self.runtime), runtime],
            ["power".to_owned(), percent(self.power), power],
            [
                "energy".to_owned(),
                percent(self.energy),
                format!("{energy} ({PAPERS_ENERGY_CORRECTED:.2} as corrected)"),
            ],
        ]
    }

    pub(super) fn text(&self) -> String {
        let columns = [
            Column::Left("accuracy %"),
            Column::Right("here"),
            Column::Left("NeuralPower, five networks on a Titan X"),
        ];
        table(columns, self.rows())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};
    use wattfarm_cost::measurement::{Conditions, Power, Reading, Recipe, Runtime};
    use wattfarm_cost::network::{NetworkBuilder, window};
    use wattfarm_cost::platform::Device;
    use wattfarm_cost::{Dtype, ModelSet, Platform, Subject};

    use super::*;

    fn judged(network: &str, runtime: [f64; 3], power: [f64; 3], energy: [f64; 3]) -> Judged {
        let triple = |[predicted, layers, measured]: [f64; 3]| Triple {
            predicted: Some(predicted),
            layers: Some(layers),
            measured: Some(measured),
        };
        Judged {
            network: network.to_owned(),
            batch: 1,
            runtime_ms: triple(runtime),
            power_w: triple(power),
            energy_mj: triple(energy),
            layers: Vec::new(),
        }
    }

    /// Two layers and a view by hand: 2 ms at 10 W and 3 ms at 20 W are 5 ms, 80 mJ and 16 W.
    #[test]
    fn measured_layers_are_summed_as_the_paper_sums() {
        let mut net = NetworkBuilder::new("two", vec![2, 3, 8, 8], Dtype::F32);
        let input = net.input();
        let conv = net.conv2d("conv", input, 4, window(3, 1, 1), 1, false);
        let relu = net.relu("relu", conv);
        net.flatten("flat", relu);
        let network = net.finish().expect("valid");
        let models = ModelSet::new("c".to_owned(), platform(), Vec::new());
        let prediction = wattfarm_cost::model::predict(&network, &models);
        let mut measurements = BTreeMap::new();
        let mut measured = |subject: Subject, ms, w| {
            measurements.insert(subject.hash(), measurement(subject, ms, w));
        };
        let figures = [(2.0, 10.0), (3.0, 20.0)];
        for ((_, layer), (ms, w)) in network.layers().zip(figures) {
            measured(Subject::Layer(layer.clone()), ms, w);
        }
        measured(Subject::Network(network.clone()), 4.0, 18.0);
        let judged = Judged::new(&network, &prediction, &measurements);
        let sums = [judged.runtime_ms, judged.power_w, judged.energy_mj];
        assert_eq!(
            sums.map(|triple| triple.layers),
            [Some(5.0), Some(16.0), Some(80.0)]
        );
        assert_eq!(
            sums.map(|triple| triple.measured),
            [Some(4.0), Some(18.0), Some(72.0)]
        );
        assert_eq!(sums.map(|triple| triple.predicted), [None; 3]);
        assert_eq!(judged.runtime_ms.layers_error_percent(), Some(25.0));
        assert_eq!(by_kind(&[judged]), []);
    }

    fn platform() -> Platform {
        Platform {
            device: Device::Cpu {
                model: "c".to_owned(),
                threads: 1,
                instruction_set: "AVX2".to_owned(),
            },
            libtorch: "2.11.0".to_owned(),
        }
    }

    fn measurement(subject: Subject, ms: f64, w: f64) -> Measurement {
        Measurement {
            sequence: 1,
            job: JobId(Uuid::nil()),
            agent: AgentId(Uuid::nil()),
            lease: LeaseNumber(1),
            recipe: Recipe::of(&subject),
            platform: platform().hash(),
            subject,
            reading: Reading {
                runtime: Runtime {
                    median_ms: ms,
                    low_ms: ms,
                    high_ms: ms,
                    repetitions: 1,
                    warmup: 1,
                    disturbed: 0,
                    samples_ms: vec![ms as f32],
                },
                power: Some(Power {
                    mean_w: w,
                    idle_w: None,
                    sensor: "test".to_owned(),
                    window_s: 1.0,
                }),
                conditions: Conditions::default(),
            },
            received_at_ms: 0,
        }
    }

    /// Tables 4 to 6 of the paper: its own figures give its own accuracy, and, with the two swapped ones put right, the
    /// corrected one.
    #[test]
    fn the_papers_tables_give_the_papers_accuracy() {
        let of = |cifar10_energy: [f64; 3]| {
            Errors::of(&[
                judged(
                    "vgg16",
                    [373.82, 375.20, 368.42],
                    [206.88, 195.76, 204.80],
                    [77.312, 73.446, 75.452],
                ),
                judged(
                    "alexnet",
                    [43.41, 42.19, 39.02],
                    [174.25, 169.08, 194.62],
                    [7.565, 7.134, 7.594],
                ),
                judged(
                    "nin",
                    [62.62, 55.83, 50.66],
                    [179.98, 187.99, 226.34],
                    [11.269, 10.495, 11.465],
                ),
                judged(
                    "overfeat",
                    [195.21, 200.75, 197.99],
                    [172.20, 168.40, 172.30],
                    [33.616, 33.807, 34.113],
                ),
                judged(
                    "cifar10-6conv",
                    [51.13, 53.24, 50.09],
                    [165.33, 167.86, 188.34],
                    cifar10_energy,
                ),
            ])
        };
        let is = |found: Option<f64>, known: f64| (found.expect("a figure") - known).abs() < 0.01;
        let printed = Accuracy::of(&of([8.938, 8.453, 9.433]));
        assert!(is(printed.runtime, PAPERS[0]), "{printed:?}");
        assert!(is(printed.power, PAPERS[1]), "{printed:?}");
        assert!(is(printed.energy, PAPERS[2]), "{printed:?}");
        let corrected = Accuracy::of(&of([8.453, 8.938, 9.433]));
        assert!(
            is(corrected.energy, PAPERS_ENERGY_CORRECTED),
            "{corrected:?}"
        );
    }
}
