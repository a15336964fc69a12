//! Retractions: measurements taken back, and which those are.

use std::collections::{BTreeMap, BTreeSet};

use tonic::{Response, Status};
use wattfarm_proto::v1;

use super::wire::BATCH_MAX;
use super::{Shell, cut, within};
use crate::farm::{Owner, Refusal, RetractMeasurements, Retraction};
use crate::store::Store;

/// Measurements that a call may take back.
const RETRACTED_MAX: usize = 1000;

pub(super) async fn retract(
    shell: &Shell,
    by: Owner,
    message: v1::RetractMeasurementsRequest,
) -> Result<Response<v1::RetractMeasurementsResponse>, Status> {
    within("sequences", message.sequences.len(), 1..=RETRACTED_MAX)?;
    within("because", message.because.trim().chars().count(), 1..=500)?;
    let because = cut(message.because.trim(), 500);
    // In which job's books each stands the store knows.
    let sequences: BTreeSet<u64> = message.sequences.into_iter().collect();
    let find = move |store: &dyn Store| {
        let mut found = Vec::new();
        for sequence in sequences {
            let entry = match sequence.checked_sub(1) {
                Some(before) => store.measurements_after(before, 1)?.pop(),
                None => None,
            };
            let entry = entry.filter(|entry| entry.sequence == sequence);
            found.push(entry.map(|entry| (sequence, entry.job)).ok_or(sequence));
        }
        Ok(found)
    };
    let found = shell.read(find).await?.into_iter();
    let measurements = found
        .collect::<Result<Vec<_>, u64>>()
        .map_err(Refusal::MeasurementUnknown)?;
    let event = RetractMeasurements {
        measurements,
        because,
        by,
    };
    let retracted = shell.request(event).await?;
    tracing::info!(retracted.retracted, "measurements retracted");
    Ok(Response::new(v1::RetractMeasurementsResponse {
        retracted: retracted.retracted,
        known: retracted.known,
    }))
}

/// Every retraction, by its measurement.
pub(super) async fn retractions(shell: &Shell) -> Result<BTreeMap<u64, Retraction>, Status> {
    let (mut all, mut last) = (BTreeMap::new(), 0);
    loop {
        let page = shell
            .read(move |store| store.retractions_after(last, BATCH_MAX))
            .await?;
        let Some(newest) = page.last() else {
            return Ok(all);
        };
        last = newest.number;
        all.extend(page.into_iter().map(|one| (one.sequence, one)));
    }
}
