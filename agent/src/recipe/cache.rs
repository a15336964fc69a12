//! The state of the caches before a call.
//!
//! Inside a network a layer's weights were last touched one whole network ago, and its input was just written. A walk
//! over a scratch buffer of about what a network touches stands for the rest of the network. How much that is belongs to the
//! network, not to the processor: seen on one with 2 MiB of second-level cache and a last level that strangers share, the
//! walk at which layers sum up to their network was near its weights and live activations, 13 MB to 244 MB.

/// Bytes that stand for the rest of a network.
///
/// Found with `wattfarm-agent additivity` on a processor with 1 MiB of second-level and 32 MiB of shared third-level cache,
/// over alexnet, resnet18, resnet50, mobilenet_v2, squeezenet1_1 and densenet121 at batch 1: without a walk the layers' sum
/// falls short of the network by 14 % (RMSPE), after 16 MiB by 3 to 8 %, after 48 MiB it is 5 to 20 % over.
pub(super) const NETWORK_BYTES: usize = 24 << 20;

/// Bytes of a cache line on every x86-64 processor.
const LINE: usize = 64;

/// A buffer to walk over. It grows with the longest walk so far.
pub struct Scratch {
    bytes: Vec<u8>,
}

/// Longer walks go round: a last-level cache of which one core gets more than this is not met yet.
const SCRATCH_MAX: usize = 128 << 20;

impl Scratch {
    /// A buffer of `size` bytes.
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
        let wanted = bytes.min(SCRATCH_MAX);
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 1);
        }
        let lines = self.bytes.iter().step_by(LINE).cycle().take(bytes / LINE);
        let sum: u64 = lines.map(|&byte| u64::from(byte)).sum();
        // The compiler must not find out that nobody needs the sum.
        std::hint::black_box(sum);
    }
}
