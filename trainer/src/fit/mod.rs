//! From measurements to a model: `scale(layer) · exp(intercept + Σ coefficient · term)`. Pure, and the same for the same
//! measurements in any order, on any number of threads.
//!
//! 1. Replicas of a layer become one row ([`rows`]).
//! 2. A yardstick, what amounts of work cost, carries the model beyond its samples ([`scale`]).
//! 3. What is left, ln(measured / scale), is explained by a sparse polynomial: products of the base functions in
//!    [`factors`] are grown, the lasso chooses among them, and held-out layers say how many ([`choice`]).
//! 4. The predictions for held-out layers tell devices apart, if samples are of several ([`devices`]); then 2 and 3 once
//!    more, of what the mean device would have taken.
//! 5. The predictions for held-out layers give the model's figures ([`validation`]), held against what was measured.

mod choice;
mod devices;
mod factors;
mod holdout;
mod prune;
mod rows;
mod scale;
mod validation;

use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::{
    Bound, Features, Model, ModelError, ModelKey, Provenance, Scale, TERMS_MAX, Validation,
    Weighted,
};

use crate::lasso::{self, DesignError, RefitError};
use choice::Problem;
pub use holdout::is_no_worse;
use rows::Row;
pub use rows::Sample;
pub(crate) use validation::quantile;

/// Layers below which nothing is learned but the scale.
const ROWS_MIN: usize = 5;

/// Folds, where there are layers enough to leave each fold a few.
const FOLDS: u64 = 10;

/// Layers below which a fold might be empty if hashes decided.
const DEALT_BELOW: usize = 200;

/// A flat yardstick is taken only if the error it leaves is this share of the other's: beyond the samples it knows nothing.
const FLAT_ERROR_MAX: f64 = 0.8;

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
    /// The lasso could not be fitted.
    #[error("fit the lasso")]
    Path(#[source] lasso::FitError),
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
///
/// # Errors
/// [`FitError`]: the samples make no model.
pub fn fit(
    key: ModelKey,
    samples: &[Sample],
    origin: Origin,
    threads: usize,
) -> Result<Model, FitError> {
    let rows = rows::rows(&key, samples)?;
    fit_rows(key, rows, (samples.len(), origin), threads)
}

/// The same, but for the layers that no version sees: by them [`is_no_worse`] compares versions.
///
/// # Errors
/// As [`fit`].
pub fn fit_with_holdout(
    key: ModelKey,
    samples: &[Sample],
    origin: Origin,
    threads: usize,
) -> Result<Model, FitError> {
    let mut rows = rows::rows(&key, samples)?;
    let held_out = holdout::take(&mut rows);
    let mut model = fit_rows(key, rows, (samples.len(), origin), threads)?;
    model.provenance.distinct += held_out.len() as u64;
    model.validation.holdout = holdout::judge(&model, &held_out);
    Ok(model)
}

fn fit_rows(
    key: ModelKey,
    mut rows: Vec<Row>,
    (samples, origin): (usize, Origin),
    threads: usize,
) -> Result<Model, FitError> {
    let mut best = Attempt::best(&key, &rows, threads)?;
    let devices = match &best.held_out {
        Some(predicted) => devices::effects(&rows, predicted),
        None => Vec::new(),
    };
    if !devices.is_empty() {
        rows.iter_mut().for_each(|row| row.correct(&devices));
        best = Attempt::best(&key, &rows, threads)?;
    }
    let (correction_min, correction_max) = best.bounds;
    let model = Model {
        key,
        version: 0,
        scale: best.scale,
        intercept: best.intercept,
        terms: best.terms,
        correction_min,
        correction_max,
        domain: domain(&best.features),
        validation: best.validation,
        provenance: Provenance {
            recipe: origin.recipe,
            samples: samples as u64,
            distinct: rows.len() as u64,
            through_sequence: origin.through_sequence,
            trainer_version: env!("CARGO_PKG_VERSION").to_owned(),
            devices,
        },
    };
    model.check().map_err(FitError::Model)?;
    Ok(model)
}

/// A yardstick with the polynomial that corrects it.
struct Attempt {
    scale: Scale,
    /// Of each row, with what the yardstick says of it.
    features: Vec<Features>,
    bounds: (f64, f64),
    intercept: f64,
    terms: Vec<Weighted>,
    validation: Validation,
    /// ln(predicted) of each row by fits that did not see it; `None` of too few rows.
    held_out: Option<Vec<f64>>,
    /// RMSPE of held-out rows.
    error: f64,
}

impl Attempt {
    fn best(key: &ModelKey, rows: &[Row], threads: usize) -> Result<Self, FitError> {
        let mut scales = scale::candidates(key.kind, rows, key.target).into_iter();
        let first = scales.next().expect("a flat one at least");
        let mut best = Self::new(rows, first, threads)?;
        // Where no sum of costs describes the layers, the polynomial does better without.
        if rows.len() < choice::MANY_ROWS {
            for scale in scales {
                let flatter = Self::new(rows, scale, threads)?;
                if flatter.error < FLAT_ERROR_MAX * best.error {
                    best = flatter;
                }
            }
        }
        Ok(best)
    }

    fn new(rows: &[Row], scale: Scale, threads: usize) -> Result<Self, FitError> {
        let features = rows.iter().map(|row| {
            let mut features = row.features.clone();
            scale.derive(&mut features);
            features
        });
        let features: Vec<Features> = features.collect();
        let corrections: Vec<f64> = rows
            .iter()
            .map(|row| rounded(row.log_value - scale.of(&row.features).ln()))
            .collect();
        let bounds = bounds(&corrections);
        if rows.len() < ROWS_MIN {
            return Ok(Self {
                scale,
                features,
                bounds,
                intercept: corrections.iter().sum::<f64>() / corrections.len() as f64,
                terms: Vec::new(),
                validation: validation::unknown(),
                held_out: None,
                error: f64::INFINITY,
            });
        }
        let folds = folds(rows);
        let problem = Problem {
            rows,
            features: &features,
            corrections: &corrections,
            folds: &folds,
            bounds,
            terms_max: TERMS_MAX - scale.count(),
            threads,
        };
        let choice = choice::choose(&problem)?;
        let pairs = choice.held_out.iter().zip(&corrections).zip(rows);
        let log_ratios = pairs.map(|((predicted, truth), row)| predicted - truth - row.above_mean);
        let log_ratios: Vec<f64> = log_ratios.collect();
        let held_out = features.iter().zip(&choice.held_out);
        let held_out = held_out.map(|(features, correction)| scale.of(features).ln() + correction);
        let held_out = held_out.collect();
        let fold_count = 1 + folds.iter().copied().max().unwrap_or(0);
        let validation = validation::validation(fold_count, &features, &log_ratios);
        Ok(Self {
            scale,
            features,
            bounds,
            intercept: choice.intercept,
            terms: choice.terms,
            validation,
            held_out: Some(held_out),
            error: choice.error,
        })
    }
}

/// To a billionth: what is chosen among equals shall not hang on the last bits of a logarithm.
fn rounded(correction: f64) -> f64 {
    (correction * 1e9).round() / 1e9
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

/// The fold of each row, counted from 0 without gaps. With layers enough its hash decides, so that a layer stays in its
/// fold as others come; few layers are dealt out evenly, and very few are each a fold.
fn folds(rows: &[Row]) -> Vec<usize> {
    let by_hash: Vec<usize> = rows
        .iter()
        .map(|row| (row.hash.low_bits() % FOLDS) as usize)
        .collect();
    match rows.len() {
        count @ 0..10 => (0..count).collect(),
        count if count < DEALT_BELOW => (0..count).map(|row| row % FOLDS as usize).collect(),
        _ => by_hash,
    }
}

/// The least and the largest value of each feature.
fn domain(layers: &[Features]) -> Vec<Bound> {
    let values_of = |feature: &'static str| {
        layers
            .iter()
            .filter_map(move |features| features.get(feature))
    };
    let bound = |(feature, value): (&'static str, f64)| Bound {
        feature: feature.to_owned(),
        min: values_of(feature).fold(value, f64::min),
        max: values_of(feature).fold(value, f64::max),
    };
    layers
        .first()
        .into_iter()
        .flat_map(Features::iter)
        .map(bound)
        .collect()
}

#[cfg(test)]
mod tests;
