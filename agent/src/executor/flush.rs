//! Pushing memory out of every cache.

use tch::Tensor;

/// Writes a tensor of the host back to memory, out of all levels of cache. Its elements must lie without gaps. Where the
/// processor has no instruction for that, nothing is done: the walk has to do.
pub(super) fn flush(tensor: &Tensor) {
    let start = tensor.data_ptr().cast::<u8>().cast_const();
    let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
    imp::flush(start, bytes);
}

#[cfg(target_arch = "x86_64")]
mod imp {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, _mm_clflush, _mm_mfence};
    use std::sync::LazyLock;

    use crate::recipe::LINE;

    /// Whether there is CLFLUSHOPT (bit 23 of EBX in leaf 7): the same for a line as CLFLUSH, of which each waits for the
    /// one before it, so that 100 MB take 70 ms instead of 8.
    static HAS_CLFLUSHOPT: LazyLock<bool> =
        LazyLock::new(|| __cpuid_count(7, 0).ebx >> 23 & 1 == 1);

    pub(super) fn flush(start: *const u8, bytes: usize) {
        for offset in (0..bytes).step_by(LINE) {
            // SAFETY: the address lies within the caller's tensor, which lives. A flush changes no value.
            #[expect(unsafe_code, reason = "the processor's own instructions")]
            unsafe {
                let line = start.add(offset);
                match *HAS_CLFLUSHOPT {
                    true => {
                        asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags))
                    }
                    false => _mm_clflush(line),
                }
            }
        }
        // SAFETY: a fence touches nothing. Without it the flushes would go on during the call.
        #[expect(unsafe_code, reason = "the processor's own instructions")]
        unsafe {
            _mm_mfence();
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod imp {
    pub(super) fn flush(_start: *const u8, _bytes: usize) {}
}
