//! What a layer has to do: operations, parameters, bytes, and the matrix product it amounts to.

use super::{Layer, LayerError, MemoryFormat, Op, Recurrent, SIZE_MAX, Shape};

/// The work of one call, for the whole batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Floating-point operations; a multiply-add counts as two. Of a function such as exp, one for each value.
    pub flops: u64,
    /// Numbers in weights, biases and statistics.
    pub parameters: u64,
    /// Bytes of the inputs, each read once.
    pub input_bytes: u64,
    /// Bytes of the parameters, each read once.
    pub parameter_bytes: u64,
    /// Bytes of the output, written once.
    pub output_bytes: u64,
}

impl Work {
    /// Bytes moved if each tensor is touched once.
    pub fn bytes(&self) -> u64 {
        self.input_bytes + self.parameter_bytes + self.output_bytes
    }
}

/// The sizes of the matrix product that a layer amounts to: `m` x `k` by `k` x `n`, `count` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gemm {
    /// Rows: output positions.
    pub m: u64,
    /// Columns: output features.
    pub n: u64,
    /// Length of each dot product.
    pub k: u64,
    /// Independent products: groups, heads, batch entries.
    pub count: u64,
}

fn numel(shape: &Shape) -> u64 {
    shape.iter().product()
}

fn numel_wide(shape: &Shape) -> u128 {
    // At most 256 factors (a permutation's axes); the product stops growing long before it could wrap.
    shape.iter().fold(1, |product: u128, &size| {
        product.saturating_mul(u128::from(size))
    })
}

/// Refuses layers with a tensor over [`SIZE_MAX`] bytes or more than 2^62 operations. The geometry has been checked.
pub(super) fn check(layer: &Layer) -> Result<(), LayerError> {
    let bytes = u128::from(layer.dtype().bytes());
    let too_large = |shape: &Shape| numel_wide(shape).saturating_mul(bytes) > u128::from(SIZE_MAX);
    let refuse = |field, what: &str| {
        Err(LayerError::Invalid {
            field,
            reason: format!("{what} would hold more than 2^40 bytes"),
        })
    };
    let largest_input = match layer.op() {
        Op::Conv2d(_)
        | Op::ConvTranspose2d(_)
        | Op::MaxPool2d(_)
        | Op::AvgPool2d(_)
        | Op::AdaptiveAvgPool2d(_)
        | Op::UpsampleNearest2d(_)
        | Op::UpsampleBilinear2d(_) => "in_height",
        Op::BatchNorm2d(_) | Op::LocalResponseNorm(_) => "height",
        Op::Linear(_) => "in_features",
        Op::Permute(_) => "shape",
        Op::Concat(_) | Op::Add(_) | Op::Mul(_) | Op::GroupNorm(_) | Op::Mean(_) => "inner",
        Op::Embedding(_) => "batch",
        Op::Lstm(_) | Op::Gru(_) => "length",
        Op::Matmul(_) => "m",
        Op::Attention(_) => "query_length",
        _ => "features",
    };
    if layer.input_shapes().iter().any(too_large) {
        return refuse(largest_input, "an input");
    }
    let (parameter, output) = match layer.op() {
        Op::Conv2d(_) | Op::ConvTranspose2d(_) => ("out_channels", "out_channels"),
        Op::UpsampleNearest2d(_) | Op::UpsampleBilinear2d(_) => ("channels", "out_height"),
        Op::Embedding(_) => ("rows", "features"),
        Op::Lstm(_) | Op::Gru(_) => ("hidden", "hidden"),
        Op::Linear(_) => ("out_features", "out_features"),
        Op::AdaptiveAvgPool2d(_) => ("channels", "out_height"),
        Op::Concat(_) => ("in_channels", "in_channels"),
        Op::Matmul(_) => ("n", "n"),
        _ => (largest_input, largest_input),
    };
    if layer.parameter_shapes().iter().any(too_large) {
        return refuse(parameter, "a parameter");
    }
    if too_large(&layer.output_shape()) {
        return refuse(output, "the output");
    }
    if flops(layer) > 1 << 62 {
        return Err(LayerError::Invalid {
            field: output,
            reason: "more than 2^62 operations".to_owned(),
        });
    }
    Ok(())
}

/// Operations of one call. In 128 bits, because the tensors are bounded here and their product is not yet.
fn flops(layer: &Layer) -> u128 {
    let output = numel_wide(&layer.output_shape());
    let each = |operations: u64| output * u128::from(operations);
    match layer.op() {
        Op::Conv2d(c) => {
            let products = u128::from(c.in_channels / c.groups)
                * u128::from(c.kernel_h)
                * u128::from(c.kernel_w);
            output * (2 * products + u128::from(c.bias))
        }
        // Every input value is multiplied with every kernel.
        Op::ConvTranspose2d(c) => {
            let products = u128::from(c.out_channels / c.groups)
                * u128::from(c.kernel_h)
                * u128::from(c.kernel_w);
            let bias = output * u128::from(c.bias);
            numel_wide(&layer.input_shapes()[0]).saturating_mul(2 * products) + bias
        }
        Op::UpsampleNearest2d(_) | Op::Embedding(_) => 0,
        // Four neighbours weighted, in two steps.
        Op::UpsampleBilinear2d(_) => each(7),
        Op::Linear(l) => each(2 * l.in_features + u64::from(l.bias)),
        Op::MaxPool2d(p) | Op::AvgPool2d(p) => {
            output * u128::from(p.kernel_h) * u128::from(p.kernel_w)
        }
        // Every input is added once, and every output divided.
        Op::AdaptiveAvgPool2d(_) => numel_wide(&layer.input_shapes()[0]) + output,
        Op::BatchNorm2d(_) => each(2),
        // Mean, variance, normalisation, scale and shift.
        Op::LayerNorm(_) | Op::GroupNorm(_) => each(8),
        // Square, mean, normalisation, scale.
        Op::RmsNorm(_) => each(4),
        Op::Mean(_) => numel_wide(&layer.input_shapes()[0]) + output,
        // The gates' products and biases; then a sigmoid or tanh of each gate, and what joins them.
        Op::Lstm(r) => recurrent(r, 4, 4 * 4 + 4 + 4),
        Op::Gru(r) => recurrent(r, 3, 3 * 4 + 6),
        // Square, sum of the neighbours, scale and add, power, divide.
        Op::LocalResponseNorm(n) => each(n.size + 5),
        Op::Relu(_) => each(1),
        Op::Relu6(_) => each(2),
        Op::Gelu(_) => each(8),
        Op::Silu(_) | Op::Sigmoid(_) | Op::Tanh(_) => each(4),
        Op::Hardswish(_) => each(5),
        Op::Hardsigmoid(_) => each(4),
        // Largest, difference, exponential, sum, quotient.
        Op::Softmax(_) => each(5),
        Op::Add(_) | Op::Mul(_) => each(1),
        Op::Dropout(_) | Op::Flatten(_) | Op::Copy(_) | Op::Permute(_) | Op::Concat(_) => 0,
        Op::Matmul(m) => each(2 * m.k),
        Op::Attention(a) => {
            let scores = [a.batch, a.heads, a.query_length, a.key_length];
            // Both products, and the softmax between them. A causal mask is counted as if it were full.
            numel_wide(&scores.to_vec()) * (4 * u128::from(a.head_dim) + 5)
        }
    }
}

/// Operations of a recurrent layer: `gates` rows of products and `others` operations for each value of the state.
fn recurrent(r: &Recurrent, gates: u64, others: u64) -> u128 {
    let values = numel_wide(&vec![r.batch, r.length, r.directions, r.hidden]);
    let products = 2 * (u128::from(r.in_features) + u128::from(r.hidden)) + 2;
    values.saturating_mul(u128::from(gates) * products + u128::from(others))
}

impl Layer {
    /// Whether the layer only renames its input at inference: no data is read or written. An image whose channels come last
    /// is flattened by a copy, for a row has each channel's values side by side; that it has one channel or one place, where
    /// nothing would move, a flattening layer doesn't say.
    pub fn is_view(&self) -> bool {
        match self.op() {
            Op::Dropout(_) => true,
            Op::Flatten(_) => self.memory_format() == MemoryFormat::Contiguous,
            _ => false,
        }
    }

    /// Whether each output value depends on the input value at its place alone, whatever the axes.
    pub fn is_elementwise(&self) -> bool {
        matches!(
            self.op(),
            Op::Relu(_)
                | Op::Relu6(_)
                | Op::Gelu(_)
                | Op::Silu(_)
                | Op::Sigmoid(_)
                | Op::Hardswish(_)
                | Op::Hardsigmoid(_)
                | Op::Tanh(_)
                | Op::Dropout(_)
                | Op::Flatten(_)
                | Op::Copy(_)
        )
    }

    /// Operations, parameters and bytes of one call.
    pub fn work(&self) -> Work {
        let bytes = self.dtype().bytes();
        let parameters: u64 = self.parameter_shapes().iter().map(numel).sum();
        let (input, output) = match self.is_view() {
            true => (0, 0),
            false => (
                self.input_shapes().iter().map(numel).sum(),
                numel(&self.output_shape()),
            ),
        };
        Work {
            flops: u64::try_from(flops(self))
                .expect("at most 2^62: checked when the layer was made"),
            parameters,
            input_bytes: input * bytes,
            parameter_bytes: parameters * bytes,
            output_bytes: output * bytes,
        }
    }

    /// The matrix product that the layer amounts to; `None` for kinds that multiply no matrices.
    pub fn gemm(&self) -> Option<Gemm> {
        match self.op() {
            Op::Conv2d(c) => {
                let output = self.output_shape();
                Some(Gemm {
                    m: output[0] * output[2] * output[3],
                    n: c.out_channels / c.groups,
                    k: c.in_channels / c.groups * c.kernel_h * c.kernel_w,
                    count: c.groups,
                })
            }
            // The product comes first, and its result is added up into the image.
            Op::ConvTranspose2d(c) => Some(Gemm {
                m: c.batch * c.in_height * c.in_width,
                n: c.out_channels / c.groups * c.kernel_h * c.kernel_w,
                k: c.in_channels / c.groups,
                count: c.groups,
            }),
            Op::Linear(l) => Some(Gemm {
                m: l.batch,
                n: l.out_features,
                k: l.in_features,
                count: 1,
            }),
            Op::Matmul(m) => Some(Gemm {
                m: m.m,
                n: m.n,
                k: m.k,
                count: m.batch,
            }),
            Op::Attention(a) => Some(Gemm {
                m: a.query_length,
                n: a.key_length,
                k: a.head_dim,
                count: a.batch * a.heads,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::*;

    /// VGG-16's second convolution at batch 64: 64 x 224 x 224 outputs of 576 products each, from method.md's Paleo
    /// column: 43.13 ms at 6144 GFLOPS are compute and three transfers of one or two tensors of 784 MiB.
    #[test]
    fn vgg_convolution_reproduces_the_published_paleo_time() {
        let layer = Layer::from_fields(
            Kind::Conv2d,
            [
                ("batch", 64),
                ("in_channels", 64),
                ("in_height", 224),
                ("in_width", 224),
                ("out_channels", 64),
                ("kernel_h", 3),
                ("kernel_w", 3),
                ("pad_top", 1),
                ("pad_bottom", 1),
                ("pad_left", 1),
                ("pad_right", 1),
            ]
            .map(|(name, size)| (name, Value::Size(size))),
        )
        .expect("valid");
        let work = layer.work();
        let padded = 64.0 * 226.0 * 226.0 * 64.0 * 4.0;
        let bytes = padded + (work.parameter_bytes + work.output_bytes) as f64;
        let ms = work.flops as f64 / 6144e9 * 1e3 + bytes / (336.5 * 1024f64.powi(3)) * 1e3;
        assert!((ms - 43.13).abs() < 0.01, "{ms}");
    }

    #[test]
    fn grouped_convolution_counts_its_own_channels() {
        let conv = |groups: u64| {
            let fields = [
                ("batch", 2),
                ("in_channels", 32),
                ("in_height", 8),
                ("in_width", 8),
                ("out_channels", 64),
                ("kernel_h", 3),
                ("kernel_w", 1),
                ("groups", groups),
                ("bias", 1),
            ];
            Layer::from_fields(
                Kind::Conv2d,
                fields.map(|(name, size)| (name, Value::Size(size))),
            )
            .expect("valid")
        };
        assert_eq!(conv(1).output_shape(), vec![2, 64, 6, 8]);
        assert_eq!(conv(1).work().flops, 2 * 64 * 6 * 8 * (2 * 32 * 3 + 1));
        assert_eq!(conv(32).work().flops, 2 * 64 * 6 * 8 * (2 * 3 + 1));
        assert_eq!(conv(32).work().parameters, 64 * 3 + 64);
    }

    #[test]
    fn only_what_stays_in_its_place_is_a_view() {
        let layer = |kind: Kind, format| {
            let op = kind.example().op().clone();
            Layer::new(op, Dtype::F32, format).expect("valid")
        };
        for (kind, format, is_view) in [
            (Kind::Flatten, MemoryFormat::Contiguous, true),
            (Kind::Flatten, MemoryFormat::ChannelsLast, false),
            (Kind::Dropout, MemoryFormat::Contiguous, true),
            (Kind::Dropout, MemoryFormat::ChannelsLast, true),
            (Kind::Copy, MemoryFormat::Contiguous, false),
        ] {
            let layer = layer(kind, format);
            assert_eq!(layer.is_view(), is_view, "{layer}");
            let values: u64 = layer.output_shape().iter().product();
            let moved = if is_view { 0 } else { 2 * 4 * values };
            assert_eq!(layer.work().bytes(), moved, "{layer}");
        }
    }

    fn any_layer_fields() -> impl Strategy<Value = (Kind, Vec<(&'static str, Value)>)> {
        let size = prop_oneof![
            0..6u64,
            1..400u64,
            Just(1 << 20),
            Just(u64::MAX),
            any::<u64>()
        ];
        let value = prop_oneof![
            8 => size.clone().prop_map(Value::Size),
            1 => prop::collection::vec(size, 0..6).prop_map(Value::Sizes),
            1 => Just(Value::Word("relu".to_owned())),
        ];
        (
            prop::sample::select(Kind::ALL.to_vec()),
            prop::collection::vec(value, 18),
        )
            .prop_map(|(kind, values)| {
                (
                    kind,
                    kind.field_names().iter().copied().zip(values).collect(),
                )
            })
    }

    proptest! {
        /// Whatever the fields, a layer is refused or its arithmetic holds without overflow.
        #[test]
        fn no_field_values_overflow((kind, fields) in any_layer_fields()) {
            if let Ok(layer) = Layer::from_fields(kind, fields) {
                let work = layer.work();
                prop_assert!(layer.output_shape().iter().all(|&size| size > 0));
                prop_assert!(work.bytes() >= work.output_bytes);
                prop_assert!(layer.gemm().is_none_or(|gemm| gemm.m > 0 && gemm.n > 0 && gemm.k > 0));
            }
        }
    }
}
