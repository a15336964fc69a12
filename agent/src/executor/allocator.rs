//! glibc's allocator, held so that a buffer that was freed is used again.
//!
//! By default glibc maps every large block anew and unmaps it when it is freed, so that each call of a layer would pay
//! the page faults of its output: up to twice the time of a layer that only moves data, and whether it does depends on
//! what ran before. With freed memory kept, as the caching allocators of frameworks do, a buffer in a measured layer has
//! the state that it has in a measured network: recently used.

/// Keeps freed memory for the next allocation, in one arena for all threads.
pub(super) fn keep_freed_memory() {
    // No block is mapped by itself, and nothing is returned to the system until `release`.
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_MAX, 0),
        (libc::M_TRIM_THRESHOLD, i32::MAX),
    ] {
        // SAFETY: `mallopt` only sets a parameter of the allocator. It takes effect for allocations from now on.
        #[expect(unsafe_code, reason = "glibc's own interface")]
        let accepted = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(accepted, 1, "glibc knows parameter {parameter}");
    }
}

/// Returns free memory at the end of the heap, and whole free pages within it, to the system.
pub(super) fn release() {
    // SAFETY: touches free memory only.
    #[expect(unsafe_code, reason = "glibc's own interface")]
    unsafe {
        libc::malloc_trim(0);
    }
}
