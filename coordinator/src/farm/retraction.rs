//! Retractions: measurements that are not to be believed. What was measured stays as it was; a record beside it says why it
//! no longer counts.

use serde::{Deserialize, Serialize};
use wattfarm_cost::id::JobId;

use super::campaign::{Campaign, Owner};
use super::job::{Job, Reported, State};
use super::{Change, Event, Farm, JobName, Refusal, Timestamp};

/// A measurement taken back, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retraction {
    /// Its place in the order of retractions, from 1: the cursor that followers read from.
    pub number: u64,
    /// The measurement.
    pub sequence: u64,
    /// Why.
    pub because: String,
    /// Who took it back.
    pub by: Owner,
    /// When.
    pub retracted_at: Timestamp,
}

/// Takes measurements back. All or none: one that there isn't refuses the call.
#[derive(Debug)]
pub struct RetractMeasurements {
    /// Each with the job that it answers, as the store has it.
    pub measurements: Vec<(u64, JobId)>,
    /// Why.
    pub because: String,
    /// Who asks.
    pub by: Owner,
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retracted {
    /// Taken back now.
    pub retracted: u32,
    /// Had been taken back before; the first reason stays.
    pub known: u32,
}

impl Event for RetractMeasurements {
    type Reply = Result<Retracted, Refusal>;

    fn is_about(&self, _farm: &Farm) -> Vec<JobName> {
        let jobs = self.measurements.iter().map(|&(_, job)| job);
        jobs.map(JobName::Id).collect()
    }

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        for &(sequence, job) in &self.measurements {
            let job = farm.jobs.get(job);
            job.and_then(|job| reported(job, sequence))
                .ok_or(Refusal::MeasurementUnknown(sequence))?;
        }
        let mut reply = Retracted::default();
        for (sequence, job) in self.measurements {
            match farm.take_back(now, job, sequence, &self.because, self.by) {
                true => reply.retracted += 1,
                false => reply.known += 1,
            }
        }
        Ok(reply)
    }
}

/// Asks for the number of the last retraction; 0 if there is none.
#[derive(Debug)]
pub struct LastRetraction;

impl Event for LastRetraction {
    type Reply = u64;

    fn apply(self, farm: &mut Farm, _now: Timestamp) -> u64 {
        farm.retractions
    }
}

impl Farm {
    /// Takes a measurement of a job back; whether it stood until now.
    pub(super) fn take_back(
        &mut self,
        now: Timestamp,
        job: JobId,
        sequence: u64,
        because: &str,
        by: Owner,
    ) -> bool {
        let standing = self.jobs.get(job);
        let standing = standing.and_then(|job| reported(job, sequence));
        if standing != Some(Reported::Measured(sequence)) {
            return false;
        }
        self.retractions += 1;
        self.changes.push(Change::Retraction(Retraction {
            number: self.retractions,
            sequence,
            because: because.to_owned(),
            by,
            retracted_at: now,
        }));
        self.discount(job, sequence);
        true
    }

    /// A measurement of a job counts no longer. A job that has no other is as if it had been withdrawn: whoever wants it
    /// has it measured anew, and the campaigns that paid for it have one sample less.
    fn discount(&mut self, id: JobId, sequence: u64) {
        let campaigns = &self.campaigns;
        let is_live = |campaign: &Campaign| campaign.end.is_none();
        self.jobs.alter(id, &mut self.changes, |job| {
            for grant in &mut job.grants {
                if grant.report == Some(Reported::Measured(sequence)) {
                    grant.report = Some(Reported::Retracted(sequence));
                }
            }
            if job.replicas_done() > 0 {
                return;
            }
            job.shares
                .retain(|campaign, _| campaigns.get(campaign).is_some_and(is_live));
            if job.state == State::Done {
                job.state = State::Withdrawn;
            }
        });
    }
}

/// What a job has of a measurement.
fn reported(job: &Job, sequence: u64) -> Option<Reported> {
    let mut reports = job.grants.iter().filter_map(|grant| grant.report);
    reports.rfind(|report| match report {
        Reported::Measured(known) | Reported::Retracted(known) => *known == sequence,
        Reported::Other => false,
    })
}
