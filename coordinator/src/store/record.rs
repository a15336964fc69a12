//! The form of a record on disk: a version byte, a body, and a checksum over both. The body is JSON (version 1); or of a pack
//! of records the length of its JSON in four bytes and that JSON by zstd (version 2); or bytes of the catalogue (version 3).
//!
//! The count of commits is JSON under the version of the store's form. A coordinator reads that first, so that one that is too
//! old for a store refuses it.
//!
//! sled has checksums of its own, but not for values that lie in its cache or that it moves, so each record carries one.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zstd::bulk::Compressor;

use super::StoreError;

const PLAIN: u8 = 1;
const PACKED: u8 = 2;
const BYTES: u8 = 3;

/// The form of stores with a catalogue; those before it count their commits in plain records.
const FORM: u8 = 3;

const CHECKSUM_BYTES: usize = 4;

/// The JSON of a pack, at most: one record, which holds at most one message of the protocol, and what came before it.
const PACK_BYTES_MAX: usize = 128 << 20;

/// A record's bytes.
pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![PLAIN];
    serde_json::to_writer(&mut bytes, record)
        .expect("records have only text keys, and a vector takes every byte");
    sealed(bytes)
}

/// A pack's bytes, of a JSON array.
pub(super) fn encode_pack(by: &mut Compressor<'_>, json: &[u8]) -> Vec<u8> {
    let length = u32::try_from(json.len()).expect("a record is far smaller");
    let body = by.compress(json).expect("memory takes what zstd makes");
    sealed([&[PACKED], &length.to_le_bytes()[..], &body].concat())
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The record of a count of commits.
pub(super) fn encode_count(count: u64, form: Form) -> Vec<u8> {
    let form = match form {
        Form::Indexed => PLAIN,
        Form::Catalogued => FORM,
    };
    sealed([&[form], count.to_string().as_bytes()].concat())
}

/// How a store finds its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// By indices on shelves of their own.
    Indexed,
    /// By a catalogue.
    Catalogued,
}

/// Reads a count of commits back, and the form of its store.
pub(super) fn decode_count(
    tree: &'static str,
    key: &[u8],
    bytes: &[u8],
) -> Result<(u64, Form), StoreError> {
    let form = match bytes.first() {
        Some(&FORM) => Form::Catalogued,
        Some(&newer) if newer > FORM && is_sealed(bytes) => {
            let refuse = refuser(tree, key);
            return Err(refuse(format!(
                "says that the store has form {newer}, and this coordinator knows up to {FORM}: use a newer one"
            )));
        }
        Some(_) | None => Form::Indexed,
    };
    let version = match form {
        Form::Indexed => PLAIN,
        Form::Catalogued => FORM,
    };
    let read = |body: &[u8]| serde_json::from_slice(body).map_err(|error| error.to_string());
    Ok((opened(tree, key, bytes, version, read)?, form))
}

/// The record of some bytes.
pub(super) fn encode_bytes(bytes: &[u8]) -> Vec<u8> {
    sealed([&[BYTES], bytes].concat())
}

/// Reads what some bytes say.
pub(super) fn decode_bytes<T>(
    tree: &'static str,
    key: &[u8],
    bytes: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, StoreError> {
    opened(tree, key, bytes, BYTES, read)
}

/// Reads a record back. `tree` and `key` are for the error.
pub(super) fn decode<T: DeserializeOwned>(
    tree: &'static str,
    key: &[u8],
    bytes: &[u8],
) -> Result<T, StoreError> {
    let read = |body: &[u8]| serde_json::from_slice(body).map_err(|error| error.to_string());
    opened(tree, key, bytes, PLAIN, read)
}

/// Reads a pack back.
pub(super) fn decode_pack<T: DeserializeOwned>(
    tree: &'static str,
    key: &[u8],
    bytes: &[u8],
) -> Result<Vec<T>, StoreError> {
    opened(tree, key, bytes, PACKED, |body| {
        let (length, body) = body.split_first_chunk().ok_or("is cut off")?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > PACK_BYTES_MAX {
            return Err(format!("says that it has {length} bytes"));
        }
        let json = zstd::bulk::decompress(body, length).map_err(|error| error.to_string())?;
        serde_json::from_slice(&json).map_err(|error| error.to_string())
    })
}

fn refuser(tree: &'static str, key: &[u8]) -> impl Fn(String) -> StoreError {
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    move |reason| StoreError::Record {
        tree,
        key: key.clone(),
        reason,
    }
}

/// Whether the checksum is right.
fn is_sealed(bytes: &[u8]) -> bool {
    let parts = bytes.split_last_chunk::<CHECKSUM_BYTES>();
    parts.is_some_and(|(body, checksum)| crc32fast::hash(body) == u32::from_le_bytes(*checksum))
}

fn opened<T>(
    tree: &'static str,
    key: &[u8],
    bytes: &[u8],
    version: u8,
    read: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, StoreError> {
    let refuse = refuser(tree, key);
    let Some((body, _)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(refuse("is cut off".to_owned()));
    };
    if !is_sealed(bytes) {
        return Err(refuse(
            "fails its checksum: restore the store from a copy".to_owned(),
        ));
    }
    match body.split_first() {
        Some((&found, body)) if found == version => read(body).map_err(refuse),
        Some((found, _)) => Err(refuse(format!(
            "has version {found}, and this coordinator knows {version} here"
        ))),
        None => Err(refuse("is empty".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records that were written once must be read for ever.
    #[test]
    fn the_form_is_golden() {
        let bytes = encode(&vec![1, 2]);
        assert_eq!(bytes, b"\x01[1,2]\xa4\xd5\x37\xb4");
        assert_eq!(
            decode::<Vec<u32>>("jobs", b"k", &bytes).expect("reads back"),
            [1, 2]
        );
    }

    /// zstd may come to write the same otherwise; what it wrote once is read for ever.
    #[test]
    fn the_form_of_a_pack_is_golden() {
        let read: Vec<u32> = decode_pack("jobs", b"k", GOLDEN_PACK).expect("reads");
        assert_eq!(read, [1, 2]);
        let mut compressor = Compressor::new(1).expect("a level");
        let bytes = encode_pack(&mut compressor, b"[1,2]");
        assert_eq!(
            decode_pack::<u32>("jobs", b"k", &bytes).expect("reads"),
            [1, 2]
        );
    }

    const GOLDEN_PACK: &[u8] =
        b"\x02\x05\x00\x00\x00\x28\xb5\x2f\xfd\x20\x05\x29\x00\x00\x5b\x31\x2c\x32\x5d\x1e\x45\xef\x0b";

    #[test]
    fn a_store_of_a_newer_form_is_refused() {
        let bytes = encode_count(7, Form::Catalogued);
        assert_eq!(bytes, b"\x037\x33\xe4\x49\xd2");
        let read = |bytes: &[u8]| decode_count("commits", b"count", bytes);
        assert_eq!(read(&bytes).expect("reads"), (7, Form::Catalogued));
        let before = encode(&7);
        assert_eq!(read(&before).expect("reads"), (7, Form::Indexed));
        let newer = sealed(b"\x047".to_vec());
        let refused = read(&newer).expect_err("is newer").to_string();
        assert!(refused.contains("form 4"), "{refused}");
        // As coordinators without a catalogue read it.
        let refused = decode::<u64>("commits", b"count", &bytes).expect_err("is newer");
        assert!(refused.to_string().contains("has version 3"), "{refused}");
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_named() {
        let bytes = encode(&"a record");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = decode::<String>("jobs", &[0xab, 1], &flipped).expect_err("a flipped bit");
            assert_eq!(
                error.to_string(),
                "record `ab01` of `jobs`: fails its checksum: restore the store from a copy"
            );
        }
        assert!(decode::<String>("jobs", b"", b"abc").is_err());
    }
}
