//! The base functions of a kind's features that terms are products of.

use std::collections::BTreeSet;

use wattfarm_cost::model::{Factor, Features, Function};

/// Base functions with their values.
#[derive(Debug)]
pub(super) struct Factors {
    factors: Vec<Factor>,
    /// One after the other, each with a value for each row.
    pub(super) columns: Vec<f64>,
}

impl Factors {
    /// The base functions that vary over layers of one kind, given by their features; no two have the same values.
    pub(super) fn of(layers: &[Features]) -> Self {
        let (mut factors, mut columns) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let names = layers.first().into_iter().flat_map(Features::iter);
        for feature in names.map(|(name, _)| name) {
            let values: Vec<f64> = layers
                .iter()
                .filter_map(|features| features.get(feature))
                .collect();
            for function in functions(feature, &values) {
                let column: Vec<f64> = values.iter().map(|value| function.value(*value)).collect();
                if tells(function, &column) && seen.insert(fingerprint(&column)) {
                    factors.push(Factor::new(feature, function));
                    columns.extend(column);
                }
            }
        }
        Self { factors, columns }
    }

    /// The places of the logarithms.
    pub(super) fn sizes(&self) -> Vec<usize> {
        let is_size = |place: &usize| matches!(self.factors[*place].function, Function::Log(_));
        (0..self.factors.len()).filter(is_size).collect()
    }

    pub(super) fn get(&self, place: usize) -> &Factor {
        &self.factors[place]
    }
}

/// Rows that must have, and rows that must lack, a property for a model to speak of it.
const CASE_ROWS_MIN: usize = 4;

/// Rows below which bends would follow the noise.
const BEND_ROWS_MIN: usize = 40;

/// Rows for each bend of a feature, and the most of them.
const ROWS_PER_BEND: usize = 150;
const BENDS_MAX: usize = 7;

/// The same for steps.
const ROWS_PER_STEP: usize = 50;
const STEPS_MAX: usize = 15;

/// Different values that a feature must have to bend.
const BEND_VALUES_MIN: usize = 8;

/// The largest kernel, stride or dilation that may be a case of its own, and the largest number of channels.
const STEP_MAX: f64 = 11.0;
const WIDTH_CASE_MAX: f64 = 4.0;

/// Widths that vectors, registers and thread groups come in.
const MULTIPLES: [f64; 6] = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
const TILES: [f64; 5] = [8.0, 16.0, 32.0, 64.0, 128.0];

/// Features that kernels cut into tiles.
const TILED: [&str; 6] = [
    "gemm_m",
    "gemm_n",
    "gemm_k",
    "out_width",
    "in_channels",
    "batch",
];

/// What sort of feature it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// A yes or no, or one of a few words.
    Switch,
    Padding,
    /// A small number that decides which code runs.
    Step,
    /// A size that code is vectorised over.
    Width,
    /// Rows or columns of an image: one is a case of its own.
    Extent,
    /// Any other size.
    Amount,
    /// From 0 to 1.
    Share,
}

fn group(feature: &str) -> Group {
    match feature {
        "bias" | "activation" | "ceil_mode" | "causal" => Group::Switch,
        "pad_top" | "pad_bottom" | "pad_left" | "pad_right" | "uneven_padding" => Group::Padding,
        "kernel_h" | "kernel_w" | "stride_h" | "stride_w" | "dilation_h" | "dilation_w"
        | "groups" | "size" | "entries" => Group::Step,
        "in_height" | "in_width" | "out_height" | "out_width" => Group::Extent,
        "in_channels" | "out_channels" | "group_channels" | "channels" | "features"
        | "in_features" | "out_features" | "inner" | "head_dim" | "run" | "gemm_n" => Group::Width,
        "compute_share" | "memory_share" | "launch_share" => Group::Share,
        _ => Group::Amount,
    }
}

fn functions(feature: &str, values: &[f64]) -> Vec<Function> {
    let distinct = distinct(values);
    let cases = |most: f64| {
        let small = distinct.iter().copied().filter(move |value| *value <= most);
        small.map(Function::Equals)
    };
    let size = || [Function::Log(centre(values))];
    match group(feature) {
        Group::Switch => {
            let others = distinct
                .iter()
                .copied()
                .filter(|value| *value != 0.0)
                .map(Function::Equals);
            std::iter::once(Function::Not(0.0)).chain(others).collect()
        }
        Group::Padding => vec![Function::Not(0.0)],
        Group::Share => vec![Function::Power(1)],
        Group::Step => size().into_iter().chain(cases(STEP_MAX)).collect(),
        Group::Width => size()
            .into_iter()
            .chain(cases(WIDTH_CASE_MAX))
            .chain(MULTIPLES.map(Function::Multiple))
            .chain(bends(values, &distinct))
            .chain(waste(feature))
            .collect(),
        Group::Extent => size()
            .into_iter()
            .chain(cases(1.0))
            .chain(bends(values, &distinct))
            .chain(waste(feature))
            .collect(),
        Group::Amount => size()
            .into_iter()
            .chain(bends(values, &distinct))
            .chain(waste(feature))
            .collect(),
    }
}

fn waste(feature: &str) -> impl Iterator<Item = Function> {
    let tiles = TILED
        .contains(&feature)
        .then_some(TILES.map(Function::Waste));
    tiles.into_iter().flatten()
}

/// Where a feature's logarithm may bend: at quantiles of its values, more of them the more rows there are.
fn bends(values: &[f64], distinct: &[f64]) -> Vec<Function> {
    if values.len() < BEND_ROWS_MIN || distinct.len() < BEND_VALUES_MIN {
        return Vec::new();
    }
    let mut ascending = values.to_vec();
    ascending.sort_by(f64::total_cmp);
    let quantiles = |rows_each: usize, most: usize| {
        let count = (values.len() / rows_each).clamp(1, most);
        let quantile = |k: usize| ascending[k * ascending.len() / (count + 1)].max(1.0);
        let mut found: Vec<f64> = (1..=count).map(quantile).collect();
        found.dedup();
        found
    };
    let mut knots: Vec<f64> = quantiles(ROWS_PER_BEND, BENDS_MAX)
        .into_iter()
        .map(|value| rounded(value.ln()))
        .collect();
    knots.dedup();
    let steps = quantiles(ROWS_PER_STEP, STEPS_MAX)
        .into_iter()
        .map(Function::From);
    steps
        .chain(knots.into_iter().map(Function::Hinge))
        .collect()
}

/// The usual size: products of deviations from it say what their factors alone don't.
fn centre(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().map(|value| value.max(1.0).ln()).sum();
    rounded(sum / values.len() as f64)
}

/// Two decimals are enough, and readable in the model.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The values that occur, ascending.
fn distinct(values: &[f64]) -> Vec<f64> {
    let bits: BTreeSet<u64> = values.iter().map(|value| value.to_bits()).collect();
    bits.into_iter().map(f64::from_bits).collect() // no feature is negative, so the bits are in the values' order
}

/// Whether a base function says something of these rows.
fn tells(function: Function, column: &[f64]) -> bool {
    match function {
        Function::Equals(_) | Function::Not(_) | Function::From(_) | Function::Multiple(_) => {
            let with = column.iter().filter(|&&value| value == 1.0).count();
            with.min(column.len() - with) >= CASE_ROWS_MIN
        }
        _ => column.iter().any(|&value| value != column[0]),
    }
}

/// A column up to scale, shift and rounding: columns that differ by no more say the same.
fn fingerprint(column: &[f64]) -> Vec<i64> {
    let (least, most) = column.iter().fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), &value| (least.min(value), most.max(value)),
    );
    let place = |value: &f64| ((value - least) / (most - least) * 1e6).round() as i64;
    let places: Vec<i64> = column.iter().map(place).collect();
    // A falling column says what a rising one does.
    match places[0] > 500_000 {
        true => places.into_iter().map(|place| 1_000_000 - place).collect(),
        false => places,
    }
}
