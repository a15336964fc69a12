//! Which terms, and how many: what predicts held-out layers best.
//!
//! Every vocabulary that the rows can carry is cross-validated along its lasso path, with the lasso's own coefficients
//! and with those of least squares on its support; the best of all is kept. Choosing by the error that is then reported
//! makes that error a little too good. On public sets of 480 layers that is lost in the noise: the error over layers
//! that took no part in the choice was 0.9 to 1.2 times the reported one (`tests/published_data.rs`).

use wattfarm_cost::Kind;
use wattfarm_cost::model::{TERMS_MAX, Weighted};

use super::FitError;
use super::candidates::{Candidates, Vocabulary};
use super::rows::Row;
use super::validation::rmspe;
use crate::lasso::{
    CrossValidation, CrossValidationParameters, Design, HeldOut, PathParameters, cross_validate,
    refit,
};

/// Rows from which on each vocabulary is tried.
const VOCABULARIES: [(usize, Vocabulary); 3] = [
    (0, Vocabulary::Plain),
    (20, Vocabulary::Curved),
    (40, Vocabulary::Rich),
];

/// Rows for each term, at least.
const ROWS_PER_TERM: usize = 3;

/// Candidates that may be chosen: at most, and where their raw terms turned out to be more than a model may have. One
/// candidate makes three raw terms at most.
const CHOSEN_MAX: [usize; 2] = [200, TERMS_MAX / 3];

/// Keeps nearly dependent columns from blowing up in least squares, without a visible effect on others.
const RIDGE: f64 = 1e-4;

/// What is to be explained.
pub(super) struct Problem<'a> {
    pub(super) kind: Kind,
    pub(super) rows: &'a [Row],
    /// Correction of each row: ln(measured / scale).
    pub(super) corrections: &'a [f64],
    /// Fold of each row.
    pub(super) folds: &'a [usize],
    /// What every prediction is held between.
    pub(super) bounds: (f64, f64),
    pub(super) threads: usize,
}

/// A polynomial for the correction.
pub(super) struct Choice {
    pub(super) intercept: f64,
    pub(super) terms: Vec<Weighted>,
    /// Correction of each row, within the bounds, as predicted without the row's fold.
    pub(super) held_out: Vec<f64>,
    /// RMSPE of `held_out`.
    error: f64,
}

/// The best polynomial of all vocabularies; of equals the plainest.
pub(super) fn choose(problem: &Problem<'_>) -> Result<Choice, FitError> {
    let mut best: Option<Choice> = None;
    for (rows_min, vocabulary) in VOCABULARIES {
        if problem.rows.len() >= rows_min {
            let choice = choose_among(
                problem,
                &Candidates::new(problem.kind, problem.rows, vocabulary),
            )?;
            best = best
                .filter(|best| best.error <= choice.error)
                .or(Some(choice));
        }
    }
    Ok(best.expect("the first vocabulary needs no rows"))
}

fn choose_among(problem: &Problem<'_>, candidates: &Candidates) -> Result<Choice, FitError> {
    let weights: Vec<f64> = problem.rows.iter().map(|row| row.weight).collect();
    let design = Design::new(
        &candidates.columns,
        candidates.count(),
        problem.corrections,
        Some(&weights),
    )
    .map_err(FitError::Design)?;
    let mut choice = None;
    for chosen_max in CHOSEN_MAX {
        let chosen_max = chosen_max.min((problem.rows.len() / ROWS_PER_TERM).max(1));
        let found = choice_of(
            problem,
            candidates,
            validate(problem, candidates, &design, chosen_max)?,
        )?;
        let fits = found.terms.len() <= TERMS_MAX;
        choice = Some(found);
        if fits {
            break;
        }
    }
    Ok(choice.expect("there are two limits"))
}

fn validate(
    problem: &Problem<'_>,
    candidates: &Candidates,
    design: &Design<'_>,
    chosen_max: usize,
) -> Result<CrossValidation, FitError> {
    let path = PathParameters {
        lambda_count: 60,
        // The folds' errors differ by far more than fits at these gaps do.
        tolerance: 1e-5,
        sweeps_max: 1_000,
        gain_min: 1e-3,
        terms_max: Some(chosen_max),
        penalty_factors: Some(candidates.penalties()),
        ..PathParameters::default()
    };
    let parameters = CrossValidationParameters {
        path,
        relaxed_ridge: Some(RIDGE),
        threads: problem.threads,
    };
    let (low, high) = problem.bounds;
    let metric = |held_out: HeldOut<'_>| {
        let pairs = held_out.predictions.iter().zip(held_out.targets);
        rmspe(pairs.map(|(prediction, target)| prediction.clamp(low, high) - target))
    };
    cross_validate(design, problem.folds, &parameters, metric).map_err(FitError::CrossValidation)
}

fn choice_of(
    problem: &Problem<'_>,
    candidates: &Candidates,
    found: CrossValidation,
) -> Result<Choice, FitError> {
    let plain_error = found.plain.errors[found.plain.best];
    let relaxed = found
        .relaxed
        .filter(|relaxed| relaxed.errors[relaxed.best] < plain_error);
    let (error, held_out, intercept, coefficients) = match relaxed {
        Some(relaxed) => {
            let support = found.path.points[relaxed.best].fit.support();
            let fit = refit(&found.gram, &support, RIDGE).map_err(FitError::Refit)?;
            (
                relaxed.errors[relaxed.best],
                relaxed.best_predictions,
                fit.intercept,
                fit.coefficients,
            )
        }
        None => {
            let fit = &found.path.points[found.plain.best].fit;
            (
                plain_error,
                found.plain.best_predictions,
                fit.intercept,
                fit.coefficients.clone(),
            )
        }
    };
    let (low, high) = problem.bounds;
    let held_out = held_out
        .into_iter()
        .map(|correction| correction.clamp(low, high))
        .collect();
    let (constant, terms) = candidates.expand(&coefficients);
    Ok(Choice {
        intercept: intercept + constant,
        terms,
        held_out,
        error,
    })
}
