//! Extended acknowledgements: a refused netlink request comes back with the kernel's own words, not its errno alone.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Asks `socket` (any netlink family) for refusals with text, and for no copy of the refused request.
///
/// # Errors
/// `ENOPROTOOPT` when it is no netlink socket, or the kernel is older than 4.12.
pub fn enable(socket: impl AsFd) -> io::Result<()> {
    switch_on(&socket, libc::NETLINK_EXT_ACK)?;
    switch_on(&socket, libc::NETLINK_CAP_ACK)
}

/// What every option here takes.
const BYTES: libc::socklen_t = 4;
const _: () = assert!(size_of::<c_int>() == BYTES as usize);

fn switch_on(socket: &impl AsFd, option: c_int) -> io::Result<()> {
    let on: c_int = 1;
    let value: *const c_void = (&raw const on).cast();
    // SAFETY: `value` points at `BYTES` readable bytes, which this frame owns until the call returns; the descriptor
    // is open for as long, as `AsFd` borrows it.
    let status = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_NETLINK, option, value, BYTES) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
