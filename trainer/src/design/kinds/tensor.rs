//! Kinds that join tensors or lay them out anew.

use wattfarm_cost::layer::{Binary, Concat, Permute, Reduce};

use super::super::draw::Draw;
use super::channels_max;

/// What a tensor is joined with.
#[derive(Clone, Copy)]
enum Other {
    /// One of its own shape: a residual connection.
    Alike,
    /// A value for each channel of each item: squeeze-and-excitation.
    PerChannel,
    /// One item for the whole batch: a position embedding.
    PerItem,
    /// A value for each channel, whatever the item: a learned scale.
    Constant,
}

pub(super) fn sum(draw: &mut Draw) -> Binary {
    let other = draw.stratum(&[
        (8.0, Other::Alike),
        (1.5, Other::PerItem),
        (0.5, Other::Constant),
    ]);
    binary(draw, other)
}

pub(super) fn product(draw: &mut Draw) -> Binary {
    let other = draw.stratum(&[
        (7.0, Other::PerChannel),
        (2.0, Other::Alike),
        (1.0, Other::Constant),
    ]);
    binary(draw, other)
}

fn binary(draw: &mut Draw, other: Other) -> Binary {
    let extent = draw.extent(4, 112);
    let inner = extent * extent;
    let channels = draw.channels(8, channels_max(extent));
    let batch = draw.batch();
    let (other_batch, other_inner) = match other {
        Other::Alike => (batch, inner),
        Other::PerChannel => (batch, 1),
        Other::PerItem => (1, inner),
        Other::Constant => (1, 1),
    };
    Binary {
        batch,
        channels,
        inner,
        other_batch,
        other_channels: channels,
        other_inner,
    }
}

/// What is joined.
#[derive(Clone, Copy)]
enum Joined {
    /// A block's input and every layer since, each as wide as the growth: DenseNet.
    Growth,
    /// A handful of branches, none like another: Inception.
    Branches,
    /// Two halves: SqueezeNet, ShuffleNet, skip connections.
    Halves,
    /// A class token before the others.
    Token,
}

pub(super) fn concat(draw: &mut Draw) -> Concat {
    let strata = [
        (4.0, Joined::Growth),
        (3.0, Joined::Branches),
        (3.0, Joined::Halves),
        (0.5, Joined::Token),
    ];
    let joined = draw.stratum(&strata);
    let extent = draw.extent(7, 56);
    let (in_channels, inner) = match joined {
        Joined::Growth => {
            let layers = draw.size(1, 30) as usize;
            let growth = draw.one_of(&[12, 24, 32, 32, 32, 40, 48]);
            let input = draw.channels(32, 512);
            (
                [vec![input], vec![growth; layers]].concat(),
                extent * extent,
            )
        }
        Joined::Branches => {
            let branches = 3 + (draw.unit() * 4.0) as usize;
            (
                (0..branches).map(|_| draw.channels(16, 448)).collect(),
                extent * extent,
            )
        }
        Joined::Halves => {
            let half = draw.channels(16, channels_max(extent) / 2);
            let other = if draw.chance(0.7) {
                half
            } else {
                draw.channels(16, channels_max(extent) / 2)
            };
            (vec![half, other], extent * extent)
        }
        Joined::Token => (vec![1, extent * extent], draw.channels(64, 1280)),
    };
    Concat {
        batch: draw.batch(),
        in_channels,
        inner,
    }
}

/// Which axes change places, and why.
#[derive(Clone, Copy)]
enum Layout {
    /// [B, N, 3, H, D] to [3, B, H, N, D]: queries, keys and values come apart.
    Projections,
    /// [B, H, N, D] to [B, N, H, D]: heads come together, or apart the other way round.
    Heads,
    /// [B, C, HW] to [B, HW, C]: patches to tokens, images with channels last.
    Patches,
    /// [B, G, C, HW] to [B, C, G, HW]: channel shuffle.
    Shuffle,
}

pub(super) fn permute(draw: &mut Draw) -> Permute {
    let strata = [
        (2.0, Layout::Projections),
        (2.0, Layout::Heads),
        (2.0, Layout::Patches),
        (2.0, Layout::Shuffle),
    ];
    let layout = draw.stratum(&strata);
    let batch = draw.batch();
    let (shape, order): (Vec<u64>, &[u64]) = match layout {
        Layout::Projections => {
            let (tokens, heads) = (draw.size(49, 577), draw.size(1, 16));
            (
                vec![batch, tokens, 3, heads, draw.one_of(&[32, 64, 64, 128])],
                &[2, 0, 3, 1, 4],
            )
        }
        Layout::Heads => {
            let (tokens, heads) = (draw.size(49, 577), draw.size(2, 16));
            let (first, second) = if draw.chance(0.5) {
                (heads, tokens)
            } else {
                (tokens, heads)
            };
            (
                vec![batch, first, second, draw.one_of(&[32, 64, 64, 128])],
                &[0, 2, 1, 3],
            )
        }
        Layout::Patches => {
            let extent = draw.extent(7, 112);
            let channels = draw.channels(16, channels_max(extent));
            let (first, second) = if draw.chance(0.7) {
                (channels, extent * extent)
            } else {
                (extent * extent, channels)
            };
            (vec![batch, first, second], &[0, 2, 1])
        }
        Layout::Shuffle => {
            let extent = draw.extent(7, 56);
            let groups = draw.one_of(&[2, 2, 3, 4, 8]);
            (
                vec![
                    batch,
                    groups,
                    draw.size(8, (channels_max(extent) / groups).max(16)),
                    extent * extent,
                ],
                &[0, 2, 1, 3],
            )
        }
    };
    Permute {
        shape,
        order: order.to_vec(),
    }
}

/// Of what the mean is taken.
#[derive(Clone, Copy)]
enum Averaged {
    /// Each channel of an image.
    Image,
    /// Each feature over its tokens.
    Tokens,
    /// The features of each token.
    Features,
}

pub(super) fn mean(draw: &mut Draw) -> Reduce {
    let averaged = draw.stratum(&[
        (3.0, Averaged::Image),
        (1.0, Averaged::Tokens),
        (1.0, Averaged::Features),
    ]);
    match averaged {
        Averaged::Image => {
            let extent = draw.extent(4, 112);
            let channels = draw.channels(16, channels_max(extent));
            Reduce {
                batch: channels * draw.batch(),
                length: extent * extent,
                inner: 1,
            }
        }
        Averaged::Tokens => Reduce {
            length: draw.size(16, 577),
            inner: draw.channels(32, 1280),
            batch: draw.batch(),
        },
        Averaged::Features => {
            let tokens = draw.size(16, 3136);
            Reduce {
                length: draw.channels(32, 1280),
                batch: tokens * draw.batch(),
                inner: 1,
            }
        }
    }
}
