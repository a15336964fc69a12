//! Why a description is no network.

use std::io;

use wattfarm_cost::network::NetworkError;

/// Why a file cannot be read as a network. What it names in the file is cut to a length that a terminal can show.
#[derive(Debug, thiserror::Error)]
pub enum CaffeError {
    /// The file cannot be opened or read.
    #[error("read the file")]
    Io(#[from] io::Error),
    /// The text is none of Caffe's: cut short, or something else altogether.
    #[error("line {line}: {reason}: this is no whole network description of Caffe's")]
    Malformed {
        /// Counted from 1.
        line: u32,
        /// What is wrong there.
        reason: String,
    },
    /// More than a reader's memory should hold.
    #[error("{0}")]
    TooLarge(String),
    /// A size that the file leaves open, or one that was given and fits nothing.
    #[error("input `{input}`: {reason}")]
    Input {
        /// The input's name.
        input: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The network as a whole is wrong.
    #[error("the network {0}")]
    Net(String),
    /// A layer that is wrong, or whose output's shape cannot be known.
    #[error("layer `{layer}` ({kind}, line {line}): {reason}")]
    Layer {
        /// Its name.
        layer: String,
        /// Caffe's name of its type.
        kind: String,
        /// Where it begins, counted from 1.
        line: u32,
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
