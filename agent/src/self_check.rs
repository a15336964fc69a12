//! How well figures repeat: a spread of layers, each measured twice, in random order. What two measurements of one layer
//! differ by is what nobody's model can explain, and whether their intervals knew is what the intervals are worth.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use wattfarm_cost::layer::Dtype;
use wattfarm_cost::measurement::{Recipe, Runtime, Subject};
use wattfarm_cost::network::zoo;
use wattfarm_cost::{Kind, Layer};

use crate::canary;
use crate::executor::{self, Executor};
use crate::recipe::{
    Clock, Confidence, Failure, Pulse, Scratch, measure, measure_canary, median_interval,
};

/// The device's canary is measured once for so many layers: its scatter is a part of every interval, as it is in a farm.
const LAYERS_PER_CANARY: usize = 10;

/// One layer, measured twice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The layer.
    pub layer: Layer,
    /// In the order in which they were measured.
    pub figures: [Figure; 2],
}

/// A median and its 99 % interval, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// The median.
    pub median_ms: f64,
    /// Lower end.
    pub low_ms: f64,
    /// Upper end.
    pub high_ms: f64,
}

impl Figure {
    /// Of a device that scatters by a share of the median between repeats.
    fn new(runtime: &Runtime, scatter: f64) -> Self {
        let samples: Vec<f64> = runtime.samples_ms.iter().map(|&ms| ms.into()).collect();
        let interval = median_interval(&samples, Confidence::P99);
        let interval = interval.with_scatter(scatter, Confidence::P99);
        Self {
            median_ms: interval.median,
            low_ms: interval.low,
            high_ms: interval.high,
        }
    }
}

impl Pair {
    /// What the two differ by, relative to their mean, in percent.
    pub fn difference_percent(&self) -> f64 {
        let [first, second] = self.figures.map(|figure| figure.median_ms);
        (first - second).abs() / f64::midpoint(first, second) * 100.0
    }

    /// Whether they differ by no more than their intervals allow: the lower one's upper part and the upper one's lower
    /// part reach each other.
    pub fn is_allowed(&self) -> bool {
        let [first, second] = &self.figures;
        first.low_ms <= second.high_ms && second.low_ms <= first.high_ms
    }

    /// The two's mean, in ms.
    pub fn mean_ms(&self) -> f64 {
        let [first, second] = self.figures.map(|figure| figure.median_ms);
        f64::midpoint(first, second)
    }
}

/// How the differences of some pairs are distributed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// How many pairs.
    pub pairs: usize,
    /// The differences' median, in percent.
    pub median_percent: f64,
    /// Nine tenths of them are below this.
    pub p90_percent: f64,
    /// The largest.
    pub worst_percent: f64,
    /// The share that the intervals allow, in percent.
    pub allowed_percent: f64,
    /// The median of the intervals' half widths relative to their medians, in percent.
    pub half_width_percent: f64,
}

impl Spread {
    /// Of no pairs there is none.
    pub fn of<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> Option<Self> {
        let (mut differences, mut widths, mut allowed) = (Vec::new(), Vec::new(), 0);
        for pair in pairs {
            differences.push(pair.difference_percent());
            allowed += usize::from(pair.is_allowed());
            let width = |figure: &Figure| (figure.high_ms - figure.low_ms) / figure.median_ms;
            widths.extend(pair.figures.iter().map(|figure| width(figure) * 50.0));
        }
        let worst_percent = differences.iter().copied().reduce(f64::max)?;
        Some(Self {
            pairs: differences.len(),
            allowed_percent: allowed as f64 / differences.len() as f64 * 100.0,
            median_percent: quantile(&mut differences, 0.5),
            p90_percent: quantile(&mut differences, 0.9),
            worst_percent,
            half_width_percent: quantile(&mut widths, 0.5),
        })
    }
}

/// The value that a share of them lies below, interpolated between neighbours. There is at least one.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = share * (values.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    values[below] + (values[above] - values[below]) * place.fract()
}

/// Everything that a check found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The device.
    pub platform: String,
    /// What layers were measured by.
    pub recipe: Recipe,
    /// Of all pairs.
    pub all: Spread,
    /// By kind.
    pub by_kind: BTreeMap<&'static str, Spread>,
    /// By how long they take.
    pub by_time: BTreeMap<&'static str, Spread>,
    /// Every pair.
    pub pairs: Vec<Pair>,
}

impl Report {
    /// `None` without pairs.
    pub fn new(platform: String, pairs: Vec<Pair>) -> Option<Self> {
        Some(Self {
            platform,
            recipe: Recipe::LAYER,
            all: Spread::of(&pairs)?,
            by_kind: grouped(&pairs, |pair| pair.layer.kind().name()),
            by_time: grouped(&pairs, |pair| time_class(pair.mean_ms())),
            pairs,
        })
    }
}

fn grouped(
    pairs: &[Pair],
    group: impl Fn(&Pair) -> &'static str,
) -> BTreeMap<&'static str, Spread> {
    let mut groups: BTreeMap<&'static str, Vec<&Pair>> = BTreeMap::new();
    for pair in pairs {
        groups.entry(group(pair)).or_default().push(pair);
    }
    let spread = |(name, pairs): (_, Vec<&Pair>)| Some((name, Spread::of(pairs)?));
    groups.into_iter().filter_map(spread).collect()
}

/// Names that sort by length.
fn time_class(ms: f64) -> &'static str {
    match ms {
        ..0.01 => "1: under 10 us",
        ..0.1 => "2: under 100 us",
        ..1.0 => "3: under 1 ms",
        ..10.0 => "4: under 10 ms",
        _ => "5: 10 ms and more",
    }
}

/// A spread of layers of the built-in networks, over kinds and orders of magnitude of their work; the same for a seed.
pub fn spread(count: usize, seed: u64) -> Vec<Layer> {
    let mut groups: BTreeMap<(Kind, u32), Vec<Layer>> = BTreeMap::new();
    let mut known = std::collections::BTreeSet::new();
    for builtin in zoo::all() {
        let network = builtin.build(Some(1), Dtype::F32);
        let network = network.expect("a built-in network at batch 1");
        for (_, layer) in network.layers() {
            if !layer.is_view() && known.insert(layer.hash()) {
                let work = layer.work();
                let magnitude = work.flops.max(work.bytes()).max(1).ilog10();
                let group = groups.entry((layer.kind(), magnitude)).or_default();
                group.push(layer.clone());
            }
        }
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut chosen = Vec::new();
    while chosen.len() < count && !groups.is_empty() {
        groups.retain(|_, group| {
            if chosen.len() < count {
                let index = random.random_range(0..group.len());
                chosen.push(group.swap_remove(index));
            }
            !group.is_empty()
        });
    }
    chosen
}

/// Measures each of `layers` twice, all in random order, each time built anew.
///
/// # Errors
/// The first failure of a measurement.
pub fn run(
    layers: &[Layer],
    seed: u64,
    executor: &Executor,
    scratch: &mut Scratch,
    clock: &dyn Clock,
) -> Result<Vec<Pair>, Failure> {
    let mut order: Vec<usize> = (0..layers.len()).chain(0..layers.len()).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    let pulse = Pulse::default();
    let mut runtimes: Vec<Vec<Runtime>> = vec![Vec::new(); layers.len()];
    let canary_layer = Subject::Layer(executor::canary_layer());
    let mut canary_ms = Vec::new();
    for (done, index) in order.into_iter().enumerate() {
        if done % LAYERS_PER_CANARY == 0 {
            let mut workload = executor.build(&canary_layer)?;
            canary_ms.push(measure_canary(workload.as_mut(), scratch, clock, &pulse)?);
        }
        let subject = Subject::Layer(layers[index].clone());
        let mut workload = executor.build(&subject)?;
        let runtime = measure(
            Recipe::of(&subject),
            workload.as_mut(),
            scratch,
            clock,
            &pulse,
        )?;
        runtimes[index].push(runtime);
    }
    let scatter = canary::scatter(&canary_ms);
    let pair = |(layer, runtimes): (&Layer, Vec<Runtime>)| Pair {
        layer: layer.clone(),
        figures: [0, 1].map(|at: usize| Figure::new(&runtimes[at], scatter)),
    };
    Ok(layers.iter().zip(runtimes).map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(kind: Kind, figures: [(f64, f64, f64); 2]) -> Pair {
        Pair {
            layer: kind.example(),
            figures: figures.map(|(median_ms, low_ms, high_ms)| Figure {
                median_ms,
                low_ms,
                high_ms,
            }),
        }
    }

    /// By hand: 0.95 and 1.05 differ by 10 % of their mean; 2 and 2 by nothing; 1 and 3 by 100 %.
    #[test]
    fn differences_and_what_intervals_allow() {
        let pairs = [
            pair(Kind::Relu, [(0.95, 0.94, 1.0), (1.05, 0.99, 1.06)]),
            pair(Kind::Relu, [(2.0, 1.9, 2.1), (2.0, 1.9, 2.1)]),
            pair(Kind::Conv2d, [(3.0, 2.9, 3.1), (1.0, 0.9, 1.1)]),
        ];
        let all = Spread::of(&pairs).expect("pairs");
        assert_eq!(all.pairs, 3);
        assert!((all.median_percent - 10.0).abs() < 1e-9);
        assert!((all.p90_percent - (10.0 + 0.8 * 90.0)).abs() < 1e-9);
        assert!((all.worst_percent - 100.0).abs() < 1e-9);
        assert!((all.allowed_percent - 200.0 / 3.0).abs() < 1e-9);
        let report = Report::new("here".to_owned(), pairs.to_vec()).expect("pairs");
        assert_eq!(report.by_kind["relu"].allowed_percent, 100.0);
        assert_eq!(report.by_kind["conv2d"].allowed_percent, 0.0);
        assert_eq!(report.by_time["4: under 10 ms"].pairs, 3);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn the_spread_has_all_kinds_of_the_networks_and_is_the_same_again() {
        let layers = spread(60, 7);
        assert_eq!(layers.len(), 60);
        assert_eq!(layers, spread(60, 7));
        assert_ne!(layers, spread(60, 8));
        let kinds: std::collections::BTreeSet<Kind> = layers.iter().map(Layer::kind).collect();
        assert!(kinds.len() >= 12, "{kinds:?}");
        let distinct: std::collections::BTreeSet<_> = layers.iter().map(Layer::hash).collect();
        assert_eq!(distinct.len(), 60, "none twice");
        assert!(spread(100_000, 1).len() > 400, "no more than there are");
    }
}
