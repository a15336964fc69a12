//! How much memory a network's tensors need while it runs.

use super::{Network, Source, Step};
use crate::layer::Dtype;

impl Network {
    /// The type of all its numbers.
    pub fn dtype(&self) -> Dtype {
        let first = self.layers().next();
        first.map_or(Dtype::F32, |(_, layer)| layer.dtype())
    }

    /// For each node, the nodes whose last reader it is. Nobody reads the last node: its output is the network's.
    pub fn freed_after(&self) -> Vec<Vec<usize>> {
        let mut last_reader: Vec<usize> = (0..self.nodes().len()).collect();
        for (index, node) in self.nodes().iter().enumerate() {
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

    /// The most bytes of activations that are alive at once, the network's input among them: each tensor from the layer
    /// that makes it to the last that reads it, or a view of it. Parameters and constants are not in it.
    pub fn peak_activation_bytes(&self) -> u64 {
        let bytes = |shape: &[u64]| {
            let numel = shape.iter().product::<u64>();
            numel.saturating_mul(self.dtype().bytes())
        };
        // Of each node, the node whose memory its output lies in; `None` for the input's and constants.
        let mut owner: Vec<Option<usize>> = Vec::with_capacity(self.nodes().len());
        let mut last_reader: Vec<usize> = (0..self.nodes().len()).collect();
        for (index, node) in self.nodes().iter().enumerate() {
            let owners = node.inputs.iter().map(|source| match source {
                Source::Input => None,
                Source::Node(read) => owner[*read],
            });
            for read in owners.clone().flatten() {
                last_reader[read] = index;
            }
            let made = match &node.step {
                Step::Layer(layer) if !layer.is_view() => Some(index),
                Step::Parameter(_) => None,
                Step::Layer(_)
                | Step::Reshape(_)
                | Step::Select { .. }
                | Step::Slice { .. }
                | Step::Transpose(_) => owners.clone().next().flatten(),
            };
            owner.push(made);
        }
        let mut freed = vec![Vec::new(); last_reader.len()];
        for node in owner.iter().flatten() {
            if last_reader[*node] != usize::MAX {
                freed[last_reader[*node]].push(*node);
                last_reader[*node] = usize::MAX;
            }
        }
        let mut alive = bytes(self.input());
        let mut peak = alive;
        for (index, freed) in freed.iter().enumerate() {
            if owner[index] == Some(index) {
                alive = alive.saturating_add(bytes(self.shape(index)));
            }
            peak = peak.max(alive);
            for &node in freed {
                alive = alive.saturating_sub(bytes(self.shape(node)));
            }
        }
        peak
    }
}

#[cfg(test)]
mod tests {
    use crate::Dtype;
    use crate::network::{NetworkBuilder, window};

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
            network.freed_after(),
            [vec![], vec![], vec![0, 1], vec![2, 3]]
        );
        // The input, `first`, `second` and their sum, of 128 values each; `flat` is a view of the sum.
        assert_eq!(network.peak_activation_bytes(), 4 * 128 * 4);
    }

    #[test]
    fn a_view_keeps_what_it_views() {
        let mut b = NetworkBuilder::new("views", vec![1, 8, 4, 4], Dtype::F16);
        let input = b.input();
        let first = b.relu("first", input);
        let view = b.reshape("view", first, &[1, 128]);
        let second = b.relu("second", input);
        let second = b.reshape("second_view", second, &[1, 128]);
        b.add("sum", view, second);
        let network = b.finish().expect("valid");
        assert_eq!(network.peak_activation_bytes(), 4 * 128 * 2);
    }
}
