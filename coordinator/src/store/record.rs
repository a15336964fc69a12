//! The form of a record on disk: a version byte, JSON, and a checksum over both.
//!
//! sled has checksums of its own, but not for values that lie in its cache or that it moves, so each record carries one.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// The version that is written.
const VERSION: u8 = 1;

const CHECKSUM_BYTES: usize = 4;

/// A record's bytes.
pub(super) fn encode(record: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, record)
        .expect("records have only text keys, and a vector takes every byte");
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads a record back. `tree` and `key` are for the error.
pub(super) fn decode<T: DeserializeOwned>(
    tree: &'static str,
    key: &[u8],
    bytes: &[u8],
) -> Result<T, StoreError> {
    let refuse = |reason: String| {
        let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
        StoreError::Record { tree, key, reason }
    };
    let Some((body, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(refuse("is cut off".to_owned()));
    };
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Err(refuse(
            "fails its checksum: restore the store from a copy".to_owned(),
        ));
    }
    match body.split_first() {
        Some((&VERSION, json)) => {
            serde_json::from_slice(json).map_err(|error| refuse(error.to_string()))
        }
        Some((version, _)) => Err(refuse(format!(
            "has version {version}, which this coordinator doesn't know"
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
