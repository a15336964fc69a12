//! One layer as libtorch calls, and as a workload of its own.

use tch::{TchError, Tensor};
use wattfarm_cost::layer::{Activation, Conv2d, Layer, Op, Recurrent, Shape};

use super::flush::flush;
use super::values::Values;
use super::{empty, kind, sizes};
use crate::recipe::{Failure, Workload};

const NONE: Option<&Tensor> = None;
const EPSILON: f64 = 1e-5;

fn pad(x: &Tensor, [top, bottom, left, right]: [u64; 4], value: f64) -> Result<Tensor, TchError> {
    x.f_pad(
        [left, right, top, bottom].map(|size| size as i64),
        "constant",
        value,
    )
}

/// Bytes of the inputs that [`forward`] pads by hand: no tensor of the layer's own, and larger than all of them where the
/// padding is.
pub(super) fn padded_bytes(layer: &Layer) -> u64 {
    let sizes: [u64; 4] = match layer.op() {
        Op::Conv2d(c) if !has_plain_padding(c) => [
            c.batch,
            c.in_channels,
            c.in_height + c.pad_top + c.pad_bottom,
            c.in_width + c.pad_left + c.pad_right,
        ],
        Op::MaxPool2d(p) | Op::AvgPool2d(p) if !p.has_plain_padding() => [
            p.batch,
            p.channels,
            p.in_height + p.pad_top + p.pad_bottom,
            p.in_width + p.pad_left + p.pad_right,
        ],
        Op::LocalResponseNorm(n) => [n.batch, n.channels + n.size - 1, n.height, n.width],
        _ => return 0,
    };
    let product = sizes.into_iter().fold(1, u64::saturating_mul);
    product.saturating_mul(layer.dtype().bytes())
}

/// Whether the padding is the same on both sides of an axis: what libtorch's own convolution takes.
fn has_plain_padding(conv: &Conv2d) -> bool {
    conv.pad_top == conv.pad_bottom && conv.pad_left == conv.pad_right
}

/// Calls `op` with libtorch's own padding where that can express `[top, bottom, left, right]` (`is_plain`), else on an
/// input padded by hand.
fn padded(
    x: &Tensor,
    sides: [u64; 4],
    is_plain: bool,
    value: f64,
    op: impl Fn(&Tensor, [i64; 2]) -> Result<Tensor, TchError>,
) -> Result<Tensor, TchError> {
    let [top, _, left, _] = sides.map(|size| size as i64);
    match is_plain {
        true => op(x, [top, left]),
        false => op(&pad(x, sides, value)?, [0, 0]),
    }
}

/// Runs a layer. Inputs may have other axes than the layer's own form, as they do in a network.
pub(super) fn forward(
    layer: &Layer,
    parameters: &[Tensor],
    inputs: &[&Tensor],
) -> Result<Tensor, TchError> {
    let x = inputs[0];
    match layer.op() {
        Op::Conv2d(c) => {
            let sides = [c.pad_top, c.pad_bottom, c.pad_left, c.pad_right];
            let stride = [c.stride_h as i64, c.stride_w as i64];
            let dilation = [c.dilation_h as i64, c.dilation_w as i64];
            padded(x, sides, has_plain_padding(c), 0.0, |x, padding| {
                x.f_conv2d(
                    &parameters[0],
                    parameters.get(1),
                    stride,
                    padding,
                    dilation,
                    c.groups as i64,
                )
            })
        }
        Op::Linear(_) => x.f_linear(&parameters[0], parameters.get(1)),
        Op::MaxPool2d(p) | Op::AvgPool2d(p) => {
            let sides = [p.pad_top, p.pad_bottom, p.pad_left, p.pad_right];
            let kernel = [p.kernel_h as i64, p.kernel_w as i64];
            let stride = [p.stride_h as i64, p.stride_w as i64];
            match layer.op() {
                Op::MaxPool2d(_) => padded(
                    x,
                    sides,
                    p.has_plain_padding(),
                    f64::NEG_INFINITY,
                    |x, padding| x.f_max_pool2d(kernel, stride, padding, [1, 1], p.ceil_mode),
                ),
                _ => padded(x, sides, p.has_plain_padding(), 0.0, |x, padding| {
                    x.f_avg_pool2d(kernel, stride, padding, p.ceil_mode, true, None::<i64>)
                }),
            }
        }
        Op::ConvTranspose2d(c) => x.f_conv_transpose2d(
            &parameters[0],
            parameters.get(1),
            [c.stride_h as i64, c.stride_w as i64],
            [c.pad_h as i64, c.pad_w as i64],
            [c.output_pad_h as i64, c.output_pad_w as i64],
            c.groups as i64,
            [c.dilation_h as i64, c.dilation_w as i64],
        ),
        Op::UpsampleNearest2d(p) => {
            x.f_upsample_nearest2d([p.out_height as i64, p.out_width as i64], None, None)
        }
        Op::UpsampleBilinear2d(p) => {
            x.f_upsample_bilinear2d([p.out_height as i64, p.out_width as i64], false, None, None)
        }
        Op::AdaptiveAvgPool2d(p) => {
            x.f_adaptive_avg_pool2d([p.out_height as i64, p.out_width as i64])
        }
        Op::BatchNorm2d(_) => {
            let [weight, bias, mean, variance] = [0, 1, 2, 3].map(|index| parameters.get(index));
            x.f_batch_norm(weight, bias, mean, variance, false, 0.1, EPSILON, false)
        }
        Op::LayerNorm(r) => x.f_layer_norm(
            [r.features as i64],
            parameters.first(),
            parameters.get(1),
            EPSILON,
            false,
        ),
        Op::RmsNorm(r) => x.f_rms_norm([r.features as i64], parameters.first(), EPSILON),
        Op::GroupNorm(n) => x.f_group_norm(
            n.groups as i64,
            parameters.first(),
            parameters.get(1),
            EPSILON,
            false,
        ),
        Op::LocalResponseNorm(n) => local_response_norm(x, n.size as i64),
        Op::Relu(_) => x.f_relu(),
        Op::Relu6(_) => x.f_clamp(0.0, 6.0),
        Op::Gelu(_) => x.f_gelu("none"),
        Op::Silu(_) => x.f_silu(),
        Op::Sigmoid(_) => x.f_sigmoid(),
        Op::Hardswish(_) => x.f_hardswish(),
        Op::Hardsigmoid(_) => x.f_hardsigmoid(),
        Op::Tanh(_) => x.f_tanh(),
        Op::Softmax(_) => x.f_softmax(-1, None::<tch::Kind>),
        Op::Dropout(_) => x.f_dropout(0.5, false),
        Op::Add(_) => x.f_add(inputs[1]),
        Op::Mul(_) => x.f_mul(inputs[1]),
        Op::Mean(_) => x.f_mean_dim(1, false, None::<tch::Kind>),
        Op::Concat(_) => Tensor::f_cat(inputs, 1),
        Op::Flatten(_) => x.f_flatten(1, -1),
        Op::Permute(p) => x.f_permute(sizes(&p.order))?.f_contiguous(),
        Op::Copy(_) => x.f_alias_copy(),
        Op::Matmul(_) => x.f_bmm(inputs[1]),
        Op::Attention(a) => Tensor::f_scaled_dot_product_attention(
            x, inputs[1], inputs[2], NONE, 0.0, a.causal, None, false,
        ),
        Op::Embedding(_) => Tensor::f_embedding(&parameters[0], x, -1, false, false),
        Op::Lstm(r) => {
            let state = zero_state(r, x)?;
            let (output, _, _) = x.f_lstm(
                &[state.shallow_clone(), state],
                parameters,
                true,
                1,
                0.0,
                false,
                r.directions == 2,
                false,
            )?;
            Ok(output)
        }
        Op::Gru(r) => {
            let state = zero_state(r, x)?;
            let (output, _) = x.f_gru(
                &state,
                parameters,
                true,
                1,
                0.0,
                false,
                r.directions == 2,
                false,
            )?;
            Ok(output)
        }
    }
}

/// What a recurrent layer starts from.
fn zero_state(r: &Recurrent, x: &Tensor) -> Result<Tensor, TchError> {
    let shape = [r.directions, r.batch, r.hidden].map(|size| size as i64);
    Tensor::f_zeros(shape, (x.kind(), x.device()))
}

/// Normal values as the numbers of rows of a table.
pub(super) fn as_indices(values: &Tensor, rows: u64) -> Result<Tensor, TchError> {
    // Spread over the table, and so seldom the same row twice.
    values
        .f_to_kind(tch::Kind::Float)?
        .f_abs()?
        .f_mul_scalar(1e6)?
        .f_to_kind(tch::Kind::Int64)?
        .f_remainder(rows as i64)
}

/// libtorch has no such call; these are the steps that PyTorch composes it of, with its default constants.
fn local_response_norm(x: &Tensor, size: i64) -> Result<Tensor, TchError> {
    let square = x.f_mul(x)?.f_unsqueeze(1)?;
    let neighbours = square
        .f_pad([0, 0, 0, 0, size / 2, (size - 1) / 2], "constant", 0.0)?
        .f_avg_pool3d([size, 1, 1], [1, 1, 1], [0, 0, 0], false, true, None::<i64>)?
        .f_squeeze_dim(1)?;
    x.f_div(
        &neighbours
            .f_mul_scalar(1e-4)?
            .f_add_scalar(1.0)?
            .f_pow_tensor_scalar(0.75)?,
    )
}

/// The parameters of a layer. Weights are scaled by the length of their sums, so that values neither grow nor fade over
/// a deep network.
pub(super) fn parameters(layer: &Layer, values: &Values) -> Result<Vec<Tensor>, Failure> {
    let kind = kind(layer.dtype())?;
    let shapes = layer.parameter_shapes();
    let summed = layer.gemm().map_or(1, |gemm| gemm.k) as f64;
    let make = |(index, shape): (usize, &Shape)| {
        let mut tensor = empty(shape, kind, layer.memory_format())?;
        let (mean, deviation) = match layer.op() {
            Op::Conv2d(_) | Op::ConvTranspose2d(_) | Op::Linear(_) if index == 0 => {
                (0.0, (1.5 / summed).sqrt())
            }
            // Normalisation: scales and variances near 1, shifts and means near 0.
            Op::BatchNorm2d(_) | Op::LayerNorm(_) | Op::RmsNorm(_) | Op::GroupNorm(_)
                if index % 3 == 0 =>
            {
                (1.0, 0.05)
            }
            Op::Embedding(_) => (0.0, 1.0),
            _ => (0.0, 0.05),
        };
        values.fill(&mut tensor, mean, deviation)?;
        Ok(tensor)
    };
    shapes.iter().enumerate().map(make).collect()
}

/// What libtorch's eager mode has no kernel for.
pub(super) fn check_supported(layer: &Layer) -> Result<(), Failure> {
    let activation = match layer.op() {
        Op::Conv2d(conv) => conv.activation,
        Op::Linear(linear) => linear.activation,
        _ => Activation::None,
    };
    match activation {
        Activation::None => kind(layer.dtype()).map(|_| ()),
        other => Err(Failure::Infeasible(format!(
            "libtorch's eager mode has no {} with {other} inside",
            layer.kind()
        ))),
    }
}

/// A layer with its own inputs.
pub(super) struct LayerWorkload {
    layer: Layer,
    values: Values,
    /// The layer's tensors at one place in memory, or at several.
    places: Vec<Place>,
    /// Where it is called next.
    at: usize,
    /// Whether inputs hold what a layer of this kind reads in networks.
    is_likely: bool,
}

/// A layer's tensors.
struct Place {
    parameters: Vec<Tensor>,
    /// What the inputs are written from: written anew before each call, as a layer before would.
    sources: Vec<Tensor>,
    inputs: Vec<Tensor>,
}

/// A layer of more bytes than this stays in one place: it fills any cache wherever it lies.
const MOVED_MAX: u64 = 32 << 20;

impl LayerWorkload {
    pub(super) fn build(layer: &Layer, values: &Values) -> Result<Self, Failure> {
        check_supported(layer)?;
        Ok(Self {
            layer: layer.clone(),
            values: values.share(),
            places: vec![Place::new(layer, values)?],
            at: 0,
            is_likely: false,
        })
    }
}

impl Place {
    fn new(layer: &Layer, values: &Values) -> Result<Self, Failure> {
        let kind = kind(layer.dtype())?;
        let make = |shape: &Shape| {
            let mut tensor = empty(shape, kind, layer.memory_format())?;
            values.fill(&mut tensor, 0.0, 1.0)?;
            match layer.op() {
                Op::Embedding(embedding) => Ok(as_indices(&tensor, embedding.rows)?),
                _ => Ok(tensor),
            }
        };
        let shapes = layer.input_shapes();
        let sources = shapes
            .iter()
            .map(make)
            .collect::<Result<Vec<_>, Failure>>()?;
        let inputs = shapes
            .iter()
            .map(make)
            .collect::<Result<Vec<_>, Failure>>()?;
        Ok(Self {
            parameters: parameters(layer, values)?,
            sources,
            inputs,
        })
    }
}

impl Place {
    /// A max pool's comparisons are branches, and in networks it reads what a rectifier wrote, behind sums over windows that
    /// overlap: half of it zeros, and neighbours alike. No other layer's time was seen to depend on its values.
    fn use_likely_values(&mut self, layer: &Layer) -> Result<(), Failure> {
        let _guard = tch::no_grad_guard();
        if let Op::MaxPool2d(_) = layer.op() {
            for source in &mut self.sources {
                let smooth = source
                    .f_to_kind(tch::Kind::Float)?
                    .f_avg_pool2d([3, 3], [1, 1], [1, 1], false, true, None::<i64>)?
                    .f_relu()?;
                source.f_copy_(&smooth)?;
            }
        }
        Ok(())
    }
}

impl Workload for LayerWorkload {
    fn write_inputs(&mut self) -> Result<(), Failure> {
        let _guard = tch::no_grad_guard();
        let Place {
            inputs, sources, ..
        } = &mut self.places[self.at];
        for (input, source) in inputs.iter_mut().zip(sources) {
            input.f_copy_(source)?;
        }
        Ok(())
    }

    fn write_output(&mut self, bytes_max: usize) -> Result<(), Failure> {
        let _guard = tch::no_grad_guard();
        let shape = self.layer.output_shape();
        let bytes = shape.iter().product::<u64>() * self.layer.dtype().bytes();
        if !self.layer.is_view() && bytes <= bytes_max as u64 {
            let kind = kind(self.layer.dtype())?;
            let mut buffer = empty(&shape, kind, self.layer.memory_format())?;
            let _ = buffer.f_fill_(1.0)?;
        }
        Ok(())
    }

    fn use_likely_values(&mut self) -> Result<(), Failure> {
        self.is_likely = true;
        let mut places = self.places.iter_mut();
        places.try_for_each(|place| place.use_likely_values(&self.layer))
    }

    fn flush_weights(&mut self) -> Result<(), Failure> {
        self.places[self.at].parameters.iter().for_each(flush);
        Ok(())
    }

    fn next_place(&mut self, count: usize) -> Result<(), Failure> {
        let _guard = tch::no_grad_guard();
        if self.places.len() < count && self.layer.work().bytes() <= MOVED_MAX {
            let mut place = Place::new(&self.layer, &self.values)?;
            if self.is_likely {
                place.use_likely_values(&self.layer)?;
            }
            self.places.push(place);
        }
        self.at = (self.at + 1) % self.places.len();
        Ok(())
    }

    fn call(&mut self) -> Result<(), Failure> {
        let _guard = tch::no_grad_guard();
        let place = &self.places[self.at];
        let inputs: Vec<&Tensor> = place.inputs.iter().collect();
        forward(&self.layer, &place.parameters, &inputs).map(drop)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wattfarm_cost::Subject;
    use wattfarm_cost::layer::{Dtype, Kind, MemoryFormat, Value};

    use super::*;

    fn output(layer: &Layer) -> Result<Tensor, Failure> {
        let values = Values::new();
        let workload = LayerWorkload::build(layer, &values)?;
        let place = &workload.places[0];
        let inputs: Vec<&Tensor> = place.inputs.iter().collect();
        Ok(forward(layer, &place.parameters, &inputs)?)
    }

    fn with(kind: Kind, changes: &[(&'static str, &str)]) -> Layer {
        let mut fields = kind.example().fields();
        fields.extend(
            changes
                .iter()
                .map(|&(name, text)| (name, Value::from(text))),
        );
        Layer::from_fields(kind, fields).expect("valid")
    }

    #[test]
    fn every_kind_runs_and_makes_the_shape_that_it_says() {
        for kind in Kind::ALL {
            let layer = kind.example();
            let output = output(&layer).expect("runs");
            assert_eq!(output.size(), sizes(&layer.output_shape()), "{kind}");
            let finite = output.isfinite().all().int64_value(&[]) == 1;
            let spread = output
                .to_kind(tch::Kind::Float)
                .std(false)
                .double_value(&[]);
            assert!(
                finite && spread > 0.0,
                "{kind}: all values alike or not finite"
            );
        }
    }

    /// Two places hold the same values elsewhere, and a large layer stays where it is.
    #[test]
    fn a_layer_is_called_at_two_places() {
        let values = Values::new();
        let layer = Kind::MaxPool2d.example();
        let mut workload = LayerWorkload::build(&layer, &values).expect("built");
        workload.use_likely_values().expect("rectified");
        for _ in 0..3 {
            workload.next_place(2).expect("made");
        }
        assert_eq!((workload.places.len(), workload.at), (2, 1));
        let [first, second] = [0, 1].map(|at: usize| &workload.places[at].sources[0]);
        assert!(first.equal(second) && first.data_ptr() != second.data_ptr());
        assert!(first.min().double_value(&[]) == 0.0, "rectified");

        let large = with(Kind::Relu, &[("features", "10000000")]);
        let mut workload = LayerWorkload::build(&large, &values).expect("built");
        workload.next_place(2).expect("stays");
        assert_eq!((workload.places.len(), workload.at), (1, 0));
    }

    #[test]
    fn smaller_types_and_other_formats_run_and_tf32_does_not() {
        for dtype in [Dtype::F16, Dtype::Bf16] {
            let output = output(&with(Kind::Conv2d, &[("dtype", dtype.name())])).expect("runs");
            assert_eq!(output.kind(), kind(dtype).expect("known"));
        }
        let last = output(&with(
            Kind::Conv2d,
            &[("memory_format", MemoryFormat::ChannelsLast.name())],
        ))
        .expect("runs");
        assert_eq!(last.stride()[1], 1, "channels are innermost");
        assert!(matches!(
            output(&with(Kind::Conv2d, &[("dtype", "tf32")])),
            Err(Failure::Infeasible(_))
        ));
        assert!(matches!(
            output(&with(Kind::Linear, &[("activation", "relu")])),
            Err(Failure::Infeasible(_))
        ));
    }

    /// A layer of one value can ask for gigabytes.
    #[test]
    fn what_is_padded_counts() {
        let size = 1u64 << 28;
        let norm = with(
            Kind::LocalResponseNorm,
            &[
                ("batch", "1"),
                ("channels", "1"),
                ("height", "1"),
                ("width", "1"),
                ("size", &size.to_string()),
            ],
        );
        assert_eq!(padded_bytes(&norm), 4 * size);
        let conv = Kind::Conv2d.example();
        assert_eq!(padded_bytes(&conv), 0, "libtorch pads it");
        let lopsided = with(Kind::Conv2d, &[("pad_bottom", "1000000")]);
        assert!(padded_bytes(&lopsided) > 4 * 1_000_000);
        let executor = crate::executor::Executor::new(crate::executor::Memory {
            limit: 1 << 30,
            available: Box::new(|| u64::MAX),
        });
        for layer in [norm, lopsided] {
            let refused = executor.build(&Subject::Layer(layer)).err();
            assert!(matches!(refused, Some(Failure::Infeasible(_))));
        }
    }

    /// The formula in PyTorch's documentation, by hand: alpha 1e-4, beta 0.75, k 1, zeros outside.
    #[test]
    fn local_response_norm_is_the_published_formula() {
        let x = Tensor::from_slice(&[1.0f64, -20.0, 300.0, 40.0]).reshape([1, 4, 1, 1]);
        let normed = local_response_norm(&x, 3).expect("runs");
        let values = [1.0f64, -20.0, 300.0, 40.0];
        for c in 0..4usize {
            let from = c.saturating_sub(1);
            let sum: f64 = values[from..(c + 2).min(4)]
                .iter()
                .map(|value| value * value)
                .sum();
            let expected = values[c] / (1.0 + 1e-4 / 3.0 * sum).powf(0.75);
            let found = normed.double_value(&[0, c as i64, 0, 0]);
            assert!(
                (found - expected).abs() < 1e-9 * expected.abs(),
                "channel {c}: {found} is not {expected}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the geometry, libtorch agrees with us about which windows fit.
        #[test]
        fn geometry_is_libtorchs(
            kind in prop::sample::select(vec![Kind::Conv2d, Kind::MaxPool2d, Kind::AvgPool2d]),
            size in (1..20u64, 1..20u64), kernel in (1..5u64, 1..5u64), stride in (1..4u64, 1..4u64),
            pads in prop::array::uniform4(0..3u64), dilation in (1..3u64, 1..3u64), groups in 1..3u64,
            ceil_mode in 0..2u64,
        ) {
            let mut fields = vec![
                ("batch", 2), ("in_height", size.0), ("in_width", size.1), ("kernel_h", kernel.0), ("kernel_w", kernel.1),
                ("stride_h", stride.0), ("stride_w", stride.1), ("pad_top", pads[0]), ("pad_bottom", pads[1]),
                ("pad_left", pads[2]), ("pad_right", pads[3]),
            ];
            fields.extend(match kind {
                Kind::Conv2d => vec![
                    ("in_channels", 2 * groups), ("out_channels", 3 * groups), ("groups", groups),
                    ("dilation_h", dilation.0), ("dilation_w", dilation.1), ("bias", 1),
                ],
                _ => vec![("channels", 3), ("ceil_mode", ceil_mode)],
            });
            let layer = Layer::from_fields(kind, fields.into_iter().map(|(name, size)| (name, Value::Size(size))));
            if let Ok(layer) = layer {
                let output = output(&layer).expect("a checked layer runs");
                prop_assert_eq!(output.size(), sizes(&layer.output_shape()));
            }
        }
    }
}
