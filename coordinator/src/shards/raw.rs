//! Messages as bytes: calls are passed on without being read.

use prost::bytes::{Buf as _, BufMut as _, Bytes};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Sends and takes a message's bytes as they are. Whoever reads the message weighs it first.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The fields of a message's bytes that lie at a path of field numbers, in their order; stops where the bytes are no message
/// any more, for whoever reads it in earnest to say so.
pub(super) fn fields(bytes: &Bytes, path: &[u32]) -> Vec<Field> {
    let Some((&tag, rest)) = path.split_first() else {
        return vec![Field::Bytes(bytes.clone())];
    };
    let mut found = Vec::new();
    let mut left = bytes.clone();
    while let Some((number, field)) = next(&mut left) {
        if number == tag {
            match (field, rest) {
                (Field::Bytes(inner), rest) => found.extend(fields(&inner, rest)),
                (number, []) => found.push(number),
                (Field::Number(_), _) => (),
            }
        }
    }
    found
}

/// A field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    /// Of a varint; others of fixed size are passed over.
    Number(u64),
    /// A text, a message, or bytes.
    Bytes(Bytes),
}

/// The text at a path: the last, as for protobuf.
pub(super) fn text(bytes: &Bytes, path: &[u32]) -> String {
    match fields(bytes, path).pop() {
        Some(Field::Bytes(text)) => String::from_utf8_lossy(&text).into_owned(),
        Some(Field::Number(_)) | None => String::new(),
    }
}

fn next(from: &mut Bytes) -> Option<(u32, Field)> {
    loop {
        let key = varint(from)?;
        let number = u32::try_from(key >> 3).ok()?;
        let skipped = match key & 7 {
            0 => return Some((number, Field::Number(varint(from)?))),
            2 => {
                let length = usize::try_from(varint(from)?).ok()?;
                if length > from.len() {
                    return None;
                }
                return Some((number, Field::Bytes(from.split_to(length))));
            }
            1 => 8,
            5 => 4,
            _ => return None,
        };
        if skipped > from.len() {
            return None;
        }
        from.advance(skipped);
    }
}

/// Numbers that lie one after the other.
pub(super) fn varints(mut packed: Bytes) -> Vec<u64> {
    std::iter::from_fn(|| varint(&mut packed)).collect()
}

fn varint(from: &mut Bytes) -> Option<u64> {
    let mut value = 0_u64;
    for place in 0..10 {
        if from.is_empty() {
            return None;
        }
        let byte = from.get_u8();
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use wattfarm_proto::v1;

    use super::*;

    #[test]
    fn fields_are_found_by_their_path_and_nothing_is_taken_for_one() {
        let message = v1::RequestModelsRequest {
            campaign: Some(v1::CampaignRequest {
                campaign_id: "an id".to_owned(),
                platform: "a platform".to_owned(),
                target_error: Some(1.5),
                ..Default::default()
            }),
        };
        let bytes = Bytes::from(message.encode_to_vec());
        assert_eq!(text(&bytes, &[1, 2]), "a platform");
        assert_eq!(text(&bytes, &[1, 1]), "an id");
        assert_eq!(text(&bytes, &[2]), "");
        let limit = v1::ListJobsRequest {
            limit: 300,
            ..Default::default()
        };
        let limit = Bytes::from(limit.encode_to_vec());
        assert_eq!(fields(&limit, &[3]), [Field::Number(300)]);
        for cut in 0..bytes.len() {
            let found = text(&bytes.slice(..cut), &[1, 2]);
            assert_eq!(found, "", "{cut} bytes of it");
        }
    }
}
