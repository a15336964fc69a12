//! One layer of each kind, from the numbers of a place: over what convolutional networks and vision transformers use.
//!
//! Kinds spend a place's numbers in the order of what matters for cost: stratum first, then sizes. What a network leaves
//! to a layer of its own is so here: no convolution has an activation fused to it.

mod conv2d;
mod image;
mod matrix;
mod sequence;
mod tensor;
mod values;

use wattfarm_cost::layer::{MemoryFormat, Op};
use wattfarm_cost::{Dtype, Kind, Layer};

use super::draw::Draw;

/// The most operations of a proposed layer: some seconds on a slow core, with the repetitions that a measurement takes.
pub(super) const FLOPS_MAX: u64 = 8_000_000_000;

/// The most bytes of one tensor of a proposed layer.
pub(super) const TENSOR_BYTES_MAX: u64 = 512 << 20;

/// Operations and bytes up to which every layer is proposed. Beyond, a budget of seconds buys more with smaller layers,
/// so only a share of the larger ones is.
const FLOPS_FREE: f64 = 5e8;
const BYTES_FREE: f64 = 5e7;

/// The layer at a place; `None` if it is beyond the limits, or thinned out for its cost.
pub(super) fn layer(kind: Kind, dtype: Dtype, draw: &mut Draw) -> Option<Layer> {
    let layer = Layer::new(op(kind, draw), dtype, MemoryFormat::Contiguous).ok()?;
    let shapes = [
        layer.input_shapes(),
        layer.parameter_shapes(),
        vec![layer.output_shape()],
    ]
    .concat();
    let largest = shapes
        .iter()
        .map(|shape| shape.iter().product::<u64>())
        .max()
        .unwrap_or(0)
        * dtype.bytes();
    let work = layer.work();
    if work.flops > FLOPS_MAX || largest > TENSOR_BYTES_MAX {
        return None;
    }
    let excess = (work.flops as f64 / FLOPS_FREE)
        .max(work.bytes() as f64 / BYTES_FREE)
        .max(1.0);
    draw.chance(1.0 / excess.sqrt()).then_some(layer)
}

fn op(kind: Kind, draw: &mut Draw) -> Op {
    match kind {
        Kind::Conv2d => Op::Conv2d(conv2d::conv2d(draw)),
        Kind::Linear => Op::Linear(matrix::linear(draw)),
        Kind::Matmul => Op::Matmul(matrix::matmul(draw)),
        Kind::Attention => Op::Attention(matrix::attention(draw)),
        Kind::MaxPool2d => Op::MaxPool2d(image::max_pool(draw)),
        Kind::AvgPool2d => Op::AvgPool2d(image::avg_pool(draw)),
        Kind::AdaptiveAvgPool2d => Op::AdaptiveAvgPool2d(image::adaptive(draw)),
        Kind::BatchNorm2d => Op::BatchNorm2d(image::batch_norm(draw)),
        Kind::LocalResponseNorm => Op::LocalResponseNorm(image::local_response_norm(draw)),
        Kind::LayerNorm => Op::LayerNorm(values::normalised_rows(draw)),
        Kind::Softmax => Op::Softmax(values::softmax_rows(draw)),
        Kind::Relu => Op::Relu(values::activations(draw)),
        Kind::Relu6 => Op::Relu6(values::activations(draw)),
        Kind::Gelu => Op::Gelu(values::activations(draw)),
        Kind::Silu => Op::Silu(values::gates(draw)),
        Kind::Sigmoid => Op::Sigmoid(values::gates(draw)),
        Kind::Hardswish => Op::Hardswish(values::activations(draw)),
        Kind::Tanh => Op::Tanh(values::activations(draw)),
        Kind::Dropout => Op::Dropout(values::activations(draw)),
        Kind::Flatten => Op::Flatten(values::activations(draw)),
        Kind::Copy => Op::Copy(values::activations(draw)),
        Kind::Add => Op::Add(tensor::sum(draw)),
        Kind::Mul => Op::Mul(tensor::product(draw)),
        Kind::Concat => Op::Concat(tensor::concat(draw)),
        Kind::Permute => Op::Permute(tensor::permute(draw)),
        Kind::ConvTranspose2d => Op::ConvTranspose2d(image::conv_transpose(draw)),
        Kind::UpsampleNearest2d => Op::UpsampleNearest2d(image::upsample(draw)),
        Kind::UpsampleBilinear2d => Op::UpsampleBilinear2d(image::upsample(draw)),
        Kind::RmsNorm => Op::RmsNorm(values::normalised_rows(draw)),
        Kind::GroupNorm => Op::GroupNorm(image::group_norm(draw)),
        Kind::Hardsigmoid => Op::Hardsigmoid(values::gates(draw)),
        Kind::Mean => Op::Mean(tensor::mean(draw)),
        Kind::Embedding => Op::Embedding(sequence::embedding(draw)),
        Kind::Lstm => Op::Lstm(sequence::recurrent(draw)),
        Kind::Gru => Op::Gru(sequence::recurrent(draw)),
    }
}

/// The most channels at this many rows: networks halve images as they double channels, to 2048 at 14 rows and below.
fn channels_max(extent: u64) -> u64 {
    (2048 * 14 / extent).clamp(32, 2048)
}
