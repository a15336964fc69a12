//! Fitting models anew from the measurements that they name, and comparing: a model's provenance is a claim that anybody
//! who may read the measurements can check.

use std::collections::BTreeMap;

use tonic::{Request, Status};
use wattfarm_cost::measurement::{Measurement, Recipe};
use wattfarm_cost::model::{Model, ModelKey, Validation};
use wattfarm_proto::connect::Connection;
use wattfarm_proto::error::FieldError;
use wattfarm_proto::v1;

use crate::fit::{self, FitError, Origin, Sample};
use crate::service::{Cursors, samples};

/// Why nothing could be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The coordinator did not answer, or refused.
    #[error("read the coordinator's measurements")]
    Status(#[from] Box<Status>),
    /// It sent a measurement that can't be understood.
    #[error("read measurement {sequence}")]
    Measurement {
        /// Its place.
        sequence: u64,
        /// What is wrong.
        #[source]
        error: FieldError,
    },
}

/// How a model compares with one fitted anew.
#[derive(Debug)]
pub enum Outcome {
    /// They are equal to the last bit.
    Same,
    /// They are not; the field is the first that differs.
    Differs {
        /// The field.
        field: &'static str,
    },
    /// Another version of the trainer fitted it: what it would do, only it knows.
    OtherTrainer {
        /// That version.
        version: String,
    },
    /// The measurements make no model.
    NoFit(FitError),
}

/// Rebuilds each of `models` from the coordinator's measurements, on up to `threads` threads a fit.
pub async fn rebuild(
    connection: &Connection,
    models: &[Model],
    threads: usize,
) -> Result<Vec<Outcome>, RebuildError> {
    let measured = measured(connection).await?;
    let outcome = |model| outcome(model, &measured, threads);
    Ok(models.iter().map(outcome).collect())
}

/// What the coordinator has.
#[derive(Default)]
struct Measured {
    /// Every sample by model and recipe, with its measurement's place.
    samples: BTreeMap<(ModelKey, Recipe), Vec<(u64, Sample)>>,
    /// Places of measurements that were retracted, in the order in which they were.
    retracted: Vec<u64>,
}

impl Measured {
    /// The samples that a model names. One that was fitted before a measurement was retracted has it still: of the
    /// retractions the first ones count, as many as the model lacks.
    fn of(&self, model: &Model) -> Vec<Sample> {
        let provenance = &model.provenance;
        let all = self
            .samples
            .get(&(model.key, provenance.recipe))
            .into_iter()
            .flatten();
        let own: Vec<&(u64, Sample)> = all
            .take_while(|(sequence, _)| *sequence <= provenance.through_sequence)
            .collect();
        let is_own = |place: &&u64| own.iter().any(|(sequence, _)| sequence == *place);
        let lacking = own.len().saturating_sub(provenance.samples as usize);
        let without: Vec<u64> = self
            .retracted
            .iter()
            .filter(is_own)
            .take(lacking)
            .copied()
            .collect();
        let kept = own
            .iter()
            .filter(|(sequence, _)| !without.contains(sequence));
        kept.map(|(_, sample)| sample.clone()).collect()
    }
}

async fn measured(connection: &Connection) -> Result<Measured, RebuildError> {
    let mut found = Measured::default();
    let request = Request::new(v1::WatchMeasurementsRequest {
        by_block: true,
        ..Default::default()
    });
    let stream = connection.trainer().watch_measurements(request).await;
    let mut stream = stream.map_err(Box::new)?.into_inner();
    let mut cursors = Cursors::default();
    while let Some(batch) = stream.message().await.map_err(Box::new)? {
        let is_newest = cursors.follow(&batch);
        for message in batch.measurements {
            let sequence = message.sequence;
            let measurement = Measurement::try_from(message)
                .map_err(|error| RebuildError::Measurement { sequence, error })?;
            for (key, sample) in samples(&measurement) {
                let samples = found.samples.entry((key, measurement.recipe));
                samples.or_default().push((sequence, sample));
            }
        }
        found
            .retracted
            .extend(batch.retractions.iter().map(|one| one.sequence));
        if is_newest {
            break;
        }
    }
    Ok(found)
}

fn outcome(model: &Model, measured: &Measured, threads: usize) -> Outcome {
    let provenance = &model.provenance;
    if provenance.trainer_version != env!("CARGO_PKG_VERSION") {
        return Outcome::OtherTrainer {
            version: provenance.trainer_version.clone(),
        };
    }
    let samples = measured.of(model);
    let origin = Origin {
        recipe: provenance.recipe,
        through_sequence: provenance.through_sequence,
    };
    match fit::fit_with_holdout(model.key, &samples, origin, threads) {
        Ok(again) => match difference(model, &again) {
            None => Outcome::Same,
            Some(field) => Outcome::Differs { field },
        },
        Err(error) => Outcome::NoFit(error),
    }
}

/// Whether they were validated alike. How networks add up is no matter of this model's samples.
fn is_same_validation(model: &Model, again: &Model) -> bool {
    let again = Validation {
        additivity: model.validation.additivity,
        ..again.validation.clone()
    };
    model.validation == again
}

/// The first field that differs; a version is the coordinator's to give.
fn difference(model: &Model, again: &Model) -> Option<&'static str> {
    let fields = [
        ("provenance", model.provenance == again.provenance),
        ("domain", model.domain == again.domain),
        ("scale", model.scale == again.scale),
        ("intercept", model.intercept == again.intercept),
        ("terms", model.terms == again.terms),
        (
            "correction_min",
            model.correction_min == again.correction_min,
        ),
        (
            "correction_max",
            model.correction_max == again.correction_max,
        ),
        ("validation", is_same_validation(model, again)),
    ];
    let different = fields.into_iter().find(|(_, same)| !same);
    different.map(|(field, _)| field)
}
