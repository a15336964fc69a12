//! Reads all of a store and says whether it is what a coordinator wrote: each record against its checksum, and the records
//! against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};
use wattfarm_proto::{block, first_of};

use super::{Store, StoreError, recount};
use crate::farm::{Change, Farm, Reported, Timestamp};

/// What a sound store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Agents.
    pub agents: u64,
    /// Jobs.
    pub jobs: u64,
    /// Measurements.
    pub measurements: u64,
    /// Campaigns.
    pub campaigns: u64,
    /// Models, each version counted.
    pub models: u64,
}

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read, or a record is not what was written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The records contradict each other.
    #[error("the records contradict each other: {0}: restore the store from a copy")]
    Contradiction(String),
}

/// Looks at everything.
pub fn verify(store: &dyn Store) -> Result<Verified, VerifyError> {
    let mut found = Verified::default();
    // By measurement: what the jobs say of it, and what it says itself. A redone change comes again.
    let mut booked: BTreeMap<u64, (JobId, AgentId, LeaseNumber)> = BTreeMap::new();
    let mut measured: BTreeMap<u64, (JobId, AgentId, LeaseNumber)> = BTreeMap::new();
    let (mut standing, mut retracted) = (BTreeSet::new(), BTreeSet::new());
    let (mut tasks, mut jobs) = (BTreeSet::new(), BTreeSet::new());
    store.copy(&mut |changes| {
        for change in changes {
            match change {
                Change::Task(job, _) => drop(tasks.insert(*job)),
                Change::Job(job) => {
                    jobs.insert(job.id);
                    for grant in &job.grants {
                        match grant.report {
                            Some(Reported::Measured(sequence)) => {
                                standing.insert(sequence);
                                booked.insert(sequence, (job.id, grant.agent, grant.lease));
                            }
                            Some(Reported::Retracted(sequence)) => {
                                standing.remove(&sequence);
                                booked.insert(sequence, (job.id, grant.agent, grant.lease));
                            }
                            Some(Reported::Other) | None => (),
                        }
                    }
                }
                Change::JobGone(job) => {
                    jobs.remove(job);
                    tasks.remove(job);
                }
                Change::Entry(entry) => {
                    measured.insert(entry.sequence, (entry.job, entry.agent, entry.lease));
                }
                Change::Retraction(retraction) => drop(retracted.insert(retraction.sequence)),
                Change::Model(_) => found.models += 1,
                Change::Token(..)
                | Change::Key(..)
                | Change::Agent(_)
                | Change::Platform(_)
                | Change::Campaign(_)
                | Change::Total(_) => (),
            }
        }
        Ok::<(), io::Error>(())
    })?;
    let contradiction = |what: String| Err(VerifyError::Contradiction(what));
    if let Some(job) = jobs.symmetric_difference(&tasks).next() {
        return contradiction(format!("job {job} lacks its task, or a task its job"));
    }
    for (sequence, entry) in &measured {
        if booked.get(sequence) != Some(entry) {
            return contradiction(format!(
                "measurement {sequence} is not the job's that it names"
            ));
        }
    }
    if let Some(sequence) = booked
        .keys()
        .find(|sequence| !measured.contains_key(sequence))
    {
        return contradiction(format!("measurement {sequence} is missing"));
    }
    let mut before = 0;
    for &sequence in measured.keys() {
        // Each block, of which a shard has one, begins at 1.
        let expected = match block(sequence) == block(before) {
            true => before + 1,
            false => first_of(block(sequence)),
        };
        if sequence != expected {
            return contradiction("the measurements are not numbered from 1, each once".to_owned());
        }
        before = sequence;
    }
    if let Some(sequence) = measured
        .keys()
        .find(|sequence| standing.contains(sequence) == retracted.contains(sequence))
    {
        return contradiction(format!(
            "measurement {sequence} counts and was retracted, or neither"
        ));
    }
    let records = store.load()?;
    let counted = recount(store)?;
    if counted.all() != records.totals.all() {
        return contradiction(format!(
            "what is counted over all jobs is {:?}, and should be {:?}",
            records.totals.all(),
            counted.all()
        ));
    }
    found.agents = records.agents.len() as u64;
    found.campaigns = records.campaigns.len() as u64;
    let farm = Farm::restore(records, Timestamp(0));
    farm.check_invariants()
        .map_err(VerifyError::Contradiction)?;
    found.jobs = jobs.len() as u64;
    found.measurements = measured.len() as u64;
    Ok(found)
}
