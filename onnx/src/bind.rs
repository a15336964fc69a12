//! What the caller says of the sizes that a file leaves open.

use std::collections::HashMap;

use wattfarm_cost::network::Sizes;

use crate::error::{OnnxError, shown};
use crate::file::{Dim, ValueInfo};
use crate::value::numel;

/// Sizes of axes by their names, and what the batch was and is.
#[derive(Debug)]
pub(crate) struct Bound {
    axes: HashMap<String, u64>,
    /// The batch that the file was written for, and the one that is asked for, if they differ.
    pub(crate) rebatched: Option<(u64, u64)>,
    /// Shapes of the inputs.
    pub(crate) inputs: Vec<Vec<u64>>,
}

impl Bound {
    pub(crate) fn of(inputs: &[&ValueInfo], sizes: &Sizes) -> Result<Self, OnnxError> {
        let Some(first) = inputs.first() else {
            return Err(OnnxError::Graph("has no input".to_owned()));
        };
        for (name, _) in &sizes.named {
            let is_axis = |dim: &Dim| *dim == Dim::Named(name.clone());
            let known = inputs
                .iter()
                .any(|input| input.name == *name || input.shape.iter().flatten().any(is_axis));
            if !known {
                let names: Vec<String> = inputs
                    .iter()
                    .map(|input| format!("`{}`", shown(&input.name)))
                    .collect();
                return Err(OnnxError::Input {
                    input: shown(name),
                    reason: format!(
                        "is neither an input nor a named axis of one: the inputs are {}",
                        names.join(", ")
                    ),
                });
            }
        }
        let mut bound = Self {
            axes: HashMap::new(),
            rebatched: None,
            inputs: Vec::new(),
        };
        for (name, shape) in &sizes.named {
            if let [size] = shape.as_slice() {
                bound.axes.insert(name.clone(), *size);
            }
        }
        let batch = match first.shape.as_deref().and_then(|shape| shape.first()) {
            Some(Dim::Size(own)) => {
                bound.rebatched = sizes
                    .batch
                    .filter(|batch| batch != own)
                    .map(|batch| (*own, batch));
                sizes.batch.unwrap_or(*own)
            }
            Some(Dim::Named(name)) => {
                let batch = sizes.batch.or(bound.axes.get(name).copied()).unwrap_or(1);
                bound.axes.insert(name.clone(), batch);
                batch
            }
            Some(Dim::Open) | None => sizes.batch.unwrap_or(1),
        };
        for (index, input) in inputs.iter().enumerate() {
            let shape = bound.shape(input, index == 0, batch, sizes)?;
            numel(&shape)
                .ok()
                .filter(|&numel| numel > 0)
                .ok_or_else(|| OnnxError::Input {
                    input: shown(&input.name),
                    reason: format!(
                        "a tensor of {} is empty or beyond 2^40 values",
                        crate::value::dims(&shape)
                    ),
                })?;
            bound.inputs.push(shape);
        }
        Ok(bound)
    }

    fn shape(
        &self,
        input: &ValueInfo,
        is_first: bool,
        batch: u64,
        sizes: &Sizes,
    ) -> Result<Vec<u64>, OnnxError> {
        let refuse = |reason: String| OnnxError::Input {
            input: shown(&input.name),
            reason,
        };
        let named = sizes
            .named
            .iter()
            .rev()
            .find(|(name, _)| *name == input.name);
        let item = named.map(|(_, shape)| shape);
        let item = item.or(sizes.item.as_ref().filter(|_| is_first));
        let Some(own) = &input.shape else {
            return match item {
                Some(item) => Ok([&[batch], item.as_slice()].concat()),
                None => Err(refuse(
                    "the file does not say its shape: give that of one item by --input NAME=3x224x224"
                        .to_owned(),
                )),
            };
        };
        if let Some(item) = item
            && own.len() != item.len() + 1
        {
            return Err(refuse(format!(
                "has {} axes, and {} were given beside the batch",
                own.len(),
                item.len()
            )));
        }
        let mut shape = Vec::with_capacity(own.len());
        for (axis, dim) in own.iter().enumerate() {
            let given = item.filter(|_| axis > 0).map(|item| item[axis - 1]);
            shape.push(match (dim, given) {
                (Dim::Size(size), _) if axis == 0 => match self.rebatched {
                    Some((from, to)) if from == *size => to,
                    _ => *size,
                },
                (_, Some(given)) => given,
                (Dim::Size(size), None) => *size,
                (Dim::Named(name), None) if self.axes.contains_key(name) => self.axes[name],
                (Dim::Named(_) | Dim::Open, None) if axis == 0 => batch,
                (Dim::Named(name), None) => {
                    let name = shown(name);
                    return Err(refuse(format!(
                        "its axis {axis}, `{name}`, has no size: give it by --input {name}=128, or the shape of one \
                         item by --input {}=...",
                        shown(&input.name)
                    )));
                }
                (Dim::Open, None) => {
                    return Err(refuse(format!(
                        "its axis {axis} has no size: give the shape of one item by --input {}=...",
                        shown(&input.name)
                    )));
                }
            });
        }
        Ok(shape)
    }

    /// A shape that the exporter wrote, if every axis of it has a size.
    pub(crate) fn written(&self, value: &ValueInfo) -> Option<Vec<u64>> {
        let size = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Size(size) => Some(match self.rebatched {
                Some((from, to)) if axis == 0 && from == *size => to,
                _ => *size,
            }),
            Dim::Named(name) => self.axes.get(name).copied(),
            Dim::Open => None,
        };
        value.shape.as_ref()?.iter().enumerate().map(size).collect()
    }
}
