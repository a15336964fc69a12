//! Products of rows, and what joins, parts and reorders tensors.

use wattfarm_cost::layer::{Op, Permute, Rows};
use wattfarm_cost::network::Tensor;

use super::{Lowering, Outcome};
use crate::error::shown;
use crate::net::Layer;

/// An axis that may be counted from the end, in a shape of so many.
fn place(axis: i64, axes: usize) -> Result<usize, String> {
    let from_start = if axis < 0 { axis + axes as i64 } else { axis };
    usize::try_from(from_start)
        .ok()
        .filter(|&axis| axis < axes)
        .ok_or_else(|| format!("axis {axis} of {axes} is not there"))
}

fn product(sizes: &[u64]) -> u64 {
    sizes.iter().fold(1, |all, &size| all.saturating_mul(size))
}

impl Lowering {
    pub(super) fn inner_product(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("inner_product_param");
        let x = self.read(layer, 0)?;
        let shape = self.builder.shape(x).clone();
        let axis = place(parameters.int("axis")?.unwrap_or(1), shape.len())?;
        let out = parameters.size("num_output")?.ok_or("has no num_output")?;
        let bias = parameters.switch("bias_term", true)?;
        let mut rows = shape[..axis].to_vec();
        rows.push(product(&shape[axis..]));
        let title = self.title(layer);
        let rows = self.view(&format!("{title}.rows"), x, &rows);
        Ok(Outcome::Costed(
            self.builder.linear(&title, rows, out, bias),
        ))
    }

    pub(super) fn softmax(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let x = self.read(layer, 0)?;
        let shape = self.builder.shape(x).clone();
        let axis = layer.parameters("softmax_param").int("axis")?.unwrap_or(1);
        let features = shape[place(axis, shape.len())?];
        let batch = product(&shape) / features.max(1);
        let title = self.title(layer);
        let rows = match shape.last() == Some(&features) {
            true => x,
            false => self.view(&format!("{title}.rows"), x, &[batch, features]),
        };
        let made = self
            .builder
            .layer(&title, &[rows], Op::Softmax(Rows { batch, features }));
        Ok(Outcome::Costed(self.view(
            &format!("{title}.view"),
            made,
            &shape,
        )))
    }

    pub(super) fn eltwise(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("eltwise_param");
        let is_product = match parameters.word("operation").unwrap_or("SUM") {
            "SUM" | "1" => false,
            "PROD" | "0" => true,
            "MAX" | "2" => {
                self.stands_for(layer, "add");
                false
            }
            other => return Err(format!("operation: `{}` is not known", shown(other))),
        };
        let reads = self.reads(layer)?;
        let [first, others @ ..] = reads.as_slice() else {
            return Err("reads nothing".to_owned());
        };
        let mut made = *first;
        for (index, &other) in others.iter().enumerate() {
            let (one, two) = (self.builder.shape(made), self.builder.shape(other));
            if one != two {
                return Err(format!("{one:?} and {two:?} do not fit each other"));
            }
            let title = match index {
                0 => self.title(layer),
                _ => format!("{}.{index}", self.title(layer)),
            };
            made = match is_product {
                true => self.builder.mul(&title, made, other),
                false => self.builder.add(&title, made, other),
            };
        }
        Ok(Outcome::Costed(made))
    }

    pub(super) fn concat(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("concat_param");
        let reads = self.reads(layer)?;
        let shapes: Vec<Vec<u64>> = reads
            .iter()
            .map(|&x| self.builder.shape(x).clone())
            .collect();
        let first = shapes.first().ok_or("reads nothing")?.clone();
        let older = parameters.int("concat_dim")?;
        let axis = place(parameters.int("axis")?.or(older).unwrap_or(1), first.len())?;
        let is_alike = |shape: &Vec<u64>| {
            let others = |shape: &[u64]| [&shape[..axis], &shape[axis + 1..]].concat();
            shape.len() == first.len() && others(shape) == others(&first)
        };
        if let Some(other) = shapes.iter().find(|shape| !is_alike(shape)) {
            return Err(format!("{first:?} and {other:?} do not fit each other"));
        }
        let title = self.title(layer);
        // The kind joins along the second of three axes.
        let (before, behind) = (product(&first[..axis]), product(&first[axis + 1..]));
        let parts: Vec<Tensor> = match axis {
            1 => reads,
            _ => (0..reads.len())
                .map(|index| {
                    let shape = [before, shapes[index][axis], behind];
                    self.view(&format!("{title}.part{index}"), reads[index], &shape)
                })
                .collect(),
        };
        let mut shape = first;
        shape[axis] = shapes
            .iter()
            .fold(0, |sum: u64, shape| sum.saturating_add(shape[axis]));
        let made = self.builder.concat(&title, &parts);
        Ok(Outcome::Costed(self.view(
            &format!("{title}.view"),
            made,
            &shape,
        )))
    }

    /// Parts of a tensor along an axis; between the given points, or of one size. Free, as views are.
    pub(super) fn slice(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("slice_param");
        let x = self.read(layer, 0)?;
        let shape = self.builder.shape(x).clone();
        let older = parameters.int("slice_dim")?;
        let axis = place(parameters.int("axis")?.or(older).unwrap_or(1), shape.len())?;
        let points = parameters.sizes("slice_point")?;
        let count = layer.tops.len() as u64;
        let points = match points.is_empty() && count > 0 && shape[axis].is_multiple_of(count) {
            true => (1..count)
                .map(|part| part * (shape[axis] / count))
                .collect(),
            false => points,
        };
        if points.len() as u64 + 1 != count {
            return Err(format!("{} points do not make {count} tops", points.len()));
        }
        let title = self.title(layer);
        let mut parts = Vec::with_capacity(layer.tops.len());
        let ends = points.iter().chain([&shape[axis]]);
        let mut start = 0;
        for (index, &end) in ends.enumerate() {
            let length = end
                .checked_sub(start)
                .filter(|&length| length > 0)
                .ok_or_else(|| {
                    format!(
                        "slice_point: {points:?} do not ascend within {}",
                        shape[axis]
                    )
                })?;
            let name = format!("{title}.part{index}");
            parts.push(
                self.builder
                    .slice(&name, x, axis as u64, (start, 1, length)),
            );
            start = end;
        }
        Ok(Outcome::Free(parts))
    }

    pub(super) fn flatten(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("flatten_param");
        let x = self.read(layer, 0)?;
        let shape = self.builder.shape(x).clone();
        let axis = place(parameters.int("axis")?.unwrap_or(1), shape.len())?;
        let end = place(parameters.int("end_axis")?.unwrap_or(-1), shape.len())?;
        if end < axis {
            return Err(format!("from axis {axis} to {end} there is nothing"));
        }
        let mut flat = shape[..axis].to_vec();
        flat.push(product(&shape[axis..=end]));
        flat.extend(&shape[end + 1..]);
        let title = self.title(layer);
        let made = match (axis, end + 1 == shape.len()) {
            (1, true) => return self.each(layer, Op::Flatten),
            _ => self.view(&title, x, &flat),
        };
        Ok(Outcome::Free(vec![made]))
    }

    /// Another shape of the same values: 0 keeps an axis, -1 is what is left.
    pub(super) fn reshape(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("reshape_param");
        let x = self.read(layer, 0)?;
        let shape = self.builder.shape(x).clone();
        let axis = match parameters.int("axis")?.unwrap_or(0) {
            // Behind the last axis is a place too.
            axis if axis == shape.len() as i64 => shape.len(),
            -1 => shape.len(),
            axis => place(axis, shape.len())?,
        };
        let count = match parameters.int("num_axes")?.unwrap_or(-1) {
            -1 => shape.len() - axis,
            count => usize::try_from(count)
                .ok()
                .filter(|count| axis + count <= shape.len())
                .ok_or("num_axes goes beyond the last axis")?,
        };
        let mut made = shape[..axis].to_vec();
        let mut open = None;
        let dims = parameters.message("shape").cloned().unwrap_or_default();
        for dim in dims.words("dim") {
            let size = match dim.parse::<i64>() {
                Ok(0) => *shape
                    .get(made.len())
                    .ok_or("dim: 0 keeps an axis that is not there")?,
                Ok(-1) if open.is_none() => {
                    open = Some(made.len());
                    1
                }
                Ok(size) if size > 0 => size as u64,
                _ => return Err(format!("dim: `{}` is not a size", shown(dim))),
            };
            made.push(size);
        }
        made.extend(&shape[axis + count..]);
        if let Some(open) = open {
            made[open] = product(&shape) / product(&made).max(1);
        }
        let title = self.title(layer);
        Ok(Outcome::Free(vec![self.view(&title, x, &made)]))
    }

    pub(super) fn permute(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("permute_param");
        let x = self.read(layer, 0)?;
        let shape = self.builder.shape(x).clone();
        let mut order = parameters.sizes("order")?;
        // Axes that are not named follow in their order.
        order.extend(
            (0..shape.len() as u64)
                .filter(|axis| !order.contains(axis))
                .collect::<Vec<_>>(),
        );
        let title = self.title(layer);
        let permute = Op::Permute(Permute { shape, order });
        Ok(Outcome::Costed(self.builder.layer(&title, &[x], permute)))
    }

    /// The part of a tensor that has a second one's sizes, from an axis on. A view.
    pub(super) fn crop(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("crop_param");
        let (x, like) = (self.read(layer, 0)?, self.read(layer, 1)?);
        let shape = self.builder.shape(x).clone();
        let wanted = self.builder.shape(like).clone();
        if shape.len() != wanted.len() {
            return Err(format!("{shape:?} cannot be cut to {wanted:?}"));
        }
        let from = place(parameters.int("axis")?.unwrap_or(2), shape.len())?;
        let offsets = parameters.sizes("offset")?;
        let title = self.title(layer);
        let mut made = x;
        for axis in from..shape.len() {
            let offset = match offsets.as_slice() {
                [] => 0,
                &[all] => all,
                each => *each.get(axis - from).ok_or("offset has too few numbers")?,
            };
            if shape[axis] != wanted[axis] {
                let name = format!("{title}.axis{axis}");
                let kept = (offset, 1, wanted[axis]);
                made = self.builder.slice(&name, made, axis as u64, kept);
            }
        }
        Ok(Outcome::Free(vec![made]))
    }

    /// Channels of several groups one by one: a copy with two axes in the other order.
    pub(super) fn shuffle(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("shuffle_channel_param");
        let x = self.read(layer, 0)?;
        let shape = self.builder.shape(x).clone();
        let groups = parameters.size("group")?.unwrap_or(1);
        let &[batch, channels, ref inner @ ..] = shape.as_slice() else {
            return Err(format!("reads {shape:?}, which has no channels"));
        };
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(format!("{channels} channels are not {groups} groups"));
        }
        let title = self.title(layer);
        let apart = [batch, groups, channels / groups, product(inner)];
        let apart_view = self.view(&format!("{title}.groups"), x, &apart);
        let permute = Op::Permute(Permute {
            shape: apart.to_vec(),
            order: vec![0, 2, 1, 3],
        });
        let made = self.builder.layer(&title, &[apart_view], permute);
        Ok(Outcome::Costed(self.view(
            &format!("{title}.view"),
            made,
            &shape,
        )))
    }
}
