//! The five networks of the NeuralPower paper, as its authors timed them: convolutions to the end (what was a fully
//! connected layer is a convolution that sees its whole input), no bias, no ReLU, no softmax, dropout included.
//!
//! Padding is TensorFlow's: `VALID` is none, `SAME` keeps ceil(size / stride) outputs.

use crate::layer::Op;
use crate::network::{NetworkBuilder, window};

use Item::{AvgPool, Conv, Dropout, MaxPool};
use Padding::{Same, Valid};

/// A step of a network that is one chain.
enum Item {
    /// Name, kernel, stride, output channels.
    Conv(&'static str, u64, u64, u64, Padding),
    /// Name, window, stride; `VALID`.
    MaxPool(&'static str, u64, u64),
    /// Name, window, stride; `VALID`.
    AvgPool(&'static str, u64, u64),
    Dropout(&'static str),
}

enum Padding {
    Valid,
    Same,
}

/// Zeros before and after `size` values for `SAME`: the smaller half comes first.
fn same(size: u64, kernel: u64, stride: u64) -> [u64; 2] {
    let covered = size
        .div_ceil(stride)
        .saturating_sub(1)
        .saturating_mul(stride)
        .saturating_add(kernel);
    let total = covered.saturating_sub(size);
    [total / 2, total.div_ceil(2)]
}

impl Padding {
    /// Rows above and below, columns left and right.
    fn around(&self, shape: &[u64], kernel: u64, stride: u64) -> [u64; 4] {
        match (self, shape) {
            (Same, &[_, _, height, width]) => {
                let ([top, bottom], [left, right]) =
                    (same(height, kernel, stride), same(width, kernel, stride));
                [top, bottom, left, right]
            }
            (Same | Valid, _) => [0; 4],
        }
    }
}

fn chain(net: &mut NetworkBuilder, items: &[Item]) {
    let mut x = net.input();
    for item in items {
        x = match *item {
            Conv(name, kernel, stride, out, ref padding) => {
                let pad = padding.around(net.shape(x), kernel, stride);
                net.conv2d_padded(name, x, out, window(kernel, stride, 0), pad, 1, false)
            }
            MaxPool(name, kernel, stride) => {
                net.max_pool2d(name, x, window(kernel, stride, 0), false)
            }
            AvgPool(name, kernel, stride) => {
                net.avg_pool2d(name, x, window(kernel, stride, 0), false)
            }
            Dropout(name) => net.elementwise(name, x, Op::Dropout),
        };
    }
}

pub(super) fn alexnet(net: &mut NetworkBuilder) {
    let items = [
        Conv("conv1", 11, 4, 64, Valid),
        MaxPool("pool1", 3, 2),
        Conv("conv2", 5, 1, 192, Same),
        MaxPool("pool2", 3, 2),
        Conv("conv3", 3, 1, 384, Same),
        Conv("conv4", 3, 1, 384, Same),
        Conv("conv5", 3, 1, 256, Same),
        MaxPool("pool5", 3, 2),
        Conv("fc6", 5, 1, 4096, Valid),
        Dropout("drop6"),
        Conv("fc7", 1, 1, 4096, Valid),
        Dropout("drop7"),
        Conv("fc8", 1, 1, 1000, Valid),
    ];
    chain(net, &items);
}

/// The names are the paper's, gaps included.
pub(super) fn nin(net: &mut NetworkBuilder) {
    let items = [
        Conv("conv1", 11, 4, 96, Valid),
        Conv("cccp1", 1, 1, 96, Valid),
        Conv("cccp2", 1, 1, 96, Valid),
        MaxPool("pool0", 3, 2),
        Conv("conv2", 5, 1, 256, Same),
        Conv("cccp3", 1, 1, 256, Valid),
        Conv("cccp4", 1, 1, 256, Valid),
        MaxPool("pool2", 3, 2),
        Conv("conv3", 3, 1, 384, Same),
        Conv("cccp5", 1, 1, 384, Valid),
        Conv("cccp6", 1, 1, 384, Valid),
        MaxPool("pool3", 3, 2),
        Dropout("drop"),
        Conv("conv4", 3, 1, 1024, Same),
        Conv("cccp7", 1, 1, 1024, Valid),
        Conv("cccp8", 1, 1, 1000, Valid),
        AvgPool("pool4", 5, 1),
    ];
    chain(net, &items);
}

pub(super) fn vgg16(net: &mut NetworkBuilder) {
    let items = [
        Conv("conv1_1", 3, 1, 64, Same),
        Conv("conv1_2", 3, 1, 64, Same),
        MaxPool("pool1", 2, 2),
        Conv("conv2_1", 3, 1, 128, Same),
        Conv("conv2_2", 3, 1, 128, Same),
        MaxPool("pool2", 2, 2),
        Conv("conv3_1", 3, 1, 256, Same),
        Conv("conv3_2", 3, 1, 256, Same),
        Conv("conv3_3", 3, 1, 256, Same),
        MaxPool("pool3", 2, 2),
        Conv("conv4_1", 3, 1, 512, Same),
        Conv("conv4_2", 3, 1, 512, Same),
        Conv("conv4_3", 3, 1, 512, Same),
        MaxPool("pool4", 2, 2),
        Conv("conv5_1", 3, 1, 512, Same),
        Conv("conv5_2", 3, 1, 512, Same),
        Conv("conv5_3", 3, 1, 512, Same),
        MaxPool("pool5", 2, 2),
        Conv("fc6", 7, 1, 4096, Valid),
        Dropout("drop6"),
        Conv("fc7", 1, 1, 4096, Valid),
        Dropout("drop7"),
        Conv("fc8", 1, 1, 1000, Valid),
    ];
    chain(net, &items);
}

pub(super) fn overfeat(net: &mut NetworkBuilder) {
    let items = [
        Conv("conv1", 11, 4, 64, Valid),
        MaxPool("pool1", 2, 2),
        Conv("conv2", 5, 1, 256, Valid),
        MaxPool("pool2", 2, 2),
        Conv("conv3", 3, 1, 512, Same),
        Conv("conv4", 3, 1, 1024, Same),
        Conv("conv5", 3, 1, 1024, Same),
        MaxPool("pool5", 2, 2),
        Conv("fc6", 6, 1, 3072, Valid),
        Dropout("drop6"),
        Conv("fc7", 1, 1, 4096, Valid),
        Dropout("drop7"),
        Conv("fc8", 1, 1, 1000, Valid),
    ];
    chain(net, &items);
}

pub(super) fn cifar10_6conv(net: &mut NetworkBuilder) {
    let items = [
        Conv("conv1", 3, 1, 128, Same),
        Conv("conv2", 3, 1, 128, Same),
        MaxPool("pool1", 2, 2),
        Conv("conv3", 3, 1, 256, Same),
        Conv("conv4", 3, 1, 256, Same),
        MaxPool("pool2", 2, 2),
        Conv("conv5", 3, 1, 512, Same),
        Conv("conv6", 3, 1, 512, Same),
        Conv("fc1", 8, 1, 1024, Valid),
        Dropout("drop1"),
        Conv("fc2", 1, 1, 1024, Valid),
        Dropout("drop2"),
        Conv("fc3", 1, 1, 10, Valid),
    ];
    chain(net, &items);
}

#[cfg(test)]
mod tests {
    use super::same;

    /// An odd total puts the larger half after, and a stride may need less than kernel - 1.
    #[test]
    fn same_padding_is_tensorflows() {
        assert_eq!(same(224, 3, 1), [1, 1]);
        assert_eq!(same(224, 2, 1), [0, 1]);
        assert_eq!(same(224, 3, 2), [0, 1]);
        assert_eq!(same(225, 3, 2), [1, 1]);
        assert_eq!(same(8, 1, 2), [0, 0]);
    }
}
