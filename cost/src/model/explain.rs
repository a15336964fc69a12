//! A model as a formula that a person can read: its parts, the most influential first.

use serde::Serialize;

use super::{Estimator, Features, Model, Scale, Scratch, Term, Weighted};
use crate::Layer;

/// What a model is made of, as some layers feel it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The number of layers.
    pub layers: usize,
    /// The yardstick.
    pub yardstick: Yardstick,
    /// What the yardstick's costs are divided by, for power: a yardstick of time.
    pub time: Option<Yardstick>,
    /// The polynomial's constant, as a change of the yardstick in percent.
    pub offset_percent: f64,
    /// The polynomial's terms, the one that changes the layers most first.
    pub terms: Vec<Effect>,
}

/// A sum of costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Yardstick {
    /// What is there before any work.
    pub constant: f64,
    /// The constant's part of the yardstick, the mean over the layers, in percent.
    pub constant_percent: f64,
    /// The costs, the largest part first.
    pub costs: Vec<Cost>,
}

/// A cost of the yardstick.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// The amount of work.
    pub term: Term,
    /// What one of it costs.
    pub coefficient: f64,
    /// Its part of the yardstick, the mean over the layers, in percent.
    pub percent: f64,
}

/// A term of the polynomial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Effect {
    /// The term.
    pub term: Term,
    /// Its coefficient.
    pub coefficient: f64,
    /// The least and the most that it changes one of the layers, in percent.
    pub percent: (f64, f64),
}

impl Model {
    /// The model in parts, as `layers` of its kind and dtype feel them. Of none, every part is 0.
    pub fn explain(&self, layers: &[Layer]) -> Explanation {
        let (estimator, mut scratch) = (Estimator::new(self), Scratch::default());
        let own = |layer| {
            let mut features = Features::of(layer);
            self.scale.derive(&mut features);
            features
        };
        let features: Vec<Features> = layers.iter().map(own).collect();
        let held: Vec<Features> = layers
            .iter()
            .zip(&features)
            .map(|(layer, features)| estimator.held(layer, features.clone(), &mut scratch))
            .collect();
        let mut terms: Vec<(f64, Effect)> = self
            .terms
            .iter()
            .map(|weighted| effect(weighted, &held))
            .collect();
        terms.sort_by(|a, b| b.0.total_cmp(&a.0));
        Explanation {
            layers: layers.len(),
            yardstick: yardstick(&self.scale, &features),
            time: (self.scale.time.as_ref()).map(|time| yardstick(time, &features)),
            offset_percent: 100.0 * self.intercept.exp_m1(),
            terms: terms.into_iter().map(|(_, effect)| effect).collect(),
        }
    }
}

fn yardstick(scale: &Scale, layers: &[Features]) -> Yardstick {
    let percent = |part: &dyn Fn(&Features) -> f64| {
        let sum: f64 = layers
            .iter()
            .map(|features| {
                let time = scale.time.as_ref().map_or(1.0, |time| time.of(features));
                (part(features), time, scale.of(features))
            })
            .map(|(part, time, whole)| part / time / whole)
            .sum();
        100.0 * sum / layers.len().max(1) as f64
    };
    let cost = |Weighted { term, coefficient }: &Weighted| Cost {
        term: term.clone(),
        coefficient: *coefficient,
        percent: percent(&|features| coefficient * term.value(features)),
    };
    let mut costs: Vec<Cost> = scale.costs.iter().map(cost).collect();
    costs.sort_by(|a, b| b.percent.total_cmp(&a.percent));
    let others: f64 = costs.iter().map(|cost| cost.percent).sum();
    Yardstick {
        constant: scale.constant,
        constant_percent: if layers.is_empty() {
            0.0
        } else {
            100.0 - others
        },
        costs,
    }
}

/// The term's effect, with its root mean square over the layers.
fn effect(weighted: &Weighted, layers: &[Features]) -> (f64, Effect) {
    let logs = layers
        .iter()
        .map(|features| weighted.coefficient * weighted.term.value(features));
    let (least, most, square) = logs.fold((0.0_f64, 0.0_f64, 0.0), |(least, most, square), log| {
        (least.min(log), most.max(log), square + log * log)
    });
    let percent = |log: f64| 100.0 * log.exp_m1();
    let effect = Effect {
        term: weighted.term.clone(),
        coefficient: weighted.coefficient,
        percent: (percent(least), percent(most)),
    };
    (square, effect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Value;
    use crate::measurement::Recipe;
    use crate::model::{Bound, ModelKey, Provenance, Scale, Target, Validation};
    use crate::{Dtype, Hash, Kind};

    #[test]
    fn the_most_influential_part_comes_first() {
        let bound = |feature: &str, min, max| Bound {
            feature: feature.to_owned(),
            min,
            max,
        };
        let weighted = |text: &str, coefficient| Weighted {
            term: text.parse().expect("a term"),
            coefficient,
        };
        let model = Model {
            key: ModelKey {
                platform: Hash::of("platform"),
                kind: Kind::Linear,
                dtype: Dtype::F32,
                target: Target::RuntimeMs,
            },
            version: 1,
            scale: Scale::of_work(0.5, 1e-9, 1e-6),
            intercept: 0.1,
            terms: vec![
                weighted("multiple(in_features, 8)", -0.05),
                weighted("log(batch) * hinge(batch, 1)", 0.2),
            ],
            correction_min: -1.0,
            correction_max: 1.0,
            domain: vec![
                bound("batch", 1.0, 100.0),
                bound("flops", 1.0, 1e10),
                bound("bytes", 1.0, 1e6),
            ],
            validation: Validation {
                folds: 10,
                rmspe: 5.0,
                mape: 4.0,
                medape: 3.0,
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
        };
        let layer = |batch| {
            let sizes = [("batch", batch), ("in_features", 8), ("out_features", 4)];
            Layer::from_fields(
                Kind::Linear,
                sizes.map(|(name, size)| (name, Value::Size(size))),
            )
            .expect("a layer")
        };
        let explanation = model.explain(&[layer(1), layer(20)]);
        // 64 and 1280 operations, and 176 and 1088 bytes, beside the half millisecond.
        let [first, second] = &explanation.yardstick.costs[..] else {
            panic!("two costs")
        };
        assert_eq!(
            (first.term.to_string(), second.term.to_string()),
            ("bytes".to_owned(), "flops".to_owned())
        );
        assert!(first.percent > second.percent && first.percent < 1.0);
        assert!(explanation.yardstick.constant_percent > 99.0);
        // ln(20) and what it has over 1, times 0.2; for a batch of 1 nothing.
        let [first, second] = &explanation.terms[..] else {
            panic!("two terms")
        };
        assert_eq!(first.term.to_string(), "log(batch) * hinge(batch, 1)");
        let most = (0.2 * 20f64.ln() * (20f64.ln() - 1.0)).exp_m1();
        assert_eq!(first.percent.0, 0.0);
        assert!((first.percent.1 - 100.0 * most).abs() < 1e-6);
        assert_eq!(second.percent.1, 0.0);
        assert!((second.percent.0 - 100.0 * (-0.05_f64).exp_m1()).abs() < 1e-9);
    }
}
