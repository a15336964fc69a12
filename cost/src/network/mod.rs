//! A network: layers in the order in which an eager framework runs them, with what each reads.

mod builder;
mod change;
mod coverage;
mod memory;
mod refit;
mod sizes;
pub mod zoo;

use serde::{Deserialize, Serialize};

use crate::Hash;
use crate::layer::{Dtype, Layer, MemoryFormat, Op, SIZE_MAX, Shape};

pub use builder::{NetworkBuilder, Tensor, Window, window};
pub use change::{Change, ChangeError, Changed};
pub use coverage::{Coverage, Uncosted};
pub use sizes::Sizes;

/// The most nodes that a network may have.
pub const NODES_MAX: usize = 20_000;

/// Where a node's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The network's input.
    Input,
    /// The output of an earlier node.
    Node(usize),
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A layer: what is measured and predicted.
    Layer(Layer),
    /// The same values under other axes. Free.
    Reshape(Shape),
    /// The slice at `index` along the first axis, without that axis: one of query, key and value. Free.
    Select {
        /// Position along the first axis.
        index: u64,
    },
    /// A constant of the network that is no layer's own, such as a position embedding. Free.
    Parameter(Shape),
    /// Part of the values along an axis: a chunk, every second row. Free.
    Slice {
        /// Which axis.
        axis: u64,
        /// The first place that is kept.
        start: u64,
        /// Places from one that is kept to the next.
        step: u64,
        /// How many are kept.
        length: u64,
    },
    /// The same values with their axes in another order, where what reads them takes them as they lie: matrix products and
    /// attention do. Free; elsewhere a permutation is a layer that copies.
    Transpose(Vec<u64>),
}

/// A step with its name, what it reads, and the shape of what it makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The step's name in its network, for people.
    pub name: String,
    /// What it does.
    pub step: Step,
    /// What it reads, in order.
    pub inputs: Vec<Source>,
}

/// Why a network cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No built-in network has this name.
    #[error("`{0}` is not a built-in network: `wattfarm networks` lists them")]
    UnknownName(String),
    /// A network without nodes, or with more than [`NODES_MAX`].
    #[error("{0} nodes: a network has 1 to {NODES_MAX}")]
    Size(usize),
    /// A name that terminals and tables cannot show.
    #[error("name: `{0}` does not have 1 to 200 characters, none of them a control character")]
    Name(String),
    /// The network's own input is empty or too large.
    #[error("input: {0}")]
    Input(String),
    /// A node that is wrong in itself or doesn't fit what it reads.
    #[error("node {index} (`{name}`): {reason}")]
    Node {
        /// Its place in the network.
        index: usize,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// A network whose graph has been checked: each node reads only earlier ones, and every shape fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Network {
    name: String,
    input: Shape,
    nodes: Vec<Node>,
    shapes: Vec<Shape>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Network")]
struct Unchecked {
    name: String,
    input: Shape,
    nodes: Vec<Node>,
}

impl TryFrom<Unchecked> for Network {
    type Error = NetworkError;
    fn try_from(network: Unchecked) -> Result<Self, NetworkError> {
        Self::new(network.name, network.input, network.nodes)
    }
}

impl From<Network> for Unchecked {
    fn from(network: Network) -> Self {
        Self {
            name: network.name,
            input: network.input,
            nodes: network.nodes,
        }
    }
}

impl Network {
    /// Checks a graph. `input` is the shape of the network's one input, batch first; the last node's output is the
    /// network's.
    pub fn new(name: String, input: Shape, nodes: Vec<Node>) -> Result<Self, NetworkError> {
        if nodes.is_empty() || nodes.len() > NODES_MAX {
            return Err(NetworkError::Size(nodes.len()));
        }
        if !is_name(&name) {
            return Err(NetworkError::Name(name.chars().take(80).collect()));
        }
        numel(&input).map_err(NetworkError::Input)?;
        let mut shapes: Vec<Shape> = Vec::with_capacity(nodes.len());
        let mut dtype = None;
        for (index, node) in nodes.iter().enumerate() {
            let shape = node
                .check_name()
                .and_then(|()| node.check_dtype(&mut dtype))
                .and_then(|()| node.shape(&input, &shapes))
                .map_err(|reason| NetworkError::Node {
                    index,
                    name: node.name.chars().take(80).collect(),
                    reason,
                })?;
            shapes.push(shape);
        }
        Ok(Self {
            name,
            input,
            nodes,
            shapes,
        })
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Items in a batch: the input's first axis.
    pub fn batch(&self) -> u64 {
        self.input[0]
    }

    /// Shape of the input, batch first.
    pub fn input(&self) -> &Shape {
        &self.input
    }

    /// Its nodes in the order of execution.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Shape of what node `index` makes.
    pub fn shape(&self, index: usize) -> &Shape {
        &self.shapes[index]
    }

    /// Its layers with their names, in the order of execution.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Layer)> {
        self.nodes.iter().filter_map(|node| match &node.step {
            Step::Layer(layer) => Some((node.name.as_str(), layer)),
            Step::Reshape(_)
            | Step::Select { .. }
            | Step::Parameter(_)
            | Step::Slice { .. }
            | Step::Transpose(_) => None,
        })
    }

    /// The network's name among machines: the blake3 of its input's shape and its nodes, without their names. Two
    /// networks that compute the same graph are one.
    pub fn hash(&self) -> Hash {
        let mut text = format!("wattfarm.network.v1|input={:?}", self.input);
        for node in &self.nodes {
            text.push('\n');
            match &node.step {
                Step::Layer(layer) => text.push_str(&layer.canonical()),
                Step::Reshape(shape) => text.push_str(&format!("reshape {shape:?}")),
                Step::Select { index } => text.push_str(&format!("select {index}")),
                Step::Parameter(shape) => text.push_str(&format!("parameter {shape:?}")),
                Step::Slice {
                    axis,
                    start,
                    step,
                    length,
                } => text.push_str(&format!("slice {axis} {start} {step} {length}")),
                Step::Transpose(order) => text.push_str(&format!("transpose {order:?}")),
            }
            for source in &node.inputs {
                match source {
                    Source::Input => text.push_str(" <input"),
                    Source::Node(index) => text.push_str(&format!(" <{index}")),
                }
            }
        }
        Hash::of(&text)
    }
}

fn is_name(name: &str) -> bool {
    (1..=200).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

impl Node {
    fn check_name(&self) -> Result<(), String> {
        match is_name(&self.name) {
            true => Ok(()),
            false => Err("its name does not have 1 to 200 visible characters".to_owned()),
        }
    }

    /// All layers of a network have one dtype, and contiguous tensors go from one to the next.
    fn check_dtype(&self, all: &mut Option<Dtype>) -> Result<(), String> {
        let Step::Layer(layer) = &self.step else {
            return Ok(());
        };
        if layer.memory_format() != MemoryFormat::Contiguous {
            return Err("a layer inside a network has contiguous tensors".to_owned());
        }
        match *all.get_or_insert(layer.dtype()) {
            dtype if dtype == layer.dtype() => Ok(()),
            dtype => Err(format!(
                "is {} in a network of {dtype}: conversions between are not layers yet",
                layer.dtype()
            )),
        }
    }

    fn shape(&self, input: &Shape, earlier: &[Shape]) -> Result<Shape, String> {
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for source in &self.inputs {
            inputs.push(match source {
                Source::Input => input,
                Source::Node(index) => earlier
                    .get(*index)
                    .ok_or(format!("reads node {index}, which is not before it"))?,
            });
        }
        match (&self.step, inputs.as_slice()) {
            (Step::Layer(layer), inputs) => output_shape(layer, inputs),
            (Step::Reshape(shape), [of]) => match numel(shape)? == numel(of)? {
                true => Ok(shape.clone()),
                false => Err(format!("{of:?} cannot be viewed as {shape:?}")),
            },
            (Step::Select { index }, [of]) if of.len() > 1 && *index < of[0] => {
                Ok(of[1..].to_vec())
            }
            (Step::Select { index }, [of]) => Err(format!("{of:?} has no slice {index}")),
            (Step::Parameter(shape), []) => numel(shape).map(|_| shape.clone()),
            (
                Step::Slice {
                    axis,
                    start,
                    step,
                    length,
                },
                [of],
            ) => {
                let last = length
                    .checked_sub(1)
                    .and_then(|steps| steps.checked_mul(*step)?.checked_add(*start));
                let place = usize::try_from(*axis).ok().filter(|&axis| axis < of.len());
                match (place, last) {
                    (Some(place), Some(last)) if *step > 0 && last < of[place] => {
                        let mut shape = (*of).clone();
                        shape[place] = *length;
                        Ok(shape)
                    }
                    _ => Err(format!(
                        "{of:?} has no {length} places along axis {axis} from {start} by {step}"
                    )),
                }
            }
            (Step::Transpose(order), [of]) => {
                let mut axes = order.clone();
                axes.sort_unstable();
                match axes.into_iter().eq(0..of.len() as u64) {
                    true => Ok(order.iter().map(|&axis| of[axis as usize]).collect()),
                    false => Err(format!("{order:?} is not an order of the axes of {of:?}")),
                }
            }
            (
                Step::Reshape(_)
                | Step::Select { .. }
                | Step::Parameter(_)
                | Step::Slice { .. }
                | Step::Transpose(_),
                inputs,
            ) => Err(format!("reads {} inputs", inputs.len())),
        }
    }
}

/// Values in a tensor of this shape; an error for empty and enormous ones.
fn numel(shape: &Shape) -> Result<u64, String> {
    let product = shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size));
    match product {
        Some(numel)
            if (1..=SIZE_MAX).contains(&numel) && !shape.is_empty() && shape.len() <= 16 =>
        {
            Ok(numel)
        }
        _ => Err(format!("the shape {shape:?} is empty or too large")),
    }
}

/// The layer's own form of an input that has other axes in its network: its expected shape, if the values fit.
fn output_shape(layer: &Layer, inputs: &[&Shape]) -> Result<Shape, String> {
    let expected = layer.input_shapes();
    if inputs.len() != expected.len() {
        return Err(format!(
            "{} reads {} inputs, not {}",
            layer.kind(),
            expected.len(),
            inputs.len()
        ));
    }
    let own_form = |shape: &Shape| match layer.op() {
        Op::Linear(_) | Op::LayerNorm(_) | Op::RmsNorm(_) | Op::Softmax(_) => rows(shape),
        Op::Add(_) | Op::Mul(_) | Op::Concat(_) | Op::GroupNorm(_) => channels(shape),
        Op::Embedding(_) => vec![product(shape)],
        _ if layer.is_elementwise() => items(shape),
        _ => shape.clone(),
    };
    for (shape, expected) in inputs.iter().zip(&expected) {
        if own_form(shape) != *expected {
            return Err(format!(
                "{} expects an input of {expected:?} and reads {shape:?}",
                layer.kind()
            ));
        }
    }
    let mut natural = inputs[0].clone();
    match layer.op() {
        Op::Linear(linear) => *natural.last_mut().expect("not empty") = linear.out_features,
        Op::Concat(concat) => {
            natural.resize(natural.len().max(2), 1);
            natural[1] = concat.in_channels.iter().sum();
        }
        Op::Flatten(_) => natural = items(&natural),
        Op::Embedding(embedding) => natural.push(embedding.features),
        Op::Add(_)
        | Op::Mul(_)
        | Op::LayerNorm(_)
        | Op::RmsNorm(_)
        | Op::GroupNorm(_)
        | Op::Softmax(_) => (),
        _ if layer.is_elementwise() => (),
        _ => natural = layer.output_shape(),
    }
    Ok(natural)
}

/// The product of a builder's sizes, which nothing has bounded yet: past every limit it stops growing.
fn product<'a>(sizes: impl IntoIterator<Item = &'a u64>) -> u64 {
    sizes
        .into_iter()
        .fold(1, |product: u64, &size| product.saturating_mul(size))
}

/// All axes but the last as one, and the last.
fn rows(shape: &Shape) -> Shape {
    let (last, others) = shape.split_last().expect("shapes are not empty");
    vec![product(others), *last]
}

/// The first axis, and the others as one.
fn items(shape: &Shape) -> Shape {
    let (first, others) = shape.split_first().expect("shapes are not empty");
    vec![*first, product(others)]
}

/// The first axis, the second (or 1), and the others as one.
fn channels(shape: &Shape) -> Shape {
    vec![
        shape[0],
        shape.get(1).copied().unwrap_or(1),
        product(shape.iter().skip(2)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[test]
    fn shapes_of_any_rank_and_size_are_answered() {
        let join = |input: Shape| {
            let mut net = NetworkBuilder::new("join", input, Dtype::F32);
            net.concat("concat", &[net.input(), net.input()]);
            net.finish()
        };
        assert_eq!(
            join(vec![4])
                .expect("a vector's values are its items")
                .shape(0),
            &vec![4, 2]
        );
        assert_eq!(join(vec![4, 3, 2]).expect("valid").shape(0), &vec![4, 6, 2]);
        assert!(matches!(
            join(vec![1, 1, u64::MAX, 2]),
            Err(NetworkError::Node { index: 0, .. })
        ));
        assert_eq!(
            join(vec![]),
            Err(NetworkError::Input(
                "the shape [] is empty or too large".to_owned()
            ))
        );
    }
}
