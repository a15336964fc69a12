//! A whole network in eager mode: each node as it comes, each tensor freed after its last reader.

use tch::Tensor;
use wattfarm_cost::layer::{Dtype, MemoryFormat};
use wattfarm_cost::network::{Network, Source, Step};

use super::layer::{check_supported, forward, padded_bytes, parameters};
use super::values::Values;
use super::{empty, kind, sizes};
use crate::recipe::{Failure, Workload};

/// Bytes of all parameters and constants, of the input twice (and what it is written from), and of the most tensors that
/// are alive at once, padded inputs among them.
pub(super) fn peak_bytes(network: &Network) -> u64 {
    let bytes = dtype(network).bytes();
    let of = |shape: &[u64]| shape.iter().product::<u64>().saturating_mul(bytes);
    let freed_after = freed_after(network);
    let (mut constants, mut alive, mut peak) = (2 * of(network.input()), 0u64, 0u64);
    for (index, node) in network.nodes().iter().enumerate() {
        match &node.step {
            Step::Layer(layer) => {
                constants = constants.saturating_add(layer.work().parameter_bytes)
            }
            Step::Parameter(shape) => constants = constants.saturating_add(of(shape)),
            Step::Reshape(_) | Step::Select { .. } => (),
        }
        alive = alive.saturating_add(of(network.shape(index)));
        let padded = match &node.step {
            Step::Layer(layer) => padded_bytes(layer),
            Step::Parameter(_) | Step::Reshape(_) | Step::Select { .. } => 0,
        };
        peak = peak.max(alive.saturating_add(padded));
        for &node in &freed_after[index] {
            alive = alive.saturating_sub(of(network.shape(node)));
        }
    }
    constants.saturating_add(peak)
}

/// The type of all its numbers.
fn dtype(network: &Network) -> Dtype {
    let first = network.layers().next();
    first.map_or(Dtype::F32, |(_, layer)| layer.dtype())
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
        let dtype = dtype(network);
        let random = |shape| {
            let mut tensor = empty(shape, kind(dtype)?, MemoryFormat::Contiguous)?;
            values.fill(&mut tensor, 0.0, 1.0)?;
            Ok::<Tensor, Failure>(tensor)
        };
        let mut all = Vec::new();
        for node in network.nodes() {
            all.push(match &node.step {
                Step::Layer(layer) => {
                    check_supported(layer)?;
                    parameters(layer, values)?
                }
                Step::Parameter(shape) => vec![random(shape)?],
                Step::Reshape(_) | Step::Select { .. } => Vec::new(),
            });
        }
        Ok(Self {
            parameters: all,
            freed_after: freed_after(network),
            source: random(network.input())?,
            input: random(network.input())?,
            network: network.clone(),
        })
    }
}

/// For each node, the nodes whose last reader it is. Nobody reads the last node: its output is the network's.
fn freed_after(network: &Network) -> Vec<Vec<usize>> {
    let mut last_reader: Vec<usize> = (0..network.nodes().len()).collect();
    for (index, node) in network.nodes().iter().enumerate() {
        for source in &node.inputs {
            if let Source::Node(read) = source {
                last_reader[*read] = index;
            }
        }
    }
    let mut freed = vec![Vec::new(); last_reader.len()];
    for (node, &reader) in last_reader.iter().enumerate() {
        freed[reader].push(node);
    }
    freed
}

impl Workload for NetworkWorkload {
    fn write_inputs(&mut self) -> Result<(), Failure> {
        let _guard = tch::no_grad_guard();
        Ok(self.input.f_copy_(&self.source)?)
    }

    fn call(&mut self) -> Result<(), Failure> {
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
                Step::Reshape(shape) => inputs[0].f_view(sizes(shape).as_slice())?,
                Step::Select { index } => inputs[0].f_select(0, *index as i64)?,
                Step::Parameter(_) => self.parameters[index][0].shallow_clone(),
            };
            made.push(Some(tensor));
            for &node in &self.freed_after[index] {
                made[node] = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::network::{NetworkBuilder, window, zoo};

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
    fn a_tensor_lives_until_its_last_reader() {
        let mut b = NetworkBuilder::new("residual", vec![1, 8, 4, 4], Dtype::F32);
        let input = b.input();
        let first = b.conv2d("first", input, 8, window(3, 1, 1), 1, false);
        let second = b.relu("second", first);
        let sum = b.add("sum", second, first);
        b.flatten("flat", sum);
        let network = b.finish().expect("valid");
        assert_eq!(
            freed_after(&network),
            [vec![], vec![], vec![0, 1], vec![2, 3]]
        );
        let mut workload = NetworkWorkload::build(&network, &Values::new()).expect("built");
        workload.call().expect("runs");
    }
}
