//! Memory that the kernel and this process both write: whole pages, mapped once and present from the start.
//!
//! Rust may assume that no other writer changes the bytes behind a reference. So no reference to these bytes is kept:
//! they are reached through a raw pointer, and a slice exists only while its owner knows that the kernel does not write
//! to it.

use std::ptr::NonNull;

use rustix::io::Errno;

/// An anonymous private mapping, unmapped on drop. Page-aligned; reads as zeroes until written.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    /// Maps `bytes`, which the kernel rounds up to pages, and populates all of them.
    pub(super) fn map(bytes: usize) -> Result<Self, Errno> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: no address is requested, so the kernel picks one that overlaps no other mapping.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, bytes })
    }

    /// The address of the byte at `offset`; `None` when the `length` bytes from there are not all inside the mapping.
    pub(super) fn at(&self, offset: usize, length: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(length)?;
        if end > self.bytes {
            return None;
        }
        // SAFETY: `offset` is inside the mapping, as just compared.
        Some(unsafe { self.start.add(offset) })
    }

    /// The `length` bytes from `offset`; `None` when they are not all inside the mapping.
    ///
    /// # Safety
    /// No writer, the kernel included, changes these bytes while the slice lives.
    pub(super) unsafe fn slice(&self, offset: usize, length: usize) -> Option<&[u8]> {
        let start = self.at(offset, length)?;
        // SAFETY: `at` found the range inside the mapping, which lives as long as `self`; the caller keeps writers
        // away.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), length) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `map` mapped exactly this range and nothing borrowed from `self` outlives it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// The error of the C library call that just failed.
pub(super) fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranges_inside_the_mapping_have_an_address() {
        let pages = Pages::map(4_096).unwrap();
        assert!(pages.at(0, 4_096).is_some() && pages.at(4_096, 0).is_some());
        assert!(pages.at(1, 4_096).is_none() && pages.at(usize::MAX, 2).is_none());
    }
}
