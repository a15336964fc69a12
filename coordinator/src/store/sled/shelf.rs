//! The shelves: which tree a record lies in, and under which key.

use std::sync::Arc;

use uuid::Uuid;
use wattfarm_cost::id::JobId;
use wattfarm_cost::model::ModelKey;

use super::super::StoreError;
use super::super::record::decode;
use crate::farm::{Change, TaskKey, TotalName};

/// The keys of the commits' tree: how many there were, and that the indices and totals are there. Stores of before these
/// have to be indexed when they are opened.
pub(super) const COUNT: &[u8] = b"count";
pub(super) const INDEXED: &[u8] = b"indexed";

/// The trees, in the order of [`SledStore::trees`](super::SledStore).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    Tokens,
    Agents,
    Platforms,
    Tasks,
    Jobs,
    Measurements,
    Campaigns,
    Models,
    Keys,
    /// Retractions by their numbers.
    Retractions,
    /// What is counted over all jobs, each figure under its name.
    Totals,
    /// The job of each task.
    ByTask,
    /// The jobs that are open: all that a farm that starts reads of the jobs.
    Open,
    /// How many commits there have been. The last tree, so that it is written after all else of a commit.
    Commits,
}

impl Shelf {
    pub(super) const ALL: [(Self, &str); 14] = [
        (Self::Tokens, "tokens"),
        (Self::Agents, "agents"),
        (Self::Platforms, "platforms"),
        (Self::Tasks, "tasks"),
        (Self::Jobs, "jobs"),
        (Self::Measurements, "measurements"),
        (Self::Campaigns, "campaigns"),
        (Self::Models, "models"),
        (Self::Keys, "keys"),
        (Self::Retractions, "retractions"),
        (Self::Totals, "totals"),
        (Self::ByTask, "jobs by task"),
        (Self::Open, "open jobs"),
        (Self::Commits, "commits"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Whether it follows from the others, and is no part of a copy.
    pub(super) fn is_index(self) -> bool {
        matches!(self, Self::ByTask | Self::Open | Self::Commits)
    }
}

/// A record of a job that has to be there.
pub(super) fn missing(shelf: Shelf, job: JobId) -> StoreError {
    StoreError::Record {
        tree: shelf.name(),
        key: job.0.simple().to_string(),
        reason: "is missing: restore the store from a copy".to_owned(),
    }
}

/// The job that a key, or an index's value, names.
pub(super) fn job_id(shelf: Shelf, bytes: &[u8]) -> Result<JobId, StoreError> {
    let id = Uuid::from_slice(bytes).map(JobId);
    id.map_err(|_| StoreError::Record {
        tree: shelf.name(),
        key: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        reason: "has a key that is no job's id".to_owned(),
    })
}

pub(super) fn task_key(task: &TaskKey) -> Vec<u8> {
    let (platform, subject) = (task.platform.as_bytes(), task.subject.as_bytes());
    [platform, subject, task.recipe.name().as_bytes()].concat()
}

pub(super) fn total_key(name: TotalName) -> Vec<u8> {
    match name {
        TotalName::LastLease => b"last lease".to_vec(),
        TotalName::Tally(campaign) => [b"tally ", campaign.0.as_bytes().as_slice()].concat(),
        TotalName::Measurements(platform) => [b"measurements ", &platform.as_bytes()[..]].concat(),
    }
}

/// The change that makes a record.
pub(super) fn change(shelf: Shelf, key: &[u8], bytes: &[u8]) -> Result<Change, StoreError> {
    let tree = shelf.name();
    Ok(match shelf {
        Shelf::Tokens => {
            let (hash, token) = decode(tree, key, bytes)?;
            Change::Token(hash, token)
        }
        Shelf::Keys => {
            let (hash, key) = decode(tree, key, bytes)?;
            Change::Key(hash, key)
        }
        Shelf::Agents => Change::Agent(decode(tree, key, bytes)?),
        Shelf::Platforms => Change::Platform(decode(tree, key, bytes)?),
        Shelf::Tasks => {
            let job = job_id(shelf, key)?;
            Change::Task(job, Arc::new(decode(tree, key, bytes)?))
        }
        Shelf::Jobs => Change::Job(decode(tree, key, bytes)?),
        Shelf::Measurements => Change::Entry(decode(tree, key, bytes)?),
        Shelf::Campaigns => Change::Campaign(decode(tree, key, bytes)?),
        Shelf::Models => Change::Model(decode(tree, key, bytes)?),
        Shelf::Retractions => Change::Retraction(decode(tree, key, bytes)?),
        Shelf::Totals => Change::Total(decode(tree, key, bytes)?),
        Shelf::ByTask | Shelf::Open | Shelf::Commits => {
            unreachable!("indices and the count of commits are each store's own")
        }
    })
}

pub(super) fn sequence_of(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

/// Models lie by platform, kind, dtype and target, each version after the one before.
pub(super) fn model_key(key: &ModelKey, version: u64) -> Vec<u8> {
    let names = format!("/{}/{}/{}/", key.kind, key.dtype, key.target);
    [
        key.platform.as_bytes(),
        names.as_bytes(),
        &version.to_be_bytes(),
    ]
    .concat()
}
