//! The features of a layer: what a model's terms may speak of.

use crate::layer::{Activation, Op, Value};
use crate::{Kind, Layer};

/// What every kind has beside its own fields.
const WORK: [&str; 6] = [
    "flops",
    "bytes",
    "input_bytes",
    "parameter_bytes",
    "output_bytes",
    "outputs",
];
/// What kinds that multiply matrices have.
const GEMM: [&str; 4] = ["gemm_m", "gemm_n", "gemm_k", "gemm_count"];
/// What kinds with an image as output have.
const IMAGE: [&str; 2] = ["out_height", "out_width"];
/// What kinds with groups of channels have.
const GROUPED: &str = "group_channels";
/// What kinds have that pad each side of an image by its own amount.
const SIDES: &str = "uneven_padding";

fn has_gemm(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Conv2d | Kind::ConvTranspose2d | Kind::Linear | Kind::Matmul | Kind::Attention
    )
}

fn has_image(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Conv2d | Kind::ConvTranspose2d | Kind::MaxPool2d | Kind::AvgPool2d
    )
}

fn has_groups(kind: Kind) -> bool {
    matches!(kind, Kind::Conv2d | Kind::ConvTranspose2d)
}

fn has_sides(kind: Kind) -> bool {
    kind.field_names().contains(&"pad_top")
}

/// The names of a kind's features: its own fields (a list is its sum), then what is derived from them.
///
/// `flops`, `bytes`, `input_bytes`, `parameter_bytes`, `output_bytes` as [`crate::layer::Work`] has them; `outputs` is
/// the number of values in the output; `gemm_*` the matrix product; `group_channels` the input channels of a group, 1 for a
/// depthwise convolution; `uneven_padding` by how many rows and columns opposite
/// sides are padded differently; `entries` the length of a list; `run` (permute) the
/// number of values that stay next to each other.
pub fn feature_names(kind: Kind) -> Vec<&'static str> {
    let mut names = kind.field_names().to_vec();
    names.extend(WORK);
    if has_gemm(kind) {
        names.extend(GEMM);
    }
    if has_image(kind) {
        names.extend(IMAGE);
    }
    if has_groups(kind) {
        names.push(GROUPED);
    }
    if has_sides(kind) {
        names.push(SIDES);
    }
    match kind {
        Kind::Concat => names.push("entries"),
        Kind::Permute => names.extend(["entries", "run"]),
        _ => (),
    }
    names
}

/// A layer's features with their values, in the order of [`feature_names`].
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    names: Vec<&'static str>,
    values: Vec<f64>,
}

impl Features {
    /// The features of a layer.
    pub fn of(layer: &Layer) -> Self {
        let kind = layer.kind();
        let mut values: Vec<f64> = layer
            .fields()
            .into_iter()
            .map(|(_, value)| number(&value))
            .collect();
        let work = layer.work();
        let output = layer.output_shape();
        values.extend([
            work.flops as f64,
            work.bytes() as f64,
            work.input_bytes as f64,
            work.parameter_bytes as f64,
            work.output_bytes as f64,
            output.iter().product::<u64>() as f64,
        ]);
        if has_gemm(kind) {
            let gemm = layer.gemm().expect("these kinds multiply matrices");
            values.extend([gemm.m, gemm.n, gemm.k, gemm.count].map(|size| size as f64));
        }
        if has_image(kind) {
            values.extend([output[2] as f64, output[3] as f64]);
        }
        match layer.op() {
            Op::Conv2d(conv) => values.push((conv.in_channels / conv.groups) as f64),
            Op::ConvTranspose2d(conv) => values.push((conv.in_channels / conv.groups) as f64),
            _ => (),
        }
        let pads = match layer.op() {
            Op::Conv2d(c) => Some([c.pad_top, c.pad_bottom, c.pad_left, c.pad_right]),
            Op::MaxPool2d(p) | Op::AvgPool2d(p) => {
                Some([p.pad_top, p.pad_bottom, p.pad_left, p.pad_right])
            }
            _ => None,
        };
        if let Some([top, bottom, left, right]) = pads {
            let uneven = top.abs_diff(bottom) + left.abs_diff(right);
            values.push(uneven as f64);
        }
        match layer.op() {
            Op::Concat(concat) => values.push(concat.in_channels.len() as f64),
            Op::Permute(permute) => {
                let stays = permute
                    .order
                    .iter()
                    .enumerate()
                    .rev()
                    .take_while(|&(axis, &from)| axis as u64 == from);
                let run: u64 = stays.map(|(axis, _)| permute.shape[axis]).product();
                values.extend([permute.shape.len() as f64, run as f64]);
            }
            _ => (),
        }
        let names = feature_names(kind);
        debug_assert_eq!(names.len(), values.len());
        Self { names, values }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.names.iter().copied().zip(self.values.iter().copied())
    }

    /// The value of a feature; `None` if the kind has no such feature.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.names
            .iter()
            .position(|&own| own == name)
            .map(|index| self.values[index])
    }

    pub(super) fn extend(&mut self, names: &[&'static str], values: &[f64]) {
        self.names.extend(names);
        self.values.extend(values);
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut f64> {
        self.names
            .iter()
            .position(|&own| own == name)
            .map(|index| &mut self.values[index])
    }
}

/// A field as a number: a list as its sum, a word as its place among its kind's words.
fn number(value: &Value) -> f64 {
    match value {
        Value::Size(size) => *size as f64,
        Value::Sizes(sizes) => sizes.iter().sum::<u64>() as f64,
        Value::Word(word) => Activation::ALL
            .iter()
            .position(|activation| activation.name() == word)
            .map_or(0.0, |index| index as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_value_for_each_name() {
        for kind in Kind::ALL {
            let features = Features::of(&kind.example());
            assert_eq!(features.names, feature_names(kind));
            assert!(features.iter().all(|(_, value)| value.is_finite()));
        }
    }
}
