//! The yardstick: what amounts of work cost, as a sum with no negative part.
//!
//! ```text
//! minimise over c ≥ 0    Σᵢ wᵢ (ln(Σₖ cₖ·costₖ(i)) − ln yᵢ)²
//! ```
//!
//! by Gauss-Newton: linearised at the present sum sᵢ it is non-negative least squares of 1 + ln(yᵢ/sᵢ) on costₖ(i)/sᵢ,
//! the first time at sᵢ = yᵢ. Which costs there are to choose from, physics says ([`costs`]): bytes of each tensor,
//! operations as they are and rounded up to whole tiles, what a bias, an activation or a padding adds.

use wattfarm_cost::Kind;
use wattfarm_cost::model::{Factor, Function, Scale, Target, Term, Weighted, feature_names};

use super::rows::Row;

/// The least constant, as a share of the smallest value: a scale must be positive for the smallest of layers.
const CONSTANT_SHARE_MIN: f64 = 0.01;

/// Linearisations: the costs settle within a few.
const ROUNDS: usize = 5;

/// Passes over the coefficients of a non-negative least-squares problem, and what share of the square sum a pass must
/// move to go on.
const PASSES_MAX: usize = 2_000;
const MOVE_MIN: f64 = 1e-12;

/// Layers below which only operations and bytes count, and layers for each coefficient of these: two layers would fit two
/// coefficients exactly, whatever they are.
const ROWS_FOR_COSTS: usize = 40;
const ROWS_PER_COEFFICIENT: usize = 3;

/// The yardstick of a target. Power has a constant alone: a device doesn't draw more for being busy longer.
pub(super) fn fit_scale(kind: Kind, rows: &[Row], target: Target) -> Scale {
    if target == Target::PowerW {
        return flat(rows);
    }
    let candidates = if rows.len() < ROWS_FOR_COSTS {
        let few = (rows.len() / ROWS_PER_COEFFICIENT).clamp(1, 3) - 1;
        ["bytes", "flops"].map(|name| amount(&[(name, Function::Power(1))]))[..few].to_vec()
    } else {
        costs(kind)
    };
    let smallest = rows
        .iter()
        .map(|row| row.log_value)
        .fold(f64::INFINITY, f64::min);
    let floor = smallest.exp() * CONSTANT_SHARE_MIN;
    let columns: Vec<Vec<f64>> = std::iter::once(vec![1.0; rows.len()])
        .chain(
            candidates
                .iter()
                .map(|term| rows.iter().map(|row| term.value(&row.features)).collect()),
        )
        .collect();
    let coefficients = minimise(rows, &columns, floor);
    let costs = candidates.into_iter().zip(&coefficients[1..]);
    let chosen = costs.filter(|(_, coefficient)| **coefficient > 0.0);
    Scale {
        constant: coefficients[0],
        costs: chosen
            .map(|(term, &coefficient)| Weighted { term, coefficient })
            .collect(),
        ..flat(rows)
    }
}

/// The yardstick that knows nothing of work: the geometric mean.
pub(super) fn flat(rows: &[Row]) -> Scale {
    let weight_sum: f64 = rows.iter().map(|row| row.weight).sum();
    let log_sum: f64 = rows.iter().map(|row| row.weight * row.log_value).sum();
    Scale::flat((log_sum / weight_sum).exp())
}

/// One non-negative coefficient for each column, the first (the constant) at least `floor`.
fn minimise(rows: &[Row], columns: &[Vec<f64>], floor: f64) -> Vec<f64> {
    let values: Vec<f64> = rows.iter().map(|row| row.log_value.exp()).collect();
    let mut sums = values.clone();
    let mut coefficients = vec![0.0; columns.len()];
    for _ in 0..ROUNDS {
        let targets: Vec<f64> = values
            .iter()
            .zip(&sums)
            .map(|(y, s)| 1.0 + (y / s).ln())
            .collect();
        let relative: Vec<Vec<f64>> = columns
            .iter()
            .map(|column| {
                column
                    .iter()
                    .zip(&sums)
                    .map(|(amount, s)| amount / s)
                    .collect()
            })
            .collect();
        coefficients = non_negative(rows, &relative, &targets);
        coefficients[0] = coefficients[0].max(floor);
        sums.fill(0.0);
        for (column, coefficient) in columns.iter().zip(&coefficients) {
            sums.iter_mut()
                .zip(column)
                .for_each(|(s, amount)| *s += coefficient * amount);
        }
    }
    coefficients
}

/// Non-negative least squares by coordinate descent on the normal equations of columns of norm 1.
fn non_negative(rows: &[Row], columns: &[Vec<f64>], targets: &[f64]) -> Vec<f64> {
    let product = |a: &[f64], b: &[f64]| -> f64 {
        rows.iter()
            .zip(a.iter().zip(b))
            .map(|(row, (a, b))| row.weight * a * b)
            .sum()
    };
    let norms: Vec<f64> = columns
        .iter()
        .map(|column| product(column, column).sqrt())
        .collect();
    let count = columns.len();
    let mut gram = vec![0.0; count * count];
    for j in 0..count {
        for k in 0..=j {
            let scaled =
                product(&columns[j], &columns[k]) / (norms[j] * norms[k]).max(f64::MIN_POSITIVE);
            gram[j * count + k] = scaled;
            gram[k * count + j] = scaled;
        }
    }
    // The gradient of each column at the present solution, kept up to date.
    let mut pull: Vec<f64> = columns
        .iter()
        .zip(&norms)
        .map(|(column, norm)| product(column, targets) / norm.max(f64::MIN_POSITIVE))
        .collect();
    let square = product(targets, targets);
    let mut solution = vec![0.0; count];
    for _ in 0..PASSES_MAX {
        let mut moved = 0.0_f64;
        for j in (0..count).filter(|&j| norms[j] > 0.0) {
            let change = (pull[j]).max(-solution[j]);
            if change != 0.0 {
                solution[j] += change;
                moved = moved.max(change * change);
                let column = &gram[j * count..][..count];
                pull.iter_mut()
                    .zip(column)
                    .for_each(|(pull, g)| *pull -= change * g);
            }
        }
        if moved <= MOVE_MIN * square {
            break;
        }
    }
    let unscaled = |(value, norm): (&f64, &f64)| if *norm > 0.0 { value / norm } else { 0.0 };
    solution.iter().zip(&norms).map(unscaled).collect()
}

fn amount(factors: &[(&str, Function)]) -> Term {
    let factors = factors
        .iter()
        .map(|&(feature, function)| Factor::new(feature, function));
    Term::new(factors.collect()).expect("one to four factors")
}

/// Tiles that products of matrices are computed in, by rows (m) and columns (n) of the output.
const TILES: [(f64, f64); 9] = [
    (1.0, 4.0),
    (1.0, 8.0),
    (1.0, 16.0),
    (1.0, 32.0),
    (1.0, 64.0),
    (1.0, 128.0),
    (128.0, 32.0),
    (128.0, 64.0),
    (128.0, 128.0),
];

/// Blocks that the summed dimension (k) is taken in.
const BLOCKS: [f64; 2] = [8.0, 32.0];

/// The largest window that costs something of its own.
const WINDOW_MAX: u64 = 11;

/// What work may cost, beside a constant.
fn costs(kind: Kind) -> Vec<Term> {
    use Function::{Ceil, Equals, Not, Power};
    let names = feature_names(kind);
    let has = |name: &str| names.contains(&name);
    let itself = Power(1);
    let mut costs: Vec<Term> = [
        "flops",
        "input_bytes",
        "parameter_bytes",
        "output_bytes",
        "batch",
    ]
    .into_iter()
    .filter(|name| has(name))
    .map(|name| amount(&[(name, itself)]))
    .collect();
    let additions = [
        ("bias", "output_bytes"),
        ("activation", "output_bytes"),
        ("uneven_padding", "input_bytes"),
    ];
    for (switch, bytes) in additions {
        if has(switch) {
            costs.push(amount(&[(switch, Not(0.0))]));
            costs.push(amount(&[(switch, Not(0.0)), (bytes, itself)]));
        }
    }
    if has("gemm_m") {
        let gemm = |m: Function, n: Function, k: Function| {
            amount(&[
                ("gemm_count", itself),
                ("gemm_m", m),
                ("gemm_n", n),
                ("gemm_k", k),
            ])
        };
        let rounded = |tile: f64| if tile > 1.0 { Ceil(tile) } else { itself };
        costs.extend(TILES.map(|(m, n)| gemm(rounded(m), rounded(n), itself)));
        for block in BLOCKS {
            costs.push(gemm(itself, itself, Ceil(block)));
            costs.push(gemm(itself, Ceil(32.0), Ceil(block)));
        }
        let sides = [
            ("gemm_m", itself, "gemm_k", itself),
            ("gemm_m", itself, "gemm_k", Ceil(8.0)),
            ("gemm_m", itself, "gemm_n", Ceil(8.0)),
            ("gemm_m", itself, "gemm_n", Ceil(32.0)),
        ];
        costs.extend(
            sides.map(|(f, of_f, g, of_g)| amount(&[("gemm_count", itself), (f, of_f), (g, of_g)])),
        );
        costs.extend(["gemm_k", "gemm_n"].map(|side| amount(&[(side, itself)])));
    }
    if has("kernel_h") && !has("gemm_m") {
        costs.push(amount(&[("output_bytes", itself), ("kernel_h", itself)]));
        costs
            .extend((1..=WINDOW_MAX).map(|size| {
                amount(&[("output_bytes", itself), ("kernel_h", Equals(size as f64))])
            }));
    }
    if has("batch") && has("channels") {
        costs.push(amount(&[("batch", itself), ("channels", itself)]));
    }
    costs
}
