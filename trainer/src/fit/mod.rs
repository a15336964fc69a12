//! From measurements to a model: `scale(layer) · exp(intercept + Σ coefficient · term)`. Pure, and the same for the same
//! measurements in any order, on any number of threads.
//!
//! 1. Replicas of a layer become one row ([`rows`]).
//! 2. A yardstick in operations and bytes carries the model beyond its samples ([`scale`]).
//! 3. What is left, ln(measured / scale), is explained by a sparse polynomial: the lasso chooses among [`candidates`],
//!    made of the base functions in [`factors`], and cross-validation says how many ([`choice`]).
//! 4. The predictions for held-out layers give the model's figures ([`validation`]).

mod candidates;
mod choice;
mod factors;
mod rows;
mod scale;
mod validation;

use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::{Bound, Model, ModelError, ModelKey, Provenance};

use crate::lasso::{CrossValidationError, DesignError, RefitError};
use choice::{Choice, Problem};
use rows::Row;
pub use rows::Sample;

/// Layers below which nothing is learned but the scale.
const ROWS_MIN: usize = 5;

/// Folds, where there are layers enough to leave each fold a few.
const FOLDS: u64 = 10;

/// How far beyond the corrections that were seen a prediction may go, as a share of their range.
const CORRECTION_MARGIN: f64 = 0.1;

/// Why samples make no model.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// There is nothing to fit.
    #[error("no samples")]
    NoSamples,
    /// A sample that the model is not for.
    #[error("sample {layer} is of another kind or dtype than the model")]
    Foreign {
        /// The sample's layer.
        layer: String,
    },
    /// A value that is not a positive number.
    #[error("`{value}` measured for {layer} is not a positive number")]
    Value {
        /// What was given.
        value: f64,
        /// The sample's layer.
        layer: String,
    },
    /// The candidates' columns can't be used.
    #[error("lay out the candidates")]
    Design(#[source] DesignError),
    /// No fit could be validated.
    #[error("cross-validate")]
    CrossValidation(#[source] CrossValidationError),
    /// The chosen terms could not be fitted again.
    #[error("refit the chosen terms")]
    Refit(#[source] RefitError),
    /// The result is not a model.
    #[error("check the model")]
    Model(#[source] ModelError),
}

/// Where samples come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// How they were measured.
    pub recipe: Recipe,
    /// The newest measurement among them.
    pub through_sequence: u64,
}

/// Fits the model of `key` to its samples, on up to `threads` threads. Its version is for the coordinator to give.
pub fn fit(
    key: ModelKey,
    samples: &[Sample],
    origin: Origin,
    threads: usize,
) -> Result<Model, FitError> {
    let rows = rows::rows(&key, samples)?;
    let scale = scale::fit_scale(&rows, key.target);
    let corrections: Vec<f64> = rows
        .iter()
        .map(|row| row.log_value - scale.of(&row.layer).ln())
        .collect();
    let (correction_min, correction_max) = bounds(&corrections);
    let (intercept, terms, validation) = if rows.len() < ROWS_MIN {
        let mean = corrections.iter().sum::<f64>() / corrections.len() as f64;
        (mean, Vec::new(), validation::unknown())
    } else {
        let folds = folds(&rows);
        let problem = Problem {
            kind: key.kind,
            rows: &rows,
            corrections: &corrections,
            folds: &folds,
            bounds: (correction_min, correction_max),
            threads,
        };
        let Choice {
            intercept,
            terms,
            held_out,
            ..
        } = choice::choose(&problem)?;
        let log_ratios: Vec<f64> = held_out
            .iter()
            .zip(&corrections)
            .map(|(predicted, z)| predicted - z)
            .collect();
        (
            intercept,
            terms,
            validation::validation(count_folds(&folds), &log_ratios),
        )
    };
    let model = Model {
        key,
        version: 0,
        scale,
        intercept,
        terms,
        correction_min,
        correction_max,
        domain: domain(&rows),
        validation,
        provenance: Provenance {
            recipe: origin.recipe,
            samples: samples.len() as u64,
            distinct: rows.len() as u64,
            through_sequence: origin.through_sequence,
            trainer_version: env!("CARGO_PKG_VERSION").to_owned(),
        },
    };
    model.check().map_err(FitError::Model)?;
    Ok(model)
}

/// What a correction is held between.
fn bounds(corrections: &[f64]) -> (f64, f64) {
    let least = corrections.iter().copied().fold(f64::INFINITY, f64::min);
    let most = corrections
        .iter()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    let margin = CORRECTION_MARGIN * (most - least);
    (least - margin, most + margin)
}

/// The fold of each row. With layers enough its hash decides, so that a layer stays in its fold as others come; few
/// layers are dealt out evenly, and very few are each a fold.
fn folds(rows: &[Row]) -> Vec<usize> {
    match rows.len() {
        count @ 0..10 => (0..count).collect(),
        count @ 10..20 => (0..count).map(|row| row % 5).collect(),
        _ => rows
            .iter()
            .map(|row| (row.hash.low_bits() % FOLDS) as usize)
            .collect(),
    }
}

fn count_folds(folds: &[usize]) -> usize {
    folds
        .iter()
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

/// The least and the largest value of each feature.
fn domain(rows: &[Row]) -> Vec<Bound> {
    let values_of =
        |feature: &'static str| rows.iter().filter_map(move |row| row.features.get(feature));
    let bound = |(feature, value): (&'static str, f64)| Bound {
        feature: feature.to_owned(),
        min: values_of(feature).fold(value, f64::min),
        max: values_of(feature).fold(value, f64::max),
    };
    rows.first()
        .into_iter()
        .flat_map(|row| row.features.iter())
        .map(bound)
        .collect()
}

#[cfg(test)]
mod tests;
