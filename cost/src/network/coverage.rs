//! How much of a file its network of layers stands for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Network;

/// The most nodes that a warning names.
const NAMED_MAX: usize = 5;

/// A node that no layer stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uncosted {
    /// The node's name.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Its floating-point operations, as far as they can be told: one for each value of its output where nothing better is
    /// known.
    pub flops: u64,
    /// Bytes of its inputs and outputs.
    pub bytes: u64,
}

/// What became of a file's nodes: each is costed by a layer, or known to be free, or listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Nodes of the file, functions written out.
    pub nodes: usize,
    /// Nodes that layers stand for; several may be one layer.
    pub costed: usize,
    /// Nodes that cost nothing: views, constants, the arithmetic of shapes.
    pub free: usize,
    /// Nodes that nothing stands for.
    pub uncosted: Vec<Uncosted>,
    /// Floating-point operations of the layers.
    pub flops: u64,
    /// Bytes that the layers move.
    pub bytes: u64,
    /// Numbers in the weights that the nodes read, each counted once.
    pub parameters: u64,
    /// Operators that a layer of another kind stands for, since it costs about the same: `Sqrt as tanh`.
    pub stand_ins: BTreeMap<String, usize>,
    /// What else a reader must know.
    pub notes: Vec<String>,
}

impl Coverage {
    /// Adds what the layers of the file's network do.
    pub fn count_layers(&mut self, network: &Network) {
        for (_, layer) in network.layers() {
            let work = layer.work();
            self.flops = self.flops.saturating_add(work.flops);
            self.bytes = self.bytes.saturating_add(work.bytes());
        }
    }

    /// The part of all floating-point operations that layers stand for.
    pub fn flops_share(&self) -> f64 {
        share(self.flops, self.uncosted.iter().map(|node| node.flops))
    }

    /// The part of all bytes that layers stand for.
    pub fn bytes_share(&self) -> f64 {
        share(self.bytes, self.uncosted.iter().map(|node| node.bytes))
    }

    /// What a reader of a prediction must know of it, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut by_operator: BTreeMap<&str, Vec<&Uncosted>> = BTreeMap::new();
        for node in &self.uncosted {
            by_operator.entry(&node.operator).or_default().push(node);
        }
        let all = self
            .uncosted
            .iter()
            .fold(self.flops, |sum, node| sum.saturating_add(node.flops));
        let mut warnings = self.notes.clone();
        for (operator, nodes) in by_operator {
            let flops = nodes
                .iter()
                .fold(0u64, |sum, node| sum.saturating_add(node.flops));
            let mut names: Vec<String> = nodes
                .iter()
                .take(NAMED_MAX)
                .map(|node| format!("`{}`", node.node))
                .collect();
            if nodes.len() > NAMED_MAX {
                names.push(format!("{} more", nodes.len() - NAMED_MAX));
            }
            warnings.push(format!(
                "no layer stands for {operator}, {:.2} % of all FLOPs: not in the total are {}",
                100.0 * flops as f64 / (all as f64).max(1.0),
                names.join(", ")
            ));
        }
        if !self.stand_ins.is_empty() {
            let texts: Vec<String> = self
                .stand_ins
                .iter()
                .map(|(what, count)| format!("{what} ({count})"))
                .collect();
            warnings.push(format!("costed by a like kind: {}", texts.join(", ")));
        }
        warnings
    }
}

fn share(costed: u64, uncosted: impl Iterator<Item = u64>) -> f64 {
    let all = uncosted.fold(costed as f64, |sum, part| sum + part as f64);
    match all > 0.0 {
        true => costed as f64 / all,
        false => 1.0,
    }
}
