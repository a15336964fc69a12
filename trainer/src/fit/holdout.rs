//! Layers that no version of a model is ever fitted to, so that versions can be compared.
//!
//! Which layers these are their hashes say: the same for every version, on every platform, for ever.

use wattfarm_cost::Hash;
use wattfarm_cost::model::{Holdout, Model};

use super::rows::{self, Row};
use super::{FitError, Sample};

/// One layer in so many is held out.
const ONE_IN: u64 = 20;

/// Of fewer layers none is held out: each is worth more in the fit, and a handful would say nothing.
const LAYERS_MIN: usize = 200;

/// An error counts up to so much: one layer that is missed by a lot shall not decide alone.
const ERROR_MAX: f64 = 1.0;

pub(super) fn is_held_out(layer: &Hash) -> bool {
    let place = Hash::of(&format!("wattfarm.holdout.v1|{layer}"));
    place.low_bits().is_multiple_of(ONE_IN)
}

/// Takes the rows that are held out away.
pub(super) fn take(rows: &mut Vec<Row>) -> Vec<Row> {
    match rows.len() < LAYERS_MIN {
        true => Vec::new(),
        false => rows.extract_if(.., |row| is_held_out(&row.hash)).collect(),
    }
}

/// How good a model is on rows that it was not fitted to; `None` of none.
pub(super) fn judge(model: &Model, rows: &[Row]) -> Option<Holdout> {
    let squares: f64 = rows.iter().map(|row| error(model, row).powi(2)).sum();
    (!rows.is_empty()).then(|| Holdout {
        layers: rows.len() as u32,
        rmspe: 100.0 * (squares / rows.len() as f64).sqrt(),
    })
}

/// The relative error for a row.
fn error(model: &Model, row: &Row) -> f64 {
    let measured = (row.log_value + row.above_mean).exp();
    (model.estimate(&row.layer).value / measured - 1.0).abs()
}

/// Whether a model is no worse than the one before it on the layers that both held out: the mean difference of their squared errors is
/// not over its own standard error. An old one that held out nothing, or learned from another recipe's figures, can't be compared,
/// and gives way; a new one that holds out nothing knows less.
///
/// # Errors
/// A sample that makes no row.
pub fn is_no_worse(new: &Model, old: &Model, samples: &[Sample]) -> Result<bool, FitError> {
    let is_other = new.provenance.recipe != old.provenance.recipe;
    if is_other || old.validation.holdout.is_none() {
        return Ok(true);
    }
    // It knows far fewer layers than the one before it.
    if new.validation.holdout.is_none() {
        return Ok(false);
    }
    let held_out = take(&mut rows::rows(&new.key, samples)?);
    let square = |model, row| error(model, row).min(ERROR_MAX).powi(2);
    let differences: Vec<f64> = (held_out.iter())
        .map(|row| square(new, row) - square(old, row))
        .collect();
    let count = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / count;
    let scatter = differences.iter().map(|one| (one - mean).powi(2));
    let variance = scatter.sum::<f64>() / (count - 1.0).max(1.0);
    Ok(mean <= (variance / count).sqrt())
}
