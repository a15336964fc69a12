//! ONNX files as networks.
//!
//! [`Model::read`] walks a file and keeps its graph; weights are sought over, so that a file of any size costs its graph
//! alone. [`Model::network`] then binds the sizes that the file leaves open, infers the shape of every tensor, folds the
//! arithmetic of shapes, finds again what exporters spell out and frameworks run as one kernel, and makes a
//! [`wattfarm_cost::Network`] of it, with a [`Coverage`] that says what became of each node.
//!
//! Nothing here does I/O but [`open`], and nothing but `cost` is known.

mod bind;
mod einsum;
mod error;
mod file;
mod fuse;
mod graph;
mod infer;
mod lower;
mod value;
mod wire;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use wattfarm_cost::{Dtype, Network};

use bind::Bound;
use error::shown;
use graph::Graph;

pub use error::OnnxError;
pub use wattfarm_cost::network::{Coverage, Sizes, Uncosted};

/// The graph of an ONNX file, checked: tensors that are made once, and no cycles.
#[derive(Debug)]
pub struct Model {
    graph: Graph,
}

/// A network from a file, and how much of the file it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The network.
    pub network: Network,
    /// What became of the file's nodes.
    pub coverage: Coverage,
}

impl Model {
    /// Reads the graph of a file. What is read is bounded by the graph, never by the weights.
    pub fn read(file: impl Read + Seek) -> Result<Self, OnnxError> {
        Ok(Self {
            graph: Graph::of(file::read(file)?)?,
        })
    }

    /// The graph's own name, as far as it can be shown.
    pub fn name(&self) -> String {
        shown(&self.graph.name)
    }

    /// The number type of its weights: that of most values.
    pub fn dtype(&self) -> Dtype {
        let mut values = [(Dtype::F32, 0u64), (Dtype::F16, 0), (Dtype::Bf16, 0)];
        for (_, info) in &self.graph.constants {
            let dtype = info.element.dtype();
            for (of, sum) in values.iter_mut().filter(|(of, _)| dtype == Some(*of)) {
                let _ = of;
                *sum = sum.saturating_add(info.numel());
            }
        }
        let most = values.into_iter().rev().max_by_key(|(_, sum)| *sum);
        most.map_or(Dtype::F32, |(dtype, _)| dtype)
    }

    /// The network for these sizes, under this name, in this number type.
    pub fn network(&self, name: &str, sizes: &Sizes, dtype: Dtype) -> Result<Converted, OnnxError> {
        let inputs: Vec<&file::ValueInfo> =
            self.graph.inputs.iter().map(|(_, input)| input).collect();
        let bound = Bound::of(&inputs, sizes)?;
        let infos = infer::infer(&self.graph, &bound)?;
        let (network, coverage) = lower::lower(&self.graph, &infos, name, dtype)?;
        Ok(Converted { network, coverage })
    }
}

/// Reads the graph of the file at a path.
pub fn open(path: &Path) -> Result<Model, OnnxError> {
    Model::read(File::open(path)?)
}
