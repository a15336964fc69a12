//! Stores of before there were packs: one record each for tasks, jobs and measurements, in trees of their own. They are
//! brought over when they are opened; whatever dies meanwhile, the next opening begins anew.

use std::path::Path;
use std::sync::Arc;

use sled::{Db, Tree};

use super::super::record::{decode, encode};
use super::super::shelf::{Shelf, job_id};
use super::super::{DurableStore, Store as _, StoreError, recount};
use super::{READ, failed, guarded};
use crate::farm::Change;

/// The old trees of what is in packs now, in the order in which they are brought over, and the indices.
const TASKS: &str = "tasks";
const JOBS: &str = "jobs";
const MEASUREMENTS: &str = "measurements";
const TREES: [&str; 5] = [TASKS, JOBS, MEASUREMENTS, "jobs by task", "open jobs"];

/// Among the commits: that nothing is left to be brought over, and in stores of before that the totals are counted.
const PACKED: &[u8] = b"packed";
const INDEXED: &[u8] = b"indexed";

/// Changes of a commit.
const GROUP: usize = 1000;

/// Whether there is something to be brought over.
fn is_old(database: &Db, commits: &Tree) -> sled::Result<bool> {
    let names = database.tree_names();
    let has_old = TREES
        .iter()
        .any(|tree| names.iter().any(|name| *name == *tree));
    Ok(has_old && !commits.contains_key(PACKED)?)
}

/// Forgets what an opening that did not end has brought over.
pub(super) fn make_room(folder: &Path, database: &Db) -> Result<(), StoreError> {
    let clear = || {
        if is_old(database, &database.open_tree(Shelf::Commits.name())?)? {
            for shelf in [
                Shelf::Tasks,
                Shelf::Over,
                Shelf::Open,
                Shelf::Measurements,
                Shelf::Catalogue,
            ] {
                database.open_tree(shelf.name())?.clear()?;
            }
        }
        Ok(())
    };
    run(folder, clear)
}

/// Brings over what is there, and says so.
pub(super) fn bring_over(
    folder: &Path,
    database: &Db,
    store: &DurableStore,
) -> Result<(), StoreError> {
    let commits = run(folder, || database.open_tree(Shelf::Commits.name()))?;
    if run(folder, || is_old(database, &commits))? {
        tracing::info!("packing the store's records: this is done once");
        let old = Old {
            folder,
            database,
            store,
        };
        old.bring(TASKS, |key, bytes| {
            let job = job_id(Shelf::Tasks, key)?;
            Ok(Change::Task(job, Arc::new(decode(TASKS, key, bytes)?)))
        })?;
        old.bring(JOBS, |key, bytes| {
            Ok(Change::Job(decode(JOBS, key, bytes)?))
        })?;
        old.bring(MEASUREMENTS, |key, bytes| {
            Ok(Change::Entry(decode(MEASUREMENTS, key, bytes)?))
        })?;
        if !run(folder, || commits.contains_key(INDEXED))? {
            let totals = recount(store)?.all();
            store.commit(&totals.into_iter().map(Change::Total).collect::<Vec<_>>())?;
        }
    }
    run(folder, || {
        if !commits.contains_key(PACKED)? {
            commits.insert(PACKED, encode(&true))?;
            database.flush()?;
        }
        for tree in TREES {
            if database.tree_names().iter().any(|name| *name == tree) {
                database.drop_tree(tree)?;
            }
        }
        Ok(())
    })
}

struct Old<'a> {
    folder: &'a Path,
    database: &'a Db,
    store: &'a DurableStore,
}

impl Old<'_> {
    /// Commits the changes that the records of a tree are.
    fn bring(
        &self,
        tree: &str,
        change: impl Fn(&[u8], &[u8]) -> Result<Change, StoreError>,
    ) -> Result<(), StoreError> {
        let mut items = run(self.folder, || self.database.open_tree(tree))?.iter();
        loop {
            let group = run(self.folder, || {
                items.by_ref().take(GROUP).collect::<sled::Result<Vec<_>>>()
            })?;
            if group.is_empty() {
                return Ok(());
            }
            let changes = group.iter().map(|(key, bytes)| change(key, bytes));
            self.store
                .commit(&changes.collect::<Result<Vec<_>, _>>()?)?;
        }
    }
}

fn run<T>(folder: &Path, run: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    guarded(folder, run)?.map_err(|error| failed(folder, READ, error))
}
