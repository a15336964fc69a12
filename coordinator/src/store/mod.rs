//! Durable records behind a few verbs. The farm decides; a store only keeps, and keeps in order.

mod directory;
pub mod dump;
mod existing;
mod home;
mod memory;
mod pack;
mod place;
mod postgres;
mod record;
mod shelf;
mod shelved;
mod sled;
mod verify;

use std::io;
use std::path::{Path, PathBuf};

use wattfarm_cost::id::JobId;
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Measurement, Model};

use crate::farm::{Change, Entry, Job, Records, Retraction, Task, TaskKey, Totals};

pub use directory::Directory;
pub use existing::Existing;
pub use memory::MemoryStore;
pub use place::Place;
pub use postgres::{Address, Common, Seen, Shard, Tenure, View};
pub use shelved::DurableStore;
pub use verify::{Verified, VerifyError, verify};

/// A home for the farm's records.
pub trait Store: Send + Sync + 'static {
    /// Stores changes, all or none. They are on disk when this returns.
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// What the farm needs to go on.
    fn load(&self) -> Result<Records, StoreError>;

    /// Measurements after a sequence in their order, at most `limit` of them.
    fn measurements_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<Measurement>, StoreError>;

    /// Retractions after a number in their order, at most `limit` of them.
    fn retractions_after(&self, number: u64, limit: usize) -> Result<Vec<Retraction>, StoreError>;

    /// A job; `None` if there is none.
    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// The job of a task; `None` if there is none.
    fn find_job(&self, task: &TaskKey) -> Result<Option<Job>, StoreError>;

    /// Jobs after an id, or from the first, in the order of their ids, at most `limit` of them.
    fn jobs_after(&self, id: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError>;

    /// What a job asks for; `None` if there is no such job.
    fn task(&self, job: JobId) -> Result<Option<Task>, StoreError>;

    /// Every version of a model after the given one, in their order.
    fn model_versions_after(&self, key: &ModelKey, version: u64) -> Result<Vec<Model>, StoreError>;

    /// Tells all that is stored, a chunk at a time, as changes that make an empty store equal to this one as it was at
    /// some moment of the call. Commits may go on meanwhile. An error of the sink ends it.
    fn copy(&self, sink: &mut Sink<'_>) -> Result<(), StoreError>;
}

/// Takes the chunks of a copy, in their order.
pub type Sink<'a> = dyn FnMut(&[Change]) -> io::Result<()> + 'a;

/// Why a store cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator works on it.
    #[error("the store at `{0}` is in use by another coordinator")]
    InUse(String),
    /// It cannot be opened.
    #[error("open the store at `{path}`")]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its file holds what no coordinator wrote.
    #[error(
        "the store's file `{file}` is damaged ({detail}): put the folder aside and restore it from a copy, or start with \
         an empty folder; agents enrol anew then"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was seen.
        detail: String,
    },
    /// The database holds what this coordinator can't go on from.
    #[error("the database {0}")]
    Database(String),
    /// Another coordinator has taken over: what this one has in memory is worth nothing any more.
    #[error("another coordinator is in charge of the database now")]
    TakenOver,
    /// There is no room.
    #[error(
        "the disk of the store at `{0}` is full: make room and start again, nothing acknowledged is lost"
    )]
    Full(PathBuf),
    /// The database can't be reached, or takes too long: it may be there again in a moment.
    #[error("{doing}: the database does not answer")]
    Away {
        /// What was being done.
        doing: &'static str,
        /// What was seen of it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk fails.
    #[error("{doing}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record is not what was written.
    #[error("record `{key}` of `{tree}`: {reason}")]
    Record {
        /// The tree that it lies in.
        tree: &'static str,
        /// Its key, in hexadecimal digits.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl DurableStore {
    /// The store in a folder, by sled. The folder is made if it isn't there.
    pub fn in_folder(folder: &Path) -> Result<Self, StoreError> {
        sled::open(folder)
    }
}

/// Jobs that are read at a time.
const PAGE: usize = 1000;

/// Runs over every job, in the order of their ids.
fn each_job(
    store: &dyn Store,
    mut take: impl FnMut(Job) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut last = None;
    loop {
        let page = store.jobs_after(last, PAGE)?;
        let Some(job) = page.last() else {
            return Ok(());
        };
        last = Some(job.id);
        page.into_iter().try_for_each(&mut take)?;
    }
}

/// What is counted over all jobs, counted anew.
fn recount(store: &dyn Store) -> Result<Totals, StoreError> {
    let mut totals = Totals::default();
    each_job(store, |job| {
        totals.count(&job);
        Ok(())
    })?;
    Ok(totals)
}

/// A measurement, told in full.
fn measurement(entry: Entry, task: Task) -> Measurement {
    Measurement {
        sequence: entry.sequence,
        job: entry.job,
        agent: entry.agent,
        lease: entry.lease,
        platform: task.platform,
        subject: task.subject,
        recipe: task.recipe,
        reading: entry.reading,
        received_at_ms: entry.received_at.0,
    }
}
