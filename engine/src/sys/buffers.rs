//! Receive buffers of one size, in one mapping, identified by their index.

use std::ptr::NonNull;

use rustix::io::Errno;

use super::pages::Pages;
use crate::limits::{DATAGRAM_BYTES, DATAGRAM_STRIDE};

/// `count` buffers of [`DATAGRAM_BYTES`] each, [`DATAGRAM_STRIDE`] apart.
#[derive(Debug)]
pub(super) struct Buffers {
    pages: Pages,
}

impl Buffers {
    /// Maps the memory for `count` buffers.
    pub(super) fn map(count: usize) -> Result<Self, Errno> {
        Ok(Self { pages: Pages::map(count * DATAGRAM_STRIDE)? })
    }

    /// The address of buffer `index`, to pass to the kernel; `None` when there is no such buffer.
    pub(super) fn address(&self, index: usize) -> Option<NonNull<u8>> {
        self.pages.at(index.checked_mul(DATAGRAM_STRIDE)?, DATAGRAM_BYTES)
    }

    /// The first `length` bytes of buffer `index`; `None` when there is no such buffer or it is shorter.
    ///
    /// # Safety
    /// The kernel has filled this buffer and does not write to it while the slice lives.
    pub(super) unsafe fn bytes(&self, index: usize, length: usize) -> Option<&[u8]> {
        if length > DATAGRAM_BYTES {
            return None;
        }
        // SAFETY: the caller keeps the kernel, the only other writer, away from this buffer.
        unsafe { self.pages.slice(index.checked_mul(DATAGRAM_STRIDE)?, length) }
    }
}
