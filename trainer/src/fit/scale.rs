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

/// Yardsticks for a target, the flattest last.
pub(super) fn candidates(kind: Kind, rows: &[Row], target: Target) -> Vec<Scale> {
    let values: Vec<f64> = rows.iter().map(|row| row.log_value).collect();
    let flat = Scale::flat(geometric_mean(rows));
    match target {
        Target::RuntimeMs | Target::EnergyMj => {
            let scale = of_work(kind, rows, &values);
            match scale.costs.is_empty() {
                true => vec![scale],
                false => vec![scale, flat],
            }
        }
        Target::PowerW => match of_power(kind, rows, &values) {
            Some(scale) => vec![scale, flat],
            None => vec![flat],
        },
    }
}

/// Costs of amounts of work.
fn of_work(kind: Kind, rows: &[Row], log_values: &[f64]) -> Scale {
    let candidates = if rows.len() < ROWS_FOR_COSTS {
        let few = (rows.len() / ROWS_PER_COEFFICIENT).clamp(1, 3) - 1;
        ["bytes", "flops"].map(Term::amount)[..few].to_vec()
    } else {
        costs(kind)
    };
    let columns = candidates
        .iter()
        .map(|term| rows.iter().map(|row| term.value(&row.features)).collect());
    let (constant, coefficients) = minimise(rows, log_values, columns.collect());
    Scale {
        constant,
        costs: weigh(candidates, coefficients),
        time: None,
    }
}

/// What each sort of work draws, as shares of the time that it takes. `None` without runtimes.
fn of_power(kind: Kind, rows: &[Row], log_values: &[f64]) -> Option<Scale> {
    let log_runtimes = rows.iter().map(|row| row.log_runtime);
    let log_runtimes: Vec<f64> = log_runtimes.collect::<Option<_>>()?;
    let time = of_work(kind, rows, &log_runtimes);
    let whole: Vec<f64> = rows.iter().map(|row| time.of(&row.features)).collect();
    let share = |term: &Term| {
        let rows = rows.iter().zip(&whole);
        rows.map(|(row, whole)| term.value(&row.features) / whole)
            .collect()
    };
    let terms: Vec<Term> = time.costs.iter().map(|cost| cost.term.clone()).collect();
    let columns = terms.iter().map(share).collect();
    let (constant, coefficients) = minimise(rows, log_values, columns);
    Some(Scale {
        constant,
        costs: weigh(terms, coefficients),
        time: Some(Box::new(time)),
    })
}

/// The terms that have a cost.
fn weigh(terms: Vec<Term>, coefficients: Vec<f64>) -> Vec<Weighted> {
    let costs = terms.into_iter().zip(coefficients);
    costs
        .filter(|(_, coefficient)| *coefficient > 0.0)
        .map(|(term, coefficient)| Weighted { term, coefficient })
        .collect()
}

fn geometric_mean(rows: &[Row]) -> f64 {
    let weight_sum: f64 = rows.iter().map(|row| row.weight).sum();
    let log_sum: f64 = rows.iter().map(|row| row.weight * row.log_value).sum();
    (log_sum / weight_sum).exp()
}

/// A constant, and one non-negative coefficient for each column.
fn minimise(rows: &[Row], log_values: &[f64], mut columns: Vec<Vec<f64>>) -> (f64, Vec<f64>) {
    let smallest = log_values.iter().copied().fold(f64::INFINITY, f64::min);
    let floor = smallest.exp() * CONSTANT_SHARE_MIN;
    columns.insert(0, vec![1.0; rows.len()]);
    let values: Vec<f64> = log_values.iter().map(|value| value.exp()).collect();
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
    let constant = coefficients.remove(0);
    (constant, coefficients)
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

/// What work costs where libraries have code of its own for a convolution: 1x1, 3x3 with stride 1, depthwise, other than
/// square, and where a kernel is used once only, so that what prepares the weights for many uses is lost.
fn regimes() -> impl Iterator<Item = Term> {
    use Function::{Equals, Not, Power};
    let cases: [&[(&str, Function)]; 6] = [
        &[("kernel_h", Equals(1.0))],
        &[("kernel_h", Equals(3.0)), ("stride_h", Equals(1.0))],
        &[("group_channels", Equals(1.0))],
        &[("groups", Not(1.0))],
        &[("stride_h", Not(1.0))],
        &[("out_height", Equals(1.0))],
    ];
    let amounts = ["flops", "input_bytes", "parameter_bytes", "output_bytes"];
    cases
        .into_iter()
        .flat_map(move |case| amounts.map(|name| amount(&[case, &[(name, Power(1))]].concat())))
}

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
    if has("group_channels") {
        costs.extend(regimes());
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
