//! Reads many datagrams by one system call, `recvmmsg`.
//!
//! The headers, vectors and buffers are laid out once. After a call, only the lengths that the kernel wrote into the
//! headers are read.
//!
//! ```text
//! headers[i] ──► vectors[i] ──► buffer i (8 KiB)
//!    └ length, as the kernel wrote it
//! ```

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use super::buffers::Buffers;
use super::pages::last_errno;
use crate::limits::{DATAGRAM_BYTES, RECEIVE_BATCH};

/// The memory for [`RECEIVE_BATCH`] datagrams. It holds addresses of its own parts, which never move.
#[derive(Debug)]
pub(crate) struct Batch {
    headers: Box<[libc::mmsghdr]>,
    _vectors: Box<[libc::iovec]>, // pointed to by `headers`
    buffers: Buffers,
    /// The number of datagrams that the last call read.
    filled: usize,
}

impl Batch {
    /// Allocates all memory that the batch will ever use.
    pub(crate) fn new() -> Result<Self, Errno> {
        let buffers = Buffers::map(RECEIVE_BATCH)?;
        let vectors: Result<Box<[_]>, _> = (0..RECEIVE_BATCH).map(|index| vector(&buffers, index)).collect();
        let mut vectors = vectors?;
        let first = vectors.as_mut_ptr();
        let headers = (0..RECEIVE_BATCH).map(|index| header(first.wrapping_add(index))).collect();
        Ok(Self { headers, _vectors: vectors, buffers, filled: 0 })
    }

    /// Checks whether the system permits the call, by reading no datagrams.
    pub(crate) fn probe(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let (none, flags) = (ptr::null_mut(), libc::MSG_DONTWAIT);
        // SAFETY: the number of headers is zero, so the kernel reads and writes none.
        let result = unsafe { libc::recvmmsg(socket.as_raw_fd(), none, 0, flags as _, ptr::null_mut()) };
        if result < 0 { Err(last_errno()) } else { Ok(()) }
    }

    /// Reads the queued datagrams without waiting, in place of those of the last call, and returns their number. Fewer
    /// than [`RECEIVE_BATCH`] means that the queue was empty afterwards.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        self.filled = 0;
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        let headers = self.headers.as_mut_ptr();
        let count = libc::c_uint::try_from(self.headers.len()).map_err(|_| Errno::INVAL)?;
        // SAFETY: `new` made `count` headers, each with a vector and a buffer that live as long as `self`. `self` is
        // borrowed mutably, so no slice of a buffer is alive while the kernel writes.
        let filled = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, count, flags as _, ptr::null_mut()) };
        self.filled = usize::try_from(filled).map_err(|_| last_errno())?;
        Ok(self.filled)
    }

    /// The datagrams of the last call, in order: the bytes of each, or `None` for one that was truncated.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let filled = self.headers.iter().take(self.filled).enumerate();
        filled.map(|(index, header)| {
            // SAFETY: the kernel only writes during `receive`, which cannot run while `self` is borrowed here.
            unsafe { self.buffers.bytes(index, header.msg_len as usize) }
        })
    }
}

/// The vector of buffer `index`.
fn vector(buffers: &Buffers, index: usize) -> Result<libc::iovec, Errno> {
    let start = buffers.address(index).ok_or(Errno::INVAL)?;
    Ok(libc::iovec { iov_base: start.as_ptr().cast(), iov_len: DATAGRAM_BYTES })
}

/// A header for one datagram, read into `vector`.
fn header(vector: *mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: a `mmsghdr` is integers and nullable pointers (and padding on some systems), for all of which zero is
    // valid.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}
