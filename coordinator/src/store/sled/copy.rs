//! A copy of the store while commits go on: chunks of the shelves, each followed by what was committed meanwhile.

use std::ops::Bound;
use std::sync::MutexGuard;

use sled::IVec;

use super::super::StoreError;
use super::SledStore;
use super::shelf::{Shelf, change};
use crate::farm::Change;

/// Records and bytes in a chunk of a copy, about.
const CHUNK_RECORDS: usize = 1000;
const CHUNK_BYTES: usize = 4 << 20;

/// Changes that a copy may be behind the commits that go on meanwhile.
const BEHIND_MAX: usize = 200_000;

impl SledStore {
    pub(super) fn followed(&self) -> MutexGuard<'_, Option<Vec<Change>>> {
        self.followed
            .lock()
            .expect("nothing panics while it holds what was committed")
    }

    pub(super) fn copy_shelves(
        &self,
        sink: &mut impl FnMut(&[Change]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for (shelf, _) in Shelf::ALL
            .into_iter()
            .filter(|(shelf, _)| !shelf.is_index())
        {
            let mut after = Bound::Unbounded;
            loop {
                let (mut chunk, mut bytes) = (Vec::new(), 0);
                // A chunk is read whole before what was committed meanwhile is looked at: it is never newer than that.
                for item in self
                    .tree(shelf)
                    .range::<IVec, _>((after.clone(), Bound::Unbounded))
                {
                    let (key, record) =
                        item.map_err(|error| self.failed("read the store", error))?;
                    chunk.push(change(shelf, &key, &record)?);
                    bytes += record.len();
                    after = Bound::Excluded(key);
                    if chunk.len() >= CHUNK_RECORDS || bytes >= CHUNK_BYTES {
                        break;
                    }
                }
                sink(&chunk)?;
                let meanwhile = self.followed().replace(Vec::new()).ok_or_else(behind)?;
                sink(&meanwhile)?;
                if chunk.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Keeps what was committed for the copy under way, if it isn't too far behind already.
    pub(super) fn follow(&self, changes: &[Change]) {
        let mut followed = self.followed();
        if let Some(behind) = followed.as_mut() {
            behind.extend_from_slice(changes);
            if behind.len() > BEHIND_MAX {
                *followed = None;
            }
        }
    }
}

pub(super) fn behind() -> StoreError {
    StoreError::Disk {
        doing: "copy the store",
        source: "more is being committed than whoever takes the copy can take".into(),
    }
}
