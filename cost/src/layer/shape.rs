//! Geometry: which layers can be, and the shapes of what goes in and comes out.

use super::{
    Conv2d, ConvTranspose2d, Layer, LayerError, Op, Pool2d, Recurrent, SIZE_MAX, Shape, Value,
};

fn invalid(field: &'static str, reason: impl Into<String>) -> LayerError {
    LayerError::Invalid {
        field,
        reason: reason.into(),
    }
}

/// The number of windows that fit: floor((padded - extent) / stride) + 1, `None` if not even one does.
fn windows(padded: u64, extent: u64, stride: u64) -> Option<u64> {
    Some(padded.checked_sub(extent)? / stride + 1)
}

/// Like [`windows`], but a last window may hang over the edge, unless it would start in the padding (libtorch's rule).
fn windows_ceil(
    size: u64,
    pad_before: u64,
    pad_after: u64,
    extent: u64,
    stride: u64,
) -> Option<u64> {
    let padded = size + pad_before + pad_after;
    let count = padded.checked_sub(extent)?.div_ceil(stride) + 1;
    Some(if (count - 1) * stride >= size + pad_before {
        count - 1
    } else {
        count
    })
}

impl Conv2d {
    /// Rows and columns of the output, `None` where the kernel doesn't fit the padded input.
    fn output(&self) -> (Option<u64>, Option<u64>) {
        let extent =
            |kernel: u64, dilation: u64| dilation.saturating_mul(kernel - 1).saturating_add(1);
        let height = self.in_height + self.pad_top + self.pad_bottom;
        let width = self.in_width + self.pad_left + self.pad_right;
        (
            windows(
                height,
                extent(self.kernel_h, self.dilation_h),
                self.stride_h,
            ),
            windows(width, extent(self.kernel_w, self.dilation_w), self.stride_w),
        )
    }
}

impl ConvTranspose2d {
    /// Rows and columns of the output, `None` where the padding takes all of it.
    fn output(&self) -> (Option<u64>, Option<u64>) {
        let along = |size: u64, kernel: u64, stride: u64, pad: u64, output_pad: u64, dilation| {
            let spread = (size - 1).checked_mul(stride)?;
            let extent = (kernel - 1).checked_mul(dilation)?;
            let full = spread.checked_add(extent)?.checked_add(output_pad + 1)?;
            full.checked_sub(2 * pad).filter(|&size| size > 0)
        };
        (
            along(
                self.in_height,
                self.kernel_h,
                self.stride_h,
                self.pad_h,
                self.output_pad_h,
                self.dilation_h,
            ),
            along(
                self.in_width,
                self.kernel_w,
                self.stride_w,
                self.pad_w,
                self.output_pad_w,
                self.dilation_w,
            ),
        )
    }
}

impl Pool2d {
    /// Whether the padding is the same on both sides of an axis, and at most half a window: what frameworks' own pools
    /// take. Other padding is done before the pool, where a window that hangs over the edge would have another meaning.
    pub fn has_plain_padding(&self) -> bool {
        self.pad_top == self.pad_bottom
            && self.pad_left == self.pad_right
            && 2 * self.pad_top <= self.kernel_h
            && 2 * self.pad_left <= self.kernel_w
    }

    fn output(&self) -> (Option<u64>, Option<u64>) {
        let along = |size, before, after, kernel, stride| match self.ceil_mode {
            true => windows_ceil(size, before, after, kernel, stride),
            false => windows(size + before + after, kernel, stride),
        };
        (
            along(
                self.in_height,
                self.pad_top,
                self.pad_bottom,
                self.kernel_h,
                self.stride_h,
            ),
            along(
                self.in_width,
                self.pad_left,
                self.pad_right,
                self.kernel_w,
                self.stride_w,
            ),
        )
    }
}

/// Whether a field may be zero.
fn may_be_zero(field: &str) -> bool {
    field.starts_with("pad_")
        || field.starts_with("output_pad_")
        || matches!(field, "bias" | "ceil_mode" | "causal" | "order")
}

/// Everything about a layer's geometry but the size of its tensors, which `work` bounds.
pub(super) fn check(op: &Op) -> Result<(), LayerError> {
    for (field, value) in op.fields() {
        let sizes = match value {
            Value::Size(size) => vec![size],
            Value::Sizes(sizes) if sizes.is_empty() => {
                return Err(invalid(field, "must not be empty"));
            }
            Value::Sizes(sizes) => sizes,
            Value::Word(_) => continue,
        };
        if sizes.contains(&0) && !may_be_zero(field) {
            return Err(invalid(field, "must be at least 1"));
        }
        if let Some(size) = sizes.iter().find(|&&size| size > SIZE_MAX) {
            return Err(invalid(field, format!("{size} is over the limit of 2^40")));
        }
    }
    match op {
        Op::Conv2d(conv) => {
            divisible("in_channels", conv.in_channels, conv.groups)?;
            divisible("out_channels", conv.out_channels, conv.groups)?;
            fits(conv.output())
        }
        Op::ConvTranspose2d(conv) => {
            divisible("in_channels", conv.in_channels, conv.groups)?;
            divisible("out_channels", conv.out_channels, conv.groups)?;
            let axes = [
                (
                    "output_pad_h",
                    conv.output_pad_h,
                    conv.stride_h,
                    conv.dilation_h,
                ),
                (
                    "output_pad_w",
                    conv.output_pad_w,
                    conv.stride_w,
                    conv.dilation_w,
                ),
            ];
            match axes
                .into_iter()
                .find(|&(_, pad, stride, dilation)| pad >= stride.max(dilation))
            {
                Some((field, pad, stride, dilation)) => Err(invalid(
                    field,
                    format!("{pad} is not under the stride {stride} or the dilation {dilation}"),
                )),
                None => fits(conv.output()),
            }
        }
        Op::GroupNorm(norm) => divisible("channels", norm.channels, norm.groups),
        Op::Lstm(cells) | Op::Gru(cells) if cells.directions > 2 => {
            Err(invalid("directions", "is neither 1 nor 2"))
        }
        Op::MaxPool2d(pool) | Op::AvgPool2d(pool) => {
            let halves = [
                ("pad_top", pool.pad_top, pool.kernel_h),
                ("pad_bottom", pool.pad_bottom, pool.kernel_h),
                ("pad_left", pool.pad_left, pool.kernel_w),
                ("pad_right", pool.pad_right, pool.kernel_w),
            ];
            // A window wholly inside the padding has no largest value and no mean.
            match halves.into_iter().find(|(_, pad, kernel)| pad >= kernel) {
                Some((field, pad, kernel)) => Err(invalid(
                    field,
                    format!("{pad} leaves windows of {kernel} that see only padding"),
                )),
                None if pool.ceil_mode && !pool.has_plain_padding() => Err(invalid(
                    "ceil_mode",
                    "goes with padding that is the same on both sides and at most half a window",
                )),
                None => fits(pool.output()),
            }
        }
        Op::Add(pair) | Op::Mul(pair) => {
            let axes = [
                ("other_batch", pair.other_batch, pair.batch),
                ("other_channels", pair.other_channels, pair.channels),
                ("other_inner", pair.other_inner, pair.inner),
            ];
            match axes
                .into_iter()
                .find(|&(_, other, size)| other != size && other != 1)
            {
                Some((field, other, size)) => {
                    Err(invalid(field, format!("{other} is neither {size} nor 1")))
                }
                None => Ok(()),
            }
        }
        Op::Permute(permute) => {
            let mut axes = permute.order.clone();
            axes.sort_unstable();
            match axes.into_iter().eq(0..permute.shape.len() as u64) {
                true => Ok(()),
                false => Err(invalid(
                    "order",
                    format!("is not an order of {} axes", permute.shape.len()),
                )),
            }
        }
        Op::Attention(attention)
            if attention.causal && attention.query_length > attention.key_length =>
        {
            Err(invalid(
                "query_length",
                "is over key_length, so that causal tokens would see nothing",
            ))
        }
        Op::Linear(_)
        | Op::AdaptiveAvgPool2d(_)
        | Op::UpsampleNearest2d(_)
        | Op::UpsampleBilinear2d(_)
        | Op::BatchNorm2d(_)
        | Op::LayerNorm(_)
        | Op::RmsNorm(_)
        | Op::LocalResponseNorm(_)
        | Op::Relu(_)
        | Op::Relu6(_)
        | Op::Gelu(_)
        | Op::Silu(_)
        | Op::Sigmoid(_)
        | Op::Hardswish(_)
        | Op::Hardsigmoid(_)
        | Op::Tanh(_)
        | Op::Softmax(_)
        | Op::Dropout(_)
        | Op::Mean(_)
        | Op::Concat(_)
        | Op::Flatten(_)
        | Op::Copy(_)
        | Op::Matmul(_)
        | Op::Attention(_)
        | Op::Embedding(_)
        | Op::Lstm(_)
        | Op::Gru(_) => Ok(()),
    }
}

fn divisible(field: &'static str, channels: u64, groups: u64) -> Result<(), LayerError> {
    match channels % groups {
        0 => Ok(()),
        _ => Err(invalid(
            field,
            format!("{channels} is not divisible by {groups} groups"),
        )),
    }
}

fn fits((height, width): (Option<u64>, Option<u64>)) -> Result<(), LayerError> {
    let empty = "does not fit the padded input: the output would be empty";
    height.ok_or_else(|| invalid("kernel_h", empty))?;
    width.ok_or_else(|| invalid("kernel_w", empty))?;
    Ok(())
}

fn image(batch: u64, channels: u64, (height, width): (Option<u64>, Option<u64>)) -> Shape {
    // `check` has refused layers whose output is empty.
    vec![batch, channels, height.unwrap_or(0), width.unwrap_or(0)]
}

impl Recurrent {
    /// Of each direction: the weights for input and state, and a bias with each, as libtorch has them.
    fn parameter_shapes(&self, gates: u64) -> Vec<Shape> {
        let rows = gates * self.hidden;
        let one = vec![
            vec![rows, self.in_features],
            vec![rows, self.hidden],
            vec![rows],
            vec![rows],
        ];
        vec![one; self.directions as usize].concat()
    }
}

impl Layer {
    /// Shapes of the inputs, in the layer's own form. Inside a network an input may have other axes with the same
    /// values: a relu sees (batch, features) here and an image there.
    pub fn input_shapes(&self) -> Vec<Shape> {
        match self.op() {
            Op::Conv2d(c) => vec![vec![c.batch, c.in_channels, c.in_height, c.in_width]],
            Op::Linear(l) => vec![vec![l.batch, l.in_features]],
            Op::MaxPool2d(p) | Op::AvgPool2d(p) => {
                vec![vec![p.batch, p.channels, p.in_height, p.in_width]]
            }
            Op::ConvTranspose2d(c) => vec![vec![c.batch, c.in_channels, c.in_height, c.in_width]],
            Op::AdaptiveAvgPool2d(p) | Op::UpsampleNearest2d(p) | Op::UpsampleBilinear2d(p) => {
                vec![vec![p.batch, p.channels, p.in_height, p.in_width]]
            }
            Op::GroupNorm(n) => vec![vec![n.batch, n.channels, n.inner]],
            Op::Mean(r) => vec![vec![r.batch, r.length, r.inner]],
            Op::Embedding(e) => vec![vec![e.batch]],
            Op::Lstm(r) | Op::Gru(r) => vec![vec![r.length, r.batch, r.in_features]],
            Op::BatchNorm2d(n) => vec![vec![n.batch, n.channels, n.height, n.width]],
            Op::LocalResponseNorm(n) => vec![vec![n.batch, n.channels, n.height, n.width]],
            Op::LayerNorm(r) | Op::RmsNorm(r) | Op::Softmax(r) => {
                vec![vec![r.batch, r.features]]
            }
            Op::Relu(e)
            | Op::Relu6(e)
            | Op::Gelu(e)
            | Op::Silu(e)
            | Op::Sigmoid(e)
            | Op::Hardswish(e)
            | Op::Hardsigmoid(e)
            | Op::Tanh(e)
            | Op::Dropout(e)
            | Op::Flatten(e)
            | Op::Copy(e) => vec![vec![e.batch, e.features]],
            Op::Add(b) | Op::Mul(b) => {
                vec![
                    vec![b.batch, b.channels, b.inner],
                    vec![b.other_batch, b.other_channels, b.other_inner],
                ]
            }
            Op::Concat(c) => c
                .in_channels
                .iter()
                .map(|&channels| vec![c.batch, channels, c.inner])
                .collect(),
            Op::Permute(p) => vec![p.shape.clone()],
            Op::Matmul(m) => vec![vec![m.batch, m.m, m.k], vec![m.batch, m.k, m.n]],
            Op::Attention(a) => {
                let key = vec![a.batch, a.heads, a.key_length, a.head_dim];
                vec![
                    vec![a.batch, a.heads, a.query_length, a.head_dim],
                    key.clone(),
                    key,
                ]
            }
        }
    }

    /// Shapes of the constants: weights, biases, statistics.
    pub fn parameter_shapes(&self) -> Vec<Shape> {
        let with_bias = |weight: Shape, bias: bool, features: u64| match bias {
            true => vec![weight, vec![features]],
            false => vec![weight],
        };
        match self.op() {
            Op::Conv2d(c) => {
                let weight = vec![
                    c.out_channels,
                    c.in_channels / c.groups,
                    c.kernel_h,
                    c.kernel_w,
                ];
                with_bias(weight, c.bias, c.out_channels)
            }
            Op::Linear(l) => with_bias(vec![l.out_features, l.in_features], l.bias, l.out_features),
            // Weight, bias, running mean and running variance.
            Op::BatchNorm2d(n) => vec![vec![n.channels]; 4],
            Op::LayerNorm(r) => vec![vec![r.features]; 2],
            Op::RmsNorm(r) => vec![vec![r.features]],
            Op::GroupNorm(n) => vec![vec![n.channels]; 2],
            Op::ConvTranspose2d(c) => {
                let weight = vec![
                    c.in_channels,
                    c.out_channels / c.groups,
                    c.kernel_h,
                    c.kernel_w,
                ];
                with_bias(weight, c.bias, c.out_channels)
            }
            Op::Embedding(e) => vec![vec![e.rows, e.features]],
            Op::Lstm(r) => r.parameter_shapes(4),
            Op::Gru(r) => r.parameter_shapes(3),
            Op::MaxPool2d(_)
            | Op::AvgPool2d(_)
            | Op::AdaptiveAvgPool2d(_)
            | Op::UpsampleNearest2d(_)
            | Op::UpsampleBilinear2d(_)
            | Op::LocalResponseNorm(_)
            | Op::Relu(_)
            | Op::Relu6(_)
            | Op::Gelu(_)
            | Op::Silu(_)
            | Op::Sigmoid(_)
            | Op::Hardswish(_)
            | Op::Hardsigmoid(_)
            | Op::Tanh(_)
            | Op::Softmax(_)
            | Op::Dropout(_)
            | Op::Add(_)
            | Op::Mul(_)
            | Op::Mean(_)
            | Op::Concat(_)
            | Op::Flatten(_)
            | Op::Permute(_)
            | Op::Copy(_)
            | Op::Matmul(_)
            | Op::Attention(_) => Vec::new(),
        }
    }

    /// Shape of the output, in the layer's own form.
    pub fn output_shape(&self) -> Shape {
        match self.op() {
            Op::Conv2d(c) => image(c.batch, c.out_channels, c.output()),
            Op::Linear(l) => vec![l.batch, l.out_features],
            Op::MaxPool2d(p) | Op::AvgPool2d(p) => image(p.batch, p.channels, p.output()),
            Op::ConvTranspose2d(c) => image(c.batch, c.out_channels, c.output()),
            Op::AdaptiveAvgPool2d(p) | Op::UpsampleNearest2d(p) | Op::UpsampleBilinear2d(p) => {
                vec![p.batch, p.channels, p.out_height, p.out_width]
            }
            Op::Mean(r) => vec![r.batch, r.inner],
            Op::Embedding(e) => vec![e.batch, e.features],
            Op::Lstm(r) | Op::Gru(r) => vec![r.length, r.batch, r.directions * r.hidden],
            Op::Concat(c) => vec![c.batch, c.in_channels.iter().sum(), c.inner],
            Op::Permute(p) => p.order.iter().map(|&axis| p.shape[axis as usize]).collect(),
            Op::Matmul(m) => vec![m.batch, m.m, m.n],
            Op::BatchNorm2d(_)
            | Op::LayerNorm(_)
            | Op::RmsNorm(_)
            | Op::GroupNorm(_)
            | Op::LocalResponseNorm(_)
            | Op::Relu(_)
            | Op::Relu6(_)
            | Op::Gelu(_)
            | Op::Silu(_)
            | Op::Sigmoid(_)
            | Op::Hardswish(_)
            | Op::Hardsigmoid(_)
            | Op::Tanh(_)
            | Op::Softmax(_)
            | Op::Dropout(_)
            | Op::Add(_)
            | Op::Mul(_)
            | Op::Flatten(_)
            | Op::Copy(_)
            | Op::Attention(_) => self.input_shapes().swap_remove(0),
        }
    }
}
