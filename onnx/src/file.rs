//! The parts of an ONNX file that a network's shape is made of. Field numbers are those of `onnx.proto`.

use std::io::{Read, Seek};

use crate::error::OnnxError;
use crate::value::{Element, FRACTIONS_MAX, RANK_MAX, VALUES_MAX, Values};
use crate::wire::{Payload, Wire};

/// How deep graphs may lie within nodes.
const DEPTH_MAX: u32 = 8;

/// The most entries of a list in an attribute.
const LIST_MAX: usize = 1 << 16;

#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) opset: i64,
    pub(crate) graph: Graph,
    pub(crate) functions: Vec<Function>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Graph {
    pub(crate) name: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) initializers: Vec<Constant>,
    pub(crate) inputs: Vec<ValueInfo>,
    pub(crate) outputs: Vec<ValueInfo>,
    /// Shapes of tensors within, where the exporter wrote them.
    pub(crate) values: Vec<ValueInfo>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) operator: String,
    pub(crate) domain: String,
    /// An empty name is an input that is left out.
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) attributes: Vec<(String, Attribute)>,
}

#[derive(Debug, Clone)]
pub(crate) enum Attribute {
    Float(f64),
    Int(i64),
    Text(String),
    Tensor(Constant),
    Floats(Vec<f64>),
    Ints(Vec<i64>),
    /// The attribute of this name of the function that the node stands in.
    Reference(String),
    /// Graphs, lists of strings, types: nothing that a costed operator has.
    Other,
}

impl Attribute {
    fn bytes(&self) -> usize {
        match self {
            Self::Float(_) | Self::Int(_) | Self::Other => 0,
            Self::Text(text) | Self::Reference(text) => text.len(),
            Self::Tensor(constant) => constant
                .values
                .as_ref()
                .map_or(0, |values| 8 * values.len()),
            Self::Floats(values) => 8 * values.len(),
            Self::Ints(values) => 8 * values.len(),
        }
    }
}

/// A constant without its values, but for those of small ones.
#[derive(Debug, Clone)]
pub(crate) struct Constant {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) element: Element,
    pub(crate) values: Option<Values>,
}

/// One axis of an input: a size, a name for one, or neither.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Dim {
    Size(u64),
    Named(String),
    Open,
}

#[derive(Debug, Clone)]
pub(crate) struct ValueInfo {
    pub(crate) name: String,
    pub(crate) element: Element,
    /// `None` if even the number of axes is open.
    pub(crate) shape: Option<Vec<Dim>>,
}

/// Nodes under a name of their own.
#[derive(Debug, Default)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) domain: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) defaults: Vec<(String, Attribute)>,
}

impl Node {
    /// Bytes that it has of its own: names, and lists and constants in attributes.
    pub(crate) fn bytes(&self) -> usize {
        let names = self.inputs.iter().chain(&self.outputs);
        let names = names.chain([&self.name, &self.operator, &self.domain]);
        let of = |(name, attribute): &(String, Attribute)| name.len() + attribute.bytes();
        names.map(String::len).sum::<usize>() + self.attributes.iter().map(of).sum::<usize>()
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute> {
        let found = self.attributes.iter().find(|(own, _)| own == name);
        found.map(|(_, attribute)| attribute)
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        match self.attribute(name)? {
            Attribute::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.attribute(name)? {
            Attribute::Text(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attribute(name)? {
            Attribute::Ints(values) => Some(values),
            _ => None,
        }
    }
}

/// Reads a whole file. A file without nodes is refused: anything can be read as an empty message.
pub(crate) fn read<R: Read + Seek>(reader: R) -> Result<File, OnnxError> {
    let mut wire = Wire::new(reader)?;
    let end = wire.length();
    let mut file = File::default();
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (7, Payload::Length(length)) => {
                let end = wire.end(length);
                graph(&mut wire, end, 0, &mut file.graph)?;
            }
            (8, Payload::Length(length)) => {
                let end = wire.end(length);
                let (domain, version) = opset(&mut wire, end)?;
                if matches!(domain.as_str(), "" | "ai.onnx") {
                    file.opset = version;
                }
            }
            (25, Payload::Length(length)) => {
                let end = wire.end(length);
                wire.keep(256)?;
                let function = function(&mut wire, end)?;
                file.functions.push(function);
            }
            _ => wire.skip(payload)?,
        }
    }
    if file.graph.nodes.is_empty() {
        return wire.malformed("there is no graph with nodes in it");
    }
    Ok(file)
}

fn opset<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<(String, i64), OnnxError> {
    let (mut domain, mut version) = (String::new(), 0);
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (1, _) => domain = wire.text(payload)?,
            (2, Payload::Varint(value)) => version = value as i64,
            _ => wire.skip(payload)?,
        }
    }
    Ok((domain, version))
}

fn graph<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    depth: u32,
    graph: &mut Graph,
) -> Result<(), OnnxError> {
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (1, Payload::Length(length)) => {
                let end = wire.end(length);
                let node = node(wire, end, depth)?;
                graph.nodes.push(node);
            }
            (2, _) => graph.name = wire.text(payload)?,
            (5, Payload::Length(length)) => {
                let end = wire.end(length);
                let constant = constant(wire, end)?;
                graph.initializers.push(constant);
            }
            (11..=13, Payload::Length(length)) => {
                let end = wire.end(length);
                let value = value_info(wire, end)?;
                match number {
                    11 => graph.inputs.push(value),
                    12 => graph.outputs.push(value),
                    _ => graph.values.push(value),
                }
            }
            _ => wire.skip(payload)?,
        }
    }
    Ok(())
}

fn node<R: Read + Seek>(wire: &mut Wire<R>, end: u64, depth: u32) -> Result<Node, OnnxError> {
    wire.keep(256)?;
    let mut node = Node::default();
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (1, _) => node.inputs.push(wire.text(payload)?),
            (2, _) => node.outputs.push(wire.text(payload)?),
            (3, _) => node.name = wire.text(payload)?,
            (4, _) => node.operator = wire.text(payload)?,
            (5, Payload::Length(length)) => {
                let end = wire.end(length);
                wire.keep(64)?;
                let attribute = attribute(wire, end, depth)?;
                node.attributes.push(attribute);
            }
            (7, _) => node.domain = wire.text(payload)?,
            _ => wire.skip(payload)?,
        }
    }
    Ok(node)
}

fn attribute<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    depth: u32,
) -> Result<(String, Attribute), OnnxError> {
    let mut name = String::new();
    let mut value = None;
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    let mut kind = 0;
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (1, _) => name = wire.text(payload)?,
            (2, Payload::Fixed32(bytes)) => {
                value = Some(Attribute::Float(f64::from(f32::from_le_bytes(bytes))));
            }
            (3, Payload::Varint(int)) => value = Some(Attribute::Int(int as i64)),
            (4, _) => value = Some(Attribute::Text(wire.text(payload)?)),
            (5, Payload::Length(length)) => {
                let end = wire.end(length);
                value = Some(Attribute::Tensor(constant(wire, end)?));
            }
            (6, Payload::Length(_)) if depth >= DEPTH_MAX => {
                return wire.malformed(format!("graphs lie more than {DEPTH_MAX} deep in nodes"));
            }
            (6, Payload::Length(length)) => {
                // Read for its form alone: which branch runs is not known before it does.
                let end = wire.end(length);
                graph(wire, end, depth + 1, &mut Graph::default())?;
                value = Some(Attribute::Other);
            }
            (7, _) => wire.floats(payload, false, &mut floats)?,
            (8, _) => wire.varints(payload, |wire, int| {
                wire.keep(8)?;
                ints.push(int as i64);
                Ok(())
            })?,
            (20, Payload::Varint(number)) => kind = number,
            (21, _) => {
                let of = wire.text(payload)?;
                if !of.is_empty() {
                    value = Some(Attribute::Reference(of));
                }
            }
            _ => wire.skip(payload)?,
        }
        if ints.len() > LIST_MAX || floats.len() > LIST_MAX {
            return wire.malformed(format!("an attribute lists more than {LIST_MAX} numbers"));
        }
    }
    // Zeros and empty lists may not be there at all: then the type tells.
    let value = value.unwrap_or_else(|| match kind {
        _ if !ints.is_empty() => Attribute::Ints(ints),
        _ if !floats.is_empty() => Attribute::Floats(floats),
        1 => Attribute::Float(0.0),
        2 => Attribute::Int(0),
        3 => Attribute::Text(String::new()),
        6 => Attribute::Floats(Vec::new()),
        7 => Attribute::Ints(Vec::new()),
        _ => Attribute::Other,
    });
    Ok((name, value))
}

fn constant<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<Constant, OnnxError> {
    wire.keep(128)?;
    let mut name = String::new();
    let mut shape = Vec::new();
    let mut element = Element(0);
    let mut raw = None;
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    let small = VALUES_MAX * 8;
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (1, _) => wire.varints(payload, |wire, size| match shape.len() < RANK_MAX {
                true => {
                    shape.push(size);
                    Ok(())
                }
                false => wire.malformed(format!("a constant has more than {RANK_MAX} axes")),
            })?,
            (2, Payload::Varint(number)) => element = Element(number as i32),
            (8, _) => name = wire.text(payload)?,
            (4 | 5 | 7 | 9 | 10 | 11, Payload::Length(length)) if length > small => {
                wire.skip(payload)?;
            }
            // Type and size stand before, as every writer has them; if not, nothing but memory is lost.
            (4 | 9 | 10, Payload::Length(_)) if element.is_float() && is_large(&shape) => {
                wire.skip(payload)?;
            }
            (4, _) => wire.floats(payload, false, &mut floats)?,
            (10, _) => wire.floats(payload, true, &mut floats)?,
            (5 | 7 | 11, _) => wire.varints(payload, |wire, int| {
                wire.keep(8)?;
                // Numbers under 64 bits are sign-extended where they are written.
                ints.push(int as i64);
                Ok(())
            })?,
            (9, _) => raw = Some(wire.bytes(payload)?),
            _ => wire.skip(payload)?,
        }
    }
    let numel = crate::value::numel(&shape).or_else(|reason| wire.malformed(reason))?;
    let values = match raw {
        Some(raw) => element.decode(&raw),
        None if element.is_float() && !floats.is_empty() => Some(Values::Floats(floats)),
        // Halves are written as the whole number of their bits.
        None if element == Element(10) => Some(Values::Floats(
            ints.iter()
                .map(|&bits| crate::value::half(bits as u16))
                .collect(),
        )),
        None if element.is_float() => None,
        None => Some(Values::Ints(ints)),
    };
    // Elsewhere, cut short, or too many: then only the shape is known.
    let values = values.filter(|values| values.len() as u64 == numel && numel <= VALUES_MAX);
    Ok(Constant {
        name,
        shape,
        element,
        values,
    })
}

fn is_large(shape: &[u64]) -> bool {
    crate::value::numel(shape).is_ok_and(|numel| numel > FRACTIONS_MAX)
}

fn value_info<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<ValueInfo, OnnxError> {
    wire.keep(96)?;
    let mut value = ValueInfo {
        name: String::new(),
        element: Element(0),
        shape: None,
    };
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (1, _) => value.name = wire.text(payload)?,
            (2, Payload::Length(length)) => {
                let end = wire.end(length);
                while let Some((number, payload)) = wire.field(end)? {
                    match (number, payload) {
                        (1, Payload::Length(length)) => {
                            let end = wire.end(length);
                            tensor_type(wire, end, &mut value)?;
                        }
                        _ => wire.skip(payload)?,
                    }
                }
            }
            _ => wire.skip(payload)?,
        }
    }
    Ok(value)
}

fn tensor_type<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    value: &mut ValueInfo,
) -> Result<(), OnnxError> {
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (1, Payload::Varint(number)) => value.element = Element(number as i32),
            (2, Payload::Length(length)) => {
                let end = wire.end(length);
                let shape = value.shape.get_or_insert_default();
                while let Some((number, payload)) = wire.field(end)? {
                    match (number, payload) {
                        (1, Payload::Length(_)) if shape.len() >= RANK_MAX => {
                            return wire
                                .malformed(format!("a tensor has more than {RANK_MAX} axes"));
                        }
                        (1, Payload::Length(length)) => {
                            let end = wire.end(length);
                            let dim = dim(wire, end)?;
                            shape.push(dim);
                        }
                        _ => wire.skip(payload)?,
                    }
                }
            }
            _ => wire.skip(payload)?,
        }
    }
    Ok(())
}

fn dim<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<Dim, OnnxError> {
    let mut dim = Dim::Open;
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            // Some exporters write -1 or 0 for what is open.
            (1, Payload::Varint(size)) if (1..1 << 41).contains(&size) => dim = Dim::Size(size),
            (2, _) => {
                let name = wire.text(payload)?;
                if !name.is_empty() {
                    dim = Dim::Named(name);
                }
            }
            _ => wire.skip(payload)?,
        }
    }
    Ok(dim)
}

fn function<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<Function, OnnxError> {
    let mut function = Function::default();
    while let Some((number, payload)) = wire.field(end)? {
        match (number, payload) {
            (1, _) => function.name = wire.text(payload)?,
            (4, _) => function.inputs.push(wire.text(payload)?),
            (5, _) => function.outputs.push(wire.text(payload)?),
            (7, Payload::Length(length)) => {
                let end = wire.end(length);
                let node = node(wire, end, 0)?;
                function.nodes.push(node);
            }
            (10, _) => function.domain = wire.text(payload)?,
            (11, Payload::Length(length)) => {
                let end = wire.end(length);
                let attribute = attribute(wire, end, 0)?;
                function.defaults.push(attribute);
            }
            _ => wire.skip(payload)?,
        }
    }
    Ok(function)
}
