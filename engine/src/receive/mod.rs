//! Datagrams from the kernel, many at a time: three back ends behind one trait.
//!
//! A receive call has two steps. It **waits**, as long as its [`Wait`] says, for the socket or for one of the
//! [`Interrupts`]; then it **takes** what is queued and hands it to the caller's [`Sink`], some datagrams at a time, up to
//! [`DATAGRAMS_PER_RECEIVE`] in all so that other work gets its turn. How to wait is the caller's choice (see [`crate::pace`]);
//! what a back end adds is only how cheaply it does the two:
//!
//! | back end | waits by | takes by | needs |
//! |---|---|---|---|
//! | `recvmmsg` | `poll` | 64 datagrams a call | Linux 2.6.33 |
//! | `io_uring` | `io_uring_enter` | a multishot receive into provided buffers | Linux 6.1, and permission |
//! | `recv` | `poll` | one datagram a call | any Linux |
//!
//! Nothing is lost between two calls: the socket's queue and the readiness of the interrupts are looked at anew each time.
//!
//! ```no_run
//! use ctflow_engine::receive::{BackendKind, Interrupts, Receive, Wait, open};
//! use ctflow_engine::sys::netlink::{NetlinkSocket, Protocol};
//!
//! let socket = NetlinkSocket::open(Protocol::Netfilter)?;
//! let mut receive = open(BackendKind::Auto, &socket, Interrupts::new())?;
//! let taken = receive.receive(Wait::UntilAny, &mut |datagram: &[u8]| println!("{} bytes", datagram.len()))?;
//! assert!(taken.drained);
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
use crate::sys::netlink::NetlinkSocket;

/// How long a receive call waits before it takes what is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until a datagram is there or an interrupt is ready.
    UntilAny,
    /// As [`Wait::UntilAny`], but no longer than this: for a caller with something to do at a certain time.
    AnyWithin(Duration),
    /// Let datagrams pile up for this long, then take them all. An interrupt may be seen only when the time is up, so
    /// keep it short ([`crate::limits::WAIT_MAX`]).
    AtMost(Duration),
    /// Take what is there.
    None,
}

/// What one receive call did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Datagrams handed to the sink.
    pub datagrams: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams larger than a receive buffer: read and not handed on.
    pub truncated: usize,
    /// The socket said that it overran (which one with `NETLINK_NO_ENOBUFS` only counts): look at the loss now.
    pub overrun: bool,
    /// An interrupt is ready, or a signal came: the caller looks at its descriptors itself.
    pub interrupted: bool,
    /// Nothing more was queued when the call returned.
    pub drained: bool,
}

impl Received {
    /// Counts datagrams, at most [`RECEIVE_BATCH`], and hands them on; `None` stands for one that did not fit its buffer.
    fn pass_to_sink<'d>(&mut self, datagrams: impl Iterator<Item = Option<&'d [u8]>>, sink: &mut dyn Sink) {
        let mut whole: [&[u8]; RECEIVE_BATCH] = [&[]; RECEIVE_BATCH];
        let mut places = whole.iter_mut();
        for datagram in datagrams {
            let Some(bytes) = datagram else {
                self.truncated += 1;
                continue;
            };
            let Some(place) = places.next() else { break };
            *place = bytes;
            self.bytes += bytes.len() as u64;
        }
        let count = RECEIVE_BATCH - places.len();
        self.datagrams += count;
        sink.on_datagrams(whole.get(..count).unwrap_or_default());
    }

    /// How many more datagrams this call may take.
    fn room_left(&self) -> usize {
        DATAGRAMS_PER_RECEIVE.saturating_sub(self.datagrams + self.truncated)
    }

    /// Whether it has taken as much as it may.
    fn is_full(&self) -> bool {
        self.room_left() == 0
    }
}

/// Where datagrams go. Whoever wants one after the other gives a closure.
pub trait Sink {
    /// Takes in some datagrams, in the order of the socket's queue, and all of them before it returns.
    fn on_datagrams(&mut self, datagrams: &[&[u8]]);
}

impl<F: FnMut(&[u8])> Sink for F {
    fn on_datagrams(&mut self, datagrams: &[&[u8]]) {
        datagrams.iter().for_each(|datagram| self(datagram));
    }
}

/// A way to get datagrams from one socket. Stays on the thread that opened it.
pub trait Receive {
    /// Waits as told, then hands what is queued to `sink`, each datagram once and in the order of the queue, at most
    /// [`DATAGRAMS_PER_RECEIVE`] of them.
    ///
    /// # Errors
    /// When the socket or the ring cannot be used any more. An overrun, a signal and a datagram that was cut are none:
    /// they are in [`Received`].
    fn receive(&mut self, wait: Wait, sink: &mut dyn Sink) -> Result<Received, ReceiveError>;

    /// The back end's name, as [`BackendKind`] spells it.
    fn name(&self) -> &'static str;
}

/// A receive that failed; the socket is of no use any more.
#[derive(Debug, Error)]
#[error("cannot receive kernel events by {backend}: {operation}: {source}; restart with another receive back end")]
pub struct ReceiveError {
    /// The back end's name.
    pub backend: &'static str,
    /// The system call.
    pub operation: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

impl ReceiveError {
    fn new(backend: &'static str, operation: &'static str, errno: Errno) -> Self {
        Self { backend, operation, source: errno.into() }
    }
}

/// Which back end to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendKind {
    /// The cheapest that is permitted here; see [`open`] for the order.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// `recvmmsg`.
    Recvmmsg,
    /// `recv`, one call a datagram: the plainest, for comparison and for systems that forbid the rest.
    Recv,
}

impl BackendKind {
    /// Every kind, under the name that `FromStr` reads and `Display` writes.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Auto, "auto"), (Self::IoUring, "io_uring"), (Self::Recvmmsg, "recvmmsg"), (Self::Recv, "recv")];

    /// Its name.
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

/// A word that names no back end.
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
    /// The descriptor limit, as a rule.
    #[error("cannot duplicate the event socket: {0}; raise the limit on open files (RLIMIT_NOFILE)")]
    Duplicate(#[source] io::Error),
    /// Not permitted here, not in this kernel, or too little memory.
    #[error("cannot receive by {backend}: {source}; {hint}")]
    Refused {
        /// The back end's name.
        backend: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What that usually means.
        hint: &'static str,
    },
}

/// Opens a back end on a second descriptor of `socket`, to be used on the calling thread only.
///
/// `Auto` tries `recvmmsg`, then io_uring, then `recv`, which cannot be refused, and tells the log what was refused and why.
/// Measured on Linux 6.18 with a paced reader ([`crate::pace`]), `recvmmsg` cost the least an event in every run, by a few
/// percent; io_uring and `recv` were too close to tell apart.
///
/// # Errors
/// [`OpenError`]; with `Auto` only for want of a descriptor.
pub fn open(kind: BackendKind, socket: &NetlinkSocket, interrupts: Interrupts) -> Result<Box<dyn Receive>, OpenError> {
    let socket = socket.duplicate().map_err(OpenError::Duplicate)?;
    Ok(match kind {
        BackendKind::Auto => open_cheapest(socket, interrupts),
        BackendKind::IoUring => Box::new(Uring::new(uring::set_up()?, socket, interrupts)),
        BackendKind::Recvmmsg => Box::new(Recvmmsg::new(recvmmsg::set_up(socket.as_fd())?, socket, interrupts)),
        BackendKind::Recv => Box::new(Recv::new(socket, interrupts)),
    })
}

fn open_cheapest(socket: OwnedFd, interrupts: Interrupts) -> Box<dyn Receive> {
    match recvmmsg::set_up(socket.as_fd()) {
        Ok(batch) => return Box::new(Recvmmsg::new(batch, socket, interrupts)),
        Err(refusal) => tracing::warn!(%refusal, "trying the next receive back end, io_uring"),
    }
    match uring::set_up() {
        Ok(foundation) => return Box::new(Uring::new(foundation, socket, interrupts)),
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
