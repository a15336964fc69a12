//! A copy of the store while commits go on: chunks of what is stored, each followed by what was committed meanwhile.
//!
//! What is read is of no one moment; but after each chunk come the commits of the meantime, in their order, and each change
//! says all of its record. So in the end the copy is the store as it was when the last of them was written.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::super::shelf::{Shelf, change};
use super::super::{Sink, StoreError};
use super::{DurableStore, State};
use crate::farm::{Change, Job};

/// Records in a chunk.
const CHUNK_RECORDS: usize = 1000;

/// Changes that a copy may be behind the commits that go on meanwhile.
const BEHIND_MAX: usize = 200_000;

/// What a copy has to know of the commits that go on.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Held by the copy that is under way.
    copying: Mutex<()>,
    /// What has been committed since that copy looked last; `None` without one, or if it is too far behind.
    since: Mutex<Option<Vec<Change>>>,
}

impl Followed {
    fn held(&self) -> MutexGuard<'_, Option<Vec<Change>>> {
        self.since
            .lock()
            .expect("nothing panics while it holds what was committed")
    }

    /// Keeps what was committed for the copy under way, if it isn't too far behind already.
    pub(super) fn follow(&self, changes: &[Change]) {
        let mut followed = self.held();
        if let Some(behind) = followed.as_mut() {
            behind.extend_from_slice(changes);
            if behind.len() > BEHIND_MAX {
                *followed = None;
            }
        }
    }

    /// Nobody else begins for as long as the guard is held.
    fn begin(&self) -> Result<MutexGuard<'_, ()>, StoreError> {
        let copying = match self.copying.try_lock() {
            Ok(copying) => copying,
            // One that panicked is not under way any more.
            Err(TryLockError::Poisoned(copying)) => copying.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(cannot("another copy is under way")),
        };
        *self.held() = Some(Vec::new());
        Ok(copying)
    }

    fn meanwhile(&self) -> Result<Vec<Change>, StoreError> {
        let mut followed = self.held();
        let behind = followed.as_mut().map(std::mem::take);
        behind.ok_or_else(|| cannot("more is being committed than whoever takes the copy can take"))
    }

    fn end(&self) {
        *self.held() = None;
    }
}

fn cannot(why: &str) -> StoreError {
    StoreError::Disk {
        doing: "copy the store",
        source: why.into(),
    }
}

/// Tells the chunks on.
struct Copy<'a, 'b> {
    store: &'a DurableStore,
    sink: &'a mut Sink<'b>,
}

impl DurableStore {
    pub(super) fn copy_to(&self, sink: &mut Sink<'_>) -> Result<(), StoreError> {
        let _copying = self.followed.begin()?;
        let mut copy = Copy { store: self, sink };
        let copied = copy.all().and_then(|()| {
            // No commit is half seen: it holds the state for as long as it lasts.
            let state = self.state();
            let last = self.followed.meanwhile()?;
            self.followed.end();
            drop(state);
            copy.tell(&last)
        });
        if copied.is_err() {
            self.followed.end();
        }
        copied
    }
}

impl Copy<'_, '_> {
    fn tell(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let told = if changes.is_empty() {
            Ok(())
        } else {
            (self.sink)(changes)
        };
        told.map_err(|source| StoreError::Disk {
            doing: "write the copy of the store",
            source: Box::new(source),
        })
    }

    /// Tells a chunk, which was read whole before what was committed meanwhile is looked at: it is never newer than that.
    fn chunk(&mut self, chunk: &[Change]) -> Result<(), StoreError> {
        self.tell(chunk)?;
        let meanwhile = self.store.followed.meanwhile()?;
        self.tell(&meanwhile)
    }

    fn all(&mut self) -> Result<(), StoreError> {
        for shelf in [Shelf::Tokens, Shelf::Agents, Shelf::Platforms] {
            self.shelf(shelf)?;
        }
        self.jobs(|store, state, job| {
            let task = store.task_of(state, job.id)?;
            Ok(Change::Task(job.id, Arc::new(task)))
        })?;
        self.jobs(|_, _, job| Ok(Change::Job(job)))?;
        self.measurements()?;
        for shelf in [
            Shelf::Campaigns,
            Shelf::Models,
            Shelf::Keys,
            Shelf::Retractions,
            Shelf::Totals,
        ] {
            self.shelf(shelf)?;
        }
        Ok(())
    }

    fn shelf(&mut self, shelf: Shelf) -> Result<(), StoreError> {
        let store = self.store;
        store.each_page(shelf, |page| {
            let changes = page.iter().map(|(key, record)| change(shelf, key, record));
            let chunk: Vec<Option<Change>> = changes.collect::<Result<_, _>>()?;
            self.chunk(&chunk.into_iter().flatten().collect::<Vec<_>>())
        })
    }

    fn jobs(
        &mut self,
        tell: impl Fn(&DurableStore, &State, Job) -> Result<Change, StoreError>,
    ) -> Result<(), StoreError> {
        let mut last = None;
        loop {
            let chunk = {
                // So that no job goes between its own reading and that of its task.
                let state = self.store.state();
                let jobs = self.store.jobs_by(&state, last, CHUNK_RECORDS)?;
                last = jobs.last().map(|job| job.id);
                let told = jobs.into_iter().map(|job| tell(self.store, &state, job));
                told.collect::<Result<Vec<_>, _>>()?
            };
            self.chunk(&chunk)?;
            if last.is_none() {
                return Ok(());
            }
        }
    }

    fn measurements(&mut self) -> Result<(), StoreError> {
        let mut next = 1;
        loop {
            let entries = self.store.entries_from(next, CHUNK_RECORDS)?;
            let Some(last) = entries.last() else {
                return Ok(());
            };
            next = last.sequence + 1;
            let chunk: Vec<_> = entries.into_iter().map(Change::Entry).collect();
            self.chunk(&chunk)?;
        }
    }
}
