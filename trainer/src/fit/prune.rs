//! Fewer terms for the same polynomial: the one with the least information is left out again and again, the others take
//! over what it did (backward elimination against the polynomial's own values, so that no noise is fitted).

/// Share of its variance added to each column's own, so that columns that depend on others can be told apart.
const RIDGE: f64 = 1e-7;

/// A polynomial's terms by their places, with coefficients, and its constant.
#[derive(Debug, PartialEq)]
pub(super) struct Pruned {
    pub(super) kept: Vec<(usize, f64)>,
    pub(super) intercept: f64,
}

/// Keeps `count` of the columns (each with a value for each row) such that least squares of them comes near
/// `intercept` + Σ coefficient · column.
pub(super) fn prune(
    columns: &[Vec<f64>],
    coefficients: &[f64],
    intercept: f64,
    count: usize,
) -> Pruned {
    let means: Vec<f64> = columns.iter().map(|column| mean(column)).collect();
    let centre = intercept + product(coefficients, &means);
    let mut inverse = Inverse::new(columns, &means);
    let mut solution = coefficients.to_vec();
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    while kept.len() > count {
        // Without a column the square error grows by its coefficient's square over its place in the inverse.
        let cost = |&place: &usize| solution[place].powi(2) / inverse.at(place, place);
        let least = kept
            .iter()
            .copied()
            .min_by(|a, b| cost(a).total_cmp(&cost(b)).then(a.cmp(b)))
            .expect("more columns than wanted");
        kept.retain(|&place| place != least);
        let share = solution[least] / inverse.at(least, least);
        for &place in &kept {
            solution[place] -= share * inverse.at(place, least);
        }
        inverse.remove(least, &kept);
    }
    let kept: Vec<(usize, f64)> = kept.iter().map(|&place| (place, solution[place])).collect();
    let moved: f64 = kept
        .iter()
        .map(|&(place, value)| value * means[place])
        .sum();
    Pruned {
        kept,
        intercept: centre - moved,
    }
}

/// The inverse of the columns' Gram matrix about their means.
struct Inverse {
    count: usize,
    values: Vec<f64>,
}

impl Inverse {
    fn new(columns: &[Vec<f64>], means: &[f64]) -> Self {
        let count = columns.len();
        let centred: Vec<Vec<f64>> = columns
            .iter()
            .zip(means)
            .map(|(column, mean)| column.iter().map(|value| value - mean).collect())
            .collect();
        let mut gram = vec![0.0; count * count];
        for row in 0..count {
            for column in 0..=row {
                let value = product(&centred[row], &centred[column]);
                gram[row * count + column] = value;
                gram[column * count + row] = value;
            }
            gram[row * count + row] *= 1.0 + RIDGE;
        }
        invert(&mut gram, count);
        Self {
            count,
            values: gram,
        }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.count + column]
    }

    /// Makes it the inverse without one of the columns; only places in `kept` mean anything afterwards.
    fn remove(&mut self, place: usize, kept: &[usize]) {
        let pivot = self.at(place, place);
        for &row in kept {
            let share = self.at(row, place) / pivot;
            for &column in kept {
                self.values[row * self.count + column] -= share * self.at(place, column);
            }
        }
    }
}

/// Inverts a positive definite matrix in place (Gauss-Jordan; no pivoting is needed).
fn invert(matrix: &mut [f64], count: usize) {
    for pivot in 0..count {
        let scale = 1.0 / matrix[pivot * count + pivot].max(f64::MIN_POSITIVE);
        let pivot_row: Vec<f64> = matrix[pivot * count..][..count].to_vec();
        for row in (0..count).filter(|&row| row != pivot) {
            let share = matrix[row * count + pivot] * scale;
            let values = &mut matrix[row * count..][..count];
            values
                .iter_mut()
                .zip(&pivot_row)
                .for_each(|(value, other)| *value -= share * other);
            values[pivot] = -share;
        }
        let values = &mut matrix[pivot * count..][..count];
        values.iter_mut().for_each(|value| *value *= scale);
        values[pivot] = scale;
    }
}

fn mean(column: &[f64]) -> f64 {
    column.iter().sum::<f64>() / column.len() as f64
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(seed: u64) -> Vec<f64> {
        let value = |row: u64| {
            let mixed = (row + 1000 * seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 11) as f64
                / (1_u64 << 53) as f64
        };
        (0..200).map(value).collect()
    }

    fn values(columns: &[Vec<f64>], pruned: &Pruned) -> Vec<f64> {
        let at = |row: usize| {
            let terms = pruned.kept.iter();
            pruned.intercept + terms.map(|&(k, c)| c * columns[k][row]).sum::<f64>()
        };
        (0..200).map(at).collect()
    }

    #[test]
    fn what_others_say_as_well_goes_and_nothing_changes() {
        let mut columns: Vec<Vec<f64>> = (0..4).map(column).collect();
        let both = |k: usize| 2.0 * columns[0][k] - columns[1][k] + 3.0;
        columns.push((0..200).map(both).collect());
        let coefficients = [1.0, 0.5, -2.0, 0.1, 0.7];
        let all = Pruned {
            kept: coefficients.iter().copied().enumerate().collect(),
            intercept: 4.0,
        };
        let pruned = prune(&columns, &coefficients, 4.0, 4);
        assert_eq!(pruned.kept.len(), 4);
        assert!(pruned.kept.iter().any(|(place, _)| *place == 3));
        for (a, b) in values(&columns, &all).iter().zip(values(&columns, &pruned)) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn of_what_is_independent_the_least_goes() {
        let columns: Vec<Vec<f64>> = (0..4).map(column).collect();
        let pruned = prune(&columns, &[1.0, -0.01, 2.0, 0.5], 0.0, 3);
        let kept: Vec<usize> = pruned.kept.iter().map(|(place, _)| *place).collect();
        assert_eq!(kept, [0, 2, 3]);
    }

    #[test]
    fn enough_room_changes_nothing() {
        let columns = vec![column(1)];
        let pruned = prune(&columns, &[2.0], 1.0, 5);
        assert_eq!(pruned.kept, [(0, 2.0)]);
        assert!((pruned.intercept - 1.0).abs() < 1e-12);
    }
}
