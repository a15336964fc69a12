//! Which kind is next: each gets its share of a campaign's layers, after any number of them.

use std::collections::BTreeMap;

use wattfarm_cost::Kind;

/// Layers of each kind that come early, whatever its share: from five on a kind is fitted.
const FIRST_LAYERS: u64 = 5;

/// How far apart, in layers of the campaign, the early layers of a kind are due at the latest. With all 35 kinds every
/// one has been proposed once within the first 50 and five times within the first 350.
const FIRST_EVERY: f64 = 40.0;

/// The most and the least that the error part of a share counts, relative to a kind that is at its target.
const URGENCY: std::ops::RangeInclusive<f64> = 0.25..=4.0;

/// Where one kind of a campaign stands.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Standing {
    /// Layers proposed or measured so far.
    pub samples: u64,
    /// Cross-validated error of its newest model over the target error; `None` without a model.
    pub error_share: Option<f64>,
}

/// A kind's part of a campaign over every kind, in percent: how much of real networks' time is in it, and how much there
/// is to learn. Views cost a constant.
fn weight(kind: Kind) -> f64 {
    match kind {
        Kind::Conv2d => 50.0,
        Kind::Linear => 8.0,
        Kind::BatchNorm2d | Kind::Add => 5.0,
        Kind::Relu | Kind::MaxPool2d | Kind::Concat => 4.0,
        Kind::AvgPool2d | Kind::AdaptiveAvgPool2d | Kind::Mul | Kind::Permute => 2.0,
        Kind::LayerNorm | Kind::Relu6 | Kind::Gelu | Kind::Silu | Kind::Attention => 1.5,
        Kind::LocalResponseNorm
        | Kind::Sigmoid
        | Kind::Hardswish
        | Kind::Tanh
        | Kind::Softmax
        | Kind::Copy
        | Kind::Matmul => 1.0,
        // What few networks have, and those little of.
        Kind::ConvTranspose2d
        | Kind::UpsampleNearest2d
        | Kind::UpsampleBilinear2d
        | Kind::RmsNorm
        | Kind::GroupNorm
        | Kind::Hardsigmoid
        | Kind::Mean
        | Kind::Embedding
        | Kind::Lstm
        | Kind::Gru => 0.5,
        Kind::Dropout | Kind::Flatten => 0.2,
    }
}

/// The kind whose next layer is due first; of several, the first in the kinds' order. `None` without kinds.
///
/// A kind's share is half its weight, and half its weight times how far its error is above the target (see [`URGENCY`]):
/// what is worse gets more, and nothing starves. Its i-th layer is due when the campaign has (i + ½) / share layers, and
/// the first few at the latest every [`FIRST_EVERY`] layers.
pub(super) fn next_kind(standings: BTreeMap<Kind, Standing>) -> Option<Kind> {
    let pull = |kind: Kind, standing: &Standing| {
        let urgency = standing
            .error_share
            .unwrap_or(1.0)
            .clamp(*URGENCY.start(), *URGENCY.end());
        weight(kind) * (1.0 + urgency) / 2.0
    };
    let total: f64 = standings
        .iter()
        .map(|(&kind, standing)| pull(kind, standing))
        .sum();
    let due = |kind: Kind, standing: &Standing| {
        let by_share = (standing.samples as f64 + 0.5) * total / pull(kind, standing);
        match standing.samples < FIRST_LAYERS {
            true => by_share.min(standing.samples as f64 * FIRST_EVERY),
            false => by_share,
        }
    };
    let dues = standings
        .iter()
        .map(|(&kind, standing)| (kind, due(kind, standing)));
    dues.min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds in the order in which `count` layers would be proposed.
    fn order(kinds: &[Kind], count: usize, error_shares: &[(Kind, f64)]) -> Vec<Kind> {
        let mut standings: BTreeMap<Kind, Standing> = kinds
            .iter()
            .map(|&kind| (kind, Standing::default()))
            .collect();
        for &(kind, error_share) in error_shares {
            standings.entry(kind).or_default().error_share = Some(error_share);
        }
        let mut order = Vec::new();
        for _ in 0..count {
            let kind = next_kind(standings.clone()).expect("there are kinds");
            standings.entry(kind).or_default().samples += 1;
            order.push(kind);
        }
        order
    }

    fn count(order: &[Kind], kind: Kind) -> usize {
        order.iter().filter(|&&other| other == kind).count()
    }

    #[test]
    fn every_kind_comes_early() {
        let order = order(&Kind::ALL, 350, &[]);
        for kind in Kind::ALL {
            assert!(
                order[..50].contains(&kind),
                "{kind} is not among the first 50"
            );
            assert!(count(&order, kind) >= 5, "{kind} has not five of 350");
        }
        assert!(count(&order[..60], Kind::Conv2d) >= 10);
    }

    #[test]
    fn shares_hold_after_any_number() {
        let order = order(&Kind::ALL, 5_000, &[]);
        for prefix in [500, 1_000, 2_500, 5_000] {
            let conv = count(&order[..prefix], Kind::Conv2d) as f64 / prefix as f64;
            assert!((0.38..0.52).contains(&conv), "{conv} of {prefix}");
        }
        assert!(count(&order, Kind::Dropout) <= 15);
    }

    #[test]
    fn larger_errors_get_more_and_nothing_starves() {
        let kinds = [Kind::Relu, Kind::MaxPool2d, Kind::Concat];
        let order = order(
            &kinds,
            400,
            &[
                (Kind::Relu, 0.1),
                (Kind::MaxPool2d, 1.0),
                (Kind::Concat, 9.0),
            ],
        );
        let counts = kinds.map(|kind| count(&order, kind));
        assert!(
            counts[2] > 2 * counts[1] && counts[1] > counts[0] && counts[0] > 40,
            "{counts:?}"
        );
    }

    #[test]
    fn no_kinds_no_layer() {
        assert_eq!(next_kind(BTreeMap::new()), None);
    }
}
