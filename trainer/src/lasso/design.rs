//! The data of a fit, checked once.

use thiserror::Error;

/// Largest magnitude accepted for a value, a target or a weight (and its inverse, for a weight): beyond it, squares
/// and sums of squares could leave the range of `f64`, and no layer costs 10¹⁰⁰ of anything.
pub const MAGNITUDE_MAX: f64 = 1e100;

/// A checked, borrowed view of n rows by p columns with their target and, if given, weights.
///
/// Holds: n ≥ 1; every value and target is finite and at most [`MAGNITUDE_MAX`] in magnitude; every weight is positive
/// and within the same bounds. p may be 0 (an intercept alone) and may exceed n.
#[derive(Clone, Copy, Debug)]
pub struct Design<'a> {
    columns: &'a [f64],
    column_count: usize,
    target: &'a [f64],
    weights: Option<&'a [f64]>,
}

/// Why data cannot be fitted.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum DesignError {
    /// The target is empty.
    #[error("design has no rows")]
    NoRows,
    /// The matrix does not have rows × columns values.
    #[error("design of `{rows}` rows by `{columns}` columns was given `{got}` values")]
    ColumnsLength {
        /// Length of the target.
        rows: usize,
        /// Number of columns announced.
        columns: usize,
        /// Number of values given.
        got: usize,
    },
    /// There is not one weight for each row.
    #[error("design of `{rows}` rows was given `{got}` weights")]
    WeightsLength {
        /// Length of the target.
        rows: usize,
        /// Number of weights given.
        got: usize,
    },
    /// A value is NaN, infinite or too large.
    #[error(
        "value `{value}` in row `{row}`, column `{column}` is not a finite number of at most 1e100"
    )]
    BadValue {
        /// Row, from 0.
        row: usize,
        /// Column, from 0.
        column: usize,
        /// The value found there.
        value: f64,
    },
    /// A target is NaN, infinite or too large.
    #[error("target `{value}` in row `{row}` is not a finite number of at most 1e100")]
    BadTarget {
        /// Row, from 0.
        row: usize,
        /// The target found there.
        value: f64,
    },
    /// A weight is not positive, NaN, or beyond 1e-100 to 1e100.
    #[error("weight `{value}` in row `{row}` is not a positive number from 1e-100 to 1e100")]
    BadWeight {
        /// Row, from 0.
        row: usize,
        /// The weight found there.
        value: f64,
    },
}

impl<'a> Design<'a> {
    /// Checks and takes a view: `columns` is column-major (column j is `columns[j·n..(j + 1)·n]`), n is the length of
    /// `target`; without `weights` every row weighs 1. Only ratios of weights matter.
    pub fn new(
        columns: &'a [f64],
        column_count: usize,
        target: &'a [f64],
        weights: Option<&'a [f64]>,
    ) -> Result<Self, DesignError> {
        let rows = target.len();
        if rows == 0 {
            return Err(DesignError::NoRows);
        }
        if rows.checked_mul(column_count) != Some(columns.len()) {
            return Err(DesignError::ColumnsLength {
                rows,
                columns: column_count,
                got: columns.len(),
            });
        }
        if let Some(weights) = weights {
            if weights.len() != rows {
                return Err(DesignError::WeightsLength {
                    rows,
                    got: weights.len(),
                });
            }
            let is_good = |weight: f64| (1.0 / MAGNITUDE_MAX..=MAGNITUDE_MAX).contains(&weight);
            if let Some(row) = weights.iter().position(|&weight| !is_good(weight)) {
                return Err(DesignError::BadWeight {
                    row,
                    value: weights[row],
                });
            }
        }
        if let Some(row) = target.iter().position(|&value| !is_usable(value)) {
            return Err(DesignError::BadTarget {
                row,
                value: target[row],
            });
        }
        if let Some(place) = columns.iter().position(|&value| !is_usable(value)) {
            return Err(DesignError::BadValue {
                row: place % rows,
                column: place / rows,
                value: columns[place],
            });
        }
        Ok(Self {
            columns,
            column_count,
            target,
            weights,
        })
    }

    /// n.
    pub fn row_count(&self) -> usize {
        self.target.len()
    }

    /// p.
    pub fn column_count(&self) -> usize {
        self.column_count
    }

    /// Column j, of length n.
    ///
    /// # Panics
    /// If j ≥ p.
    pub fn column(&self, j: usize) -> &'a [f64] {
        let n = self.target.len();
        &self.columns[j * n..(j + 1) * n]
    }

    /// y, of length n.
    pub fn target(&self) -> &'a [f64] {
        self.target
    }

    /// The weights as they were given.
    pub fn weights(&self) -> Option<&'a [f64]> {
        self.weights
    }

    /// The weight of one row.
    pub(super) fn weight(&self, row: usize) -> f64 {
        self.weights.map_or(1.0, |weights| weights[row])
    }

    /// Column j of [X y]: the target is the column after the last.
    pub(super) fn column_or_target(&self, j: usize) -> &'a [f64] {
        if j == self.column_count {
            self.target
        } else {
            self.column(j)
        }
    }

    /// ŷ of `rows`, in their order, into `out`: intercept + Σⱼ coefficientⱼ xⱼ over the nonzero coefficients.
    ///
    /// # Panics
    /// If there is not one coefficient for each column and one place in `out` for each row, or a row is not there.
    pub fn predict(&self, rows: &[usize], coefficients: &[f64], intercept: f64, out: &mut [f64]) {
        assert_eq!(
            coefficients.len(),
            self.column_count,
            "one coefficient for each column"
        );
        assert_eq!(rows.len(), out.len(), "one place for each row");
        out.fill(intercept);
        for (j, &coefficient) in coefficients.iter().enumerate() {
            if coefficient != 0.0 {
                let column = self.column(j);
                for (prediction, &row) in out.iter_mut().zip(rows) {
                    *prediction += coefficient * column[row];
                }
            }
        }
    }
}

fn is_usable(value: f64) -> bool {
    value.abs() <= MAGNITUDE_MAX // false for NaN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        let good = [1.0, 2.0, 3.0, 4.0];
        type Case<'a> = (&'a [f64], usize, &'a [f64], Option<&'a [f64]>, &'a str);
        let cases: [Case<'_>; 8] = [
            (&[], 2, &[], None, "design has no rows"),
            (
                &good,
                3,
                &[0.0, 1.0],
                None,
                "design of `2` rows by `3` columns was given `4` values",
            ),
            (
                &good,
                usize::MAX,
                &[0.0, 1.0],
                None,
                "design of `2` rows by `18446744073709551615` columns was given `4` values",
            ),
            (
                &good,
                2,
                &[0.0, 1.0],
                Some(&[1.0]),
                "design of `2` rows was given `1` weights",
            ),
            (
                &good,
                2,
                &[0.0, 1.0],
                Some(&[1.0, 0.0]),
                "weight `0` in row `1` is not a positive number from 1e-100 to 1e100",
            ),
            (
                &good,
                2,
                &[0.0, 1.0],
                Some(&[f64::NAN, 1.0]),
                "weight `NaN` in row `0` is not a positive number from 1e-100 to 1e100",
            ),
            (
                &good,
                2,
                &[0.0, f64::INFINITY],
                None,
                "target `inf` in row `1` is not a finite number of at most 1e100",
            ),
            (
                &[1.0, 2.0, f64::NAN, 4.0],
                2,
                &[0.0, 1.0],
                None,
                "value `NaN` in row `0`, column `1` is not a finite number of at most 1e100",
            ),
        ];
        for (columns, count, target, weights, message) in cases {
            let error = Design::new(columns, count, target, weights).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn no_columns_is_a_design() {
        let design = Design::new(&[], 0, &[1.0, 2.0], None).unwrap();
        assert_eq!((design.row_count(), design.column_count()), (2, 0));
    }
}
