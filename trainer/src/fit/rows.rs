//! Measurements as rows of a fit: one for each layer, whatever the order and number of its measurements.

use std::collections::BTreeMap;

use wattfarm_cost::model::{Features, ModelKey};
use wattfarm_cost::{Hash, Layer};

use super::FitError;

/// One measurement of what the model shall predict.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The layer.
    pub layer: Layer,
    /// What was found, in the target's unit: positive.
    pub value: f64,
}

/// All measurements of one layer.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) hash: Hash,
    pub(super) features: Features,
    /// Mean of the logarithms of its measurements.
    pub(super) log_value: f64,
    /// The number of its measurements.
    pub(super) weight: f64,
}

/// Collapses replicas; rows come in the order of their hashes, so that the order of arrival changes nothing.
pub(super) fn rows(key: &ModelKey, samples: &[Sample]) -> Result<Vec<Row>, FitError> {
    let mut by_layer: BTreeMap<Hash, (&Layer, f64, u32)> = BTreeMap::new();
    for sample in samples {
        if (sample.layer.kind(), sample.layer.dtype()) != (key.kind, key.dtype) {
            return Err(FitError::Foreign {
                layer: sample.layer.to_string(),
            });
        }
        if !(sample.value.is_finite() && sample.value > 0.0) {
            return Err(FitError::Value {
                value: sample.value,
                layer: sample.layer.to_string(),
            });
        }
        let (_, log_sum, count) =
            by_layer
                .entry(sample.layer.hash())
                .or_insert((&sample.layer, 0.0, 0));
        *log_sum += sample.value.ln();
        *count += 1;
    }
    if by_layer.is_empty() {
        return Err(FitError::NoSamples);
    }
    let row = |(hash, (layer, log_sum, count)): (Hash, (&Layer, f64, u32))| Row {
        hash,
        features: Features::of(layer),
        log_value: log_sum / f64::from(count),
        weight: f64::from(count),
    };
    Ok(by_layer.into_iter().map(row).collect())
}
