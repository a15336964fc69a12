//! The features of a layer: what a model's terms may speak of.

use std::sync::OnceLock;

use crate::layer::Op;
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
pub fn feature_names(kind: Kind) -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<Vec<&'static str>>> = OnceLock::new();
    let all = NAMES.get_or_init(|| Kind::ALL.map(names_of).to_vec());
    &all[kind as usize]
}

fn names_of(kind: Kind) -> Vec<&'static str> {
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
    kind: Kind,
    /// Names of the values behind those that the kind has by itself.
    derived: &'static [&'static str],
    values: Vec<f64>,
}

/// As many values as a kind has, and a few to come.
const VALUES_EXPECTED: usize = 48;

impl Features {
    /// The features of a layer.
    pub fn of(layer: &Layer) -> Self {
        let kind = layer.kind();
        let mut values = Vec::with_capacity(VALUES_EXPECTED);
        layer.op().numbers(&mut values);
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
        debug_assert_eq!(feature_names(kind).len(), values.len());
        Self {
            kind,
            derived: &[],
            values,
        }
    }

    /// The names, in the order of the values.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let own = feature_names(self.kind).iter();
        own.chain(self.derived).copied()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.names().zip(self.values.iter().copied())
    }

    /// The value of a feature; `None` if the kind has no such feature.
    pub fn get(&self, name: &str) -> Option<f64> {
        let place = self.names().position(|own| own == name);
        place.map(|place| self.values[place])
    }

    /// The values, in the names' order.
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    pub(super) fn derive(&mut self, names: &'static [&'static str], values: &[f64]) {
        self.derived = names;
        self.values.extend(values);
    }

    pub(super) fn value_mut(&mut self, place: usize) -> &mut f64 {
        &mut self.values[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_value_for_each_name() {
        for kind in Kind::ALL {
            let features = Features::of(&kind.example());
            assert_eq!(features.values.len(), feature_names(kind).len());
            assert!(features.iter().all(|(_, value)| value.is_finite()));
        }
    }
}
