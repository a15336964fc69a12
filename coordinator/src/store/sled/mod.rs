//! The home in sled 0.34. No type of sled's leaves this folder.
//!
//! What sled is not trusted with: its flush pushes pages towards the disk but is no fsync, so each commit ends with a sync
//! of its files through descriptors of our own; it panics on a damaged file, so whatever reads or writes it runs guarded; it
//! takes some damage for a torn write and forgets what came after, so commits are counted in a file of ours; its lock's
//! error names no cause, so the folder has a lock file too; it takes a draft of its snapshot, as a crash or a full disk leaves
//! one, for a damaged snapshot, so drafts are removed before it looks; and after a write that failed it waits for ever when it
//! is dropped, so it isn't then.

mod old;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use sled::transaction::{TransactionError, Transactional as _};
use sled::{IVec, Tree};

use super::home::{Batch, Home, Item};
use super::record::decode_count;
use super::shelf::{COUNT, Shelf};
use super::{DurableStore, StoreError};

/// sled's default of 1 GiB is more than the rest of the coordinator needs together.
const CACHE_BYTES: u64 = 64 << 20;

/// The store in `folder`, which is made if it isn't there.
pub(super) fn open(folder: &Path) -> Result<DurableStore, StoreError> {
    let home = SledHome::open(folder)?;
    let database = home.database.clone();
    old::make_room(folder, &database)?;
    let store = DurableStore::over(Box::new(home))?;
    old::bring_over(folder, &database, &store)?;
    Ok(store)
}

/// A home in a folder of its own.
#[derive(Debug)]
struct SledHome {
    folder: PathBuf,
    database: sled::Db,
    trees: Vec<Tree>,
    /// Our own descriptor of sled's log.
    file: File,
    /// Says how many commits were acknowledged.
    acknowledged: File,
    /// The newest of sled's files for large values that has been synced.
    blob_synced: Mutex<i64>,
    /// Whether a write has failed.
    failed: AtomicBool,
    /// Held for as long as the home is open.
    _lock: File,
}

/// What sled calls a snapshot that it has not finished.
const SNAPSHOT: &str = "snap.";
const DRAFT: &str = ".generating";

impl SledHome {
    fn open(folder: &Path) -> Result<Self, StoreError> {
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
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse(folder.display().to_string()));
            }
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
        let home = Self {
            folder: folder.to_owned(),
            database,
            trees,
            file,
            acknowledged,
            blob_synced: Mutex::new(-1),
            failed: AtomicBool::new(false),
            _lock: lock,
        };
        home.count_commits()?;
        Ok(home)
    }

    /// The home must hold no fewer commits than were acknowledged.
    fn count_commits(&self) -> Result<(), StoreError> {
        let held: u64 = match self.get(Shelf::Commits, COUNT)? {
            Some(bytes) => decode_count(Shelf::Commits.name(), COUNT, &bytes)?.0,
            None => 0,
        };
        let mut acknowledged = [0; 8];
        let read = self.acknowledged.read_at(&mut acknowledged, 0);
        let acknowledged = match read.map_err(|error| disk_failed(&self.folder, READ, error))? {
            // A new store, or one restored from a copy without this file.
            0 => 0,
            _ => u64::from_be_bytes(acknowledged),
        };
        if held < acknowledged {
            let detail =
                format!("it holds {held} of the {acknowledged} commits that were acknowledged");
            return Err(damaged(&self.folder, detail));
        }
        Ok(())
    }

    fn tree(&self, shelf: Shelf) -> &Tree {
        &self.trees[shelf as usize]
    }

    fn read<T>(&self, read: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        guarded(&self.folder, read)?.map_err(|error| failed(&self.folder, READ, error))
    }

    fn put(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut batches: BTreeMap<Shelf, sled::Batch> = BTreeMap::new();
        for ((shelf, key), value) in &batch.changes {
            let of_shelf = batches.entry(*shelf).or_default();
            match value {
                Some(value) => of_shelf.insert(key.as_slice(), value.as_slice()),
                None => of_shelf.remove(key.as_slice()),
            }
        }
        let trees: Vec<Tree> = batches
            .keys()
            .map(|shelf| self.tree(*shelf).clone())
            .collect();
        let stored = trees[..].transaction(|views| {
            views
                .iter()
                .zip(batches.values())
                .try_for_each(|(view, batch)| view.apply_batch(batch).map_err(Into::into))
        });
        stored.map_err(|error: TransactionError<()>| match error {
            TransactionError::Storage(error) => failed(&self.folder, "write to the store", error),
            TransactionError::Abort(()) => unreachable!("nothing aborts it"),
        })?;
        self.database
            .flush()
            .map_err(|error| failed(&self.folder, "flush the store", error))?;
        self.sync()
            .map_err(|error| disk_failed(&self.folder, "sync the store", error))?;
        // Eight bytes lie in one sector, so no crash leaves half of them.
        self.acknowledged
            .write_all_at(&batch.number.to_be_bytes(), 0)
            .and_then(|()| self.acknowledged.sync_data())
            .map_err(|error| disk_failed(&self.folder, "count the commit", error))
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

impl Home for SledHome {
    fn get(&self, shelf: Shelf, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.read(|| self.tree(shelf).get(key))?;
        Ok(found.map(|bytes| bytes.to_vec()))
    }

    fn after(
        &self,
        shelf: Shelf,
        key: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Item>, StoreError> {
        let after = key.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (after, Bound::<&[u8]>::Unbounded);
        self.read(|| {
            let items = self.tree(shelf).range::<&[u8], _>(range).take(limit);
            items.map(|item| item.map(owned)).collect()
        })
    }

    fn last(&self, shelf: Shelf, most: &[u8]) -> Result<Option<Item>, StoreError> {
        let found = self.read(|| self.tree(shelf).range(..=most).next_back().transpose())?;
        Ok(found.map(owned))
    }

    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let written = guarded(&self.folder, || self.put(batch)).flatten();
        self.failed.fetch_or(written.is_err(), Ordering::Relaxed);
        written
    }
}

impl Drop for SledHome {
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

const READ: &str = "read the store";

fn owned((key, bytes): (IVec, IVec)) -> Item {
    (key.to_vec(), bytes.to_vec())
}

fn failed(folder: &Path, doing: &'static str, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => disk_failed(folder, doing, error),
        sled::Error::Corruption { .. } => damaged(folder, error.to_string()),
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_) => StoreError::Disk {
            doing,
            source: Box::new(error),
        },
    }
}

fn disk_failed(folder: &Path, doing: &'static str, error: io::Error) -> StoreError {
    match is_full(&error) {
        true => StoreError::Full(folder.to_owned()),
        false => StoreError::Disk {
            doing,
            source: Box::new(error),
        },
    }
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
    use super::super::Store as _;
    use super::*;
    use crate::farm::{Change, SecretHash, Timestamp, Token};

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
        let open = || super::open(folder.path()).expect("opens");
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
        let store = super::open(folder.path()).expect("opens");
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
        let store = super::open(folder.path()).expect("opens");
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
        let home = SledHome::open(folder.path()).expect("opens");
        let large = |number: u64| {
            let mut batch = Batch::new(number);
            batch.put(Shelf::Tokens, &number.to_be_bytes(), vec![7; 500_000]);
            batch
        };
        let synced = || *home.blob_synced.lock().expect("syncing does not panic");
        std::fs::write(folder.path().join("blobs/notes.txt"), "mine").expect("writes");
        home.write(&large(1)).expect("writes");
        let first = synced();
        assert!((0..i64::MAX).contains(&first), "{first}");
        home.write(&large(2)).expect("writes");
        assert!(synced() > first);
    }
}
