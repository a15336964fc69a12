//! The additivity gap: how far the sum of a network's layers, each measured alone, is from the network measured whole.
//! No prediction made of measured layers can be better than this gap, so a recipe is judged by it, platform by platform.

mod books;
mod run;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattfarm_cost::measurement::Recipe;

pub use books::{Books, BooksError};
pub use run::gap;

/// The networks that recipes are judged by: none of them had a part in the choice of one. Alexnet, resnet18, resnet50,
/// mobilenet_v2, squeezenet1_1 and densenet121 had.
pub const JUDGES: [&str; 12] = [
    "neuralpower/alexnet",
    "neuralpower/nin",
    "neuralpower/overfeat",
    "neuralpower/cifar10-6conv",
    "googlenet",
    "vgg11",
    "vit_b_16",
    "resnet34",
    "resnext50_32x4d",
    "mnasnet1_0",
    "densenet169",
    "squeezenet1_0",
];

/// One network's figures, in ms. Whole, layers, layers, whole: what drifts in between drifts under both alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// The device and its software, as people type it.
    pub platform: String,
    /// What layers were measured by.
    pub recipe: Recipe,
    /// The network's name.
    pub network: String,
    /// Items in a batch.
    pub batch: u64,
    /// Milliseconds since 1970 when it was done.
    pub measured_at_ms: u64,
    /// The network whole, before its layers and after.
    pub whole_ms: [f64; 2],
    /// The sum over its layers, twice.
    pub layers_ms: [f64; 2],
    /// By kind of layer.
    pub by_kind: BTreeMap<String, Share>,
    /// What steps without a layer took inside the network.
    pub free_ms: f64,
}

/// The layers of one kind in one network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// How many.
    pub count: u32,
    /// What they took inside the network, each timed by itself, in ms.
    pub within_ms: f64,
    /// What they took alone, in ms.
    pub alone_ms: f64,
}

fn mean([first, second]: [f64; 2]) -> f64 {
    f64::midpoint(first, second)
}

/// How much the second is more than the first, in percent.
fn drift([first, second]: [f64; 2]) -> f64 {
    (second / first - 1.0) * 100.0
}

impl Gap {
    /// The sum's relative difference to the network, each the mean of two, in percent.
    pub fn percent(&self) -> f64 {
        (mean(self.layers_ms) / mean(self.whole_ms) - 1.0) * 100.0
    }

    /// ln(network / sum).
    pub fn log_ratio(&self) -> f64 {
        (mean(self.whole_ms) / mean(self.layers_ms)).ln()
    }

    /// How much the network's own two measurements differ, in percent: no gap is known better than this.
    pub fn noise_percent(&self) -> f64 {
        drift(self.whole_ms)
    }

    /// The same of the sum of layers.
    pub fn layers_noise_percent(&self) -> f64 {
        drift(self.layers_ms)
    }

    /// The network's mean, in ms.
    pub fn whole_mean_ms(&self) -> f64 {
        mean(self.whole_ms)
    }

    /// The sum's mean, in ms.
    pub fn layers_mean_ms(&self) -> f64 {
        mean(self.layers_ms)
    }
}

/// Root mean square of percentages; `None` of none.
pub fn rms(percents: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut squares, mut count) = (0.0, 0u32);
    for percent in percents {
        squares += percent * percent;
        count += 1;
    }
    (count > 0).then(|| (squares / f64::from(count)).sqrt())
}

/// By kind over several networks: how much more or less the kind's layers took alone than inside, in percent of their own
/// time and of the networks' (each network counts alike).
#[derive(Debug, Clone, PartialEq)]
pub struct KindGap {
    /// The kind.
    pub kind: String,
    /// Layers of the kind, over all networks.
    pub count: u32,
    /// Of the kind's own time.
    pub of_kind_percent: f64,
    /// Of the network's, on the mean.
    pub of_network_percent: f64,
}

/// Where the gap comes from: the kinds with the largest part of it first.
pub fn by_kind(gaps: &[&Gap]) -> Vec<KindGap> {
    let mut kinds: BTreeMap<&str, (Share, f64)> = BTreeMap::new();
    for gap in gaps {
        for (kind, share) in &gap.by_kind {
            let (sum, of_networks) = kinds.entry(kind).or_default();
            sum.count += share.count;
            sum.within_ms += share.within_ms;
            sum.alone_ms += share.alone_ms;
            *of_networks += (share.alone_ms - share.within_ms) / gap.whole_mean_ms();
        }
    }
    let figure = |(kind, (share, of_networks)): (&str, (Share, f64))| KindGap {
        kind: kind.to_owned(),
        count: share.count,
        of_kind_percent: (share.alone_ms / share.within_ms - 1.0) * 100.0,
        of_network_percent: of_networks / gaps.len() as f64 * 100.0,
    };
    let mut kinds: Vec<KindGap> = kinds.into_iter().map(figure).collect();
    let part = |kind: &KindGap| kind.of_network_percent.abs();
    kinds.sort_by(|a, b| part(b).total_cmp(&part(a)));
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn example(network: &str, batch: u64, layers_ms: f64) -> Gap {
        let share = |count, within_ms, alone_ms| Share {
            count,
            within_ms,
            alone_ms,
        };
        let by_kind = [
            ("conv2d".to_owned(), share(2, 8.0, layers_ms - 3.0)),
            ("relu".to_owned(), share(1, 2.0, 3.0)),
        ];
        Gap {
            platform: "here".to_owned(),
            recipe: Recipe::LAYER,
            network: network.to_owned(),
            batch,
            measured_at_ms: 1,
            whole_ms: [9.0, 11.0],
            layers_ms: [layers_ms; 2],
            by_kind: by_kind.into(),
            free_ms: 0.0,
        }
    }

    /// By hand: 10.5 of 10 is 5 % more; 11 of 9 is 22.2 %.
    #[test]
    fn a_gap_in_percent() {
        let gap = example("n", 1, 10.5);
        assert!((gap.percent() - 5.0).abs() < 1e-9);
        assert!((gap.noise_percent() - 22.222).abs() < 1e-3);
        assert_eq!(gap.layers_noise_percent(), 0.0);
        let rms = rms([3.0, -4.0]).expect("two");
        assert!((rms - 12.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(super::rms([]), None);
    }

    #[test]
    fn kinds_are_sorted_by_their_part_of_the_gap() {
        let gaps = [example("n", 1, 13.0), example("m", 1, 12.0)];
        let kinds = by_kind(&gaps.iter().collect::<Vec<_>>());
        assert_eq!(kinds[0].kind, "conv2d");
        assert_eq!((kinds[0].count, kinds[1].count), (4, 2));
        assert!((kinds[0].of_kind_percent - 18.75).abs() < 1e-9);
        assert!((kinds[0].of_network_percent - 15.0).abs() < 1e-9);
        assert!((kinds[1].of_network_percent - 10.0).abs() < 1e-9);
    }
}
