//! What the caller says of the sizes that a file leaves open.

/// Sizes for what a file leaves open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Items in a batch: the first axis of the first input, and of all others that share it. The file's own, or 1 where
    /// it is open, if left out.
    pub batch: Option<u64>,
    /// The shape of one item of the first input.
    pub item: Option<Vec<u64>>,
    /// By name: the shape of one item of an input, or the size of a named axis.
    pub named: Vec<(String, Vec<u64>)>,
}
