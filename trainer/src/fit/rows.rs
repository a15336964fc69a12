//! Measurements as rows of a fit: one for each layer, whatever the order and number of its measurements.

use std::collections::BTreeMap;

use wattfarm_cost::id::AgentId;
use wattfarm_cost::model::{DeviceEffect, Features, ModelKey};
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
    /// Whose device it was measured on; `None` if all samples are of one.
    pub agent: Option<AgentId>,
}

/// All measurements of one layer.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) hash: Hash,
    pub(super) layer: Layer,
    pub(super) features: Features,
    /// Mean of the logarithms of its measurements, as the mean device would have taken them.
    pub(super) log_value: f64,
    /// How far the devices that it was measured on are above that, in logarithms.
    pub(super) above_mean: f64,
    /// What each device said, by agent.
    pub(super) devices: Vec<OnDevice>,
    /// The same of its runtimes, if all of them are known.
    pub(super) log_runtime: Option<f64>,
    /// The number of its measurements.
    pub(super) weight: f64,
}

/// A layer's measurements on one device.
#[derive(Debug)]
pub(super) struct OnDevice {
    pub(super) agent: AgentId,
    /// How many.
    pub(super) count: f64,
    /// Mean of their logarithms.
    pub(super) log_value: f64,
}

impl Row {
    /// Takes from the measurements what is their devices' own.
    pub(super) fn correct(&mut self, effects: &[DeviceEffect]) {
        let shares = self.devices.iter().map(|device| {
            let effect = effects.binary_search_by_key(&device.agent, |effect| effect.agent);
            effect.map_or(0.0, |place| effects[place].log_ratio * device.count)
        });
        let above_mean = shares.sum::<f64>() / self.weight;
        self.log_value += self.above_mean - above_mean;
        self.above_mean = above_mean;
    }
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
            layer: replicas[0].layer.clone(),
            features: Features::of(&replicas[0].layer),
            log_value: log_sum / count,
            above_mean: 0.0,
            devices: on_devices(&replicas),
            log_runtime: log_runtimes.map(|sum| sum / count),
            weight: count,
        }
    };
    Ok(by_layer.into_iter().map(row).collect())
}

fn on_devices(replicas: &[&Sample]) -> Vec<OnDevice> {
    let mut sums: BTreeMap<AgentId, (f64, f64)> = BTreeMap::new();
    for sample in replicas {
        if let Some(agent) = sample.agent {
            let (count, sum) = sums.entry(agent).or_default();
            *count += 1.0;
            *sum += sample.value.ln();
        }
    }
    let own = |(agent, (count, sum)): (AgentId, (f64, f64))| OnDevice {
        agent,
        count,
        log_value: sum / count,
    };
    sums.into_iter().map(own).collect()
}

#[cfg(test)]
pub(super) mod testing {
    use wattfarm_cost::layer::Value;
    use wattfarm_cost::{Kind, Layer};

    use super::*;

    /// The agent of a number.
    pub(in crate::fit) fn agent(number: usize) -> AgentId {
        let text = format!("0190b7a0-0000-7000-8000-{number:012}");
        text.parse().expect("an id")
    }

    /// A row of one measurement on each of some devices, by their numbers.
    pub(in crate::fit) fn row_on(devices: impl Iterator<Item = (usize, f64)>) -> Row {
        let fields = [("batch", Value::Size(1)), ("features", Value::Size(1))];
        let layer = Layer::from_fields(Kind::Relu, fields).expect("valid");
        let mut devices: Vec<OnDevice> = devices
            .map(|(number, log_value)| OnDevice {
                agent: agent(number),
                count: 1.0,
                log_value,
            })
            .collect();
        devices.sort_by_key(|device| device.agent);
        let weight = devices.len() as f64;
        Row {
            hash: layer.hash(),
            features: Features::of(&layer),
            layer,
            log_value: devices.iter().map(|device| device.log_value).sum::<f64>() / weight,
            above_mean: 0.0,
            devices,
            log_runtime: None,
            weight,
        }
    }
}
