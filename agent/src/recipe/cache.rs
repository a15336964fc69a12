//! The state of the caches before a call.
//!
//! Inside a network a layer's weights were last touched one whole network ago, and its input was just written. A walk
//! over a scratch buffer of about what a network touches stands for the rest of the network.

/// Bytes that stand for the rest of a network.
///
/// Found with `wattfarm-agent additivity` on a processor with 1 MiB of second-level and 32 MiB of shared third-level cache,
/// over alexnet, resnet18, resnet50, mobilenet_v2, squeezenet1_1 and densenet121 at batch 1: without a walk the layers' sum
/// falls short of the network by 14 % (RMSPE), after 16 MiB by 3 to 8 %, after 48 MiB it is 5 to 20 % over.
pub(super) const NETWORK_BYTES: usize = 24 << 20;

/// A buffer that is no longer than this is still in the second-level cache when it is used again: a quarter of 2 MiB, since a
/// layer or two and their weights come in between.
pub(super) const REUSED_BYTES: usize = 512 << 10;

/// Bytes of a cache line on every x86-64 processor.
pub(crate) const LINE: usize = 64;

/// A buffer to walk over.
pub struct Scratch {
    bytes: Vec<u8>,
}

impl Scratch {
    /// A buffer of `size` bytes: longer walks go round.
    pub fn new(size: usize) -> Self {
        // Ones, because the system would map untouched zeros to one shared page, which no walk pushes anything out with.
        Self {
            bytes: vec![1; size.max(LINE)],
        }
    }

    /// A buffer for every recipe.
    pub fn for_recipes() -> Self {
        Self::new(NETWORK_BYTES)
    }

    /// Reads `bytes` bytes, a line at a time.
    pub fn walk(&mut self, bytes: usize) {
        let lines = self.bytes.iter().step_by(LINE).cycle().take(bytes / LINE);
        let sum: u64 = lines.map(|&byte| u64::from(byte)).sum();
        // The compiler must not find out that nobody needs the sum.
        std::hint::black_box(sum);
    }
}
