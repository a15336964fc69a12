//! A fitted model: a sparse polynomial over a layer's features, with all that a reader needs to judge it.

mod additivity;
mod compiled;
mod device;
mod estimate;
mod explain;
mod features;
mod predict;
mod scale;
mod term;
mod validation;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::measurement::Recipe;
use crate::{Dtype, Hash, Kind, Platform};

pub use additivity::Additivity;
pub use compiled::Scratch;
pub use device::{DEVICES_MAX, DeviceEffect, device_effects};
pub use estimate::{Estimate, Estimator};
pub use explain::{Cost, Effect, Explanation, Yardstick};
pub use features::{Features, feature_names};
pub use predict::{LayerPrediction, NetworkPrediction, Total, predict};
pub use scale::{DERIVED, EFFORT, Limit, Parts, Scale};
pub use term::{FACTORS_MAX, Factor, Function, Term, TermError};
pub use validation::{BANDS_MAX, Band, Holdout, Validation};

/// The most terms that a model may have.
pub const TERMS_MAX: usize = 300;

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// Time of one call of the whole batch, in ms.
    #[serde(rename = "runtime_ms")]
    RuntimeMs,
    /// Mean power while calls run back to back, in W.
    #[serde(rename = "power_w")]
    PowerW,
    /// Energy of one call of the whole batch, in mJ.
    #[serde(rename = "energy_mj")]
    EnergyMj,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 3] = [Self::RuntimeMs, Self::PowerW, Self::EnergyMj];

    /// Its name, unit last.
    pub fn name(self) -> &'static str {
        match self {
            Self::RuntimeMs => "runtime_ms",
            Self::PowerW => "power_w",
            Self::EnergyMj => "energy_mj",
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Target {
    type Err = ModelError;
    fn from_str(text: &str) -> Result<Self, ModelError> {
        let found = Self::ALL.into_iter().find(|target| target.name() == text);
        found.ok_or_else(|| ModelError {
            field: "target".to_owned(),
            reason: format!("`{text}` is not a target"),
        })
    }
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelKey {
    /// The platform.
    pub platform: Hash,
    /// The layer kind.
    pub kind: Kind,
    /// The number type.
    pub dtype: Dtype,
    /// What it predicts.
    pub target: Target,
}

/// Sum of coefficient times term.
fn sum(weighted: &[Weighted], features: &Features) -> f64 {
    weighted
        .iter()
        .map(|weighted| weighted.coefficient * weighted.term.value(features))
        .sum()
}

/// A term with its coefficient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// The product of base functions.
    pub term: Term,
    /// What it is multiplied by.
    pub coefficient: f64,
}

/// The values that a feature took among the samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The feature.
    pub feature: String,
    /// Its smallest value.
    pub min: f64,
    /// Its largest value.
    pub max: f64,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// How the samples were measured.
    pub recipe: Recipe,
    /// Measurements that it was fitted to.
    pub samples: u64,
    /// Different layers among them.
    pub distinct: u64,
    /// The last measurement that was looked at: with the platform, kind and dtype it names the samples.
    pub through_sequence: u64,
    /// Version of the trainer.
    pub trainer_version: String,
    /// How the devices that the samples are from differ, by agent; empty if there was one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceEffect>,
}

/// A fitted model, immutable. Its prediction for a layer inside its domain is
/// `scale(layer) * exp(intercept + sum of coefficient * term)`: positive by construction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// What it is for.
    #[serde(flatten)]
    pub key: ModelKey,
    /// Counted from 1 for each key, by the coordinator.
    pub version: u64,
    /// What the polynomial corrects.
    pub scale: Scale,
    /// The polynomial's constant.
    pub intercept: f64,
    /// The polynomial's terms.
    pub terms: Vec<Weighted>,
    /// The polynomial is held between this and `correction_max`: the corrections ln(measured / scale) among the samples,
    /// with a margin.
    pub correction_min: f64,
    /// See `correction_min`.
    pub correction_max: f64,
    /// The values of each feature among the samples.
    pub domain: Vec<Bound>,
    /// How good it is.
    pub validation: Validation,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// Why a model cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ModelError {
    /// The field at fault.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Model {
    /// Refuses numbers that are not finite, errors that are negative, an interval upside down, a scale that could be zero or
    /// negative, terms over features that the kind doesn't have, and more than [`TERMS_MAX`] terms.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |field: &str, reason: String| {
            Err(ModelError {
                field: field.to_owned(),
                reason,
            })
        };
        let scale = &self.scale;
        let yardsticks = [Some(scale), scale.time.as_deref()];
        for yardstick in yardsticks.into_iter().flatten() {
            let costs = yardstick.costs.iter().map(|cost| cost.coefficient);
            let mut parts = std::iter::once(yardstick.constant).chain(costs);
            if parts.any(|part| !part.is_finite() || part < 0.0) || yardstick.constant <= 0.0 {
                return refuse("scale", format!("{yardstick:?} is not positive"));
            }
        }
        if scale.time.as_ref().is_some_and(|time| time.time.is_some()) {
            return refuse(
                "scale.time",
                "has a yardstick of time of its own".to_owned(),
            );
        }
        let validation = &self.validation;
        let errors = [
            ("validation.rmspe", validation.rmspe),
            ("validation.mape", validation.mape),
            ("validation.medape", validation.medape),
        ];
        let numbers = [
            ("intercept", self.intercept),
            ("correction_min", self.correction_min),
            ("correction_max", self.correction_max),
            ("validation.log_residual_low", validation.log_residual_low),
            ("validation.log_residual_high", validation.log_residual_high),
            ("validation.correlation", validation.correlation),
        ];
        let mut all = numbers.into_iter().chain(errors);
        if let Some((field, number)) = all.find(|(_, number)| !number.is_finite()) {
            return refuse(field, format!("`{number}` is not finite"));
        }
        // A campaign would have reached any target with such an error.
        if let Some((field, number)) = errors.into_iter().find(|(_, number)| *number < 0.0) {
            return refuse(field, format!("`{number}` is negative"));
        }
        if validation.log_residual_low > validation.log_residual_high {
            let reason = "is over validation.log_residual_high".to_owned();
            return refuse("validation.log_residual_low", reason);
        }
        validation.check().map_err(|reason| ModelError {
            field: "validation".to_owned(),
            reason,
        })?;
        DeviceEffect::check(&self.provenance.devices).map_err(|reason| ModelError {
            field: "provenance.devices".to_owned(),
            reason,
        })?;
        if self.correction_min > self.correction_max {
            return refuse("correction_min", "is over correction_max".to_owned());
        }
        let count = self.terms.len() + scale.count();
        if count > TERMS_MAX {
            return refuse(
                "terms",
                format!("{count} with the scale's costs are more than {TERMS_MAX}"),
            );
        }
        let own = feature_names(self.key.kind);
        let names = [own, &DERIVED].concat();
        let timed = scale.time.as_ref().map(|time| &time.costs);
        let lists = [
            ("terms", Some(&self.terms), &names[..]),
            ("scale.costs", Some(&scale.costs), own),
            ("scale.time.costs", timed, own),
        ];
        let all = lists.into_iter().flat_map(|(list, terms, names)| {
            let terms = terms.into_iter().flatten().enumerate();
            terms.map(move |(index, weighted)| (format!("{list}[{index}]"), weighted, names))
        });
        for (place, weighted, names) in all {
            if !weighted.coefficient.is_finite() {
                return refuse(&format!("{place}.coefficient"), "is not finite".to_owned());
            }
            if let Some(unknown) = weighted
                .term
                .features()
                .find(|feature| !names.contains(feature))
            {
                return refuse(
                    &place,
                    format!("{} has no feature `{unknown}`", self.key.kind),
                );
            }
        }
        for bound in &self.domain {
            if !names.contains(&bound.feature.as_str())
                || bound.min > bound.max
                || (bound.max - bound.min).is_nan()
            {
                return refuse(
                    "domain",
                    format!("`{}` is not a feature with a range", bound.feature),
                );
            }
        }
        Ok(())
    }

    /// How many coefficients a reader has to look at: the scale's, the intercept, and the terms'.
    pub fn size(&self) -> usize {
        let constants = 1 + usize::from(self.scale.time.is_some());
        constants + self.scale.count() + 1 + self.terms.len()
    }
}

/// The models of one platform: what `wattfarm fetch` writes and `wattfarm predict --models` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSet {
    /// Always [`ModelSet::FORMAT`].
    pub format: String,
    /// What people call the platform.
    pub slug: String,
    /// The platform.
    pub platform: Platform,
    /// At most one for each kind, dtype and target.
    pub models: Vec<Model>,
}

impl ModelSet {
    /// The format that this version reads and writes.
    pub const FORMAT: &str = "wattfarm.models.v1";

    /// A set of models in today's format.
    pub fn new(slug: String, platform: Platform, models: Vec<Model>) -> Self {
        Self {
            format: Self::FORMAT.to_owned(),
            slug,
            platform,
            models,
        }
    }

    /// How networks add up on the platform, by the model that knows most of them.
    pub fn additivity(&self) -> Option<&Additivity> {
        let known = self
            .models
            .iter()
            .filter_map(|model| model.validation.additivity.as_ref());
        known.max_by_key(|additivity| additivity.networks)
    }

    /// Refuses another format, a model that cannot be used, one of another platform, and a second for the same.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |field: &str, reason: String| {
            Err(ModelError {
                field: field.to_owned(),
                reason,
            })
        };
        if self.format != Self::FORMAT {
            return refuse(
                "format",
                format!("`{}` is not `{}`", self.format, Self::FORMAT),
            );
        }
        let hash = self.platform.hash();
        let mut keys = BTreeSet::new();
        for (index, model) in self.models.iter().enumerate() {
            let key = &model.key;
            if !keys.insert(key) {
                let of = format!("{} of {} in {}", key.target, key.kind, key.dtype);
                return refuse(
                    &format!("models[{index}]"),
                    format!("is the second for {of}"),
                );
            }
            if model.key.platform != hash {
                return refuse(
                    &format!("models[{index}].platform"),
                    "is not the set's platform".to_owned(),
                );
            }
            model.check().map_err(|error| ModelError {
                field: format!("models[{index}].{}", error.field),
                ..error
            })?;
        }
        Ok(())
    }

    /// The model for a layer's kind and dtype.
    pub fn model(&self, kind: Kind, dtype: Dtype, target: Target) -> Option<&Model> {
        let fits = |key: &ModelKey| key.kind == kind && key.dtype == dtype && key.target == target;
        self.models.iter().find(|model| fits(&model.key))
    }
}
