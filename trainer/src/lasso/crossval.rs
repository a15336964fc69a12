//! Which λ: k-fold cross-validation of a path, by an error that the caller defines.
//!
//! The path over all rows sets the grid, and where it ends; every fold then fits the same λ on its training rows and
//! predicts the rows it did not see from their raw columns. A λ's error is the caller's metric over all out-of-fold
//! predictions together; its standard error comes from the metric over each fold alone. What must not leak between
//! training and held-out rows (replicas of one layer) the caller keeps in one fold.

use thiserror::Error;

use super::design::Design;
use super::gram::{Gram, Moments};
use super::path::{Path, PathParameters, lasso_path, lasso_path_at};
use super::problem::FitError;
use super::refit::refit;
use crate::parallel::in_parallel;

/// How to cross-validate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CrossValidationParameters {
    /// The path, over all rows and over each fold's training rows.
    pub path: PathParameters,
    /// Whether to score the relaxed lasso too, and with what ridge (at least 0; 1e-10 keeps dependent columns from
    /// failing): within each fold, least squares on the support that the fold's own lasso chose.
    pub relaxed_ridge: Option<f64>,
    /// Threads to use, at most; 0 counts as 1. Memory grows by (p + 1)² values of 8 bytes for each.
    pub threads: usize,
}

/// Rows predicted by fits that did not see them, as the metric is given them.
#[derive(Clone, Copy, Debug)]
pub struct HeldOut<'a> {
    /// Rows of the design, ascending: all of them, or one fold's.
    pub rows: &'a [usize],
    /// y of those rows.
    pub targets: &'a [f64],
    /// ŷ of those rows.
    pub predictions: &'a [f64],
}

/// What cross-validation found, with the fits over all rows.
#[derive(Clone, Debug)]
pub struct CrossValidation {
    /// The Gram matrix of all rows, for a final [`refit`].
    pub gram: Gram,
    /// The path over all rows; scores go by its points.
    pub path: Path,
    /// The folds' numbers, ascending.
    pub folds: Vec<usize>,
    /// Scores of the lasso itself.
    pub plain: Scores,
    /// Scores of the relaxed lasso, if asked for.
    pub relaxed: Option<Scores>,
    /// Fits, over all folds and λ, that used up their sweeps.
    pub unconverged: usize,
}

/// Errors of each λ, and the choice among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// For each λ, the metric over the out-of-fold predictions of all rows. Infinite where a fold's refit failed.
    pub errors: Vec<f64>,
    /// For each λ, the metric over each fold's rows, by the order of `folds`.
    pub fold_errors: Vec<Vec<f64>>,
    /// For each λ, the standard deviation of the fold errors (k − 1 in its denominator) over √k.
    pub standard_errors: Vec<f64>,
    /// The λ of the least finite error, the largest if several.
    pub best: usize,
    /// The largest λ whose error is at most the best one's plus the best one's standard error.
    pub one_standard_error: usize,
    /// Out-of-fold ŷ of every row at `best`.
    pub best_predictions: Vec<f64>,
    /// Out-of-fold ŷ of every row at `one_standard_error`.
    pub one_standard_error_predictions: Vec<f64>,
}

/// Why cross-validation gave no answer.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum CrossValidationError {
    /// There is not one fold number for each row.
    #[error("`{got}` fold numbers were given for `{rows}` rows")]
    FoldsLength {
        /// n.
        rows: usize,
        /// Number of fold numbers given.
        got: usize,
    },
    /// All rows are in one fold.
    #[error("all rows are in fold `{fold}`, and cross-validation needs two folds")]
    OneFold {
        /// Its number.
        fold: usize,
    },
    /// The ridge of the relaxed lasso is negative, NaN or infinite.
    #[error("ridge `{ridge}` is not a finite number of at least 0")]
    BadRidge {
        /// What was given.
        ridge: f64,
    },
    /// The metric was finite at no λ.
    #[error("metric is finite at none of `{lambdas}` lambdas")]
    NoFiniteError {
        /// Number of λ scored.
        lambdas: usize,
    },
    /// The path over all rows failed: the parameters do not suit the design.
    #[error("fit path over all rows")]
    Path(#[source] FitError),
    /// The path over a fold's training rows failed.
    #[error("fit path without fold `{fold}`")]
    FoldPath {
        /// The fold held out.
        fold: usize,
        /// What failed.
        #[source]
        source: FitError,
    },
}

/// Fits the path over all rows and, for each fold, over the rows outside it; scores each λ by `metric` (smaller is
/// better; called on the calling thread only).
///
/// `folds` has a number for each row; equal numbers make a fold, and any numbers will do. The result has the same bits
/// for any number of threads.
pub fn cross_validate<M>(
    design: &Design<'_>,
    folds: &[usize],
    parameters: &CrossValidationParameters,
    metric: M,
) -> Result<CrossValidation, CrossValidationError>
where
    M: Fn(HeldOut<'_>) -> f64,
{
    let rows = design.row_count();
    if folds.len() != rows {
        return Err(CrossValidationError::FoldsLength {
            rows,
            got: folds.len(),
        });
    }
    let mut numbers = folds.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    if let [fold] = numbers[..] {
        return Err(CrossValidationError::OneFold { fold });
    }
    if let Some(ridge) = parameters
        .relaxed_ridge
        .filter(|ridge| !(*ridge >= 0.0 && ridge.is_finite()))
    {
        return Err(CrossValidationError::BadRidge { ridge });
    }
    let moments = Moments::new(design, parameters.threads);
    let gram = moments.gram();
    let path = lasso_path(&gram, &parameters.path).map_err(CrossValidationError::Path)?;
    let lambdas: Vec<f64> = path.points.iter().map(|point| point.lambda).collect();

    let fold_threads = parameters.threads.div_ceil(numbers.len()); // more than one only where threads outnumber folds
    let held_out = in_parallel(numbers.len(), parameters.threads, |k| {
        let fold = numbers[k];
        let rows: Vec<usize> = (0..rows).filter(|&row| folds[row] == fold).collect();
        let gram = moments.gram_without(|row| folds[row] == fold, fold_threads);
        predict_fold(design, rows, &gram, &lambdas, parameters)
            .map_err(|source| CrossValidationError::FoldPath { fold, source })
    });
    let held_out = held_out
        .into_iter()
        .collect::<Result<Vec<FoldPredictions>, _>>()?;

    let plain = score(design, &held_out, |fold| &fold.plain, &metric)?;
    let relaxed = match parameters.relaxed_ridge {
        Some(_) => Some(score(design, &held_out, |fold| &fold.relaxed, &metric)?),
        None => None,
    };
    let unconverged = held_out.iter().map(|fold| fold.unconverged).sum();
    Ok(CrossValidation {
        gram,
        path,
        folds: numbers,
        plain,
        relaxed,
        unconverged,
    })
}

/// ŷ of one fold's rows for one λ; none where the refit failed.
type Predictions = Option<Vec<f64>>;

/// One fold's rows, and their predictions for each λ.
struct FoldPredictions {
    rows: Vec<usize>,
    plain: Vec<Predictions>,
    /// Empty unless asked for.
    relaxed: Vec<Predictions>,
    unconverged: usize,
}

fn predict_fold(
    design: &Design<'_>,
    rows: Vec<usize>,
    gram: &Gram,
    lambdas: &[f64],
    parameters: &CrossValidationParameters,
) -> Result<FoldPredictions, FitError> {
    let points = lasso_path_at(gram, lambdas, &parameters.path)?;
    let predict = |coefficients: &[f64], intercept: f64| {
        let mut predictions = vec![0.0; rows.len()];
        design.predict(&rows, coefficients, intercept, &mut predictions);
        predictions
    };
    let plain = points
        .iter()
        .map(|point| Some(predict(&point.fit.coefficients, point.fit.intercept)))
        .collect();
    let mut relaxed: Vec<Predictions> = Vec::new();
    if let Some(ridge) = parameters.relaxed_ridge {
        let mut support_before = None;
        for point in &points {
            let support = point.fit.support();
            let predictions = match relaxed.last() {
                Some(same) if support_before.as_ref() == Some(&support) => same.clone(),
                _ => refit(gram, &support, ridge)
                    .ok()
                    .map(|refit| predict(&refit.coefficients, refit.intercept)),
            };
            relaxed.push(predictions);
            support_before = Some(support);
        }
    }
    let unconverged = points.iter().filter(|point| !point.fit.converged).count();
    Ok(FoldPredictions {
        rows,
        plain,
        relaxed,
        unconverged,
    })
}

fn score(
    design: &Design<'_>,
    folds: &[FoldPredictions],
    predictions: impl Fn(&FoldPredictions) -> &[Predictions],
    metric: &impl Fn(HeldOut<'_>) -> f64,
) -> Result<Scores, CrossValidationError> {
    let lambdas = folds.first().map_or(0, |fold| predictions(fold).len());
    let all_rows: Vec<usize> = (0..design.row_count()).collect();
    let fold_targets: Vec<Vec<f64>> = folds
        .iter()
        .map(|fold| fold.rows.iter().map(|&row| design.target()[row]).collect())
        .collect();
    let (mut errors, mut fold_errors, mut standard_errors) = (Vec::new(), Vec::new(), Vec::new());
    for lambda in 0..lambdas {
        let of_folds: Vec<f64> = folds
            .iter()
            .zip(&fold_targets)
            .map(|(fold, targets)| match &predictions(fold)[lambda] {
                Some(predictions) => metric(HeldOut {
                    rows: &fold.rows,
                    targets,
                    predictions,
                }),
                None => f64::INFINITY,
            })
            .collect();
        errors.push(match out_of_fold(design, folds, &predictions, lambda) {
            Some(predictions) => metric(HeldOut {
                rows: &all_rows,
                targets: design.target(),
                predictions: &predictions,
            }),
            None => f64::INFINITY,
        });
        standard_errors.push(standard_error(&of_folds));
        fold_errors.push(of_folds);
    }
    let finite = errors
        .iter()
        .enumerate()
        .filter(|(_, error)| error.is_finite());
    let (best, error) = finite
        .min_by(|a, b| a.1.total_cmp(b.1))
        .ok_or(CrossValidationError::NoFiniteError { lambdas })?;
    let bar = error + standard_errors[best];
    // A bar that is not a number (the metric failed on a fold alone) lets only the best itself pass.
    let one_standard_error = errors
        .iter()
        .position(|&error| error <= bar)
        .unwrap_or(best)
        .min(best);
    let chosen = |lambda| out_of_fold(design, folds, &predictions, lambda).unwrap_or_default(); // finite error, so there
    let (best_predictions, one_standard_error_predictions) =
        (chosen(best), chosen(one_standard_error));
    Ok(Scores {
        errors,
        fold_errors,
        standard_errors,
        best,
        one_standard_error,
        best_predictions,
        one_standard_error_predictions,
    })
}

/// Predictions of all rows for one λ, each from the fold that held it out; none if a fold has none.
fn out_of_fold(
    design: &Design<'_>,
    folds: &[FoldPredictions],
    predictions: impl Fn(&FoldPredictions) -> &[Predictions],
    lambda: usize,
) -> Option<Vec<f64>> {
    let mut all = vec![0.0; design.row_count()];
    for fold in folds {
        for (&row, &prediction) in fold.rows.iter().zip(predictions(fold)[lambda].as_ref()?) {
            all[row] = prediction;
        }
    }
    Some(all)
}

fn standard_error(values: &[f64]) -> f64 {
    let k = values.len() as f64;
    let mean = values.iter().sum::<f64>() / k;
    let square = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / (k - 1.0);
    (square / k).sqrt()
}

#[cfg(test)]
mod tests;
