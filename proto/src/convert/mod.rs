//! Between the wire and the domain: a missing field or an unknown value is an error that names it.

mod measurement;
mod model;

use std::collections::BTreeSet;

use wattfarm_cost::layer::{Dtype, Kind, Layer, MemoryFormat, Value};
use wattfarm_cost::measurement::Subject;
use wattfarm_cost::network::{NODES_MAX, Network, Node, Source, Step};
use wattfarm_cost::platform::{Device, Platform};

use crate::error::FieldError;
use crate::v1;

/// The most fields that a layer on the wire may have: more than any kind has.
const FIELDS_MAX: usize = 64;

/// What a message must have. The error names the field.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, FieldError> {
    value.ok_or_else(|| FieldError::new(field, "missing"))
}

/// A text that has a form of its own: a hash, an id, a kind.
pub fn parse<T>(field: &str, text: &str) -> Result<T, FieldError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error: T::Err| {
        // Some errors name the field themselves.
        let text = error.to_string();
        let reason = text
            .strip_prefix(field)
            .and_then(|rest| rest.strip_prefix(": "));
        FieldError::new(field, reason.unwrap_or(&text))
    })
}

/// A list of messages, each converted; an error names the place in the list.
pub fn each<M, T>(field: &str, messages: impl IntoIterator<Item = M>) -> Result<Vec<T>, FieldError>
where
    T: TryFrom<M, Error = FieldError>,
{
    let convert = |(index, message)| {
        T::try_from(message).map_err(|error: FieldError| error.within(&format!("{field}[{index}]")))
    };
    messages.into_iter().enumerate().map(convert).collect()
}

fn sub<M, T>(field: &str, message: Option<M>) -> Result<T, FieldError>
where
    T: TryFrom<M, Error = FieldError>,
{
    T::try_from(required(field, message)?).map_err(|error| error.within(field))
}

/// An enum's value, with the default for `UNSPECIFIED` given by the caller.
pub fn dtype(value: i32) -> Result<Dtype, FieldError> {
    match v1::Dtype::try_from(value) {
        Ok(v1::Dtype::Unspecified | v1::Dtype::F32) => Ok(Dtype::F32),
        Ok(v1::Dtype::Tf32) => Ok(Dtype::Tf32),
        Ok(v1::Dtype::F16) => Ok(Dtype::F16),
        Ok(v1::Dtype::Bf16) => Ok(Dtype::Bf16),
        Err(_) => Err(FieldError::new(
            "dtype",
            format!("`{value}` is not a dtype"),
        )),
    }
}

/// A dtype on the wire.
pub fn dtype_to_wire(dtype: Dtype) -> i32 {
    let wire = match dtype {
        Dtype::F32 => v1::Dtype::F32,
        Dtype::Tf32 => v1::Dtype::Tf32,
        Dtype::F16 => v1::Dtype::F16,
        Dtype::Bf16 => v1::Dtype::Bf16,
    };
    wire.into()
}

impl TryFrom<v1::Layer> for Layer {
    type Error = FieldError;

    fn try_from(message: v1::Layer) -> Result<Self, FieldError> {
        let kind: Kind = parse("kind", &message.kind)?;
        if message.fields.len() > FIELDS_MAX {
            return Err(FieldError::new("fields", format!("more than {FIELDS_MAX}")));
        }
        let memory_format = match v1::MemoryFormat::try_from(message.memory_format) {
            Ok(v1::MemoryFormat::Unspecified | v1::MemoryFormat::Contiguous) => {
                MemoryFormat::Contiguous
            }
            Ok(v1::MemoryFormat::ChannelsLast) => MemoryFormat::ChannelsLast,
            Err(_) => return Err(FieldError::new("memory_format", "is not a memory format")),
        };
        let dtype = dtype(message.dtype)?;
        let mut fields = vec![
            ("dtype", Value::Word(dtype.name().to_owned())),
            (
                "memory_format",
                Value::Word(memory_format.name().to_owned()),
            ),
        ];
        let mut names = BTreeSet::from(["dtype", "memory_format"]);
        for field in &message.fields {
            use v1::layer::field::Value as Wire;
            let name: String = field.name.chars().take(80).collect();
            if !names.insert(&field.name) {
                return Err(FieldError::new(name, "is there twice"));
            }
            let value = match required(&name, field.value.clone())? {
                Wire::Size(size) => Value::Size(size),
                Wire::Sizes(sizes) => Value::Sizes(sizes.sizes),
                Wire::Word(word) => Value::Word(word.chars().take(80).collect()),
            };
            fields.push((&field.name, value));
        }
        Self::from_fields(kind, fields).map_err(|error| match error.to_string().split_once(": ") {
            Some((_, reason)) => FieldError::new(error.field(), reason),
            None => FieldError::new(error.field(), error.to_string()),
        })
    }
}

impl From<&Layer> for v1::Layer {
    fn from(layer: &Layer) -> Self {
        use v1::layer::field::Value as Wire;
        let field = |(name, value): (&str, Value)| v1::layer::Field {
            name: name.to_owned(),
            value: Some(match value {
                Value::Size(size) => Wire::Size(size),
                Value::Sizes(sizes) => Wire::Sizes(v1::Sizes { sizes }),
                Value::Word(word) => Wire::Word(word),
            }),
        };
        let memory_format = match layer.memory_format() {
            MemoryFormat::Contiguous => v1::MemoryFormat::Contiguous,
            MemoryFormat::ChannelsLast => v1::MemoryFormat::ChannelsLast,
        };
        Self {
            kind: layer.kind().name().to_owned(),
            fields: layer.fields().into_iter().map(field).collect(),
            dtype: dtype_to_wire(layer.dtype()),
            memory_format: memory_format.into(),
        }
    }
}

impl TryFrom<v1::network::Node> for Node {
    type Error = FieldError;

    fn try_from(message: v1::network::Node) -> Result<Self, FieldError> {
        use v1::network::node::Step as Wire;
        let step = match required("step", message.step)? {
            Wire::Layer(layer) => {
                Step::Layer(Layer::try_from(layer).map_err(|error| error.within("layer"))?)
            }
            Wire::Reshape(shape) => Step::Reshape(shape.sizes),
            Wire::Select(index) => Step::Select { index },
            Wire::Parameter(shape) => Step::Parameter(shape.sizes),
            Wire::Slice(slice) => Step::Slice {
                axis: slice.axis,
                start: slice.start,
                step: slice.step,
                length: slice.length,
            },
            Wire::Transpose(order) => Step::Transpose(order.sizes),
        };
        let inputs = message
            .inputs
            .into_iter()
            .map(|source| match source.source {
                Some(v1::network::source::Source::Input(true)) => Ok(Source::Input),
                Some(v1::network::source::Source::Node(index)) => Ok(Source::Node(index as usize)),
                Some(v1::network::source::Source::Input(false)) | None => {
                    Err(FieldError::new("inputs", "an empty source"))
                }
            });
        Ok(Self {
            name: message.name,
            step,
            inputs: inputs.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<v1::Network> for Network {
    type Error = FieldError;

    fn try_from(message: v1::Network) -> Result<Self, FieldError> {
        if message.nodes.len() > NODES_MAX {
            return Err(FieldError::new(
                "nodes",
                format!("{} are more than {NODES_MAX}", message.nodes.len()),
            ));
        }
        let nodes = each("nodes", message.nodes)?;
        let input = required("input", message.input)?.sizes;
        Self::new(message.name, input, nodes)
            .map_err(|error| FieldError::new("nodes", error.to_string()))
    }
}

impl From<&Network> for v1::Network {
    fn from(network: &Network) -> Self {
        use v1::network::node::Step as Wire;
        let sizes = |sizes: &[u64]| v1::Sizes {
            sizes: sizes.to_vec(),
        };
        let source = |source: &Source| v1::network::Source {
            source: Some(match source {
                Source::Input => v1::network::source::Source::Input(true),
                Source::Node(index) => v1::network::source::Source::Node(*index as u32),
            }),
        };
        let node = |node: &Node| v1::network::Node {
            name: node.name.clone(),
            step: Some(match &node.step {
                Step::Layer(layer) => Wire::Layer(layer.into()),
                Step::Reshape(shape) => Wire::Reshape(sizes(shape)),
                Step::Select { index } => Wire::Select(*index),
                Step::Parameter(shape) => Wire::Parameter(sizes(shape)),
                Step::Slice {
                    axis,
                    start,
                    step,
                    length,
                } => Wire::Slice(v1::network::Slice {
                    axis: *axis,
                    start: *start,
                    step: *step,
                    length: *length,
                }),
                Step::Transpose(order) => Wire::Transpose(sizes(order)),
            }),
            inputs: node.inputs.iter().map(source).collect(),
        };
        Self {
            name: network.name().to_owned(),
            input: Some(sizes(network.input())),
            nodes: network.nodes().iter().map(node).collect(),
        }
    }
}

impl TryFrom<v1::Subject> for Subject {
    type Error = FieldError;

    fn try_from(message: v1::Subject) -> Result<Self, FieldError> {
        match required("subject", message.subject)? {
            v1::subject::Subject::Layer(layer) => layer
                .try_into()
                .map(Self::Layer)
                .map_err(|error: FieldError| error.within("layer")),
            v1::subject::Subject::Network(network) => network
                .try_into()
                .map(Self::Network)
                .map_err(|error: FieldError| error.within("network")),
        }
    }
}

impl From<&Subject> for v1::Subject {
    fn from(subject: &Subject) -> Self {
        let subject = match subject {
            Subject::Layer(layer) => v1::subject::Subject::Layer(layer.into()),
            Subject::Network(network) => v1::subject::Subject::Network(network.into()),
        };
        Self {
            subject: Some(subject),
        }
    }
}

impl TryFrom<v1::Platform> for Platform {
    type Error = FieldError;

    fn try_from(message: v1::Platform) -> Result<Self, FieldError> {
        let device = match required("device", message.device)? {
            v1::platform::Device::Cpu(v1::platform::Cpu {
                model,
                threads,
                instruction_set,
            }) => Device::Cpu {
                model,
                threads,
                instruction_set,
            },
            v1::platform::Device::Cuda(cuda) => Device::Cuda {
                model: cuda.model,
                memory_mib: cuda.memory_mib,
                power_limit_w: cuda.power_limit_w,
                clock_policy: cuda.clock_policy,
                cuda: cuda.cuda,
                cudnn: cuda.cudnn,
                cudnn_benchmark: cuda.cudnn_benchmark,
            },
        };
        let platform = Self {
            device,
            libtorch: message.libtorch,
        };
        platform
            .check()
            .map_err(|error| FieldError::new(error.field, error.reason))?;
        Ok(platform)
    }
}

impl From<&Platform> for v1::Platform {
    fn from(platform: &Platform) -> Self {
        let device = match platform.device.clone() {
            Device::Cpu {
                model,
                threads,
                instruction_set,
            } => v1::platform::Device::Cpu(v1::platform::Cpu {
                model,
                threads,
                instruction_set,
            }),
            Device::Cuda {
                model,
                memory_mib,
                power_limit_w,
                clock_policy,
                cuda,
                cudnn,
                cudnn_benchmark,
            } => v1::platform::Device::Cuda(v1::platform::Cuda {
                model,
                memory_mib,
                power_limit_w,
                clock_policy,
                cuda,
                cudnn,
                cudnn_benchmark,
            }),
        };
        Self {
            device: Some(device),
            libtorch: platform.libtorch.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in Kind::ALL {
            let layer = kind.example();
            assert_eq!(
                Layer::try_from(v1::Layer::from(&layer)).expect("its own message"),
                layer
            );
        }
    }

    #[test]
    fn a_fault_names_its_path() {
        let mut layer = v1::Layer::from(&Kind::Conv2d.example());
        layer.fields[0].value = Some(v1::layer::field::Value::Size(0));
        let node = v1::network::Node {
            name: "conv".to_owned(),
            step: Some(v1::network::node::Step::Layer(layer)),
            inputs: vec![],
        };
        let network = v1::Network {
            name: "n".to_owned(),
            input: None,
            nodes: vec![node],
        };
        let error = Network::try_from(network).expect_err("a batch of 0");
        assert_eq!(
            error.to_string(),
            "nodes[0].layer.batch: must be at least 1"
        );
    }
}
