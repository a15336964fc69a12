//! Models and what they predict.

use wattfarm_cost::Hash;
use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::{
    Additivity, Band, Bound, DeviceEffect, Holdout, LayerPrediction, Limit, Model, ModelKey,
    NetworkPrediction, Provenance, Scale, Target, Validation, Weighted,
};

use super::{dtype, dtype_to_wire, parse, required};
use crate::error::FieldError;
use crate::v1;

fn target(value: i32) -> Result<Target, FieldError> {
    match v1::Target::try_from(value) {
        Ok(v1::Target::RuntimeMs) => Ok(Target::RuntimeMs),
        Ok(v1::Target::PowerW) => Ok(Target::PowerW),
        Ok(v1::Target::EnergyMj) => Ok(Target::EnergyMj),
        Ok(v1::Target::Unspecified) | Err(_) => Err(FieldError::new(
            "target",
            format!("`{value}` is not a target"),
        )),
    }
}

fn weighted(list: &str, terms: &[v1::model::Term]) -> Result<Vec<Weighted>, FieldError> {
    let one = |(index, weighted): (usize, &v1::model::Term)| {
        Ok(Weighted {
            term: parse(&format!("{list}[{index}].term"), &weighted.term)?,
            coefficient: weighted.coefficient,
        })
    };
    terms.iter().enumerate().map(one).collect()
}

fn yardstick(time: &v1::model::Time) -> Result<Box<Scale>, FieldError> {
    Ok(Box::new(Scale {
        constant: time.constant,
        costs: weighted("scale.time.costs", &time.costs)?,
        time: None,
    }))
}

fn scale_to_wire(scale: &Scale) -> v1::model::Scale {
    let costs = |scale: &Scale| scale.costs.iter().map(term_to_wire).collect();
    v1::model::Scale {
        constant: scale.constant,
        costs: costs(scale),
        time: scale.time.as_deref().map(|time| v1::model::Time {
            constant: time.constant,
            costs: costs(time),
        }),
    }
}

fn term_to_wire(weighted: &Weighted) -> v1::model::Term {
    v1::model::Term {
        term: weighted.term.to_string(),
        coefficient: weighted.coefficient,
    }
}

impl TryFrom<v1::Model> for Model {
    type Error = FieldError;

    fn try_from(message: v1::Model) -> Result<Self, FieldError> {
        let scale = required("scale", message.scale)?;
        let validation = required("validation", message.validation)?;
        let provenance = required("provenance", message.provenance)?;
        let model = Self {
            key: ModelKey {
                platform: parse::<Hash>("platform", &message.platform)?,
                kind: parse("kind", &message.kind)?,
                dtype: dtype(message.dtype)?,
                target: target(message.target)?,
            },
            version: message.version,
            scale: Scale {
                constant: scale.constant,
                costs: weighted("scale.costs", &scale.costs)?,
                time: scale.time.as_ref().map(yardstick).transpose()?,
            },
            intercept: message.intercept,
            terms: weighted("terms", &message.terms)?,
            correction_min: message.correction_min,
            correction_max: message.correction_max,
            domain: (message.domain.into_iter())
                .map(|bound| Bound {
                    feature: bound.feature,
                    min: bound.min,
                    max: bound.max,
                })
                .collect(),
            validation: Validation {
                folds: validation.folds,
                rmspe: validation.rmspe,
                mape: validation.mape,
                medape: validation.medape,
                log_residual_low: validation.log_residual_low,
                log_residual_high: validation.log_residual_high,
                bands: (validation.bands.into_iter())
                    .map(|band| Band {
                        effort: band.effort,
                        low: band.low,
                        high: band.high,
                    })
                    .collect(),
                correlation: validation.correlation.unwrap_or(1.0),
                additivity: validation.additivity.map(|found| Additivity {
                    networks: found.networks,
                    mean: found.mean,
                    rms: found.rms,
                }),
                holdout: validation.holdout.map(|found| Holdout {
                    layers: found.layers,
                    rmspe: found.rmspe,
                }),
            },
            provenance: Provenance {
                recipe: parse::<Recipe>("provenance.recipe", &provenance.recipe)?,
                samples: provenance.samples,
                distinct: provenance.distinct,
                through_sequence: provenance.through_sequence,
                trainer_version: provenance.trainer_version,
                devices: (provenance.devices.into_iter())
                    .map(DeviceEffect::try_from)
                    .collect::<Result<_, _>>()?,
            },
        };
        model
            .check()
            .map_err(|error| FieldError::new(error.field, error.reason))?;
        Ok(model)
    }
}

impl From<&Model> for v1::Model {
    fn from(model: &Model) -> Self {
        let target = match model.key.target {
            Target::RuntimeMs => v1::Target::RuntimeMs,
            Target::PowerW => v1::Target::PowerW,
            Target::EnergyMj => v1::Target::EnergyMj,
        };
        let bound = |bound: &Bound| v1::model::Bound {
            feature: bound.feature.clone(),
            min: bound.min,
            max: bound.max,
        };
        let band = |band: &Band| v1::model::Band {
            effort: band.effort,
            low: band.low,
            high: band.high,
        };
        let validation = &model.validation;
        let provenance = &model.provenance;
        Self {
            platform: model.key.platform.to_string(),
            kind: model.key.kind.name().to_owned(),
            dtype: dtype_to_wire(model.key.dtype),
            target: target.into(),
            version: model.version,
            scale: Some(scale_to_wire(&model.scale)),
            intercept: model.intercept,
            terms: model.terms.iter().map(term_to_wire).collect(),
            correction_min: model.correction_min,
            correction_max: model.correction_max,
            domain: model.domain.iter().map(bound).collect(),
            validation: Some(v1::model::Validation {
                folds: validation.folds,
                rmspe: validation.rmspe,
                mape: validation.mape,
                medape: validation.medape,
                log_residual_low: validation.log_residual_low,
                log_residual_high: validation.log_residual_high,
                bands: validation.bands.iter().map(band).collect(),
                correlation: Some(validation.correlation),
                additivity: validation.additivity.map(|found| v1::model::Additivity {
                    networks: found.networks,
                    mean: found.mean,
                    rms: found.rms,
                }),
                holdout: validation.holdout.map(|found| v1::model::Holdout {
                    layers: found.layers,
                    rmspe: found.rmspe,
                }),
            }),
            provenance: Some(v1::model::Provenance {
                recipe: provenance.recipe.to_string(),
                samples: provenance.samples,
                distinct: provenance.distinct,
                through_sequence: provenance.through_sequence,
                trainer_version: provenance.trainer_version.clone(),
                devices: provenance.devices.iter().map(Into::into).collect(),
            }),
        }
    }
}

impl TryFrom<v1::DeviceEffect> for DeviceEffect {
    type Error = FieldError;

    fn try_from(message: v1::DeviceEffect) -> Result<Self, FieldError> {
        Ok(Self {
            agent: parse("agent_id", &message.agent_id)?,
            layers: message.layers,
            log_ratio: message.log_ratio,
            log_error: message.log_error,
        })
    }
}

impl From<&DeviceEffect> for v1::DeviceEffect {
    fn from(effect: &DeviceEffect) -> Self {
        Self {
            agent_id: effect.agent.to_string(),
            layers: effect.layers,
            log_ratio: effect.log_ratio,
            log_error: effect.log_error,
        }
    }
}

impl From<&LayerPrediction> for v1::predict_response::LayerPrediction {
    fn from(layer: &LayerPrediction) -> Self {
        Self {
            name: layer.name.clone(),
            kind: layer.kind.name().to_owned(),
            hash: layer.hash.to_string(),
            runtime_ms: layer.runtime_ms,
            runtime_ms_low: layer.runtime_ms_low,
            runtime_ms_high: layer.runtime_ms_high,
            power_w: layer.power_w,
            energy_mj: layer.energy_mj,
            flops: layer.flops,
            bytes: layer.bytes,
            limit: layer
                .limit
                .map_or_else(String::new, |limit| limit.name().to_owned()),
        }
    }
}

impl TryFrom<v1::predict_response::LayerPrediction> for LayerPrediction {
    type Error = FieldError;

    fn try_from(message: v1::predict_response::LayerPrediction) -> Result<Self, FieldError> {
        Ok(Self {
            name: message.name,
            kind: parse("kind", &message.kind)?,
            hash: parse("hash", &message.hash)?,
            runtime_ms: message.runtime_ms,
            runtime_ms_low: message.runtime_ms_low,
            runtime_ms_high: message.runtime_ms_high,
            power_w: message.power_w,
            energy_mj: message.energy_mj,
            flops: message.flops,
            bytes: message.bytes,
            limit: Limit::ALL
                .into_iter()
                .find(|limit| limit.name() == message.limit),
        })
    }
}

impl From<&NetworkPrediction> for v1::predict_response::Summary {
    fn from(prediction: &NetworkPrediction) -> Self {
        let total = &prediction.total;
        Self {
            network: prediction.network.clone(),
            batch: prediction.batch,
            platform: prediction.platform.clone(),
            runtime_ms: total.runtime_ms,
            runtime_ms_low: total.runtime_ms_low,
            runtime_ms_high: total.runtime_ms_high,
            power_w: total.power_w,
            energy_mj: total.energy_mj,
            energy_mj_per_item: total.energy_mj_per_item,
            flops: total.flops,
            parameters: total.parameters,
            warnings: prediction.warnings.clone(),
            items_per_s: total.items_per_s,
            peak_activation_bytes: total.peak_activation_bytes,
        }
    }
}
