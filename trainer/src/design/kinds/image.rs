//! Kinds that work on images: pooling and normalisation.

use wattfarm_cost::layer::{Adaptive, BatchNorm2d, LocalResponseNorm, Pool2d};

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
