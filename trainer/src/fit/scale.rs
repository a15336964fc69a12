//! The yardstick: non-negative least squares of the relative error over a constant, operations and bytes.
//!
//! ```text
//! minimise over c, f, b ≥ 0    Σᵢ wᵢ ((c + f·flopsᵢ + b·bytesᵢ) / yᵢ − 1)²
//! ```
//!
//! Three unknowns have seven supports: the best of the non-negative least-squares solutions over them is the answer.

use wattfarm_cost::model::{Scale, Target};

use super::rows::Row;

/// The least constant, as a share of the smallest value: a scale must be positive for the smallest of layers.
const CONSTANT_SHARE_MIN: f64 = 0.01;

/// What a column of norm 1 must keep beside the others for its coefficient to be determined.
const PIVOT_MIN: f64 = 1e-10;

/// Layers for each coefficient, at least: two layers would fit two coefficients exactly, whatever they are.
const ROWS_PER_COEFFICIENT: usize = 3;

/// The yardstick of a target. Power has a constant alone: a device doesn't draw more for being busy longer.
pub(super) fn fit_scale(rows: &[Row], target: Target) -> Scale {
    let smallest = rows
        .iter()
        .map(|row| row.log_value)
        .fold(f64::INFINITY, f64::min)
        .exp();
    let floor = smallest * CONSTANT_SHARE_MIN;
    let weight_sum: f64 = rows.iter().map(|row| row.weight).sum();
    let mean = (rows
        .iter()
        .map(|row| row.weight * row.log_value)
        .sum::<f64>()
        / weight_sum)
        .exp();
    let flat = Scale {
        constant: mean,
        per_flop: 0.0,
        per_byte: 0.0,
    };
    if target == Target::PowerW {
        return flat;
    }
    let columns = relative_columns(rows);
    let coefficients_max = (rows.len() / ROWS_PER_COEFFICIENT).clamp(1, 3);
    let supports =
        (1..8_usize).map(|bits| (0..3).filter(|j| bits >> j & 1 == 1).collect::<Vec<_>>());
    let solutions = supports
        .filter(|support| support.len() <= coefficients_max)
        .filter_map(|support| {
            let coefficients = solve(rows, &columns, &support)?;
            let error = relative_error(rows, &columns, &coefficients);
            Some((error, coefficients))
        });
    let best = solutions.min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(flat, |(_, [constant, per_flop, per_byte])| Scale {
        constant: constant.max(floor),
        per_flop,
        per_byte,
    })
}

/// 1, flops and bytes, each over the measured value.
fn relative_columns(rows: &[Row]) -> [Vec<f64>; 3] {
    let over_value = |of: fn(&Row) -> f64| {
        rows.iter()
            .map(|row| of(row) / row.log_value.exp())
            .collect()
    };
    [
        over_value(|_| 1.0),
        over_value(|row| row.layer.work().flops as f64),
        over_value(|row| row.layer.work().bytes() as f64),
    ]
}

fn relative_error(rows: &[Row], columns: &[Vec<f64>; 3], coefficients: &[f64; 3]) -> f64 {
    let error = |(i, row): (usize, &Row)| {
        let ratio: f64 = columns
            .iter()
            .zip(coefficients)
            .map(|(column, coefficient)| column[i] * coefficient)
            .sum();
        row.weight * (ratio - 1.0).powi(2)
    };
    rows.iter().enumerate().map(error).sum()
}

/// Least squares over a support, `None` where a coefficient is negative or not determined.
fn solve(rows: &[Row], columns: &[Vec<f64>; 3], support: &[usize]) -> Option<[f64; 3]> {
    let product = |a: &[f64], b: &[f64]| {
        rows.iter()
            .zip(a.iter().zip(b))
            .map(|(row, (a, b))| row.weight * a * b)
            .sum()
    };
    let ones = vec![1.0; rows.len()];
    // On columns of norm 1, since operations and constants are ten decades apart.
    let norms: Vec<f64> = support
        .iter()
        .map(|&j| f64::sqrt(product(&columns[j], &columns[j])))
        .collect();
    if norms.contains(&0.0) {
        return None;
    }
    let mut system: Vec<Vec<f64>> = Vec::new();
    for (&i, norm_i) in support.iter().zip(&norms) {
        let entry =
            |(&j, norm_j): (&usize, &f64)| product(&columns[i], &columns[j]) / (norm_i * norm_j);
        let mut equation: Vec<f64> = support.iter().zip(&norms).map(entry).collect();
        equation.push(product(&columns[i], &ones) / norm_i);
        system.push(equation);
    }
    let solution = eliminate(system)?;
    let mut coefficients = [0.0; 3];
    for ((&j, norm), value) in support.iter().zip(&norms).zip(solution) {
        coefficients[j] = value / norm;
    }
    coefficients
        .iter()
        .all(|&coefficient| coefficient >= 0.0)
        .then_some(coefficients)
}

/// Solves a small symmetric positive definite system whose rows end with the right-hand side; `None` if it is singular.
fn eliminate(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let order = system.len();
    for pivot in 0..order {
        let equation = system[pivot].clone();
        if equation[pivot] <= PIVOT_MIN {
            return None;
        }
        for later in &mut system[pivot + 1..] {
            let factor = later[pivot] / equation[pivot];
            later
                .iter_mut()
                .zip(&equation)
                .skip(pivot)
                .for_each(|(value, above)| *value -= factor * above);
        }
    }
    let mut solution = vec![0.0; order];
    for row in (0..order).rev() {
        let known: f64 = (row + 1..order)
            .map(|column| system[row][column] * solution[column])
            .sum();
        solution[row] = (system[row][order] - known) / system[row][row];
    }
    Some(solution)
}
