//! Predicting a network layer by layer, and as a whole (NeuralPower, equations 3 to 5).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Additivity, Estimate, Estimator, Limit, ModelSet, Scratch, Target};
use crate::{Dtype, Hash, Kind, Layer, Network};

/// One layer's predicted cost. What has no model is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerPrediction {
    /// The layer's name in its network.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// The layer's hash, to find its measurements.
    pub hash: crate::Hash,
    /// Time of one call of the whole batch, in ms.
    pub runtime_ms: Option<f64>,
    /// Lower end of its 90 % interval.
    pub runtime_ms_low: Option<f64>,
    /// Upper end of its 90 % interval.
    pub runtime_ms_high: Option<f64>,
    /// Mean power, in W.
    pub power_w: Option<f64>,
    /// Energy of one call of the whole batch, in mJ.
    pub energy_mj: Option<f64>,
    /// Floating-point operations of one call.
    pub flops: u64,
    /// Bytes moved if each tensor is touched once.
    pub bytes: u64,
    /// What its time is spent on most.
    pub limit: Option<Limit>,
}

/// A network's predicted cost: sums over its layers, times what the platform's networks take over theirs
/// ([`Additivity::correction`](super::Additivity::correction)), where that is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Of the layers that have a model, in ms; `None` if none has.
    pub runtime_ms: Option<f64>,
    /// Lower end of its 90 % interval: equal layers err alike, different ones of a kind as far as the model's
    /// [`correlation`](super::Validation::correlation) says, and kinds apart from each other; the platform's
    /// [`additivity`](super::Additivity), where it is known, comes on top.
    pub runtime_ms_low: Option<f64>,
    /// Upper end of its 90 % interval.
    pub runtime_ms_high: Option<f64>,
    /// Mean power weighted by runtime, in W (equation 4); `None` unless every layer has power.
    pub power_w: Option<f64>,
    /// Energy of the whole batch in mJ (equation 5); `None` unless every layer has power.
    pub energy_mj: Option<f64>,
    /// Energy of one item, in mJ.
    pub energy_mj_per_item: Option<f64>,
    /// Floating-point operations of the whole batch.
    pub flops: u64,
    /// Parameters of the network.
    pub parameters: u64,
    /// Items in a second, one call after the other; `None` unless every layer has a runtime.
    pub items_per_s: Option<f64>,
    /// The most bytes of activations that are alive at once.
    pub peak_activation_bytes: u64,
}

/// A network's prediction on one platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkPrediction {
    /// The network's name.
    pub network: String,
    /// Items in a batch.
    pub batch: u64,
    /// What people call the platform.
    pub platform: String,
    /// Each layer in the order of execution.
    pub layers: Vec<LayerPrediction>,
    /// The network as a whole.
    pub total: Total,
    /// What a reader must know before trusting the figures.
    pub warnings: Vec<String>,
}

impl NetworkPrediction {
    /// Sum of the layers' runtimes, in ms: what a layer's share is of. The total has what the platform's networks take over that.
    pub fn layers_ms(&self) -> Option<f64> {
        self.total.runtime_ms?;
        Some(
            self.layers
                .iter()
                .filter_map(|layer| layer.runtime_ms)
                .sum(),
        )
    }

    /// The same of their energy, in mJ.
    pub fn layers_mj(&self) -> Option<f64> {
        self.total.energy_mj?;
        Some(self.layers.iter().filter_map(|layer| layer.energy_mj).sum())
    }
}

/// Predicts every layer of `network` and its totals with the models of one platform.
pub fn predict(network: &Network, models: &ModelSet) -> NetworkPrediction {
    let mut unmodelled: BTreeMap<Kind, Vec<&str>> = BTreeMap::new();
    let mut unmetered: BTreeSet<Kind> = BTreeSet::new();
    let mut warnings = Vec::new();
    let mut ready = Ready::new(models);
    let mut layers = Vec::new();
    for (name, layer) in network.layers() {
        let prediction = predict_layer(name, layer, &mut ready, &mut warnings);
        if prediction.runtime_ms.is_none() {
            unmodelled.entry(layer.kind()).or_default().push(name);
        } else if prediction.energy_mj.is_none() && ready.has_meter {
            unmetered.insert(layer.kind());
        }
        layers.push(prediction);
    }
    for (kind, names) in unmodelled {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        warnings.push(format!(
            "no model for {kind}: not in the total are {}",
            names.join(", ")
        ));
    }
    if !unmetered.is_empty() {
        let kinds: Vec<&str> = unmetered.iter().map(|kind| kind.name()).collect();
        warnings.push(format!(
            "no model of power for {}: the total's power and energy are unknown",
            kinds.join(", ")
        ));
    }
    let additivity = models.additivity();
    let total = total(network, &layers, models, additivity);
    if let Some(found) = additivity.filter(|found| found.correction() != 0.0)
        && total.runtime_ms.is_some()
    {
        warnings.push(format!(
            "the total is {:+.1} % to the sum of its layers, since {} networks measured whole on the platform were {:+.1} % to theirs on \
             the mean",
            100.0 * found.correction().exp_m1(),
            found.networks,
            100.0 * found.mean.exp_m1()
        ));
    }
    NetworkPrediction {
        network: network.name().to_owned(),
        batch: network.batch(),
        platform: models.slug.clone(),
        total,
        layers,
        warnings,
    }
}

/// Models that are made ready when they are first asked.
struct Ready<'a> {
    models: &'a ModelSet,
    /// Whether anything is known of power or energy.
    has_meter: bool,
    estimators: BTreeMap<(Kind, Dtype, Target), Option<Estimator<'a>>>,
    scratch: Scratch,
}

impl<'a> Ready<'a> {
    fn new(models: &'a ModelSet) -> Self {
        Self {
            models,
            has_meter: (models.models.iter()).any(|model| model.key.target != Target::RuntimeMs),
            estimators: BTreeMap::new(),
            scratch: Scratch::default(),
        }
    }

    /// `None` without a model.
    fn estimate(&mut self, layer: &Layer, target: Target) -> Option<Estimate> {
        let (kind, dtype) = (layer.kind(), layer.dtype());
        let estimator = self.estimators.entry((kind, dtype, target));
        let model = || self.models.model(kind, dtype, target).map(Estimator::new);
        let estimator = estimator.or_insert_with(model).as_ref()?;
        Some(estimator.estimate(layer, &mut self.scratch))
    }
}

fn predict_layer(
    name: &str,
    layer: &Layer,
    models: &mut Ready<'_>,
    warnings: &mut Vec<String>,
) -> LayerPrediction {
    let mut estimate = |target| {
        let estimate = models.estimate(layer, target)?;
        if !estimate.outside.is_empty() {
            let domain = match target {
                Target::RuntimeMs => "the sampled domain".to_owned(),
                other => format!("the domain sampled for {other}"),
            };
            let features = estimate.outside.join(", ");
            warnings.push(format!("`{name}` is outside {domain} in {features}"));
        }
        Some(estimate)
    };
    let runtime = estimate(Target::RuntimeMs);
    let power = estimate(Target::PowerW).map(|power| power.value);
    let energy = estimate(Target::EnergyMj).map(|energy| energy.value);
    // What moves no data is not worth a model of its own where there is none.
    let free = layer.is_view().then_some(0.0);
    let runtime_ms = runtime.as_ref().map(|runtime| runtime.value).or(free);
    // Two of the three name the third: W x ms = mJ. A direct energy model, where there is one, has precedence.
    let energy_mj = energy.or_else(|| Some(power? * runtime_ms?));
    let energy_mj = energy_mj.or(free.filter(|_| models.has_meter));
    let power_w = power.or_else(|| Some(energy? / runtime_ms.filter(|ms| *ms > 0.0)?));
    let work = layer.work();
    LayerPrediction {
        name: name.to_owned(),
        kind: layer.kind(),
        hash: layer.hash(),
        runtime_ms,
        runtime_ms_low: runtime.as_ref().map(|runtime| runtime.low).or(free),
        runtime_ms_high: runtime.as_ref().map(|runtime| runtime.high).or(free),
        power_w,
        energy_mj,
        flops: work.flops,
        bytes: work.bytes(),
        limit: runtime.as_ref().map(|runtime| runtime.limit),
    }
}

/// How far the sum of the layers' errors and the gap between sums and networks reach together.
fn reach(
    layers: &[LayerPrediction],
    (models, additivity): (&ModelSet, Option<&Additivity>),
    dtype: Dtype,
    (runtime_ms, error): (f64, impl Fn(&LayerPrediction) -> Option<f64>),
) -> f64 {
    let gap = additivity.map_or(0.0, Additivity::reach) * runtime_ms;
    reach_of_layers(layers, models, dtype, error).hypot(gap)
}

/// How far the sum of errors of up to `error` a layer reaches. Variances add up over kinds; within a kind of correlation ρ
/// the variance is ρ (Σ eᵢ)² + (1 - ρ) Σ eⱼ², where equal layers are one j.
fn reach_of_layers(
    layers: &[LayerPrediction],
    models: &ModelSet,
    dtype: Dtype,
    error: impl Fn(&LayerPrediction) -> Option<f64>,
) -> f64 {
    let mut by_kind: BTreeMap<Kind, BTreeMap<Hash, f64>> = BTreeMap::new();
    for layer in layers {
        let equal = by_kind.entry(layer.kind).or_default();
        *equal.entry(layer.hash).or_default() += error(layer).unwrap_or(0.0);
    }
    let variance = |(kind, errors): (Kind, BTreeMap<Hash, f64>)| {
        let model = models.model(kind, dtype, Target::RuntimeMs);
        let correlation = model.map_or(1.0, |model| model.validation.correlation);
        let together: f64 = errors.values().sum();
        let apart: f64 = errors.values().map(|error| error * error).sum();
        correlation * together * together + (1.0 - correlation) * apart
    };
    by_kind.into_iter().map(variance).sum::<f64>().sqrt()
}

fn total(
    network: &Network,
    layers: &[LayerPrediction],
    models: &ModelSet,
    additivity: Option<&Additivity>,
) -> Total {
    let known = |of: fn(&LayerPrediction) -> Option<f64>| {
        let values: Vec<f64> = layers.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>())
    };
    let complete = layers.iter().all(|layer| layer.runtime_ms.is_some());
    // Views alone, of which no model is needed, make no figure of a network whose other layers have none.
    let has_model = layers.iter().any(|layer| layer.limit.is_some());
    let composed = additivity.map_or(1.0, |found| found.correction().exp());
    let runtime_ms = known(|layer| layer.runtime_ms).filter(|_| complete || has_model);
    let runtime_ms = runtime_ms.map(|sum| composed * sum);
    // From 0.0 on: an empty sum of floats is -0.
    let energy_mj = layers
        .iter()
        .try_fold(0.0, |sum, layer| Some(sum + composed * layer.energy_mj?));
    let dtypes = network.layers().map(|(_, layer)| layer.dtype());
    let dtype = dtypes.min().unwrap_or(Dtype::F32);
    let between = |low: f64, high: f64| composed * (high - low);
    let below = |layer: &LayerPrediction| Some(between(layer.runtime_ms_low?, layer.runtime_ms?));
    let above = |layer: &LayerPrediction| Some(between(layer.runtime_ms?, layer.runtime_ms_high?));
    Total {
        runtime_ms,
        runtime_ms_low: runtime_ms
            .map(|ms| (ms - reach(layers, (models, additivity), dtype, (ms, below))).max(0.0)),
        runtime_ms_high: runtime_ms
            .map(|ms| ms + reach(layers, (models, additivity), dtype, (ms, above))),
        power_w: energy_mj
            .zip(runtime_ms)
            .filter(|(_, ms)| complete && *ms > 0.0)
            .map(|(energy, runtime)| energy / runtime),
        energy_mj,
        energy_mj_per_item: energy_mj.map(|energy| energy / network.batch() as f64),
        flops: layers
            .iter()
            .fold(0, |sum: u64, layer| sum.saturating_add(layer.flops)),
        parameters: network
            .layers()
            .map(|(_, layer)| layer.work().parameters)
            .sum(),
        items_per_s: runtime_ms
            .filter(|ms| complete && *ms > 0.0)
            .map(|runtime| 1e3 * network.batch() as f64 / runtime),
        peak_activation_bytes: network.peak_activation_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::Platform;
    use crate::measurement::Recipe;
    use crate::network::{NetworkBuilder, window};
    use crate::platform::Device;

    fn model(
        platform: Hash,
        kind: Kind,
        target: Target,
        scale: Scale,
        term: Option<(&str, f64)>,
    ) -> Model {
        let weighted = |(term, coefficient): (&str, f64)| Weighted {
            term: term.parse().expect("a term"),
            coefficient,
        };
        Model {
            key: ModelKey {
                platform,
                kind,
                dtype: Dtype::F32,
                target,
            },
            version: 1,
            scale,
            intercept: 0.0,
            terms: term.into_iter().map(weighted).collect(),
            correction_min: -1.0,
            correction_max: 1.0,
            domain: vec![Bound {
                feature: "batch".to_owned(),
                min: 1.0,
                max: 4.0,
            }],
            validation: Validation {
                folds: 10,
                rmspe: 1.0,
                mape: 1.0,
                medape: 1.0,
                log_residual_low: -(2f64.ln()),
                log_residual_high: 2f64.ln(),
                bands: Vec::new(),
                correlation: 1.0,
                additivity: None,
                holdout: None,
            },
            provenance: Provenance {
                recipe: Recipe::LAYER,
                samples: 1,
                distinct: 1,
                through_sequence: 1,
                trainer_version: String::new(),
                devices: Vec::new(),
            },
        }
    }

    fn models(of: impl Fn(Hash) -> Vec<Model>) -> ModelSet {
        let device = Device::Cpu {
            model: "c".to_owned(),
            threads: 1,
            instruction_set: "AVX2".to_owned(),
        };
        let platform = Platform {
            device,
            libtorch: "2.11.0".to_owned(),
        };
        let set = ModelSet::new("c".to_owned(), platform.clone(), of(platform.hash()));
        set.check().expect("usable");
        set
    }

    fn network(batch: u64) -> Network {
        let mut b = NetworkBuilder::new("two", vec![batch, 3, 8, 8], Dtype::F32);
        let input = b.input();
        let conv = b.conv2d("conv", input, 4, window(3, 1, 1), 1, false);
        b.relu("relu", conv);
        b.finish().expect("valid")
    }

    /// A cost of 1 for each call.
    fn call() -> Scale {
        Scale::flat(1.0)
    }

    /// Equations 3 to 5 of the paper by hand: 1 ms at 10 W and 2 ms at 20 W are 3 ms, 50 mJ and 16.7 W.
    #[test]
    fn totals_are_the_papers_sums() {
        let set = models(|platform| {
            let scaled = Scale::flat;
            vec![
                model(platform, Kind::Conv2d, Target::RuntimeMs, call(), None),
                model(platform, Kind::Relu, Target::RuntimeMs, scaled(2.0), None),
                model(platform, Kind::Conv2d, Target::PowerW, scaled(10.0), None),
                model(platform, Kind::Relu, Target::PowerW, scaled(20.0), None),
            ]
        });
        let prediction = predict(&network(2), &set);
        let total = &prediction.total;
        assert_eq!((total.runtime_ms, total.energy_mj), (Some(3.0), Some(50.0)));
        assert_eq!(
            (total.power_w, total.energy_mj_per_item),
            (Some(50.0 / 3.0), Some(25.0))
        );
        let (low, high) = (0.25 + 1.0_f64, 1.0 + 4.0_f64);
        let interval = (Some(3.0 - low.sqrt()), Some(3.0 + high.sqrt()));
        assert_eq!((total.runtime_ms_low, total.runtime_ms_high), interval);
        assert_eq!(prediction.warnings, Vec::<String>::new());
    }

    /// Two different layers of one kind, of 1 ms each, up to 1 ms more: 2 ms more together, √2 apart.
    #[test]
    fn errors_add_up_as_far_as_they_go_together() {
        let mut b = NetworkBuilder::new("three", vec![1, 3, 8, 8], Dtype::F32);
        let input = b.input();
        let first = b.conv2d("first", input, 4, window(3, 1, 1), 1, false);
        b.conv2d("second", first, 8, window(3, 1, 1), 1, false);
        let network = b.finish().expect("valid");
        for (correlation, expected) in [(1.0, 4.0), (0.0, 2.0 + 2.0_f64.sqrt())] {
            let set = models(|platform| {
                let mut conv = model(platform, Kind::Conv2d, Target::RuntimeMs, call(), None);
                conv.validation.correlation = correlation;
                vec![conv]
            });
            let high = predict(&network, &set).total.runtime_ms_high;
            assert!(
                (high.expect("a model") - expected).abs() < 1e-12,
                "{high:?}"
            );
        }
    }

    /// One layer of 1 ms, up to 1 ms more. Networks that took 10 % longer than their layers, give or take nothing, have this one
    /// take seven eighths of that longer.
    #[test]
    fn a_total_is_corrected_as_the_platforms_networks_are() {
        let mut b = NetworkBuilder::new("one", vec![1, 3, 8, 8], Dtype::F32);
        let input = b.input();
        b.conv2d("only", input, 4, window(3, 1, 1), 1, false);
        let network = b.finish().expect("valid");
        let set = models(|platform| {
            let mut conv = model(platform, Kind::Conv2d, Target::RuntimeMs, call(), None);
            let gap = 1.1_f64.ln();
            conv.validation.additivity = Additivity::of([gap; 7]);
            vec![conv]
        });
        let prediction = predict(&network, &set);
        let expected = 1.1_f64.powf(7.0 / 8.0);
        assert_eq!(prediction.layers[0].runtime_ms, Some(1.0));
        assert!((prediction.total.runtime_ms.expect("a model") - expected).abs() < 1e-12);
        assert_eq!(
            prediction.warnings,
            [
                "the total is +8.7 % to the sum of its layers, since 7 networks measured whole on the platform were +10.0 % to theirs on the mean"
            ]
        );
    }

    /// One layer of 1 ms, up to 1 ms more; networks that are off by 30 % reach 1.645 times that farther, at a right angle.
    #[test]
    fn how_networks_add_up_is_in_the_interval() {
        let mut b = NetworkBuilder::new("one", vec![1, 3, 8, 8], Dtype::F32);
        let input = b.input();
        b.conv2d("only", input, 4, window(3, 1, 1), 1, false);
        let network = b.finish().expect("valid");
        let set = models(|platform| {
            let of = |target, networks, rms| {
                let mut conv = model(platform, Kind::Conv2d, target, call(), None);
                conv.validation.additivity = Some(Additivity {
                    networks,
                    mean: 0.0,
                    rms,
                });
                conv
            };
            // The figure of the most networks counts.
            vec![of(Target::RuntimeMs, 7, 0.3), of(Target::PowerW, 6, 0.9)]
        });
        let high = predict(&network, &set).total.runtime_ms_high;
        let expected = 1.0 + 1.0_f64.hypot(1.645 * 0.3);
        assert!(
            (high.expect("a model") - expected).abs() < 1e-12,
            "{high:?}"
        );
    }

    #[test]
    fn a_kind_without_a_model_is_named_and_power_stays_unknown() {
        let set = models(|platform| {
            vec![model(
                platform,
                Kind::Conv2d,
                Target::RuntimeMs,
                call(),
                None,
            )]
        });
        let prediction = predict(&network(1), &set);
        assert_eq!(prediction.layers[1].runtime_ms, None);
        assert_eq!(
            (prediction.total.runtime_ms, prediction.total.power_w),
            (Some(1.0), None)
        );
        assert_eq!(
            prediction.warnings,
            ["no model for relu: not in the total are `relu`"]
        );
    }

    /// No data moves, so a view without a model takes nothing; its energy is known where any is.
    #[test]
    fn a_view_without_a_model_costs_nothing() {
        let mut b = NetworkBuilder::new("viewed", vec![1, 3, 8, 8], Dtype::F32);
        let input = b.input();
        let conv = b.conv2d("conv", input, 4, window(3, 1, 1), 1, false);
        b.flatten("flat", conv);
        let network = b.finish().expect("valid");
        let of = |targets: &[Target]| {
            let one = |platform, target| model(platform, Kind::Conv2d, target, call(), None);
            let set = models(|platform| {
                targets
                    .iter()
                    .map(|&target| one(platform, target))
                    .collect()
            });
            let prediction = predict(&network, &set);
            assert_eq!(prediction.warnings, Vec::<String>::new());
            let view = &prediction.layers[1];
            let total = &prediction.total;
            assert_eq!((view.runtime_ms, total.items_per_s), (Some(0.0), Some(1e3)));
            (view.energy_mj, total.energy_mj)
        };
        assert_eq!(of(&[Target::RuntimeMs]), (None, None));
        let without = predict(&network, &models(|_| Vec::new()));
        assert_eq!(without.total.runtime_ms, None);
        let metered = of(&[Target::RuntimeMs, Target::EnergyMj]);
        assert_eq!(metered, (Some(0.0), Some(1.0)));
        // Of nothing but a view there is no rate and no power.
        let mut b = NetworkBuilder::new("view", vec![1, 3, 8, 8], Dtype::F32);
        let input = b.input();
        b.flatten("flat", input);
        let network = b.finish().expect("valid");
        let total = predict(&network, &models(|_| Vec::new())).total;
        assert_eq!(
            (total.runtime_ms, total.items_per_s, total.power_w),
            (Some(0.0), None, None)
        );
    }

    #[test]
    fn outside_the_domain_the_polynomial_is_held_and_the_layer_is_named() {
        let term = Some(("batch", 0.1));
        let set = models(|platform| {
            vec![model(
                platform,
                Kind::Conv2d,
                Target::RuntimeMs,
                call(),
                term,
            )]
        });
        let at = |batch| predict(&network(batch), &set);
        assert_eq!(at(4).layers[0].runtime_ms, Some(0.4f64.exp()));
        assert_eq!(at(400).layers[0].runtime_ms, at(4).layers[0].runtime_ms);
        assert!(at(400).warnings[0].contains("`conv` is outside the sampled domain in batch"));
        let far = Some(("batch", 100.0));
        let set = models(|platform| {
            vec![model(
                platform,
                Kind::Conv2d,
                Target::RuntimeMs,
                call(),
                far,
            )]
        });
        assert_eq!(
            predict(&network(4), &set).layers[0].runtime_ms,
            Some(1f64.exp()),
            "held at the largest correction"
        );
    }

    #[test]
    fn a_set_has_one_model_for_each_purpose() {
        let relu = |platform| model(platform, Kind::Relu, Target::RuntimeMs, call(), None);
        let mut set = models(|platform| vec![relu(platform)]);
        set.models.push(Model {
            version: 2,
            ..set.models[0].clone()
        });
        let error = set.check().expect_err("which of them predicts?");
        assert_eq!(
            error.to_string(),
            "models[1]: is the second for runtime_ms of relu in f32"
        );
    }

    #[test]
    fn an_unusable_model_names_its_field() {
        let of = |change: fn(&mut Model)| {
            let mut model = model(
                Hash::of(""),
                Kind::Relu,
                Target::RuntimeMs,
                call(),
                Some(("features", 1.0)),
            );
            change(&mut model);
            model.check().expect_err("unusable").field
        };
        assert_eq!(of(|model| model.scale.constant = 0.0), "scale");
        assert_eq!(of(|model| model.intercept = f64::NAN), "intercept");
        assert_eq!(
            of(|model| model.validation.mape = f64::NAN),
            "validation.mape"
        );
        assert_eq!(
            of(|model| model.validation.rmspe = -5.0),
            "validation.rmspe"
        );
        assert_eq!(
            of(|model| model.validation.log_residual_low = 5.0),
            "validation.log_residual_low"
        );
        assert_eq!(
            of(|model| model.terms[0].coefficient = f64::INFINITY),
            "terms[0].coefficient"
        );
        assert_eq!(
            of(|model| model.terms[0].term = "kernel_h".parse().expect("a term")),
            "terms[0]"
        );
        assert_eq!(of(|model| model.domain[0].min = f64::NAN), "domain");
    }
}
