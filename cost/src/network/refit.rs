//! Layers, views and slices as they follow from what they read.

use super::{channels, items, rows};
use crate::layer::{Op, Shape};

/// A layer's kind and own fields with its sizes taken from the shapes that it reads. An error if a shape has other axes
/// than the kind reads; whether the sizes then fit is for [`crate::Layer::new`] to say.
pub(super) fn refit(op: &Op, reads: &[Shape]) -> Result<Op, String> {
    let mut op = op.clone();
    match &mut op {
        Op::Conv2d(conv) => {
            let [batch, in_channels, in_height, in_width] = axes(&reads[0])?;
            apart(
                &mut conv.groups,
                &mut conv.out_channels,
                conv.in_channels,
                in_channels,
            );
            (conv.batch, conv.in_channels) = (batch, in_channels);
            (conv.in_height, conv.in_width) = (in_height, in_width);
        }
        Op::ConvTranspose2d(conv) => {
            let [batch, in_channels, in_height, in_width] = axes(&reads[0])?;
            apart(
                &mut conv.groups,
                &mut conv.out_channels,
                conv.in_channels,
                in_channels,
            );
            (conv.batch, conv.in_channels) = (batch, in_channels);
            (conv.in_height, conv.in_width) = (in_height, in_width);
        }
        Op::MaxPool2d(pool) | Op::AvgPool2d(pool) => {
            [pool.batch, pool.channels, pool.in_height, pool.in_width] = axes(&reads[0])?;
        }
        Op::AdaptiveAvgPool2d(pool) => {
            [pool.batch, pool.channels, pool.in_height, pool.in_width] = axes(&reads[0])?;
        }
        Op::UpsampleNearest2d(up) | Op::UpsampleBilinear2d(up) => {
            let [batch, channels, height, width] = axes(&reads[0])?;
            up.out_height = scaled(up.out_height, up.in_height, height);
            up.out_width = scaled(up.out_width, up.in_width, width);
            [up.batch, up.channels, up.in_height, up.in_width] = [batch, channels, height, width];
        }
        Op::BatchNorm2d(norm) => {
            [norm.batch, norm.channels, norm.height, norm.width] = axes(&reads[0])?;
        }
        Op::LocalResponseNorm(norm) => {
            [norm.batch, norm.channels, norm.height, norm.width] = axes(&reads[0])?;
        }
        Op::GroupNorm(norm) => {
            let [batch, channels, inner] = axes(&channels(&reads[0]))?;
            if norm.groups == norm.channels {
                norm.groups = channels;
            }
            (norm.batch, norm.channels, norm.inner) = (batch, channels, inner);
        }
        Op::Linear(linear) => [linear.batch, linear.in_features] = axes(&rows(&reads[0]))?,
        Op::LayerNorm(of) | Op::RmsNorm(of) | Op::Softmax(of) => {
            [of.batch, of.features] = axes(&rows(&reads[0]))?;
        }
        Op::Relu(of)
        | Op::Relu6(of)
        | Op::Gelu(of)
        | Op::Silu(of)
        | Op::Sigmoid(of)
        | Op::Hardswish(of)
        | Op::Hardsigmoid(of)
        | Op::Tanh(of)
        | Op::Dropout(of)
        | Op::Flatten(of)
        | Op::Copy(of) => [of.batch, of.features] = axes(&items(&reads[0]))?,
        Op::Add(pair) | Op::Mul(pair) => {
            [pair.batch, pair.channels, pair.inner] = axes(&channels(&reads[0]))?;
            [pair.other_batch, pair.other_channels, pair.other_inner] = axes(&channels(&reads[1]))?;
        }
        Op::Concat(concat) => {
            let parts: Vec<Shape> = reads.iter().map(channels).collect();
            (concat.batch, concat.inner) = (parts[0][0], parts[0][2]);
            concat.in_channels = parts.iter().map(|part| part[1]).collect();
        }
        Op::Mean(of) => [of.batch, of.length, of.inner] = axes(&reads[0])?,
        Op::Permute(permute) => permute.shape.clone_from(&reads[0]),
        Op::Matmul(product) => {
            [product.batch, product.m, product.k] = axes(&reads[0])?;
            let [_, k, n] = axes(&reads[1])?;
            if k != product.k {
                return Err(format!("{} columns meet {k} rows", product.k));
            }
            product.n = n;
        }
        Op::Attention(of) => {
            [of.batch, of.heads, of.query_length, of.head_dim] = axes(&reads[0])?;
            let [_, _, key_length, _] = axes(&reads[1])?;
            of.key_length = key_length;
        }
        Op::Embedding(of) => of.batch = items(&reads[0]).iter().product(),
        Op::Lstm(of) | Op::Gru(of) => [of.length, of.batch, of.in_features] = axes(&reads[0])?,
    }
    Ok(op)
}

fn axes<const N: usize>(shape: &Shape) -> Result<[u64; N], String> {
    let axes = <[u64; N]>::try_from(shape.as_slice());
    axes.map_err(|_| format!("{N} axes are read, and there are {}", shape.len()))
}

/// A convolution of each channel by itself keeps to that, and its outputs for each channel to their number.
fn apart(groups: &mut u64, out_channels: &mut u64, was: u64, is: u64) {
    if *groups == was && *groups > 1 && is != was {
        *out_channels = *out_channels / was * is;
        *groups = is;
    }
}

/// The size that an image is enlarged to: by the same factor, where it was a whole one.
fn scaled(out: u64, was: u64, is: u64) -> u64 {
    match out.is_multiple_of(was) {
        true => (out / was).saturating_mul(is),
        false => out,
    }
}

/// A view of another shape than before.
pub(super) struct View {
    pub(super) shape: Shape,
    /// Whether another shape could have been meant as well.
    pub(super) is_guess: bool,
}

/// How a view of `was` as `shape` sees `is`: axes that were joined are joined, and where one was split into several, the
/// last of those takes up the change that can.
pub(super) fn reshaped(was: &[u64], shape: &[u64], is: &[u64]) -> Result<View, String> {
    if was.len() != is.len() {
        return Err(format!(
            "viewed {} axes, and there are {}",
            was.len(),
            is.len()
        ));
    }
    let mut view = View {
        shape: shape.to_vec(),
        is_guess: false,
    };
    for (from, to) in alike(was, shape) {
        let of = |sizes: &[u64]| sizes.iter().product::<u64>();
        let (old, new) = (of(&was[from.clone()]), of(&is[from.clone()]));
        if old == new {
            continue;
        }
        let sizes = &mut view.shape[to];
        // Of several axes, those of one value are no parts of it.
        let parts = sizes.iter().filter(|&&size| size > 1).count();
        let takes = sizes.iter().rposition(|&size| {
            let others = old / size;
            (size > 1 || sizes.len() == 1) && new.is_multiple_of(others)
        });
        let Some(place) = takes else {
            return Err(format!(
                "{new} values cannot be viewed as {old} were, as {sizes:?}"
            ));
        };
        sizes[place] = new / (old / sizes[place]);
        view.is_guess |= parts > 1;
    }
    Ok(view)
}

/// The axes of two shapes of as many values in groups, as small as can be, that hold the same values.
fn alike(one: &[u64], other: &[u64]) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut groups = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < one.len() || j < other.len() {
        let (from, to) = (i, j);
        let (mut a, mut b) = (1u64, 1u64);
        loop {
            // Whichever is behind takes its next axis; at the beginning both do.
            let behind = (a <= b && i < one.len(), b <= a && j < other.len());
            if behind.0 {
                a = a.saturating_mul(one[i]);
                i += 1;
            }
            if behind.1 {
                b = b.saturating_mul(other[j]);
                j += 1;
            }
            if a == b || behind == (false, false) {
                break;
            }
        }
        groups.push((from..i, to..j));
    }
    groups
}

/// Start and length of a slice (start, step, length) along an axis that had `was` places and has `is`: the same of as many
/// chunks, all from its start on, the same part, or, where none of these can be, the same places.
pub(super) fn resliced((start, step, length): (u64, u64, u64), was: u64, is: u64) -> (u64, u64) {
    let until_end = |size: u64| size.saturating_sub(start).div_ceil(step);
    let part = |places: u64| {
        let scaled = u128::from(places) * u128::from(is);
        let whole = scaled.is_multiple_of(u128::from(was));
        whole.then(|| (scaled / u128::from(was)) as u64)
    };
    // One place alone is a place, not a part.
    let is_part = step == 1 && length > 1;
    let is_chunk = is_part && was.is_multiple_of(length) && start.is_multiple_of(length);
    match part(start).zip(part(length)) {
        Some(scaled) if is_chunk => scaled,
        _ if length > 1 && length == until_end(was) => (start, until_end(is)),
        Some(scaled) if is_part => scaled,
        _ => (start, length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(was: &[u64], shape: &[u64], is: &[u64]) -> Result<(Shape, bool), String> {
        reshaped(was, shape, is).map(|view| (view.shape, view.is_guess))
    }

    #[test]
    fn a_view_keeps_what_it_joined_and_split() {
        // Flattened, rows by token, heads apart, and a channel's groups apart.
        assert_eq!(
            view(&[2, 512, 7, 7], &[2, 25_088], &[2, 384, 7, 7]),
            Ok((vec![2, 18_816], false))
        );
        assert_eq!(
            view(&[2, 197, 768], &[394, 768], &[2, 197, 512]),
            Ok((vec![394, 512], false))
        );
        assert_eq!(
            view(&[2, 197, 768], &[2, 197, 12, 64], &[2, 197, 384]),
            Ok((vec![2, 197, 12, 32], true))
        );
        assert_eq!(
            view(&[1, 8, 1, 1], &[1, 8], &[1, 6, 1, 1]),
            Ok((vec![1, 6], false))
        );
        assert_eq!(
            view(&[1, 8], &[1, 8, 1, 1], &[1, 6]),
            Ok((vec![1, 6, 1, 1], false))
        );
        assert!(view(&[4, 12], &[4, 3, 4], &[4, 7]).is_err());
    }

    #[test]
    fn a_slice_keeps_its_part() {
        // The second of two chunks; every second row; all but the first; the first row.
        assert_eq!(resliced((32, 1, 32), 64, 48), (24, 24));
        assert_eq!(resliced((1, 2, 28), 56, 50), (1, 25));
        assert_eq!(resliced((1, 1, 196), 197, 145), (1, 144));
        assert_eq!(resliced((0, 1, 1), 197, 145), (0, 1));
    }
}
