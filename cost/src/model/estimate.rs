//! What a model says of one layer.

use super::{EFFORT, Features, Limit, Model, sum};
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
    /// The model's estimate for a layer of its kind and dtype.
    ///
    /// A layer larger than all samples is corrected as the same layer with a batch (or an image) as small as theirs, and
    /// features outside the domain are held at its edge for the polynomial: far away the scale alone grows. The
    /// estimate names such features.
    pub fn estimate(&self, layer: &Layer) -> Estimate {
        let mut features = Features::of(layer);
        let scale = self.scale.of(&features);
        let limit = self.scale.parts(&features).limit();
        self.scale.derive(&mut features);
        let (log_low, log_high) = self.validation.interval(features.get(EFFORT));
        let (_, outside) = self.hold(features.clone());
        let smaller = self.smaller(layer, &features);
        let (held, _) = self.hold(smaller.unwrap_or(features));
        let polynomial = self.intercept + sum(&self.terms, &held);
        let correction = polynomial.clamp(self.correction_min, self.correction_max);
        let value = scale * correction.exp();
        Estimate {
            value,
            low: value * log_low.exp(),
            high: value * log_high.exp(),
            limit,
            outside,
        }
    }

    /// Features within the domain, and the names of those that were not.
    pub(super) fn hold(&self, mut features: Features) -> (Features, Vec<String>) {
        let mut outside = Vec::new();
        for bound in &self.domain {
            let Some(value) = features.get_mut(&bound.feature) else {
                continue;
            };
            if *value < bound.min || *value > bound.max {
                outside.push(bound.feature.clone());
                *value = value.clamp(bound.min, bound.max);
            }
        }
        (features, outside)
    }

    /// The features of the largest such layer that is no larger than the samples; `None` if the layer itself is.
    fn smaller(&self, layer: &Layer, features: &Features) -> Option<Features> {
        let bound = self.domain.iter().find(|bound| bound.feature == EFFORT)?;
        let mut effort = features.get(EFFORT)?;
        let mut found: Option<(Layer, Features)> = None;
        for field in SHRINKING {
            for _ in 0..SHRINKINGS {
                if effort <= bound.max {
                    break;
                }
                let from = found.as_ref().map_or(layer, |(layer, _)| layer);
                let Some(smaller) = shrunk(from, field, bound.max / effort) else {
                    break;
                };
                let mut features = Features::of(&smaller);
                self.scale.derive(&mut features);
                effort = features.get(EFFORT)?;
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
            },
            provenance: Provenance {
                recipe: Recipe::LAYER,
                samples: 1,
                distinct: 1,
                through_sequence: 1,
                trainer_version: String::new(),
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
