//! A whole network in eager mode: each node as it comes, each tensor freed after its last reader.

use tch::Tensor;
use wattfarm_cost::layer::{MemoryFormat, Op};
use wattfarm_cost::network::{Network, Source, Step};

use super::layer::{as_indices, check_supported, forward, padded_bytes, parameters};
use super::values::Values;
use super::{empty, kind, sizes};
use crate::recipe::{Failure, Workload};

/// Bytes of all parameters and constants, of the input twice (and what it is written from), and of the most tensors that
/// are alive at once, padded inputs among them.
pub(super) fn peak_bytes(network: &Network) -> u64 {
    let bytes = network.dtype().bytes();
    let of = |shape: &[u64]| shape.iter().product::<u64>().saturating_mul(bytes);
    let freed_after = network.freed_after();
    let (mut constants, mut alive, mut peak) = (2 * of(network.input()), 0u64, 0u64);
    for (index, node) in network.nodes().iter().enumerate() {
        match &node.step {
            Step::Layer(layer) => {
                constants = constants.saturating_add(layer.work().parameter_bytes)
            }
            Step::Parameter(shape) => constants = constants.saturating_add(of(shape)),
            Step::Reshape(_) | Step::Select { .. } | Step::Slice { .. } | Step::Transpose(_) => (),
        }
        alive = alive.saturating_add(of(network.shape(index)));
        let padded = match &node.step {
            Step::Layer(layer) => padded_bytes(layer),
            _ => 0,
        };
        peak = peak.max(alive.saturating_add(padded));
        for &node in &freed_after[index] {
            alive = alive.saturating_sub(of(network.shape(node)));
        }
    }
    constants.saturating_add(peak)
}

pub(super) struct NetworkWorkload {
    network: Network,
    /// Of each node: a layer's parameters, or the constant that it is.
    parameters: Vec<Vec<Tensor>>,
    /// Of each node: earlier nodes that nobody reads after it.
    freed_after: Vec<Vec<usize>>,
    source: Tensor,
    input: Tensor,
}

impl NetworkWorkload {
    pub(super) fn build(network: &Network, values: &Values) -> Result<Self, Failure> {
        let kind = kind(network.dtype())?;
        let indices = indices(network);
        let random = |shape, rows: Option<u64>| {
            let mut tensor = empty(shape, kind, MemoryFormat::Contiguous)?;
            values.fill(&mut tensor, 0.0, 1.0)?;
            match rows {
                Some(rows) => Ok::<Tensor, Failure>(as_indices(&tensor, rows)?),
                None => Ok(tensor),
            }
        };
        let mut all = Vec::new();
        for (index, node) in network.nodes().iter().enumerate() {
            all.push(match &node.step {
                Step::Layer(layer) => {
                    check_supported(layer)?;
                    parameters(layer, values)?
                }
                Step::Parameter(shape) => vec![random(shape, indices.of_nodes[index])?],
                Step::Reshape(_)
                | Step::Select { .. }
                | Step::Slice { .. }
                | Step::Transpose(_) => Vec::new(),
            });
        }
        Ok(Self {
            parameters: all,
            freed_after: network.freed_after(),
            source: random(network.input(), indices.of_input)?,
            input: random(network.input(), indices.of_input)?,
            network: network.clone(),
        })
    }
}

/// The sources whose values pick rows of an embedding, directly or through views: how many rows there are.
struct Indices {
    of_input: Option<u64>,
    of_nodes: Vec<Option<u64>>,
}

fn indices(network: &Network) -> Indices {
    let mut of_input = None;
    let mut of_nodes = vec![None; network.nodes().len()];
    for (index, node) in network.nodes().iter().enumerate().rev() {
        let rows = match &node.step {
            Step::Layer(layer) => match layer.op() {
                Op::Embedding(embedding) => Some(embedding.rows),
                _ => None,
            },
            Step::Reshape(_)
            | Step::Select { .. }
            | Step::Slice { .. }
            | Step::Transpose(_)
            | Step::Parameter(_) => of_nodes[index],
        };
        for source in &node.inputs {
            let of = match source {
                Source::Input => &mut of_input,
                Source::Node(read) => &mut of_nodes[*read],
            };
            *of = (*of).min(rows).or(*of).or(rows);
        }
    }
    Indices { of_input, of_nodes }
}

impl Workload for NetworkWorkload {
    fn write_inputs(&mut self) -> Result<(), Failure> {
        let _guard = tch::no_grad_guard();
        Ok(self.input.f_copy_(&self.source)?)
    }

    fn call(&mut self) -> Result<(), Failure> {
        self.call_in_steps(&mut |_| ())
    }

    fn call_in_steps(&mut self, done: &mut dyn FnMut(usize)) -> Result<(), Failure> {
        let _guard = tch::no_grad_guard();
        let mut made: Vec<Option<Tensor>> = Vec::with_capacity(self.network.nodes().len());
        for (index, node) in self.network.nodes().iter().enumerate() {
            let read = |source: &Source| match source {
                Source::Input => &self.input,
                Source::Node(node) => made[*node].as_ref().expect("kept until its last reader"),
            };
            let inputs: Vec<&Tensor> = node.inputs.iter().map(read).collect();
            let tensor = match &node.step {
                Step::Layer(layer) => forward(layer, &self.parameters[index], &inputs)?,
                // A view where there can be one: of part of a tensor, it may have to copy.
                Step::Reshape(shape) => inputs[0].f_reshape(sizes(shape).as_slice())?,
                Step::Select { index } => inputs[0].f_select(0, *index as i64)?,
                Step::Parameter(_) => self.parameters[index][0].shallow_clone(),
                Step::Slice {
                    axis,
                    start,
                    step,
                    length,
                } => {
                    let [axis, start, step, length] =
                        [*axis, *start, *step, *length].map(|size| size as i64);
                    inputs[0].f_slice(axis, start, start + (length - 1) * step + 1, step)?
                }
                Step::Transpose(order) => inputs[0].f_permute(sizes(order))?,
            };
            made.push(Some(tensor));
            for &node in &self.freed_after[index] {
                made[node] = None;
            }
            done(index);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::layer::{Dtype, Embedding, Matmul};
    use wattfarm_cost::network::{NetworkBuilder, zoo};

    use super::*;

    /// Each of these runs in well under a second; together they have every kind of step.
    #[test]
    fn built_in_networks_run() {
        for name in ["squeezenet1_1", "mobilenet_v2", "vit_b_16"] {
            let network = zoo::build(name, Some(1), Dtype::F32).expect("built in");
            let mut workload = NetworkWorkload::build(&network, &Values::new()).expect("built");
            workload.write_inputs().expect("written");
            workload
                .call()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn views_of_every_sort_run() {
        let mut b = NetworkBuilder::new("views", vec![2, 8, 6, 4], Dtype::F32);
        let input = b.input();
        let half = b.slice("half", input, 1, (1, 2, 4));
        let normed = b.relu("relu", half);
        let turned = b.transpose("turned", normed, &[0, 1, 3, 2]);
        let rows = b.reshape("rows", turned, &[8, 4, 6]);
        let columns = b.reshape("columns", normed, &[8, 6, 4]);
        let product = Matmul {
            batch: 8,
            m: 4,
            n: 4,
            k: 6,
        };
        b.layer("product", &[rows, columns], Op::Matmul(product));
        let network = b.finish().expect("valid");
        let mut workload = NetworkWorkload::build(&network, &Values::new()).expect("built");
        workload.write_inputs().expect("written");
        workload.call().expect("runs");
    }

    #[test]
    fn words_pick_rows() {
        let mut b = NetworkBuilder::new("words", vec![2, 7], Dtype::F32);
        let input = b.input();
        let row = b.slice("row", input, 1, (0, 1, 5));
        let table = Embedding {
            batch: 10,
            rows: 3,
            features: 16,
        };
        b.layer("embedding", &[row], Op::Embedding(table));
        let network = b.finish().expect("valid");
        let mut workload = NetworkWorkload::build(&network, &Values::new()).expect("built");
        workload.write_inputs().expect("written");
        workload.call().expect("runs");
        assert_eq!(workload.input.kind(), tch::Kind::Int64);
    }
}
