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
    /// How long a call took in the same measurement, in ms, if that is known: what a layer draws depends on what its time
    /// goes to.
    pub runtime_ms: Option<f64>,
}

/// All measurements of one layer.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) hash: Hash,
    pub(super) features: Features,
    /// Mean of the logarithms of its measurements.
    pub(super) log_value: f64,
    /// The same of its runtimes, if all of them are known.
    pub(super) log_runtime: Option<f64>,
    /// The number of its measurements.
    pub(super) weight: f64,
}

/// Collapses replicas; rows come in the order of their hashes, so that the order of arrival changes nothing.
pub(super) fn rows(key: &ModelKey, samples: &[Sample]) -> Result<Vec<Row>, FitError> {
    let mut by_layer: BTreeMap<Hash, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        if (sample.layer.kind(), sample.layer.dtype()) != (key.kind, key.dtype) {
            return Err(FitError::Foreign {
                layer: sample.layer.to_string(),
            });
        }
        let numbers = std::iter::once(sample.value).chain(sample.runtime_ms);
        for value in numbers {
            if !(value.is_finite() && value > 0.0) {
                return Err(FitError::Value {
                    value,
                    layer: sample.layer.to_string(),
                });
            }
        }
        by_layer
            .entry(sample.layer.hash())
            .or_default()
            .push(sample);
    }
    if by_layer.is_empty() {
        return Err(FitError::NoSamples);
    }
    let row = |(hash, replicas): (Hash, Vec<&Sample>)| {
        let count = replicas.len() as f64;
        let log_sum: f64 = replicas.iter().map(|sample| sample.value.ln()).sum();
        let log_runtimes = replicas
            .iter()
            .map(|sample| sample.runtime_ms.map(f64::ln))
            .sum::<Option<f64>>();
        Row {
            hash,
            features: Features::of(&replicas[0].layer),
            log_value: log_sum / count,
            log_runtime: log_runtimes.map(|sum| sum / count),
            weight: count,
        }
    };
    Ok(by_layer.into_iter().map(row).collect())
}
