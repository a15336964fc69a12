//! Packs: records of a kind that were written together, compressed as one. A home's cost goes by records and by bytes; a
//! pack saves most of both, since records of a kind repeat each other's words.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zstd::bulk::Compressor;

use super::StoreError;
use super::record::{self, decode_pack};

/// Records in a pack, at most: to read one of them, all are decoded.
const RECORDS_MAX: usize = 64;

/// Bytes of a pack before compression from which on it takes no more.
const BYTES_ENOUGH: usize = 64 << 10;

/// The fastest level: of JSON it leaves a third, and the next levels hardly less.
const LEVEL: i32 = 1;

/// Packs records. Keeps the compressor's memory between packs.
pub(super) struct Packer(Compressor<'static>);

impl std::fmt::Debug for Packer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Packer")
    }
}

impl Packer {
    pub(super) fn new() -> Self {
        Self(Compressor::new(LEVEL).expect("a level that zstd has"))
    }

    /// Packs of some records, in their order: each pack's bytes with the records in it.
    pub(super) fn pack<T: Serialize>(
        &mut self,
        records: &[T],
    ) -> Vec<(Vec<u8>, std::ops::Range<usize>)> {
        let (mut packs, mut first) = (Vec::new(), 0);
        let mut text = Vec::new();
        for (index, one) in records.iter().enumerate() {
            text.push(if text.is_empty() { b'[' } else { b',' });
            serde_json::to_writer(&mut text, one)
                .expect("records have only text keys, and a vector takes every byte");
            let end = index + 1;
            if end - first == RECORDS_MAX || text.len() >= BYTES_ENOUGH || end == records.len() {
                text.push(b']');
                packs.push((record::encode_pack(&mut self.0, &text), first..end));
                text.clear();
                first = end;
            }
        }
        packs
    }
}

/// The packs of a shelf that were read last: who reads one record often wants its neighbours next.
#[derive(Debug)]
pub(super) struct Recent<T>(Mutex<VecDeque<(u64, Arc<Vec<T>>)>>);

/// Packs that are kept.
const RECENT_MAX: usize = 32;

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: DeserializeOwned> Recent<T> {
    /// The pack of a number, which never changes; `bytes` reads it.
    pub(super) fn get(
        &self,
        tree: &'static str,
        number: u64,
        bytes: impl FnOnce() -> Result<Vec<u8>, StoreError>,
    ) -> Result<Arc<Vec<T>>, StoreError> {
        let known = {
            let recent = self.0.lock().expect("nothing panics while it is held");
            recent
                .iter()
                .find(|(known, _)| *known == number)
                .map(|(_, pack)| Arc::clone(pack))
        };
        if let Some(pack) = known {
            return Ok(pack);
        }
        let pack = Arc::new(decode_pack(tree, &number.to_be_bytes(), &bytes()?)?);
        let mut recent = self.0.lock().expect("nothing panics while it is held");
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((number, Arc::clone(&pack)));
        Ok(pack)
    }
}
