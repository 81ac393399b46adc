//! One worker's event socket: its share of the events, its buffer, and the count of lost events.
//!
//! The order of opening matters. The buffer is sized and the steering program attached before any group is joined, so
//! that no event arrives that belongs to another worker or has no room. `NETLINK_NO_ENOBUFS` is set, because without it
//! the kernel drops every event after an overrun until the queue is empty. An overrun is then no error. The kernel
//! counts the dropped events in the drop counter of `SO_MEMINFO`, which [`EventSocket::check_loss`] reads. Where the
//! buffer may grow, [`EventSocket::grow`] doubles it under pressure, before an overrun.
//!
//! ```no_run
//! use ctflow_engine::capture::socket::{EventMask, EventSocket, Options};
//!
//! let options = Options { events: EventMask::NEW | EventMask::DESTROY, ..Options::default() };
//! let mut socket = EventSocket::open(&options)?;
//! println!("{}", socket.buffer());
//! assert_eq!(socket.check_loss()?, 0);
//! # Ok::<(), ctflow_engine::capture::socket::SocketError>(())
//! ```

use std::fmt;
use std::io;
use std::ops::BitOr;

use thiserror::Error;

use crate::capture::receive::Received;
use crate::capture::steer::{Filter, Program, Share, SteerError};
use crate::limits::{
    EVENT_BUFFER_BYTES, EVENT_BUFFER_BYTES_MIN, SOCKET_BUFFER_BYTES, SOCKET_BUFFER_BYTES_CEILING,
    SOCKET_BUFFER_BYTES_MAX,
};
use crate::os_error::os_error_text;
use crate::sys::netlink::{NetlinkSocket, Protocol};

/// A set of event kinds: the multicast groups to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventMask(u8);

impl EventMask {
    /// New flows.
    pub const NEW: Self = Self::of(ctflow_parser::uapi::NFNLGRP_CONNTRACK_NEW);
    /// Changes of flows.
    pub const UPDATE: Self = Self::of(ctflow_parser::uapi::NFNLGRP_CONNTRACK_UPDATE);
    /// Ends of flows.
    pub const DESTROY: Self = Self::of(ctflow_parser::uapi::NFNLGRP_CONNTRACK_DESTROY);
    /// New expectations.
    pub const EXPECT_NEW: Self = Self::of(ctflow_parser::uapi::NFNLGRP_CONNTRACK_EXP_NEW);
    /// Changes of expectations.
    pub const EXPECT_UPDATE: Self = Self::of(ctflow_parser::uapi::NFNLGRP_CONNTRACK_EXP_UPDATE);
    /// Ends of expectations.
    pub const EXPECT_DESTROY: Self = Self::of(ctflow_parser::uapi::NFNLGRP_CONNTRACK_EXP_DESTROY);
    /// All events of flows.
    pub const FLOWS: Self = Self(Self::NEW.0 | Self::UPDATE.0 | Self::DESTROY.0);
    /// All events of expectations.
    pub const EXPECTATIONS: Self = Self(Self::EXPECT_NEW.0 | Self::EXPECT_UPDATE.0 | Self::EXPECT_DESTROY.0);
    /// All events.
    pub const ALL: Self = Self(Self::FLOWS.0 | Self::EXPECTATIONS.0);

    /// The set of one multicast group.
    const fn of(group: u32) -> Self {
        Self(1 << group)
    }

    /// Whether this set includes all of `other`.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The numbers of the multicast groups (`NFNLGRP_*`), lowest first.
    pub fn groups(self) -> impl Iterator<Item = u32> {
        (0..u8::BITS).filter(move |group| self.0 & (1 << group) != 0)
    }
}

impl BitOr for EventMask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The size of the socket buffer to request, in bytes. The kernel grants twice as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferPlan {
    /// This size, which never changes.
    Fixed(usize),
    /// A size that doubles under pressure, up to a ceiling.
    Growing {
        /// The size at the start.
        start: usize,
        /// The largest size.
        ceiling: usize,
    },
}

impl BufferPlan {
    /// The size at the start, within the kernel's bound.
    fn start(self) -> usize {
        let (Self::Fixed(bytes) | Self::Growing { start: bytes, .. }) = self;
        bytes.min(SOCKET_BUFFER_BYTES_MAX)
    }

    /// The largest size, within the kernel's bound.
    fn ceiling(self) -> usize {
        let (Self::Fixed(bytes) | Self::Growing { ceiling: bytes, .. }) = self;
        bytes.min(SOCKET_BUFFER_BYTES_MAX)
    }
}

impl Default for BufferPlan {
    fn default() -> Self {
        Self::Growing { start: SOCKET_BUFFER_BYTES, ceiling: SOCKET_BUFFER_BYTES_CEILING }
    }
}

/// A socket buffer: the size that was requested, and the size that the kernel granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes requested.
    pub requested: usize,
    /// Bytes that the kernel lets queued messages use: twice the requested size, unless it is limited.
    pub effective: usize,
    /// Whether `net.core.rmem_max` limited the size, because the process has no `CAP_NET_ADMIN` on the host.
    pub limited: bool,
}

impl Buffer {
    /// The number of events that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.effective / EVENT_BUFFER_BYTES
    }
}

impl fmt::Display for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, effective, limited } = self;
        let capacity = self.capacity();
        write!(formatter, "socket buffer of {effective} bytes for {capacity} events ({requested} bytes requested")?;
        if *limited {
            formatter.write_str(", limited by net.core.rmem_max; raise it or grant CAP_NET_ADMIN on the host")?;
        }
        formatter.write_str(")")
    }
}

/// How to open an event socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The kinds of events to receive.
    pub events: EventMask,
    /// The size of the socket buffer.
    pub buffer: BufferPlan,
    /// The share of the events that goes to this socket.
    pub share: Share,
    /// The filter that the kernel applies to the events.
    pub filter: Filter,
    /// Whether the kernel keeps DESTROY events that did not fit and sends them again, and keeps the flows until then
    /// (`NETLINK_BROADCAST_ERROR`). This is for accounting, not for a firewall under load.
    pub reliable: bool,
}

impl Default for Options {
    /// All events of flows, unfiltered, to a single reader, with a buffer that grows.
    fn default() -> Self {
        Self {
            events: EventMask::FLOWS,
            buffer: BufferPlan::default(),
            share: Share::ALL,
            filter: Filter::default(),
            reliable: false,
        }
    }
}

/// An event socket that cannot be opened or read. Each message is one line for the operator.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The netlink socket cannot be opened: the kernel has no netfilter, or the process no descriptor left.
    #[error("cannot open a netfilter netlink socket: {}; {}", os_error_text(.0), open_hint(.0))]
    Open(#[source] io::Error),
    /// The share or the filter cannot be compiled into a program.
    #[error(transparent)]
    Steer(#[from] SteerError),
    /// The kernel refused the compiled program, usually because of its size.
    #[error(
        "cannot attach the event filter to the socket: {}; raise sysctl net.core.optmem_max or filter less",
        os_error_text(.0)
    )]
    Attach(#[source] io::Error),
    /// A multicast group cannot be joined: no permission to receive events, or the kernel module is not loaded.
    #[error("cannot listen to conntrack events (group {group}): {}; {}", os_error_text(.source), join_hint(.source))]
    Join {
        /// The multicast group.
        group: u32,
        /// The kernel's error.
        source: io::Error,
    },
    /// A socket option that every kernel since 4.12 has cannot be set or read.
    #[error("cannot {operation} of the event socket: {}; ctflow needs Linux 4.12 or later", os_error_text(.source))]
    Option {
        /// The operation that failed, as the message words it.
        operation: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl SocketError {
    /// Turns a system error into a [`SocketError::Option`].
    fn option(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Option { operation, source }
    }
}

/// The remedy for a netlink socket that cannot be opened.
fn open_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => "load the kernel modules: modprobe nf_conntrack_netlink",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit on open files (RLIMIT_NOFILE)",
        _ => "allow AF_NETLINK sockets in the sandbox this runs in",
    }
}

/// The remedy for a multicast group that cannot be joined.
fn join_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "run as root or grant CAP_NET_ADMIN",
        _ => "load the kernel module: modprobe nf_conntrack_netlink",
    }
}

/// A socket that receives its share of the events.
#[derive(Debug)]
pub struct EventSocket {
    socket: NetlinkSocket,
    events: EventMask,
    plan: BufferPlan,
    buffer: Buffer,
    /// The kernel's drop counter at the last check.
    drops: u32,
}

impl EventSocket {
    /// Opens a socket in the calling thread's network namespace. Events are queued from now on.
    ///
    /// # Errors
    /// [`SocketError`], whose messages name the remedy. A smaller buffer than requested is no error: see
    /// [`EventSocket::buffer`].
    pub fn open(options: &Options) -> Result<Self, SocketError> {
        let program = Program::compile(options.share, &options.filter)?;
        let socket = NetlinkSocket::open(Protocol::Netfilter).map_err(SocketError::Open)?;
        let buffer = set_buffer(&socket, options.buffer.start())?;
        if let Some(program) = program {
            socket.attach_filter(&program).map_err(SocketError::Attach)?;
        }
        socket.set_no_enobufs().map_err(SocketError::option("turn off ENOBUFS"))?;
        if options.reliable {
            socket.set_broadcast_error().map_err(SocketError::option("turn on reliable delivery"))?;
        }
        for group in options.events.groups() {
            socket.join(group).map_err(|source| SocketError::Join { group, source })?;
        }
        Ok(Self { socket, events: options.events, plan: options.buffer, buffer, drops: 0 })
    }

    /// The socket itself, for [`crate::capture::receive::open`].
    #[must_use]
    pub fn netlink(&self) -> &NetlinkSocket {
        &self.socket
    }

    /// The present buffer. Its `Display` text has its size and what limits it.
    #[must_use]
    pub fn buffer(&self) -> Buffer {
        self.buffer
    }

    /// The number of events that fit the present buffer.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Leaves the multicast groups: no more events arrive. Queued events stay.
    ///
    /// # Errors
    /// [`SocketError::Option`], which does not occur in practice.
    pub fn leave_groups(&self) -> Result<(), SocketError> {
        for group in self.events.groups() {
            self.socket.leave(group).map_err(SocketError::option("leave a group"))?;
        }
        Ok(())
    }

    /// An upper bound on the number of queued events: the queued bytes over the least bytes that the kernel charges for
    /// a packet buffer.
    ///
    /// # Errors
    /// [`SocketError::Option`], as [`EventSocket::check_loss`].
    pub(crate) fn queued_at_most(&self) -> Result<u64, SocketError> {
        let info = self.socket.memory_info().map_err(SocketError::option("read the memory use"))?;
        Ok(info.queued_bytes.div_ceil(EVENT_BUFFER_BYTES_MIN).into())
    }

    /// The number of events lost to a full buffer since the last call, or since the socket was opened.
    ///
    /// # Errors
    /// [`SocketError::Option`] on a kernel without `SO_MEMINFO`.
    pub fn check_loss(&mut self) -> Result<u64, SocketError> {
        let info = self.socket.memory_info().map_err(SocketError::option("read the drop counter"))?;
        let lost = info.drops.wrapping_sub(self.drops);
        self.drops = info.drops;
        Ok(u64::from(lost))
    }

    /// Doubles the buffer, up to the ceiling, if more than half of it was in use before the receive that returned
    /// `received`. Returns the new buffer, for the log, if it was changed or turned out to be limited. Costs a system
    /// call only under pressure.
    ///
    /// # Errors
    /// [`SocketError::Option`], as [`EventSocket::check_loss`].
    pub fn grow(&mut self, received: &Received) -> Result<Option<Buffer>, SocketError> {
        let (requested, ceiling) = (self.buffer.requested, self.plan.ceiling());
        if requested >= ceiling || self.buffer.limited || !self.is_under_pressure(received)? {
            return Ok(None);
        }
        self.buffer = set_buffer(&self.socket, requested.saturating_mul(2).min(ceiling))?;
        Ok(Some(self.buffer))
    }

    /// Whether the received and the still queued events used more than half of the buffer.
    fn is_under_pressure(&self, received: &Received) -> Result<bool, SocketError> {
        let mut used = received.datagrams * EVENT_BUFFER_BYTES;
        if !received.drained {
            let info = self.socket.memory_info().map_err(SocketError::option("read the memory use"))?;
            used += info.queued_bytes as usize;
        }
        Ok(used > self.buffer.effective / 2)
    }
}

/// Requests a buffer of `requested` bytes, beyond `net.core.rmem_max` where that is permitted.
fn set_buffer(socket: &NetlinkSocket, requested: usize) -> Result<Buffer, SocketError> {
    let forced = socket.force_receive_buffer(requested);
    if forced.is_err() {
        socket.set_receive_buffer(requested).map_err(SocketError::option("set the buffer"))?;
    }
    let info = socket.memory_info().map_err(SocketError::option("read the buffer size"))?;
    let effective = info.buffer_bytes as usize;
    Ok(Buffer { requested, effective, limited: forced.is_err() && effective < 2 * requested })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_maps_to_the_kernels_group_numbers() {
        assert_eq!(EventMask::ALL.groups().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert_eq!((EventMask::DESTROY | EventMask::EXPECT_NEW).groups().collect::<Vec<_>>(), [3, 4]);
        assert!(EventMask::ALL.contains(EventMask::FLOWS) && !EventMask::NEW.contains(EventMask::FLOWS));
    }

    #[test]
    fn refusals_name_the_remedy() {
        let refused = |errno| io::Error::from_raw_os_error(errno);
        let join = SocketError::Join { group: 1, source: refused(libc::EPERM) }.to_string();
        assert!(join.ends_with("run as root or grant CAP_NET_ADMIN"), "{join}");
        let open = SocketError::Open(refused(libc::EPROTONOSUPPORT)).to_string();
        assert!(open.ends_with("modprobe nf_conntrack_netlink"), "{open}");
    }

    #[test]
    fn a_limited_buffer_names_its_limit() {
        let buffer = Buffer { requested: 8_388_608, effective: 425_984, limited: true };
        assert_eq!(
            buffer.to_string(),
            "socket buffer of 425984 bytes for 332 events (8388608 bytes requested, \
             limited by net.core.rmem_max; raise it or grant CAP_NET_ADMIN on the host)"
        );
    }
}
