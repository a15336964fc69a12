//! Why a file is no network.

use std::io;

use wattfarm_cost::network::NetworkError;

/// Why a file cannot be read as a network. What it names in the file is cut to a length that a terminal can show.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The file cannot be opened or read.
    #[error("read the file")]
    Io(#[from] io::Error),
    /// The bytes are no ONNX model: cut short, or something else altogether.
    #[error("byte {at}: {reason}: this is no whole ONNX file")]
    Malformed {
        /// How far the reader came.
        at: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The graph holds more than a reader's memory should.
    #[error("{0}")]
    TooLarge(String),
    /// A size that the file leaves open, or one that was given and fits nothing.
    #[error("input `{input}`: {reason}")]
    Input {
        /// The input of the graph.
        input: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The graph as a whole is wrong.
    #[error("the graph {0}")]
    Graph(String),
    /// A node that is wrong, or whose output's shape cannot be known.
    #[error("node `{node}` ({operator}): {reason}")]
    Node {
        /// Its name, or its place if it has none.
        node: String,
        /// Its operator.
        operator: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// What was read is no network of layers.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// A name from the file, as it may be shown: without control characters, and not too long.
pub(crate) fn shown(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(120)
        .collect()
}
