//! Kinds that work on images: pooling and normalisation.

use wattfarm_cost::layer::{
    Adaptive, BatchNorm2d, ConvTranspose2d, GroupNorm, LocalResponseNorm, Pool2d,
};

use super::super::draw::Draw;
use super::channels_max;

/// Kernel, stride and padding of a window.
type Window = (u64, u64, u64);

pub(super) fn max_pool(draw: &mut Draw) -> Pool2d {
    pool(
        draw,
        &[
            (4.0, (2, 2, 0)),
            (2.0, (3, 2, 0)),
            (2.0, (3, 2, 1)),
            (2.0, (3, 1, 1)),
            (0.5, (5, 1, 2)),
            (0.5, (3, 3, 0)),
        ],
    )
}

pub(super) fn avg_pool(draw: &mut Draw) -> Pool2d {
    pool(
        draw,
        &[
            (4.0, (2, 2, 0)),
            (3.0, (3, 1, 1)),
            (1.0, (3, 2, 1)),
            (1.0, (5, 3, 0)),
            (1.0, (7, 1, 0)),
            (0.5, (8, 8, 0)),
        ],
    )
}

fn pool(draw: &mut Draw, windows: &[(f64, Window)]) -> Pool2d {
    let (kernel, stride, pad) = draw.stratum(windows);
    let in_height = draw.extent(kernel.max(7), 230);
    let in_width = if draw.chance(0.95) {
        in_height
    } else {
        draw.size(kernel.max(7), 230)
    };
    Pool2d {
        channels: draw.channels(8, channels_max(in_height)),
        batch: draw.batch(),
        in_height,
        in_width,
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: stride,
        stride_w: stride,
        pad_top: pad,
        pad_bottom: pad,
        pad_left: pad,
        pad_right: pad,
        ceil_mode: draw.chance(0.25),
    }
}

pub(super) fn adaptive(draw: &mut Draw) -> Adaptive {
    let out = draw.stratum(&[(8.0, 1), (1.0, 7), (1.0, 6), (0.5, 2), (0.5, 3)]);
    let extent = draw.extent(out.max(4), 112);
    Adaptive {
        channels: draw.channels(16, channels_max(extent)),
        batch: draw.batch(),
        in_height: extent,
        in_width: extent,
        out_height: out,
        out_width: out,
    }
}

pub(super) fn batch_norm(draw: &mut Draw) -> BatchNorm2d {
    let height = draw.extent(4, 150);
    let channels = draw.channels(8, channels_max(height));
    let width = if draw.chance(0.95) {
        height
    } else {
        draw.size(4, 150)
    };
    BatchNorm2d {
        batch: draw.batch(),
        channels,
        height,
        width,
    }
}

pub(super) fn local_response_norm(draw: &mut Draw) -> LocalResponseNorm {
    let extent = draw.extent(13, 112);
    let channels = draw.channels(16, channels_max(extent).min(512));
    LocalResponseNorm {
        batch: draw.batch(),
        channels,
        height: extent,
        width: extent,
        size: draw.one_of(&[5, 5, 5, 3]),
    }
}

/// A decoder's layer: twice the image, most often, by a kernel of 2, 3 or 4.
pub(super) fn conv_transpose(draw: &mut Draw) -> ConvTranspose2d {
    // Kernel, stride, padding, output padding.
    let (kernel, stride, pad, output_pad) = draw.stratum(&[
        (4.0, (2, 2, 0, 0)),
        (3.0, (4, 2, 1, 0)),
        (2.0, (3, 2, 1, 1)),
        (1.0, (3, 1, 1, 0)),
        (0.5, (8, 4, 2, 0)),
    ]);
    let extent = draw.extent(4, 112);
    let in_channels = draw.channels(16, channels_max(extent).min(1024));
    let out_channels = draw.channels(8, channels_max(extent).min(512));
    ConvTranspose2d {
        batch: draw.batch(),
        in_channels,
        in_height: extent,
        in_width: extent,
        out_channels,
        kernel_h: kernel,
        kernel_w: kernel,
        stride_h: stride,
        stride_w: stride,
        pad_h: pad,
        pad_w: pad,
        output_pad_h: output_pad,
        output_pad_w: output_pad,
        dilation_h: 1,
        dilation_w: 1,
        groups: 1,
        bias: draw.chance(0.5),
    }
}

/// Between the levels of a pyramid, or to the size of the image: segmentation.
pub(super) fn upsample(draw: &mut Draw) -> Adaptive {
    let factor = draw.stratum(&[(6.0, 2), (2.0, 4), (2.0, 8), (0.5, 1)]);
    let extent = draw.extent(2, 112);
    Adaptive {
        channels: draw.channels(8, 512),
        batch: draw.batch(),
        in_height: extent,
        in_width: extent,
        out_height: extent * factor,
        out_width: extent * factor,
    }
}

pub(super) fn group_norm(draw: &mut Draw) -> GroupNorm {
    let groups = draw.one_of(&[1, 8, 16, 32, 32]);
    let extent = draw.extent(4, 112);
    let channels = draw.channels(16, channels_max(extent).min(1024));
    GroupNorm {
        batch: draw.batch(),
        channels: channels.next_multiple_of(groups),
        inner: extent * extent,
        groups,
    }
}
