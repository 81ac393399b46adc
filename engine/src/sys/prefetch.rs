//! Prefetches memory that will be read soon. Unlike a read, a prefetch does not delay the instructions that follow.

/// Prefetches the cache line of `target`. On a processor other than x86-64 it does nothing.
#[inline]
pub(crate) fn prefetch<T>(target: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has SSE, by its definition; a prefetch reads nothing that the program sees, and cannot
        // fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const *target).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = target;
}
