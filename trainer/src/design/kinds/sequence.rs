//! Kinds that work on words: tables of them, and recurrent layers.

use wattfarm_cost::layer::{Embedding, Recurrent};

use super::super::draw::Draw;

/// Tokens of a text, or items, as rows of a vocabulary.
pub(super) fn embedding(draw: &mut Draw) -> Embedding {
    Embedding {
        batch: draw.size(1, 1024) * draw.batch(),
        rows: draw.size(2, 60_000),
        features: draw.channels(16, 1280),
    }
}

/// A layer of a sequence model: as wide as the layer before it, or wider than its embedding.
pub(super) fn recurrent(draw: &mut Draw) -> Recurrent {
    let hidden = draw.channels(16, 1024);
    let in_features = if draw.chance(0.5) {
        hidden
    } else {
        draw.channels(8, 1024)
    };
    Recurrent {
        hidden,
        length: draw.size(1, 200),
        in_features,
        batch: draw.batch(),
        directions: draw.one_of(&[1, 1, 2]),
    }
}
