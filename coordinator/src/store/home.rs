//! Where records lie: shelves of bytes in the order of their keys. A home knows nothing of the farm.

use std::collections::BTreeMap;
use std::fmt;

use super::StoreError;
use super::shelf::Shelf;

/// A key with its record's bytes.
pub(super) type Item = (Vec<u8>, Vec<u8>);

/// What a [`DurableStore`](super::DurableStore) is built on.
pub(super) trait Home: fmt::Debug + Send + Sync + 'static {
    /// The record of a key.
    fn get(&self, shelf: Shelf, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Records after a key, or from the first, in the order of their keys, at most `limit` of them.
    fn after(
        &self,
        shelf: Shelf,
        key: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Item>, StoreError>;

    /// The last record whose key is `most` or lies before it.
    fn last(&self, shelf: Shelf, most: &[u8]) -> Result<Option<Item>, StoreError>;

    /// Makes the changes of a commit, all or none. They are on disk when this returns.
    fn write(&self, batch: &Batch) -> Result<(), StoreError>;
}

/// What a commit writes.
#[derive(Debug)]
pub(super) struct Batch {
    /// How many commits there have been, with this one.
    pub(super) number: u64,
    /// Records that are put, or for `None` removed, in the order of the shelves.
    pub(super) changes: BTreeMap<(Shelf, Vec<u8>), Option<Vec<u8>>>,
}

impl Batch {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            changes: BTreeMap::new(),
        }
    }

    pub(super) fn put(&mut self, shelf: Shelf, key: &[u8], bytes: Vec<u8>) {
        self.changes.insert((shelf, key.to_vec()), Some(bytes));
    }

    pub(super) fn remove(&mut self, shelf: Shelf, key: &[u8]) {
        self.changes.insert((shelf, key.to_vec()), None);
    }
}
