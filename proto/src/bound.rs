//! How much memory a message takes once it is decoded, told from its bytes before anything is allocated.
//!
//! A sub-message of two bytes on the wire becomes a struct of hundreds: 4 MiB of empty ones take 470 MiB. So the bytes are
//! walked by the message's descriptor first. The walk allocates nothing and stops where the bound is passed; where the bytes
//! are malformed it stops too, for so does the decoder then.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::v1;

/// The most that a message may take once it is decoded, in bytes: sixteen times what it may have on the wire. Layers and
/// networks, the densest that are sent in earnest, take about ten times.
pub const DECODED_BYTES_MAX: usize = 16 * crate::MESSAGE_BYTES_MAX;

/// A vector that grows to twice its length holds the old one for a moment.
const GROWTH: usize = 3;

/// What the heap takes beside each text.
const HEAP: usize = 16;

const POINTER: usize = size_of::<usize>();
const VECTOR: usize = size_of::<Vec<u8>>();

/// A message that would take more than [`DECODED_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the message would take over {} MiB once it is decoded: it holds too many parts",
    DECODED_BYTES_MAX >> 20
)]
pub struct TooLarge;

/// What a field holds.
#[derive(Debug, Clone, Copy)]
enum Content {
    /// A message; the index of its shape.
    Message { shape: usize, is_repeated: bool },
    /// A text or bytes.
    Text { is_repeated: bool },
    /// Numbers, each of at least so many bytes on the wire.
    Numbers { wire_bytes: usize },
    /// One number.
    Number,
}

/// A message as its descriptor has it.
#[derive(Debug)]
struct Shape {
    /// The struct's size in bytes, or a little more.
    size: usize,
    /// By the fields' numbers.
    fields: BTreeMap<u32, Content>,
}

/// Every message of the protocol.
struct Shapes {
    by_name: BTreeMap<String, usize>,
    shapes: Vec<Shape>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(Shapes::read);

/// Refuses a message that would take too much. `name` is the message's full name, such as `wattfarm.v1.Layer`; one of
/// another protocol is not looked at.
pub fn check(name: &str, bytes: &[u8]) -> Result<(), TooLarge> {
    let mut left = DECODED_BYTES_MAX;
    match SHAPES.by_name.get(name) {
        Some(&shape) => SHAPES.walk(shape, bytes, &mut left),
        None => Ok(()),
    }
}

impl Shapes {
    fn read() -> Self {
        let files = FileDescriptorSet::decode(v1::DESCRIPTORS).expect("made by the build");
        let mut messages: BTreeMap<String, DescriptorProto> = BTreeMap::new();
        for file in files.file {
            let package = file.package().to_owned();
            collect(&package, file.message_type, &mut messages);
        }
        let names: Vec<String> = messages.keys().cloned().collect();
        let index = |name: &str| {
            names
                .binary_search_by(|known| known.as_str().cmp(name))
                .ok()
        };
        let shape = |message: &DescriptorProto| Shape {
            size: size(message, &messages),
            fields: (message.field.iter())
                .map(|field| (field.number() as u32, content(field, &index)))
                .collect(),
        };
        let shapes = messages.values().map(shape).collect();
        let by_name = names.iter().cloned().zip(0..).collect();
        Self { by_name, shapes }
    }

    fn walk(&self, shape: usize, bytes: &[u8], left: &mut usize) -> Result<(), TooLarge> {
        let fields = &self.shapes[shape].fields;
        let mut rest = bytes;
        while let Some((number, value)) = next(&mut rest) {
            let (Some(content), Value::Bytes(inner)) = (fields.get(&number), value) else {
                // A number of a list that isn't packed.
                if let Some(Content::Numbers { .. }) = fields.get(&number) {
                    take(left, GROWTH * POINTER)?;
                }
                continue;
            };
            match *content {
                Content::Message { shape, is_repeated } => {
                    if is_repeated {
                        take(left, GROWTH * self.shapes[shape].size)?;
                    }
                    self.walk(shape, inner, left)?;
                }
                Content::Text { is_repeated } => {
                    let element = if is_repeated { GROWTH * VECTOR } else { 0 };
                    take(left, element + HEAP + inner.len())?;
                }
                Content::Numbers { wire_bytes } => {
                    take(left, GROWTH * POINTER * inner.len().div_ceil(wire_bytes))?;
                }
                Content::Number => (),
            }
        }
        Ok(())
    }
}

fn take(left: &mut usize, bytes: usize) -> Result<(), TooLarge> {
    *left = left.checked_sub(bytes).ok_or(TooLarge)?;
    Ok(())
}

/// The messages of a scope and those within them, by their full names.
fn collect(
    scope: &str,
    found: Vec<DescriptorProto>,
    messages: &mut BTreeMap<String, DescriptorProto>,
) {
    for mut message in found {
        let name = format!("{scope}.{}", message.name());
        collect(&name, std::mem::take(&mut message.nested_type), messages);
        messages.insert(name, message);
    }
}

fn content(field: &FieldDescriptorProto, index: &impl Fn(&str) -> Option<usize>) -> Content {
    let is_repeated = field.label() == Label::Repeated;
    match field.r#type() {
        Type::Message | Type::Group => {
            let name = field.type_name().trim_start_matches('.');
            let shape = index(name).expect("every message that is named is in the set");
            Content::Message { shape, is_repeated }
        }
        Type::String | Type::Bytes => Content::Text { is_repeated },
        _ if !is_repeated => Content::Number,
        Type::Double | Type::Fixed64 | Type::Sfixed64 => Content::Numbers { wire_bytes: 8 },
        Type::Float | Type::Fixed32 | Type::Sfixed32 => Content::Numbers { wire_bytes: 4 },
        Type::Int64
        | Type::Uint64
        | Type::Int32
        | Type::Uint32
        | Type::Sint32
        | Type::Sint64
        | Type::Bool
        | Type::Enum => Content::Numbers { wire_bytes: 1 },
    }
}

/// The size of a message's struct: no less than it is, and not much more.
fn size(message: &DescriptorProto, messages: &BTreeMap<String, DescriptorProto>) -> usize {
    let of_field = |field: &FieldDescriptorProto| match field.r#type() {
        _ if field.label() == Label::Repeated => VECTOR,
        Type::String | Type::Bytes => VECTOR,
        Type::Message | Type::Group => {
            let inner = &messages[field.type_name().trim_start_matches('.')];
            size(inner, messages) + POINTER
        }
        Type::Double
        | Type::Int64
        | Type::Uint64
        | Type::Sint64
        | Type::Fixed64
        | Type::Sfixed64 => 8,
        Type::Float
        | Type::Int32
        | Type::Uint32
        | Type::Sint32
        | Type::Fixed32
        | Type::Sfixed32
        | Type::Bool
        | Type::Enum => 4,
    };
    let alone = message
        .field
        .iter()
        .filter(|field| field.oneof_index.is_none());
    let alone: usize = alone.map(of_field).sum();
    // One of several, or of one and nothing, with which it is.
    let one_of = |index: usize| {
        let members = message.field.iter();
        let members = members.filter(|field| field.oneof_index == Some(index as i32));
        POINTER + members.map(of_field).max().unwrap_or(0)
    };
    let one_of_each: usize = (0..message.oneof_decl.len()).map(one_of).sum();
    (alone + one_of_each).next_multiple_of(POINTER)
}

/// A field's value on the wire.
enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

/// The next field; `None` at the end, or where the bytes are malformed.
fn next<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).ok()?;
    let value = match tag & 7 {
        0 => {
            varint(rest)?;
            Value::Number
        }
        1 => {
            rest.split_off(..8)?;
            Value::Number
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(rest.split_off(..length)?)
        }
        5 => {
            rest.split_off(..4)?;
            Value::Number
        }
        _ => return None,
    };
    Some((number, value))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Kind;

    use super::*;

    #[test]
    fn sizes_are_no_less_than_the_structs() {
        let size = |name: &str| SHAPES.shapes[SHAPES.by_name[&format!("wattfarm.v1.{name}")]].size;
        let sizes = [
            (size("Layer"), size_of::<v1::Layer>()),
            (size("Layer.Field"), size_of::<v1::layer::Field>()),
            (size("Network.Node"), size_of::<v1::network::Node>()),
            (size("Network.Source"), size_of::<v1::network::Source>()),
            (size("Subject"), size_of::<v1::Subject>()),
            (size("Reading"), size_of::<v1::Reading>()),
            (size("Measurement"), size_of::<v1::Measurement>()),
            (size("Model"), size_of::<v1::Model>()),
            (
                size("ReportResultsRequest.Report"),
                size_of::<v1::report_results_request::Report>(),
            ),
            (size("Campaign"), size_of::<v1::Campaign>()),
        ];
        for (told, is) in sizes {
            assert!(is <= told && told <= 2 * is, "{sizes:?}");
        }
    }

    #[test]
    fn many_parts_in_few_bytes_are_refused() {
        let empty = |tag: u8| [tag, 0].repeat(crate::MESSAGE_BYTES_MAX / 2);
        let refused = [
            ("ReportResultsRequest", empty(0x0a)),
            ("ProposeLayersRequest", empty(0x12)),
            ("PublishModelsRequest", empty(0x0a)),
            ("MeasureRequest", empty(0x12)),
            ("RequestModelsRequest", {
                // Within a campaign: empty hashes of layers.
                let campaign = v1::RequestModelsRequest {
                    campaign: Some(v1::CampaignRequest {
                        excluded_layers: vec![String::new(); 2_000_000],
                        ..Default::default()
                    }),
                };
                campaign.encode_to_vec()
            }),
        ];
        for (name, bytes) in refused {
            let name = format!("wattfarm.v1.{name}");
            assert_eq!(check(&name, &bytes), Err(TooLarge), "{name}");
        }
    }

    /// As many layers and nodes as a message has room for pass.
    #[test]
    fn what_is_sent_in_earnest_passes() {
        let layer = v1::Layer::from(&Kind::Conv2d.example());
        let many = crate::MESSAGE_BYTES_MAX / (layer.encoded_len() + 4);
        let request = v1::ProposeLayersRequest {
            campaign_id: String::new(),
            layers: vec![layer; many],
        };
        let bytes = request.encode_to_vec();
        assert!(bytes.len() > crate::MESSAGE_BYTES_MAX / 10 * 9);
        assert_eq!(check("wattfarm.v1.ProposeLayersRequest", &bytes), Ok(()));
        let samples = v1::Reading {
            runtime: Some(v1::reading::Runtime {
                samples_ms: vec![1.5; 4096],
                ..Default::default()
            }),
            ..Default::default()
        };
        let report = v1::report_results_request::Report {
            outcome: Some(v1::report_results_request::report::Outcome::Reading(
                samples,
            )),
            ..Default::default()
        };
        let request = v1::ReportResultsRequest {
            reports: vec![report; 64],
        };
        let bytes = request.encode_to_vec();
        assert_eq!(check("wattfarm.v1.ReportResultsRequest", &bytes), Ok(()));
    }
}
