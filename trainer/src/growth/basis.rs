//! What has been taken, as an orthonormal basis on all rows, and what it leaves unexplained.

use super::GAIN_SHARE_MIN;

/// A column that keeps less than this share of its variance beside the basis depends on it.
const OWN_SHARE_MIN: f64 = 1e-6;

/// An orthonormal basis, the constant included.
pub(super) struct Basis {
    directions: Vec<Vec<f64>>,
    residual: Vec<f64>,
}

impl Basis {
    /// The constant alone.
    pub(super) fn new(target: &[f64]) -> Self {
        let count = target.len() as f64;
        let mean = target.iter().sum::<f64>() / count;
        Self {
            directions: vec![vec![1.0 / count.sqrt(); target.len()]],
            residual: target.iter().map(|value| value - mean).collect(),
        }
    }

    /// What is left of the target.
    pub(super) fn residual(&self) -> &[f64] {
        &self.residual
    }

    /// Its square sum.
    pub(super) fn unexplained(&self) -> f64 {
        dot(&self.residual, &self.residual)
    }

    /// Takes up to `room` of the columns, best first, while each gains at least `enough` and not much less than the
    /// first, its gain taken times its discount.
    /// Returns their places.
    pub(super) fn take(
        &mut self,
        mut columns: Vec<Vec<f64>>,
        discounts: &[f64],
        room: usize,
        enough: f64,
    ) -> Vec<usize> {
        let spreads: Vec<f64> = columns.iter().map(|column| variance(column)).collect();
        self.clear(&mut columns);
        let mut accepted = Vec::new();
        let mut first = None;
        while accepted.len() < room {
            let gain = |place: usize| {
                let square = dot(&columns[place], &columns[place]);
                let is_own = square > OWN_SHARE_MIN * spreads[place];
                if is_own {
                    discounts[place] * dot(&columns[place], &self.residual).powi(2) / square
                } else {
                    0.0
                }
            };
            let gains = (0..columns.len()).map(|place| (place, gain(place)));
            let Some((place, gain)) = gains.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
            else {
                break;
            };
            if gain <= enough || gain < GAIN_SHARE_MIN * *first.get_or_insert(gain) {
                break;
            }
            let mut direction = std::mem::take(&mut columns[place]);
            columns[place] = vec![0.0; direction.len()];
            self.explain(&mut direction);
            for column in &mut columns {
                let along = dot(&direction, column);
                subtract(along, &direction, column);
            }
            self.directions.push(direction);
            accepted.push(place);
        }
        accepted
    }

    /// Takes a column whatever it gains; `false` if it depends on what was taken.
    pub(super) fn admit(&mut self, column: Vec<f64>) -> bool {
        let spread = variance(&column);
        let mut columns = [column];
        self.clear(&mut columns);
        let [mut direction] = columns;
        let is_own = dot(&direction, &direction) > OWN_SHARE_MIN * spread;
        if is_own {
            self.explain(&mut direction);
            self.directions.push(direction);
        }
        is_own
    }

    /// Takes what lies along the directions off each column.
    fn clear(&self, columns: &mut [Vec<f64>]) {
        for direction in &self.directions {
            for column in columns.iter_mut() {
                let along = dot(direction, column);
                subtract(along, direction, column);
            }
        }
    }

    /// Makes a cleared column a direction of length 1, and takes what lies along it off the residual.
    fn explain(&mut self, column: &mut Vec<f64>) {
        // Cleared once more, since the first time left rounding of the size of what was taken off.
        self.clear(std::slice::from_mut(column));
        let norm = dot(column, column).sqrt();
        column.iter_mut().for_each(|value| *value /= norm);
        let along = dot(column, &self.residual);
        subtract(along, column, &mut self.residual);
    }
}

/// Square sum about the mean.
fn variance(column: &[f64]) -> f64 {
    let mean = column.iter().sum::<f64>() / column.len() as f64;
    column.iter().map(|value| (value - mean).powi(2)).sum()
}

/// aᵀb in eight lanes, so that the compiler may use vector registers; the order depends on the length alone.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}

/// y ← y − a·x.
fn subtract(a: f64, x: &[f64], y: &mut [f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y -= a * x);
}
