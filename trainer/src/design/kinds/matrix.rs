//! Kinds that multiply matrices: classifiers, and the blocks of transformers.

use wattfarm_cost::layer::{Activation, Attention, Linear, Matmul};

use super::super::draw::Draw;

/// Tokens of vision transformers at usual images and patches, with and without a class token.
const TOKENS: [u64; 10] = [49, 50, 64, 144, 145, 196, 197, 256, 257, 577];

fn tokens(draw: &mut Draw) -> u64 {
    let tokens = draw.size(49, 577);
    if draw.chance(0.6) {
        draw.one_of(&TOKENS)
    } else {
        tokens
    }
}

/// What sort of rows a linear layer has.
#[derive(Clone, Copy)]
enum Rows {
    One,
    Batch,
    Tokens,
}

pub(super) fn linear(draw: &mut Draw) -> Linear {
    let rows = draw.stratum(&[(6.0, Rows::One), (1.5, Rows::Batch), (2.5, Rows::Tokens)]);
    let (in_features, out_features) = match rows {
        Rows::One | Rows::Batch => (draw.channels(64, 25_088), draw.channels(10, 4096)),
        Rows::Tokens => (draw.channels(64, 4096), draw.channels(64, 4096)),
    };
    let out_features = if draw.chance(0.1) {
        draw.one_of(&[10, 100, 1000, 4096])
    } else {
        out_features
    };
    let batch = match rows {
        Rows::One => 1,
        Rows::Batch => draw.size(2, 16),
        Rows::Tokens => draw.one_of(&TOKENS).min(256),
    };
    Linear {
        batch,
        in_features,
        out_features,
        bias: draw.chance(0.85),
        activation: Activation::None,
    }
}

/// Queries times keys, or weights times values.
pub(super) fn matmul(draw: &mut Draw) -> Matmul {
    let scores = draw.stratum(&[(1.0, true), (1.0, false)]);
    let tokens = tokens(draw);
    let heads = draw.size(1, 16);
    let head_dim = draw.channels(32, 128);
    let (n, k) = if scores {
        (tokens, head_dim)
    } else {
        (head_dim, tokens)
    };
    Matmul {
        batch: heads * draw.batch(),
        m: tokens,
        n,
        k,
    }
}

pub(super) fn attention(draw: &mut Draw) -> Attention {
    let tokens = tokens(draw);
    let heads = draw.size(1, 16);
    Attention {
        head_dim: draw.one_of(&[32, 32, 48, 64, 64, 64, 80, 128]),
        batch: draw.batch(),
        heads,
        query_length: tokens,
        key_length: tokens,
        causal: false,
    }
}
