//! The store in sled 0.34. No type of sled's leaves this folder.
//!
//! What sled is not trusted with: its flush pushes pages towards the disk but is no fsync, so each commit ends with a sync
//! of its files through descriptors of our own; it panics on a damaged file, so open, load and commit run guarded; it takes
//! some damage for a torn write and forgets what came after, so commits are counted in a file of ours; its lock's error
//! names no cause, so the folder has a lock file too; it takes a draft of its snapshot, as a crash or a full disk leaves one,
//! for a damaged snapshot, so drafts are removed before it looks; and after a write that failed it waits for ever when it is
//! dropped, so it isn't then.

mod copy;
mod group;
mod shelf;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{self, Arc, Mutex};

use serde::de::DeserializeOwned;
use sled::transaction::{TransactionError, Transactional as _};
use sled::{IVec, Tree};
use wattfarm_cost::id::JobId;
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Measurement, Model};

use self::copy::behind;
use self::group::Group;
use self::shelf::{
    COUNT, INDEXED, Shelf, job_id, missing, model_key, sequence_of, task_key, total_key,
};
use super::record::{decode, encode};
use super::{Sink, Store, StoreError, each_job, measurement};
use crate::farm::{Change, Entry, Job, Records, Retraction, Task, TaskKey, Total, Totals};

/// sled's default of 1 GiB is more than the rest of the coordinator needs together.
const CACHE_BYTES: u64 = 64 << 20;

/// A key with its record's bytes.
type Item = sled::Result<(IVec, IVec)>;

/// A store in a folder of its own.
#[derive(Debug)]
pub struct SledStore {
    folder: PathBuf,
    database: sled::Db,
    trees: Vec<Tree>,
    /// Our own descriptor of sled's log.
    file: File,
    /// Commits so far, and the file that says how many were acknowledged.
    commits: Mutex<u64>,
    acknowledged: File,
    /// The newest of sled's files for large values that has been synced.
    blob_synced: Mutex<i64>,
    /// What the tree of open jobs holds: only jobs that are new to it, or leave it, are written.
    open: Mutex<BTreeSet<JobId>>,
    /// Held by the copy that is under way.
    copying: Mutex<()>,
    /// What has been committed since that copy looked last; `None` without one, or if it is too far behind.
    followed: Mutex<Option<Vec<Change>>>,
    /// Whether a write has failed.
    failed: AtomicBool,
    /// Held for as long as the store is open.
    _lock: File,
}

/// What sled calls a snapshot that it has not finished.
const SNAPSHOT: &str = "snap.";
const DRAFT: &str = ".generating";

impl SledStore {
    /// Opens the store in `folder`, which is made if it isn't there.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |error: io::Error| match is_full(&error) {
            true => StoreError::Full(folder.to_owned()),
            false => StoreError::Open {
                path: folder.to_owned(),
                source: Box::new(error),
            },
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(folder.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        remove_drafts(folder).map_err(failed)?;
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        let open = || {
            let database = config.open()?;
            let trees = Shelf::ALL
                .iter()
                .map(|(_, name)| database.open_tree(name))
                .collect::<sled::Result<Vec<_>>>()?;
            Ok((database, trees))
        };
        let opened: Result<_, sled::Error> = guarded(folder, open)?;
        let (database, trees) = opened.map_err(|error| match error {
            sled::Error::Io(error) => failed(error),
            sled::Error::Corruption { .. } => damaged(folder, error.to_string()),
            sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_) => StoreError::Open {
                path: folder.to_owned(),
                source: Box::new(error),
            },
        })?;
        let file = File::open(folder.join("db")).map_err(failed)?;
        // The names of new files are synced by their folders.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        let acknowledged = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join("acknowledged"))
            .map_err(failed)?;
        let store = Self {
            folder: folder.to_owned(),
            database,
            trees,
            file,
            commits: Mutex::new(0),
            acknowledged,
            blob_synced: Mutex::new(-1),
            open: Mutex::default(),
            copying: Mutex::new(()),
            followed: Mutex::new(None),
            failed: AtomicBool::new(false),
            _lock: lock,
        };
        let commits = guarded(folder, || store.count_commits())??;
        *store.commits.lock().expect("nobody else has it yet") = commits;
        store.written(guarded(folder, || store.index()).flatten())?;
        Ok(store)
    }

    /// Notes whether a write has failed.
    fn written(&self, written: Result<(), StoreError>) -> Result<(), StoreError> {
        self.failed.fetch_or(written.is_err(), Ordering::Relaxed);
        written
    }

    /// Sees to it that the indices are there, and reads what is held of them in memory.
    fn index(&self) -> Result<(), StoreError> {
        if self.get::<bool>(Shelf::Commits, INDEXED)? != Some(true) {
            let failed = |error| self.failed("index the store", error);
            let mut totals = Totals::default();
            each_job(self, |job| {
                totals.count(&job);
                let (id, task) = (job.id.0.as_bytes(), task_key(&job.task));
                self.tree(Shelf::ByTask).insert(task, id).map_err(failed)?;
                if job.state.is_open() {
                    self.tree(Shelf::Open).insert(id, &[]).map_err(failed)?;
                }
                Ok(())
            })?;
            for total in totals.all() {
                let record = encode(&total);
                let (shelf, key) = (self.tree(Shelf::Totals), total_key(total.name()));
                shelf.insert(key, record).map_err(failed)?;
            }
            // What was begun and not ended is begun anew: this comes after all of it is on the disk.
            self.database.flush().map_err(failed)?;
            let commits = self.tree(Shelf::Commits);
            commits.insert(INDEXED, encode(&true)).map_err(failed)?;
            self.database.flush().map_err(failed)?;
            self.sync()
                .map_err(|error| self.disk_failed("sync the store", error))?;
        }
        let mut open = self.open.lock().expect("nobody else has it yet");
        for key in self.tree(Shelf::Open).iter().keys() {
            let key = key.map_err(|error| self.failed("read the store", error))?;
            open.insert(job_id(Shelf::Open, &key)?);
        }
        Ok(())
    }

    /// The commits that the store holds: no fewer than were acknowledged.
    fn count_commits(&self) -> Result<u64, StoreError> {
        let held = self.get(Shelf::Commits, COUNT)?.unwrap_or(0);
        let mut acknowledged = [0; 8];
        let read = self.acknowledged.read_at(&mut acknowledged, 0);
        let acknowledged = match read.map_err(|error| self.disk_failed("read the store", error))? {
            // A new store, or one restored from a copy without this file.
            0 => 0,
            _ => u64::from_be_bytes(acknowledged),
        };
        if held < acknowledged {
            let detail =
                format!("it holds {held} of the {acknowledged} commits that were acknowledged");
            return Err(damaged(&self.folder, detail));
        }
        Ok(held)
    }

    fn tree(&self, shelf: Shelf) -> &Tree {
        &self.trees[shelf as usize]
    }

    fn get<T: DeserializeOwned>(&self, shelf: Shelf, key: &[u8]) -> Result<Option<T>, StoreError> {
        let bytes = self
            .tree(shelf)
            .get(key)
            .map_err(|error| self.failed("read the store", error))?;
        bytes
            .map(|bytes| decode(shelf.name(), key, &bytes))
            .transpose()
    }

    /// Every record of a shelf, in the order of their keys.
    fn all<T: DeserializeOwned>(&self, shelf: Shelf) -> Result<Vec<T>, StoreError> {
        self.read(shelf, self.tree(shelf).iter())
    }

    fn read<T: DeserializeOwned>(
        &self,
        shelf: Shelf,
        items: impl Iterator<Item = Item>,
    ) -> Result<Vec<T>, StoreError> {
        let decoded = items.map(|item| {
            let (key, bytes) = item.map_err(|error| self.failed("read the store", error))?;
            decode(shelf.name(), &key, &bytes)
        });
        decoded.collect()
    }

    fn failed(&self, doing: &'static str, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Io(error) => self.disk_failed(doing, error),
            sled::Error::Corruption { .. } => damaged(&self.folder, error.to_string()),
            sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_) => StoreError::Disk {
                doing,
                source: Box::new(error),
            },
        }
    }

    fn disk_failed(&self, doing: &'static str, error: io::Error) -> StoreError {
        match is_full(&error) {
            true => StoreError::Full(self.folder.clone()),
            false => StoreError::Disk {
                doing,
                source: Box::new(error),
            },
        }
    }

    /// Makes sure that what sled wrote is on the disk itself.
    fn sync(&self) -> io::Result<()> {
        // Values over about 128 KiB lie in files of their own, numbered upwards.
        let blobs = self.folder.join("blobs");
        let mut synced = self.blob_synced.lock().expect("syncing does not panic");
        let mut newest = *synced;
        for blob in std::fs::read_dir(&blobs)? {
            let blob = blob?;
            let name = blob.file_name();
            // A file with another name is not sled's.
            let Some(number) = name.to_str().and_then(|name| name.parse::<i64>().ok()) else {
                continue;
            };
            if number > *synced {
                match File::open(blob.path()) {
                    Ok(file) => file.sync_data()?,
                    // sled drops the files of values that were overwritten.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                newest = newest.max(number);
            }
        }
        if newest > *synced {
            File::open(&blobs)?.sync_all()?;
            *synced = newest;
        }
        self.file.sync_data()
    }
}

impl Store for SledStore {
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.written(guarded(&self.folder, || self.write(changes)).flatten())
    }

    fn load(&self) -> Result<Records, StoreError> {
        guarded(&self.folder, || {
            let open = self.open.lock().expect("nothing panics while it is held");
            let (mut jobs, mut tasks) = (Vec::new(), Vec::new());
            for &id in &*open {
                let job = self.get(Shelf::Jobs, id.0.as_bytes())?;
                jobs.push(job.ok_or_else(|| missing(Shelf::Jobs, id))?);
                tasks.push((id, Arc::new(self.task_of(id)?)));
            }
            let totals: Vec<Total> = self.all(Shelf::Totals)?;
            // Keys end with the version, so of each model the newest comes last and stays.
            let models: Vec<Model> = self.all(Shelf::Models)?;
            let newest: BTreeMap<_, _> =
                models.into_iter().map(|model| (model.key, model)).collect();
            let last = |shelf| {
                let last = self.tree(shelf).last();
                let last = last.map_err(|error| self.failed("read the store", error))?;
                Ok::<_, StoreError>(last.map_or(0, |(key, _)| sequence_of(&key)))
            };
            Ok(Records {
                tokens: self.all(Shelf::Tokens)?,
                keys: self.all(Shelf::Keys)?,
                agents: self.all(Shelf::Agents)?,
                platforms: self.all(Shelf::Platforms)?,
                tasks,
                jobs,
                campaigns: self.all(Shelf::Campaigns)?,
                models: newest.into_values().collect(),
                sequence: last(Shelf::Measurements)?,
                retractions: last(Shelf::Retractions)?,
                totals: totals.into_iter().collect(),
            })
        })?
    }

    fn measurements_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<Measurement>, StoreError> {
        let first = sequence.saturating_add(1).to_be_bytes();
        let items = self.tree(Shelf::Measurements).range(first..).take(limit);
        let entries: Vec<Entry> = self.read(Shelf::Measurements, items)?;
        entries
            .into_iter()
            .map(|entry| {
                let task = self.task_of(entry.job)?;
                Ok(measurement(entry, task))
            })
            .collect()
    }

    fn retractions_after(&self, number: u64, limit: usize) -> Result<Vec<Retraction>, StoreError> {
        let first = number.saturating_add(1).to_be_bytes();
        let after = self.tree(Shelf::Retractions).range(first..);
        self.read(Shelf::Retractions, after.take(limit))
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.get(Shelf::Jobs, id.0.as_bytes())
    }

    fn find_job(&self, task: &TaskKey) -> Result<Option<Job>, StoreError> {
        let key = task_key(task);
        let found = self.tree(Shelf::ByTask).get(key);
        match found.map_err(|error| self.failed("read the store", error))? {
            Some(id) => self.job(job_id(Shelf::ByTask, &id)?),
            None => Ok(None),
        }
    }

    fn jobs_after(&self, id: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        let after = id.map_or(Bound::Unbounded, |id| Bound::Excluded(*id.0.as_bytes()));
        let jobs = self.tree(Shelf::Jobs).range((after, Bound::Unbounded));
        self.read(Shelf::Jobs, jobs.take(limit))
    }

    fn task(&self, job: JobId) -> Result<Option<Task>, StoreError> {
        self.get(Shelf::Tasks, job.0.as_bytes())
    }

    fn model_versions_after(&self, key: &ModelKey, version: u64) -> Result<Vec<Model>, StoreError> {
        let range = model_key(key, version.saturating_add(1))..=model_key(key, u64::MAX);
        self.read(Shelf::Models, self.tree(Shelf::Models).range(range))
    }

    /// Reads the shelves while commits go on, so what it reads is of no one moment; but after each chunk come the commits
    /// of the meantime, in their order, and each change says all of its record. So in the end the copy is the store as it
    /// was when the last of them was written.
    fn copy(&self, sink: &mut Sink<'_>) -> Result<(), StoreError> {
        let mut taken = |changes: &[Change]| {
            let written = if changes.is_empty() {
                Ok(())
            } else {
                sink(changes)
            };
            written.map_err(|source| StoreError::Disk {
                doing: "write the copy of the store",
                source: Box::new(source),
            })
        };
        let _copying = match self.copying.try_lock() {
            Ok(copying) => copying,
            // One that panicked is not under way any more.
            Err(sync::TryLockError::Poisoned(copying)) => copying.into_inner(),
            Err(sync::TryLockError::WouldBlock) => {
                return Err(StoreError::Disk {
                    doing: "copy the store",
                    source: "another copy is under way".into(),
                });
            }
        };
        *self.followed() = Some(Vec::new());
        let copied = guarded(&self.folder, || self.copy_shelves(&mut taken));
        // No commit is half seen: it holds the count for as long as it lasts.
        let count = self
            .commits
            .lock()
            .expect("a commit that panics is the last");
        let last = self.followed().take();
        drop(count);
        copied??;
        match last {
            Some(changes) => taken(&changes),
            None => Err(behind()),
        }
    }
}

impl SledStore {
    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut commits = self
            .commits
            .lock()
            .expect("a commit that panics is the last");
        let mut open = self.open.lock().expect("nothing panics while it is held");
        let group = Group::of(changes, *commits + 1, &open, |id| self.job(id))?;
        let stored = self.trees[..].transaction(|views| {
            views
                .iter()
                .zip(&group.batches)
                .try_for_each(|(view, batch)| view.apply_batch(batch).map_err(Into::into))
        });
        stored.map_err(|error: TransactionError<()>| match error {
            TransactionError::Storage(error) => self.failed("write to the store", error),
            TransactionError::Abort(()) => unreachable!("nothing aborts it"),
        })?;
        self.database
            .flush()
            .map_err(|error| self.failed("flush the store", error))?;
        self.sync()
            .map_err(|error| self.disk_failed("sync the store", error))?;
        for (job, is_open) in group.turned {
            match is_open {
                true => drop(open.insert(job)),
                false => drop(open.remove(&job)),
            }
        }
        *commits += 1;
        self.follow(changes);
        // Eight bytes lie in one sector, so no crash leaves half of them.
        self.acknowledged
            .write_all_at(&commits.to_be_bytes(), 0)
            .and_then(|()| self.acknowledged.sync_data())
            .map_err(|error| self.disk_failed("count the commit", error))
    }

    /// The task of a job that there is.
    fn task_of(&self, job: JobId) -> Result<Task, StoreError> {
        self.task(job)?.ok_or_else(|| missing(Shelf::Tasks, job))
    }
}

impl Drop for SledStore {
    /// sled flushes when the last handle is dropped. After a write that failed that may wait for ever for a place in its log
    /// that nobody fills any more, and the process would never end: sled is left to the process's end then.
    fn drop(&mut self) {
        if *self.failed.get_mut() {
            std::mem::forget((self.database.clone(), self.trees.clone()));
        }
    }
}

/// Removes the snapshots that sled had begun when it was stopped: each is of use only under its final name.
fn remove_drafts(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(SNAPSHOT) && name.ends_with(DRAFT) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled rebuilds errors that it passes between threads from their text, so the kind alone doesn't tell.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull || error.to_string().contains("No space left")
}

fn damaged(folder: &Path, detail: String) -> StoreError {
    StoreError::Damaged {
        file: folder.join("db"),
        detail,
    }
}

/// Runs what may meet a damaged file: sled panics then.
fn guarded<T>(folder: &Path, run: impl FnOnce() -> T) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        damaged(
            folder,
            text.lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::farm::{SecretHash, Timestamp, Token};

    fn token(name: &str, note: &str) -> Change {
        let token = Token {
            note: note.to_owned(),
            expires_at: Timestamp(0),
            used_by: None,
        };
        Change::Token(SecretHash::of(name), token)
    }

    /// As a kill or a full disk leaves it, while the store was being opened.
    #[test]
    fn a_snapshot_that_was_begun_is_no_damage() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || SledStore::open(folder.path()).expect("opens");
        open().commit(&[token("a", "kept")]).expect("commits");
        for half in ["", "half a snapshot"] {
            let draft = folder.path().join("snap.0000000000FFFFFF.generating");
            std::fs::write(&draft, half).expect("writes");
            assert_eq!(open().load().expect("loads").tokens.len(), 1);
            assert!(!draft.exists());
        }
    }

    #[test]
    fn a_store_that_failed_does_not_keep_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SledStore::open(folder.path()).expect("opens");
        store.commit(&[token("a", "kept")]).expect("commits");
        // Large values have no place any more.
        std::fs::remove_dir_all(folder.path().join("blobs")).expect("removes");
        let large = token("b", &"note ".repeat(100_000));
        store.commit(&[large]).expect_err("nowhere to put it");
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(store);
            ended.send(()).expect("somebody waits");
        });
        let patience = std::time::Duration::from_secs(10);
        end.recv_timeout(patience).expect("it is dropped");
    }

    #[test]
    fn a_second_copy_is_refused_and_takes_nothing_from_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SledStore::open(folder.path()).expect("opens");
        let token = |name: &str| token(name, name);
        store.commit(&[token("before")]).expect("commits");
        // So many that some have their place before what has been read already.
        let late: Vec<Change> = (0..20).map(|n| token(&format!("late {n}"))).collect();
        let mut copied = Vec::new();
        let copy = store.copy(&mut |changes| {
            if changes.contains(&token("before")) {
                store.commit(&late).expect("commits");
                let second = store.copy(&mut |_| Ok(()));
                let refused = second.expect_err("one at a time");
                assert!(matches!(refused, StoreError::Disk { .. }), "{refused}");
            }
            copied.extend_from_slice(changes);
            Ok(())
        });
        copy.expect("nothing fails");
        for change in &late {
            assert!(copied.contains(change), "{change:?} is not in {copied:?}");
        }
        store.copy(&mut |_| Ok(())).expect("the first is over");
    }

    #[test]
    fn a_stray_file_among_the_large_values_stops_no_sync() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SledStore::open(folder.path()).expect("opens");
        let large = |name: &str| {
            let token = Token {
                note: "note ".repeat(100_000),
                expires_at: Timestamp(0),
                used_by: None,
            };
            vec![Change::Token(SecretHash::of(name), token)]
        };
        let synced = || *store.blob_synced.lock().expect("syncing does not panic");
        std::fs::write(folder.path().join("blobs/notes.txt"), "mine").expect("writes");
        store.commit(&large("a")).expect("commits");
        let first = synced();
        assert!((0..i64::MAX).contains(&first), "{first}");
        store.commit(&large("b")).expect("commits");
        assert!(synced() > first);
    }
}
