//! (Ridge) least squares on a chosen support: the lasso chooses terms well and shrinks them too much.

use thiserror::Error;

use super::cholesky::Cholesky;
use super::gram::Gram;

/// Coefficients without the lasso's shrinkage, on the caller's scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Refit {
    /// One for each column, zero outside the support.
    pub coefficients: Vec<f64>,
    /// ŷ where every column is zero, in units of y.
    pub intercept: f64,
    /// Smallest pivot as a share of its diagonal entry: the least part of any column's variance (ridge included) that
    /// the columns before it in the support leave to it. Small means ill-determined. 1 for an empty support.
    pub pivot_share_min: f64,
}

/// Why a support could not be refitted.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum RefitError {
    /// The ridge is negative, NaN or infinite.
    #[error("ridge `{ridge}` is not a finite number of at least 0")]
    BadRidge {
        /// What was given.
        ridge: f64,
    },
    /// The support names a column that the Gram matrix does not have.
    #[error("support names column `{column}` of `{columns}`")]
    UnknownColumn {
        /// The column named.
        column: usize,
        /// p.
        columns: usize,
    },
    /// The support names a column twice.
    #[error("support names column `{column}` twice")]
    RepeatedColumn {
        /// The column named.
        column: usize,
    },
    /// A column depends, to rounding, on those before it in the support (or the support has more columns than the
    /// training set has rows): its coefficient is not determined. A ridge of 1e-10 or more helps.
    #[error("column `{column}` (place `{index}` of the support) depends on the columns before it")]
    NonPositivePivot {
        /// Place among the support's varying columns, from 0.
        index: usize,
        /// The column at that place.
        column: usize,
    },
}

/// Minimises ½bᵀQ_SS b − q_Sᵀb + ½·`ridge`·‖b‖² over the standardised coefficients of the support S, by Cholesky:
/// (Q_SS + ridge·I) b = q_S. Columns that are constant here get coefficient 0. O(|S|³).
pub fn refit(gram: &Gram, support: &[usize], ridge: f64) -> Result<Refit, RefitError> {
    if !(ridge >= 0.0 && ridge.is_finite()) {
        return Err(RefitError::BadRidge { ridge });
    }
    let columns = gram.column_count();
    let mut is_named = vec![false; columns];
    for &column in support {
        match is_named.get_mut(column) {
            None => return Err(RefitError::UnknownColumn { column, columns }),
            Some(true) => return Err(RefitError::RepeatedColumn { column }),
            Some(named) => *named = true,
        }
    }
    let varying: Vec<usize> = support
        .iter()
        .copied()
        .filter(|&j| gram.deviation(j) > 0.0)
        .collect();
    let mut cholesky = Cholesky::default();
    let entry =
        |i: usize, k: usize| gram.column(varying[k])[varying[i]] + if i == k { ridge } else { 0.0 };
    let pivot_share_min =
        cholesky
            .factor(varying.len(), entry)
            .map_err(|pivot| RefitError::NonPositivePivot {
                index: pivot.index,
                column: varying[pivot.index],
            })?;
    let mut b: Vec<f64> = varying.iter().map(|&j| gram.cross()[j]).collect();
    cholesky.solve(&mut b);
    let mut beta = vec![0.0; columns];
    varying.iter().zip(b).for_each(|(&j, b)| beta[j] = b);
    let (coefficients, intercept) = gram.unstandardise(&beta);
    Ok(Refit {
        coefficients,
        intercept,
        pivot_share_min,
    })
}

#[cfg(test)]
mod tests {
    use super::super::design::Design;
    use super::super::testing::{Sample, assert_close};
    use super::*;

    #[test]
    fn recovers_an_exact_polynomial() {
        let mut sample = Sample::random(1, 30, 5, true);
        let n = 30;
        for row in 0..n {
            sample.target[row] =
                2.0 + 3.0 * sample.columns[row] - 0.5 * sample.columns[3 * n + row];
        }
        let refit = refit(&Gram::new(&sample.design(), 1), &[3, 0, 1], 0.0).unwrap();
        assert_close(&refit.coefficients, &[3.0, 0.0, 0.0, -0.5, 0.0], 1e-10);
        assert_close(&[refit.intercept], &[2.0], 1e-10);
        assert!(refit.pivot_share_min > 0.1);
    }

    #[test]
    fn residuals_are_orthogonal_to_the_support() {
        let sample = Sample::random(2, 40, 8, true);
        let design = sample.design();
        let refit = refit(&Gram::new(&design, 1), &[1, 4, 6], 0.0).unwrap();
        let rows: Vec<usize> = (0..40).collect();
        let mut residual = vec![0.0; 40];
        design.predict(&rows, &refit.coefficients, refit.intercept, &mut residual);
        residual
            .iter_mut()
            .zip(design.target())
            .for_each(|(r, y)| *r -= y);
        for j in [1, 4, 6] {
            let product: f64 = rows
                .iter()
                .map(|&row| design.weight(row) * residual[row] * design.column(j)[row])
                .sum();
            assert!(product.abs() < 1e-9, "column {j}: {product}");
        }
    }

    #[test]
    fn a_dependent_column_is_named_and_a_ridge_helps() {
        let mut sample = Sample::random(3, 30, 3, false);
        let copy: Vec<f64> = sample.columns[..30].iter().map(|x| 5.0 - 2.0 * x).collect();
        sample.columns[60..].copy_from_slice(&copy);
        let gram = Gram::new(&sample.design(), 1);
        assert_eq!(
            refit(&gram, &[0, 1, 2], 0.0),
            Err(RefitError::NonPositivePivot {
                index: 2,
                column: 2
            })
        );
        let shared = refit(&gram, &[0, 1, 2], 1e-8).unwrap();
        let alone = refit(&gram, &[0, 1], 0.0).unwrap();
        assert_close(
            &[shared.coefficients[0] - 2.0 * shared.coefficients[2]],
            &[alone.coefficients[0]],
            1e-6,
        );
    }

    #[test]
    fn bad_requests_are_refused() {
        let gram = Gram::new(
            &Design::new(&[1.0, 2.0, 3.0, 4.0], 2, &[1.0, 2.0], None).unwrap(),
            1,
        );
        assert_eq!(
            refit(&gram, &[2], 0.0),
            Err(RefitError::UnknownColumn {
                column: 2,
                columns: 2
            })
        );
        assert_eq!(
            refit(&gram, &[1, 1], 0.0),
            Err(RefitError::RepeatedColumn { column: 1 })
        );
        assert_eq!(
            refit(&gram, &[1], -1.0),
            Err(RefitError::BadRidge { ridge: -1.0 })
        );
        let mean = refit(&gram, &[], 0.0).unwrap();
        assert_eq!((mean.intercept, mean.pivot_share_min), (1.5, 1.0));
    }
}
