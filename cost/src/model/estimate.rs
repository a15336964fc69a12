//! What a model says of one layer.

use super::compiled::{CompiledSum, Scratch};
use super::scale::measure;
use super::{DERIVED, Features, Limit, Model, feature_names};
use crate::Layer;
use crate::layer::Value;

/// A predicted figure with its 90 % interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The prediction, positive.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// What the most of the layer's time is spent on, or of its energy for a model of energy.
    pub limit: Limit,
    /// Features of the layer that lie outside the model's samples.
    pub outside: Vec<String>,
}

/// What makes a layer smaller and does not change what it is.
const SHRINKING: [&str; 2] = ["batch", "in_height"];

/// Times that one field is made smaller: an empty call's cost lets effort fall slower than the field.
const SHRINKINGS: usize = 4;

impl Model {
    /// The model's estimate for one layer; for many, an [`Estimator`] is many times faster.
    pub fn estimate(&self, layer: &Layer) -> Estimate {
        Estimator::new(self).estimate(layer, &mut Scratch::default())
    }
}

/// A model made ready for many layers.
#[derive(Debug, Clone)]
pub struct Estimator<'a> {
    model: &'a Model,
    costs: CompiledSum,
    /// What each of the costs is a cost of.
    limits: Vec<Limit>,
    /// The same of the yardstick of time.
    time: Option<(f64, CompiledSum, Vec<Limit>)>,
    terms: CompiledSum,
    /// The domain's features by their places, with their bounds.
    domain: Vec<(usize, f64, f64)>,
    effort: usize,
    effort_max: f64,
}

impl<'a> Estimator<'a> {
    /// Of any model that [`Model::check`] takes.
    pub fn new(model: &'a Model) -> Self {
        let own = feature_names(model.key.kind);
        let names = [own, &DERIVED].concat();
        let bounds = model.domain.iter().filter_map(|bound| {
            let place = names.iter().position(|name| *name == bound.feature)?;
            Some((place, bound.min, bound.max))
        });
        let domain: Vec<(usize, f64, f64)> = bounds.collect();
        let effort = own.len();
        let effort_max = domain.iter().find(|(place, ..)| *place == effort);
        let time = model.scale.time.as_deref();
        Self {
            model,
            costs: CompiledSum::new(&model.scale.costs, own),
            limits: model.scale.limits(),
            time: time.map(|time| {
                let costs = CompiledSum::new(&time.costs, own);
                (time.constant, costs, time.limits())
            }),
            terms: CompiledSum::new(&model.terms, &names),
            effort,
            effort_max: effort_max.map_or(f64::INFINITY, |(_, _, max)| *max),
            domain,
        }
    }

    /// The estimate for a layer of the model's kind and dtype.
    ///
    /// A layer larger than all samples is corrected as the same layer with a batch (or an image) as small as theirs, and
    /// features outside the domain are held at its edge for the polynomial: far away the scale alone grows. The
    /// estimate names such features.
    pub fn estimate(&self, layer: &Layer, scratch: &mut Scratch) -> Estimate {
        let mut features = Features::of(layer);
        let (scale, limit) = self.scale(&mut features, scratch);
        let effort = features.values()[self.effort];
        let (log_low, log_high) = self.model.validation.interval(Some(effort));
        let outside = self.outside(&features);
        let features = self.held(layer, features, scratch);
        let terms: f64 = self.terms.products(features.values(), scratch).sum();
        let polynomial = self.model.intercept + terms;
        let correction = polynomial.clamp(self.model.correction_min, self.model.correction_max);
        let value = scale * correction.exp();
        Estimate {
            value,
            low: value * log_low.exp(),
            high: value * log_high.exp(),
            limit,
            outside,
        }
    }

    /// The yardstick, which adds to the features what it says of them.
    fn scale(&self, features: &mut Features, scratch: &mut Scratch) -> (f64, Limit) {
        let constant = self.model.scale.constant;
        let costs = self.costs.products(features.values(), scratch);
        let (scale, parts) = match &self.time {
            None => measure(constant, self.limits.iter().copied().zip(costs)),
            Some((time, compiled, limits)) => {
                let costs: f64 = costs.sum();
                let timed = compiled.products(features.values(), scratch);
                let (whole, parts) = measure(*time, limits.iter().copied().zip(timed));
                (constant + costs / whole, parts)
            }
        };
        self.model.scale.derive_from(&parts, features);
        (scale, parts.limit())
    }

    /// The features that the polynomial is asked about.
    pub(super) fn held(
        &self,
        layer: &Layer,
        mut features: Features,
        scratch: &mut Scratch,
    ) -> Features {
        let effort = features.values()[self.effort];
        if effort > self.effort_max
            && let Some(smaller) = self.smaller(layer, effort, scratch)
        {
            features = smaller;
        }
        for &(place, min, max) in &self.domain {
            let value = features.value_mut(place);
            *value = value.clamp(min, max);
        }
        features
    }

    fn outside(&self, features: &Features) -> Vec<String> {
        let values = features.values();
        let is_outside =
            |&&(place, min, max): &&(usize, f64, f64)| values[place] < min || values[place] > max;
        let places = self.domain.iter().filter(is_outside).map(|bound| bound.0);
        let names = places.filter_map(|place| features.iter().nth(place));
        names.map(|(name, _)| name.to_owned()).collect()
    }

    /// The features of the largest such layer that is no larger than the samples; `None` if it can't be smaller.
    fn smaller(&self, layer: &Layer, mut effort: f64, scratch: &mut Scratch) -> Option<Features> {
        let mut found: Option<(Layer, Features)> = None;
        for field in SHRINKING {
            for _ in 0..SHRINKINGS {
                if effort <= self.effort_max {
                    break;
                }
                let from = found.as_ref().map_or(layer, |(layer, _)| layer);
                let Some(smaller) = shrunk(from, field, self.effort_max / effort) else {
                    break;
                };
                let mut features = Features::of(&smaller);
                self.scale(&mut features, scratch);
                effort = features.values()[self.effort];
                found = Some((smaller, features));
            }
        }
        found.map(|(_, features)| features)
    }
}

/// The layer with one field times `share`, at least 1; `None` if it has no such field, can't be smaller, or is then no layer.
fn shrunk(layer: &Layer, field: &str, share: f64) -> Option<Layer> {
    let mut fields = layer.fields();
    let (_, value) = fields.iter_mut().find(|(name, _)| *name == field)?;
    let Value::Size(size) = value else {
        return None;
    };
    let smaller = ((*size as f64 * share) as u64).max(1);
    if smaller == *size {
        return None;
    }
    *size = smaller;
    let own = [
        ("dtype", Value::from(layer.dtype().name())),
        ("memory_format", Value::from(layer.memory_format().name())),
    ];
    Layer::from_fields(layer.kind(), fields.into_iter().chain(own)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::measurement::Recipe;
    use crate::{Dtype, Hash, Kind};

    fn relu(batch: u64, features: u64) -> Layer {
        let fields = [("batch", batch), ("features", features)];
        Layer::from_fields(
            Kind::Relu,
            fields.map(|(name, size)| (name, Value::Size(size))),
        )
        .expect("a layer")
    }

    /// A call for each million bytes, and as much more as there are features, in thousands, as a power of e.
    fn model(effort_max: f64) -> Model {
        let bound = |feature: &str, max| Bound {
            feature: feature.to_owned(),
            min: 1.0,
            max,
        };
        Model {
            key: ModelKey {
                platform: Hash::of("platform"),
                kind: Kind::Relu,
                dtype: Dtype::F32,
                target: Target::RuntimeMs,
            },
            version: 1,
            scale: Scale::of_work(1.0, 0.0, 1e-6),
            intercept: 0.0,
            terms: vec![
                Weighted {
                    term: Term::amount("features"),
                    coefficient: 1e-3,
                },
                Weighted {
                    term: Term::amount("batch"),
                    coefficient: 1e-2,
                },
            ],
            correction_min: -10.0,
            correction_max: 20.0,
            domain: vec![bound("effort", effort_max), bound("batch", 1000.0)],
            validation: Validation {
                folds: 10,
                rmspe: 1.0,
                mape: 1.0,
                medape: 1.0,
                log_residual_low: -0.1,
                log_residual_high: 0.1,
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

    /// At 8000 bytes an item 500 items cost four calls more, effort 5: 1000 items are corrected as 500 are.
    #[test]
    fn a_larger_layer_is_corrected_as_a_smaller_batch_of_it() {
        let (of, layer) = (model(5.0), relu(1000, 1000));
        let estimate = of.estimate(&layer);
        let expected = 9.0 * (1.0 + 5.0_f64).exp();
        assert!(
            (estimate.value / expected - 1.0).abs() < 0.02,
            "{} {expected}",
            estimate.value
        );
        assert_eq!(estimate.outside, ["effort"]);
        let inside = model(9.0).estimate(&layer);
        assert!((inside.value / (9.0 * 11.0_f64.exp()) - 1.0).abs() < 1e-9);
        assert_eq!(inside.outside, Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_smaller_is_held_at_the_edge() {
        let estimate = model(2.0).estimate(&relu(1, 2_000_000));
        assert!((estimate.value / (17.0 * 20.0_f64.exp()) - 1.0).abs() < 1e-9);
        assert_eq!(estimate.outside, ["effort"]);
    }
}
