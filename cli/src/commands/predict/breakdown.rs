//! What a network's parts cost: its kinds of layers, its stages, and what bounds them.

use std::collections::BTreeMap;

use serde::Serialize;
use wattfarm_cost::model::{LayerPrediction, Limit};

/// The most stages that are told apart.
const STAGES_MAX: usize = 24;

/// The most components of a name that a stage is told by.
const COMPONENTS_MAX: usize = 6;

/// Some of a network's layers together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Part {
    /// What they have in common.
    pub(crate) name: String,
    /// How many they are.
    pub(crate) layers: usize,
    /// Sum over those that have a model, in ms.
    pub(crate) runtime_ms: f64,
    /// `None` unless all have.
    pub(crate) energy_mj: Option<f64>,
    /// Floating-point operations.
    pub(crate) flops: u64,
    /// Bytes moved if each tensor is touched once.
    pub(crate) bytes: u64,
}

impl Part {
    fn of<'a>(name: String, layers: impl IntoIterator<Item = &'a LayerPrediction>) -> Self {
        let mut part = Self {
            name,
            layers: 0,
            runtime_ms: 0.0,
            energy_mj: Some(0.0),
            flops: 0,
            bytes: 0,
        };
        for layer in layers {
            part.layers += 1;
            part.runtime_ms += layer.runtime_ms.unwrap_or(0.0);
            part.energy_mj = part
                .energy_mj
                .zip(layer.energy_mj)
                .map(|(sum, mj)| sum + mj);
            part.flops = part.flops.saturating_add(layer.flops);
            part.bytes = part.bytes.saturating_add(layer.bytes);
        }
        part
    }
}

/// Layers by what a function says of them, costliest first.
fn by<'a>(
    layers: &'a [LayerPrediction],
    name: impl Fn(&'a LayerPrediction) -> &'a str,
) -> Vec<Part> {
    let mut parts: BTreeMap<&str, Vec<&LayerPrediction>> = BTreeMap::new();
    for layer in layers {
        parts.entry(name(layer)).or_default().push(layer);
    }
    let parts = parts.into_iter();
    let mut parts: Vec<Part> = parts
        .map(|(name, layers)| Part::of(name.to_owned(), layers))
        .collect();
    parts.sort_by(|one, other| other.runtime_ms.total_cmp(&one.runtime_ms));
    parts
}

/// Layers by kind, costliest first.
pub(crate) fn by_kind(layers: &[LayerPrediction]) -> Vec<Part> {
    by(layers, |layer| layer.kind.name())
}

/// Layers by what bounds them, costliest first.
pub(crate) fn by_limit(layers: &[LayerPrediction]) -> Vec<Part> {
    by(layers, |layer| layer.limit.map_or("unknown", Limit::name))
}

/// Layers by the beginning of their names, in the order of execution: by the first component of a dotted name, and where
/// more than half of the time would be in one such stage, by as many more as tell it apart. What is more than some dozens
/// is put together. Nothing, if names tell of no stages.
pub(crate) fn by_stage(layers: &[LayerPrediction]) -> Vec<Part> {
    let all: f64 = runtime(layers);
    let mut stages = split(layers.iter().collect(), 1);
    for components in 2..=COMPONENTS_MAX {
        let Some(large) = stages
            .iter()
            .position(|(_, layers)| runtime(layers.iter().copied()) > 0.5 * all)
        else {
            break;
        };
        let parts = split(stages[large].1.clone(), components);
        if stages.len() - 1 + parts.len() > STAGES_MAX {
            break;
        }
        stages.splice(large..=large, parts);
    }
    if stages.iter().all(|(_, layers)| layers.len() == 1) {
        return Vec::new();
    }
    let mut parts: Vec<Part> = stages
        .into_iter()
        .map(|(name, layers)| Part::of(name, layers))
        .collect();
    if parts.len() > STAGES_MAX {
        let mut sizes: Vec<f64> = parts.iter().map(|part| part.runtime_ms).collect();
        sizes.sort_by(|one, other| other.total_cmp(one));
        let least = sizes[STAGES_MAX - 2];
        let (mut own, others): (Vec<Part>, Vec<Part>) =
            parts.into_iter().partition(|part| part.runtime_ms >= least);
        own.push(joined("others", &others));
        parts = own;
    }
    parts
}

fn joined(name: &str, parts: &[Part]) -> Part {
    let mut sum = Part::of(name.to_owned(), []);
    for part in parts {
        sum.layers += part.layers;
        sum.runtime_ms += part.runtime_ms;
        sum.energy_mj = sum.energy_mj.zip(part.energy_mj).map(|(a, b)| a + b);
        sum.flops = sum.flops.saturating_add(part.flops);
        sum.bytes = sum.bytes.saturating_add(part.bytes);
    }
    sum
}

fn runtime<'a>(layers: impl IntoIterator<Item = &'a LayerPrediction>) -> f64 {
    let times = layers.into_iter().filter_map(|layer| layer.runtime_ms);
    times.sum()
}

/// Layers by so many components of their names, in the order in which each name comes first.
fn split(layers: Vec<&LayerPrediction>, components: usize) -> Vec<(String, Vec<&LayerPrediction>)> {
    let mut stages: Vec<(String, Vec<&LayerPrediction>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for layer in layers {
        let parts: Vec<&str> = layer.name.split('.').take(components).collect();
        let name = parts.join(".");
        let place = *places.entry(name.clone()).or_insert(stages.len());
        if place == stages.len() {
            stages.push((name, Vec::new()));
        }
        stages[place].1.push(layer);
    }
    stages
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::{Hash, Kind};

    use super::*;

    fn layer(name: &str, runtime_ms: f64) -> LayerPrediction {
        LayerPrediction {
            name: name.to_owned(),
            kind: Kind::Relu,
            hash: Hash::of(name),
            runtime_ms: Some(runtime_ms),
            runtime_ms_low: None,
            runtime_ms_high: None,
            power_w: None,
            energy_mj: Some(2.0 * runtime_ms),
            flops: 1,
            bytes: 1,
            limit: None,
        }
    }

    fn stages(layers: &[LayerPrediction]) -> Vec<(String, usize, f64)> {
        let parts = by_stage(layers).into_iter();
        parts
            .map(|part| (part.name, part.layers, part.runtime_ms))
            .collect()
    }

    #[test]
    fn a_stage_with_most_of_the_time_is_told_apart() {
        let named = |name: &str, layers, ms| (name.to_owned(), layers, ms);
        assert_eq!(
            stages(&[
                layer("stem.conv", 1.0),
                layer("body.0.conv", 3.0),
                layer("body.0.relu", 1.0),
                layer("body.1.conv", 3.0),
                layer("head", 1.0),
            ]),
            [
                named("stem", 1, 1.0),
                named("body.0", 2, 4.0),
                named("body.1", 1, 3.0),
                named("head", 1, 1.0),
            ]
        );
    }

    #[test]
    fn many_stages_are_put_together() {
        let layers = (0..100u32).flat_map(|index| {
            ["conv", "relu"].map(|of| layer(&format!("layer{index}.{of}"), f64::from(index)))
        });
        let layers: Vec<LayerPrediction> = layers.collect();
        let found = stages(&layers);
        assert_eq!(found.len(), STAGES_MAX);
        assert_eq!(found[0].0, "layer77");
        let others: f64 = (0..77).map(|index| 2.0 * f64::from(index)).sum();
        assert_eq!(found[23], ("others".to_owned(), 154, others));
        let apart = ["conv1", "conv2", "fc"].map(|name| layer(name, 1.0));
        assert_eq!(stages(&apart), []);
    }
}
