//! Convolutions, by the strata that libraries have kernels of their own for.

use wattfarm_cost::layer::{Activation, Conv2d};

use super::super::draw::Draw;
use super::channels_max;

/// What sort of convolution.
#[derive(Clone, Copy)]
enum Stratum {
    /// 1x1: a plain matrix product.
    Pointwise,
    /// 3x3, stride 1.
    Plain,
    /// 3x3, stride 2: where a network halves its images.
    Halving,
    /// A group for each channel.
    Depthwise,
    /// 5x5 and 7x7 inside a network.
    Wide,
    /// The first layer: three channels of a large image.
    Stem,
    /// 1x7, 7x1, 1x3, 3x1.
    Rectangular,
    /// 1x1 on 1x1: the excitation of squeeze-and-excitation blocks, and the end of networks without linear layers.
    Excitation,
    /// A linear layer in disguise: the kernel is as large as the input.
    Dense,
    /// Groups of several channels.
    Grouped,
    /// What networks seldom have, so that the model has seen it.
    Odd,
}

const STRATA: [(f64, Stratum); 11] = [
    (26.0, Stratum::Pointwise),
    (24.0, Stratum::Plain),
    (8.0, Stratum::Halving),
    (14.0, Stratum::Depthwise),
    (5.0, Stratum::Wide),
    (6.0, Stratum::Stem),
    (4.0, Stratum::Rectangular),
    (3.0, Stratum::Excitation),
    (4.0, Stratum::Dense),
    (7.0, Stratum::Grouped),
    (3.0, Stratum::Odd),
];

pub(super) fn conv2d(draw: &mut Draw) -> Conv2d {
    let stratum = draw.stratum(&STRATA);
    let mut conv = match stratum {
        Stratum::Pointwise => Conv2d {
            ..inner(draw, 1, 4, 112)
        },
        Stratum::Plain => inner(draw, 3, 4, 230),
        Stratum::Halving => halving(inner(draw, 3, 7, 230)),
        Stratum::Depthwise => depthwise(draw),
        Stratum::Wide => {
            let kernel = draw.one_of(&[5, 5, 7]);
            inner(draw, kernel, 7, 112)
        }
        Stratum::Stem => stem(draw),
        Stratum::Rectangular => rectangular(draw),
        Stratum::Excitation => excitation(draw),
        Stratum::Dense => dense(draw),
        Stratum::Grouped => grouped(draw),
        Stratum::Odd => odd(draw),
    };
    // Shortcuts of residual networks.
    if matches!(stratum, Stratum::Pointwise) && draw.chance(0.12) {
        conv = halving(conv);
    }
    conv.batch = draw.batch();
    conv.bias = draw.chance(0.4);
    conv
}

/// A square convolution of a square image with stride 1 that is not padded.
fn square(extent: u64, in_channels: u64, out_channels: u64, kernel: u64) -> Conv2d {
    Conv2d {
        batch: 1,
        in_channels,
        in_height: extent,
        in_width: extent,
        out_channels,
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: 1,
        stride_w: 1,
        pad_top: 0,
        pad_bottom: 0,
        pad_left: 0,
        pad_right: 0,
        dilation_h: 1,
        dilation_w: 1,
        groups: 1,
        bias: false,
        activation: Activation::None,
    }
}

/// Pads so that stride 1 keeps the image's size.
fn same(mut conv: Conv2d) -> Conv2d {
    let (rows, columns) = (
        (conv.kernel_h - 1) * conv.dilation_h,
        (conv.kernel_w - 1) * conv.dilation_w,
    );
    (conv.pad_top, conv.pad_bottom) = (rows / 2, rows.div_ceil(2));
    (conv.pad_left, conv.pad_right) = (columns / 2, columns.div_ceil(2));
    conv
}

fn halving(conv: Conv2d) -> Conv2d {
    Conv2d {
        stride_h: 2,
        stride_w: 2,
        ..conv
    }
}

/// A layer inside a network: an image of `low` to `high` rows with the channels that go with it, most often padded.
fn inner(draw: &mut Draw, kernel: u64, low: u64, high: u64) -> Conv2d {
    let extent = draw.extent(low, high);
    let in_channels = draw.channels(8, channels_max(extent));
    let out_channels = draw.channels(8, channels_max(extent));
    let conv = square(extent, in_channels, out_channels, kernel);
    if extent > kernel && draw.chance(0.1) {
        conv
    } else {
        same(conv)
    }
}

fn depthwise(draw: &mut Draw) -> Conv2d {
    let extent = draw.extent(4, 150);
    let channels = draw.channels(8, channels_max(extent));
    let kernel = draw.one_of(&[3, 3, 3, 3, 3, 5, 5, 7]);
    let conv = same(Conv2d {
        groups: channels,
        ..square(extent, channels, channels, kernel)
    });
    if draw.chance(0.25) {
        halving(conv)
    } else {
        conv
    }
}

fn stem(draw: &mut Draw) -> Conv2d {
    let extent = if draw.chance(0.5) {
        draw.one_of(&[224, 224, 225, 227, 230, 231, 299])
    } else {
        draw.size(96, 320)
    };
    let out_channels = draw.channels(16, 96);
    let (kernel, stride) = draw.one_of(&[
        (3, 1),
        (3, 2),
        (3, 2),
        (5, 2),
        (7, 2),
        (7, 2),
        (11, 4),
        (4, 4),
        (16, 16),
    ]);
    let in_channels = draw.one_of(&[3, 3, 3, 3, 1, 4]);
    let conv = Conv2d {
        stride_h: stride,
        stride_w: stride,
        ..square(extent, in_channels, out_channels, kernel)
    };
    // Patches of vision transformers don't overlap, and have as many channels as the whole network.
    match kernel == stride {
        true => Conv2d {
            out_channels: out_channels * 8,
            ..conv
        },
        false if draw.chance(0.3) => conv,
        false => same(conv),
    }
}

fn rectangular(draw: &mut Draw) -> Conv2d {
    let extent = draw.extent(7, 36);
    let in_channels = draw.channels(32, channels_max(extent).min(1024));
    let out_channels = draw.channels(32, channels_max(extent).min(1024));
    let (kernel_h, kernel_w) = draw.one_of(&[(1, 7), (7, 1), (1, 3), (3, 1)]);
    same(Conv2d {
        kernel_h,
        kernel_w,
        ..square(extent, in_channels, out_channels, 1)
    })
}

fn excitation(draw: &mut Draw) -> Conv2d {
    let (wide, narrow) = (draw.channels(16, 2048), draw.channels(4, 128));
    let (from, to) = match draw.one_of(&[0, 1, 2, 2]) {
        0 => (wide, narrow),
        1 => (narrow, wide),
        _ => (draw.channels(512, 4608), draw.channels(512, 4608)),
    };
    square(1, from, to, 1)
}

fn dense(draw: &mut Draw) -> Conv2d {
    let extent = 4 + (draw.unit() * 5.0) as u64;
    let in_channels = draw.channels(64, 1024);
    let out_channels = draw.channels(256, 4608);
    square(extent, in_channels, out_channels, extent)
}

/// Most often as in ResNeXt and RegNet: 3x3, with as many channels before as behind, in groups of a width that a whole network
/// shares.
fn grouped(draw: &mut Draw) -> Conv2d {
    let extent = draw.extent(7, 112);
    let conv = if draw.chance(0.7) {
        let width = draw.one_of(&[4, 8, 8, 16, 16, 24, 32, 48, 64, 112]);
        let channels = draw.channels(16, channels_max(extent));
        let groups = (channels / width).max(2);
        Conv2d {
            groups,
            ..square(extent, groups * width, groups * width, 3)
        }
    } else {
        let groups = draw.one_of(&[2, 2, 3, 4, 8, 32, 32]);
        let width_max = (channels_max(extent) / groups).max(4);
        let in_channels = groups * draw.size(2, width_max);
        let out_channels = groups * draw.size(2, width_max);
        let kernel = draw.one_of(&[1, 3, 3, 5]);
        Conv2d {
            groups,
            ..square(extent, in_channels, out_channels, kernel)
        }
    };
    let conv = same(conv);
    if draw.chance(0.25) {
        halving(conv)
    } else {
        conv
    }
}

fn odd(draw: &mut Draw) -> Conv2d {
    let height = draw.size(4, 128);
    let width = draw.size(4, 128);
    let in_channels = draw.size(1, channels_max(height.max(width)));
    let out_channels = draw.size(1, channels_max(height.max(width)));
    let dilation = draw.one_of(&[1, 1, 2, 4]);
    let stride = draw.one_of(&[1, 1, 2, 3]);
    let conv = Conv2d {
        in_height: height,
        in_width: width,
        kernel_h: draw.size(1, 9),
        kernel_w: draw.size(1, 9),
        stride_h: stride,
        stride_w: stride,
        dilation_h: dilation,
        dilation_w: dilation,
        ..square(1, in_channels, out_channels, 1)
    };
    same(conv)
}
