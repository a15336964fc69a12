//! Kinds that work on single values or on rows of them.

use wattfarm_cost::layer::{Elementwise, Rows};

use super::super::draw::Draw;

/// What follows a convolution: from a small map to a large one.
pub(super) fn activations(draw: &mut Draw) -> Elementwise {
    Elementwise {
        features: draw.channels(1_000, 4_000_000),
        batch: draw.batch(),
    }
}

/// Like [`activations`], and down to the few values of a squeeze-and-excitation block.
pub(super) fn gates(draw: &mut Draw) -> Elementwise {
    Elementwise {
        features: draw.channels(16, 2_000_000),
        batch: draw.batch(),
    }
}

/// Tokens by features: a transformer's, or every pixel of an image as in hierarchical ones.
pub(super) fn normalised_rows(draw: &mut Draw) -> Rows {
    let rows = draw.size(1, 3136);
    Rows {
        batch: rows * draw.batch(),
        features: draw.channels(32, (2_000_000 / rows).clamp(64, 2048)),
    }
}

/// Classes of a classifier, or the weights of attention: heads times tokens rows of tokens.
pub(super) fn softmax_rows(draw: &mut Draw) -> Rows {
    let classes = draw.stratum(&[(1.0, true), (1.0, false)]);
    match classes {
        true => Rows {
            features: draw.size(10, 10_000),
            batch: draw.batch(),
        },
        false => {
            let tokens = draw.size(49, 577);
            Rows {
                features: tokens,
                batch: tokens * draw.size(1, 16),
            }
        }
    }
}
