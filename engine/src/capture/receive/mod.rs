//! Receives datagrams from the kernel, many at a time, by one of three back ends behind one trait.
//!
//! A receive call has two steps. First it **waits** for the socket or for one of the [`Interrupts`], as long as its
//! [`Wait`] allows. Then it **reads** the queued datagrams and passes them to the caller's [`Sink`], some at a time,
//! and at most [`DATAGRAMS_PER_RECEIVE`] in all, so that the caller gets to its other work. The caller decides how to
//! wait (see [`crate::capture::pace`]). The back ends differ only in the cost of the two steps:
//!
//! | back end | waits by | reads by | needs |
//! |---|---|---|---|
//! | `recvmmsg` | `poll` | 64 datagrams a call | Linux 2.6.33 |
//! | `io_uring` | `io_uring_enter` | a multishot receive into provided buffers | Linux 6.1, and permission |
//! | `recv` | `poll` | one datagram a call | any Linux |
//!
//! No event is lost between two calls: each call reads the socket's queue and checks the interrupts' readiness anew.
//!
//! ```no_run
//! use ctflow_engine::capture::receive::{BackendKind, Interrupts, Receive, Wait, open};
//! use ctflow_engine::sys::netlink::{NetlinkSocket, Protocol};
//!
//! let socket = NetlinkSocket::open(Protocol::Netfilter)?;
//! let mut receive = open(BackendKind::Auto, &socket, Interrupts::new())?;
//! let received = receive.receive(Wait::UntilAny, &mut |datagram: &[u8]| println!("{} bytes", datagram.len()))?;
//! assert!(received.drained);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod interrupts;
mod recv;
mod recvmmsg;
mod uring;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

pub use interrupts::{Interest, InterruptError, Interrupts};

use self::recv::Recv;
use self::recvmmsg::Recvmmsg;
use self::uring::Uring;
use crate::limits::{DATAGRAMS_PER_RECEIVE, RECEIVE_BATCH};
use crate::os_error::os_error_text;
use crate::sys::netlink::NetlinkSocket;

/// How long a receive call waits before it reads the queued datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until a datagram is queued or an interrupt is ready.
    UntilAny,
    /// As [`Wait::UntilAny`], but no longer than this, for a caller that has work to do at a certain time.
    AnyWithin(Duration),
    /// For this long, during which datagrams pile up. An interrupt may be noticed only when the time is up, so keep it
    /// short ([`crate::limits::WAIT_MAX`]).
    AtMost(Duration),
    /// Not at all.
    None,
}

/// The result of one receive call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// The number of datagrams passed to the sink.
    pub datagrams: usize,
    /// The number of datagrams that were larger than a receive buffer: they were read and dropped.
    pub truncated: usize,
    /// Whether the socket reported an overrun, so that the caller checks the loss now. A socket with
    /// `NETLINK_NO_ENOBUFS` only counts overruns.
    pub overrun: bool,
    /// Whether an interrupt is ready or a signal arrived. The caller checks its descriptors itself.
    pub interrupted: bool,
    /// Whether the queue was empty when the call returned.
    pub drained: bool,
}

impl Received {
    /// Counts datagrams, at most [`RECEIVE_BATCH`], and passes them to `sink`. `None` stands for a datagram that did
    /// not fit its buffer.
    fn pass_to_sink<'d>(&mut self, datagrams: impl Iterator<Item = Option<&'d [u8]>>, sink: &mut dyn Sink) {
        let mut whole: [&[u8]; RECEIVE_BATCH] = [&[]; RECEIVE_BATCH];
        let mut slots = whole.iter_mut();
        for datagram in datagrams {
            let Some(bytes) = datagram else {
                self.truncated += 1;
                continue;
            };
            let Some(slot) = slots.next() else { break };
            *slot = bytes;
        }
        let count = RECEIVE_BATCH - slots.len();
        self.datagrams += count;
        sink.on_datagrams(whole.get(..count).unwrap_or_default());
    }

    /// The number of datagrams that this call may still read.
    fn room_left(&self) -> usize {
        DATAGRAMS_PER_RECEIVE.saturating_sub(self.datagrams + self.truncated)
    }

    /// Whether this call has read as many datagrams as it may.
    fn is_full(&self) -> bool {
        self.room_left() == 0
    }
}

/// The receiver of datagrams. A closure is a sink that gets them one by one.
pub trait Sink {
    /// Handles some datagrams, in the order of the socket's queue. Their buffers are reused when it returns.
    fn on_datagrams(&mut self, datagrams: &[&[u8]]);
}

impl<F: FnMut(&[u8])> Sink for F {
    fn on_datagrams(&mut self, datagrams: &[&[u8]]) {
        datagrams.iter().for_each(|datagram| self(datagram));
    }
}

/// A receive back end on one socket. It stays on the thread that opened it.
pub trait Receive {
    /// Waits as `wait` requires, then passes the queued datagrams to `sink`: each once, in the order of the queue, and
    /// at most [`DATAGRAMS_PER_RECEIVE`] of them.
    ///
    /// # Errors
    /// When the socket or the ring cannot be used any more. An overrun, a signal and a truncated datagram are no
    /// errors: [`Received`] reports them.
    fn receive(&mut self, wait: Wait, sink: &mut dyn Sink) -> Result<Received, ReceiveError>;

    /// The back end's name, as [`BackendKind`] spells it.
    fn name(&self) -> &'static str;
}

/// A failed receive. The socket cannot be used any more.
#[derive(Debug, Error)]
#[error(
    "cannot receive kernel events by {backend}: {operation}: {}; restart with another receive back end",
    os_error_text(.source)
)]
pub struct ReceiveError {
    /// The back end's name.
    pub backend: &'static str,
    /// The system call that failed.
    pub operation: &'static str,
    /// The kernel's error.
    pub source: io::Error,
}

impl ReceiveError {
    fn new(backend: &'static str, operation: &'static str, errno: Errno) -> Self {
        Self { backend, operation, source: errno.into() }
    }
}

/// The kind of receive back end to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// The cheapest back end that the system permits; see [`open`] for the order.
    #[default]
    Auto,
    /// `io_uring`, many datagrams a wake-up; [`open`] fails where the system refuses it.
    IoUring,
    /// `recvmmsg`, many datagrams a call.
    Recvmmsg,
    /// `recv`, one datagram a call: the simplest, for comparison and for systems that forbid the others.
    Recv,
}

impl BackendKind {
    /// Every kind with its name, which `FromStr` reads and `Display` writes.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Auto, "auto"), (Self::IoUring, "io_uring"), (Self::Recvmmsg, "recvmmsg"), (Self::Recv, "recv")];

    /// The kind's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("auto", |(_, name)| name)
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A text that names no back end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no receive back end is called '{0}': use auto, io_uring, recvmmsg or recv")]
pub struct UnknownBackend(String);

impl FromStr for BackendKind {
    type Err = UnknownBackend;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(_, name)| *name == word);
        found.map(|(kind, _)| *kind).ok_or_else(|| UnknownBackend(word.to_owned()))
    }
}

/// A back end that could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The event socket's descriptor cannot be duplicated, usually because of the descriptor limit.
    #[error("cannot duplicate the event socket: {}; raise the limit on open files (RLIMIT_NOFILE)", os_error_text(.0))]
    Duplicate(#[source] io::Error),
    /// The system does not permit the back end, the kernel does not have it, or memory is short.
    #[error("cannot receive by {backend}: {}; {hint}", os_error_text(.source))]
    Refused {
        /// The back end's name.
        backend: &'static str,
        /// The kernel's error.
        source: io::Error,
        /// The usual remedy.
        hint: &'static str,
    },
}

/// Opens a back end on a second descriptor of `socket`, for use on the calling thread only.
///
/// `Auto` tries `recvmmsg`, then io_uring, then `recv`, which the system cannot refuse. It logs each refusal with its
/// reason. Measured on Linux 6.18 with a paced reader ([`crate::capture::pace`]), an event cost the least with `recvmmsg` in
/// every run, by a few percent. The costs with io_uring and `recv` differed too little to rank them.
///
/// # Errors
/// [`OpenError`]; with `Auto` only when no descriptor is left.
pub fn open(kind: BackendKind, socket: &NetlinkSocket, interrupts: Interrupts) -> Result<Box<dyn Receive>, OpenError> {
    let socket = socket.duplicate().map_err(OpenError::Duplicate)?;
    Ok(match kind {
        BackendKind::Auto => open_cheapest(socket, interrupts),
        BackendKind::IoUring => Box::new(Uring::new(uring::set_up()?, socket, interrupts)),
        BackendKind::Recvmmsg => Box::new(Recvmmsg::new(recvmmsg::set_up(socket.as_fd())?, socket, interrupts)),
        BackendKind::Recv => Box::new(Recv::new(socket, interrupts)),
    })
}

/// Opens the first back end that the system permits, the cheapest first.
fn open_cheapest(socket: OwnedFd, interrupts: Interrupts) -> Box<dyn Receive> {
    match recvmmsg::set_up(socket.as_fd()) {
        Ok(batch) => return Box::new(Recvmmsg::new(batch, socket, interrupts)),
        Err(refusal) => tracing::warn!(%refusal, "trying the next receive back end, io_uring"),
    }
    match uring::set_up() {
        Ok(ring) => return Box::new(Uring::new(ring, socket, interrupts)),
        Err(refusal) => tracing::warn!(%refusal, "receiving by recv, one event a system call"),
    }
    Box::new(Recv::new(socket, interrupts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for (kind, name) in BackendKind::ALL {
            assert_eq!(name.parse(), Ok(kind));
            assert_eq!(kind.to_string(), name);
        }
        let refused = "epoll".parse::<BackendKind>().unwrap_err().to_string();
        assert_eq!(refused, "no receive back end is called 'epoll': use auto, io_uring, recvmmsg or recv");
    }
}
