//! The base functions of a kind's features that candidates are made of.

use std::collections::BTreeSet;

use wattfarm_cost::Kind;
use wattfarm_cost::model::{Factor, Function, feature_names};

use super::rows::Row;

/// What a base function tells, which decides on the products that it is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// How large something is: a logarithm.
    Size,
    /// Whether a feature has one certain value.
    Case,
    /// Whether a size is a multiple of a tile.
    Multiple,
    /// From where on a logarithm counts differently.
    Bend,
    /// What rounding up to tiles costs.
    Waste,
}

/// A base function with its values.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) factor: Factor,
    pub(super) role: Role,
    /// Whether it may be part of products beyond those of two sizes.
    pub(super) is_key: bool,
    /// One value for each row.
    pub(super) column: Vec<f64>,
    /// What is taken off before products are formed: the mean of what varies smoothly, nothing off a yes or no.
    pub(super) centre: f64,
}

/// Rows that must have, and rows that must lack, a property for a model to speak of it.
const CASE_ROWS_MIN: usize = 4;

/// Rows below which bends would follow the noise.
const BEND_ROWS_MIN: usize = 40;

/// Rows for each bend of a feature, and the most of them.
const ROWS_PER_BEND: usize = 60;
const BENDS_MAX: usize = 5;

/// Different values that a feature must have to bend.
const BEND_VALUES_MIN: usize = 8;

/// The largest kernel, stride or dilation that may be a case of its own.
const STEP_MAX: f64 = 11.0;

/// Widths that vectors, registers and thread groups come in.
const MULTIPLES: [f64; 5] = [4.0, 8.0, 16.0, 32.0, 64.0];
const TILES: [f64; 5] = [8.0, 16.0, 32.0, 64.0, 128.0];

/// Features that kernels cut into tiles.
const TILED: [&str; 5] = ["gemm_m", "gemm_n", "gemm_k", "out_width", "in_channels"];

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
    /// A size that much of the cost follows.
    Amount,
    /// Any other size.
    Minor,
}

fn group(feature: &str) -> Group {
    match feature {
        "bias" | "activation" | "ceil_mode" | "causal" => Group::Switch,
        "pad_top" | "pad_bottom" | "pad_left" | "pad_right" => Group::Padding,
        "kernel_h" | "kernel_w" | "stride_h" | "stride_w" | "dilation_h" | "dilation_w"
        | "groups" | "size" | "entries" => Group::Step,
        "in_channels" | "out_channels" | "channels" | "features" | "in_features"
        | "out_features" | "inner" | "head_dim" | "run" | "gemm_n" => Group::Width,
        "batch" | "flops" | "bytes" | "input_bytes" | "parameter_bytes" | "output_bytes"
        | "gemm_m" | "gemm_k" => Group::Amount,
        _ => Group::Minor,
    }
}

/// The base functions that vary over `rows`, all of one kind; bends and waste only if `with_details`.
pub(super) fn base(kind: Kind, rows: &[Row], with_details: bool) -> Vec<Base> {
    let of_feature = |feature| {
        let values = distinct(rows, feature);
        let mut functions = functions(feature, &values);
        if with_details {
            functions.extend(details(feature, &values, rows.len()));
        }
        functions
            .into_iter()
            .filter_map(move |(function, role)| made(rows, feature, function, role))
    };
    feature_names(kind)
        .into_iter()
        .flat_map(of_feature)
        .collect()
}

fn functions(feature: &str, values: &[f64]) -> Vec<(Function, Role)> {
    let size = (Function::Log, Role::Size);
    let case = |&value: &f64| (Function::Equals(value), Role::Case);
    match group(feature) {
        Group::Switch => values.iter().skip(1).map(case).collect(),
        Group::Padding => vec![case(&0.0)],
        Group::Step => {
            let cases = values.iter().filter(|value| **value <= STEP_MAX).map(case);
            [size].into_iter().chain(cases).collect()
        }
        Group::Width => {
            let multiples = MULTIPLES.map(|tile| (Function::Multiple(tile), Role::Multiple));
            // One output channel a group (depthwise), and images of three colours, have code of their own.
            [size, case(&1.0), case(&3.0)]
                .into_iter()
                .chain(multiples)
                .collect()
        }
        Group::Amount | Group::Minor => vec![size],
    }
}

fn details(feature: &str, values: &[f64], rows: usize) -> Vec<(Function, Role)> {
    let bends = match group(feature) {
        Group::Width | Group::Amount | Group::Minor => knots(values, rows),
        Group::Switch | Group::Padding | Group::Step => Vec::new(),
    };
    let waste = if TILED.contains(&feature) {
        TILES.to_vec()
    } else {
        Vec::new()
    };
    let bends = bends
        .into_iter()
        .map(|knot| (Function::Hinge(knot), Role::Bend));
    bends
        .chain(
            waste
                .into_iter()
                .map(|tile| (Function::Waste(tile), Role::Waste)),
        )
        .collect()
}

/// Where a feature's logarithm may bend: at quantiles of its values, more of them the more rows there are.
fn knots(values: &[f64], rows: usize) -> Vec<f64> {
    if rows < BEND_ROWS_MIN || values.len() < BEND_VALUES_MIN {
        return Vec::new();
    }
    let count = (rows / ROWS_PER_BEND).clamp(1, BENDS_MAX);
    let quantile = |k: usize| values[k * values.len() / (count + 1)].max(1.0).ln();
    // Two decimals are enough, and readable in the model.
    let mut knots: Vec<f64> = (1..=count)
        .map(|k| (quantile(k) * 100.0).round() / 100.0)
        .collect();
    knots.dedup();
    knots
}

/// The values of a feature, ascending.
fn distinct(rows: &[Row], feature: &str) -> Vec<f64> {
    let bits: BTreeSet<u64> = rows
        .iter()
        .filter_map(|row| row.features.get(feature))
        .map(f64::to_bits)
        .collect();
    bits.into_iter().map(f64::from_bits).collect() // no feature is negative, so the bits are in the values' order
}

/// A base function with its values, `None` if they tell too little.
fn made(rows: &[Row], feature: &str, function: Function, role: Role) -> Option<Base> {
    let factor = Factor::new(feature, function);
    let column: Vec<f64> = rows.iter().map(|row| factor.value(&row.features)).collect();
    let is_key = match role {
        Role::Size | Role::Bend => {
            matches!(group(feature), Group::Step | Group::Width | Group::Amount)
        }
        Role::Case => matches!(group(feature), Group::Step | Group::Width),
        Role::Multiple => true,
        Role::Waste => feature == "gemm_n",
    };
    let (tells, centre) = match role {
        Role::Case | Role::Multiple => {
            let with = column.iter().filter(|&&value| value == 1.0).count();
            (with.min(rows.len() - with) >= CASE_ROWS_MIN, 0.0)
        }
        Role::Size | Role::Bend | Role::Waste => (
            column.iter().any(|&value| value != column[0]),
            column.iter().sum::<f64>() / rows.len() as f64,
        ),
    };
    tells.then_some(Base {
        factor,
        role,
        is_key,
        column,
        centre,
    })
}
