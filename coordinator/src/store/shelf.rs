//! The shelves: which records lie together, and under which key.

use uuid::Uuid;
use wattfarm_cost::id::JobId;
use wattfarm_cost::model::ModelKey;

use super::StoreError;
use super::record::decode;
use crate::farm::{Change, TotalName};

/// The key of the count of commits.
pub(super) const COUNT: &[u8] = b"count";

/// The shelves, in the order in which a commit writes to them and a copy reads those that aren't about jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shelf {
    Tokens,
    Agents,
    Platforms,
    Campaigns,
    Models,
    Keys,
    /// Retractions by their numbers.
    Retractions,
    /// What is counted over all jobs, each figure under its name.
    Totals,
    /// Packs of what jobs ask for.
    Tasks,
    /// Packs of jobs as they were when they were over. The newest that has a job is right.
    Over,
    /// Packs of jobs that are open. The newest that has a job is right, if none of jobs that are over is newer.
    Open,
    /// Packs of measurements, each under the sequence of its first.
    Measurements,
    /// What each commit changed of which jobs there are and where they lie.
    Catalogue,
    /// In place of the catalogue before there was one: the pack of each job that is over.
    ById,
    /// The job of each task, and the pack of the task.
    ByTask,
    /// How many commits there have been. The last shelf, so that it is written after all else of a commit.
    Commits,
}

impl Shelf {
    pub(super) const ALL: [(Self, &str); 16] = [
        (Self::Tokens, "tokens"),
        (Self::Agents, "agents"),
        (Self::Platforms, "platforms"),
        (Self::Campaigns, "campaigns"),
        (Self::Models, "models"),
        (Self::Keys, "keys"),
        (Self::Retractions, "retractions"),
        (Self::Totals, "totals"),
        (Self::Tasks, "packs of tasks"),
        (Self::Over, "packs of jobs"),
        (Self::Open, "packs of open jobs"),
        (Self::Measurements, "packs of measurements"),
        (Self::Catalogue, "catalogue"),
        (Self::ById, "packs by job"),
        (Self::ByTask, "packs by task"),
        (Self::Commits, "commits"),
    ];

    /// Whether its records are packs.
    pub(super) fn is_packed(self) -> bool {
        matches!(
            self,
            Self::Tasks | Self::Over | Self::Open | Self::Measurements
        )
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// A record that is wrong, or isn't there.
pub(super) fn wrong(shelf: Shelf, key: &[u8], reason: &str) -> StoreError {
    StoreError::Record {
        tree: shelf.name(),
        key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
        reason: reason.to_owned(),
    }
}

/// A record that has to be there.
pub(super) fn missing(shelf: Shelf, key: &[u8]) -> StoreError {
    wrong(shelf, key, "is missing: restore the store from a copy")
}

/// The job that an index's key, or value, names.
pub(super) fn job_id(shelf: Shelf, bytes: &[u8]) -> Result<JobId, StoreError> {
    let id = Uuid::from_slice(bytes).map(JobId);
    id.map_err(|_| wrong(shelf, bytes, "is no job's id"))
}

/// The number of a pack, of a count, or of what is numbered.
pub(super) fn number(shelf: Shelf, bytes: &[u8]) -> Result<u64, StoreError> {
    let number = bytes.try_into().map(u64::from_be_bytes);
    number.map_err(|_| wrong(shelf, bytes, "is no number"))
}

pub(super) fn total_key(name: TotalName) -> Vec<u8> {
    match name {
        TotalName::LastLease => b"last lease".to_vec(),
        TotalName::Tally(campaign) => [b"tally ", campaign.0.as_bytes().as_slice()].concat(),
        TotalName::Measurements(platform) => [b"measurements ", &platform.as_bytes()[..]].concat(),
    }
}

/// The change that makes a record; `None` if it follows from others, is of a pack, or is each store's own.
pub(super) fn change(shelf: Shelf, key: &[u8], bytes: &[u8]) -> Result<Option<Change>, StoreError> {
    let tree = shelf.name();
    Ok(Some(match shelf {
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
        Shelf::Campaigns => Change::Campaign(decode(tree, key, bytes)?),
        Shelf::Models => Change::Model(decode(tree, key, bytes)?),
        Shelf::Retractions => Change::Retraction(decode(tree, key, bytes)?),
        Shelf::Totals => Change::Total(decode(tree, key, bytes)?),
        Shelf::Tasks
        | Shelf::Over
        | Shelf::Open
        | Shelf::Measurements
        | Shelf::Catalogue
        | Shelf::ById
        | Shelf::ByTask
        | Shelf::Commits => return Ok(None),
    }))
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
