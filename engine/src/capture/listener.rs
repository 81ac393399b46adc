//! Drains one event socket: decides how long to wait, receives, counts losses, and grows the socket buffer under
//! pressure. The log has the buffer's size and limit, at the start and whenever it grows.
//!
//! A listener keeps no flows. Each worker reads its events from one, and so does `ctflow -E`.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::capture::pace::Pace;
use crate::capture::receive::{self, BackendKind, Interrupts, OpenError, Receive, ReceiveError, Received, Sink, Wait};
use crate::capture::socket::{Buffer, EventSocket, Options, SocketError};

/// A listener that cannot be opened or cannot continue.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The event socket cannot be opened, or an option of it cannot be set or read.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The receive back end cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A receive failed.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

/// Whether a round waits for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It waits as long as the rate of events suggests ([`crate::capture::pace`]).
    Paced,
    /// As [`Patience::Paced`], but no longer than this, because other work is due then.
    PacedWithin(Duration),
    /// It does not wait, because other work is pending.
    None,
}

/// The result of one round of receiving.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// What the receive call did.
    pub received: Received,
    /// Events lost since the last round: the socket buffer was full, or they were longer than a receive buffer. They
    /// arrived behind the events queued at the last round's end, so they belong among or after those received now.
    pub lost: u64,
}

/// An event socket and the back end that drains it. Stays on the thread that opened the back end.
pub struct Listener {
    socket: EventSocket,
    receive: Box<dyn Receive>,
    wait: Wait,
    last_receive: Instant,
}

impl Listener {
    /// Opens a back end of `kind` that drains `socket`. `interrupts` wake it, too.
    ///
    /// # Errors
    /// [`ListenError::Open`] when the back end cannot be opened.
    pub fn new(socket: EventSocket, kind: BackendKind, interrupts: Interrupts) -> Result<Self, ListenError> {
        let receive = receive::open(kind, socket.netlink(), interrupts)?;
        tracing::info!(backend = receive.name(), "listening for kernel events: {}", socket.buffer());
        Ok(Self { socket, receive, wait: Wait::UntilAny, last_receive: Instant::now() })
    }

    /// Opens an event socket in the calling thread's network namespace, and a back end that drains it.
    ///
    /// # Errors
    /// [`ListenError`] when the socket or the back end cannot be opened.
    pub fn open(options: &Options, kind: BackendKind, interrupts: Interrupts) -> Result<Self, ListenError> {
        Self::new(EventSocket::open(options)?, kind, interrupts)
    }

    /// The back end's name, as [`BackendKind`] spells it.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.receive.name()
    }

    /// The socket buffer as it is now.
    #[must_use]
    pub fn buffer(&self) -> Buffer {
        self.socket.buffer()
    }

    /// Leaves the multicast groups: no more events arrive, and the queued ones can still be received.
    ///
    /// # Errors
    /// [`ListenError::Socket`] when the kernel refuses to leave a group.
    pub fn leave_groups(&mut self) -> Result<(), ListenError> {
        Ok(self.socket.leave_groups()?)
    }

    /// An upper bound on the number of events in the socket's queue.
    ///
    /// # Errors
    /// [`ListenError::Socket`] on a kernel without `SO_MEMINFO`.
    pub(crate) fn queued_at_most(&self) -> Result<u64, ListenError> {
        Ok(self.socket.queued_at_most()?)
    }

    /// Waits as `patience` allows, passes the queued events to `sink`, then counts losses and grows the buffer if
    /// needed.
    ///
    /// # Errors
    /// [`ListenError`] when the socket or the back end cannot be used any more. A loss is no error.
    pub fn receive_round(&mut self, patience: Patience, sink: &mut dyn Sink) -> Result<Round, ListenError> {
        let wait = match patience {
            Patience::Paced => self.wait,
            Patience::PacedWithin(time) => match self.wait {
                Wait::UntilAny => Wait::AnyWithin(time),
                Wait::AnyWithin(other) => Wait::AnyWithin(time.min(other)),
                Wait::AtMost(other) => Wait::AtMost(time.min(other)),
                Wait::None => Wait::None,
            },
            Patience::None => Wait::None,
        };
        let received = self.receive.receive(wait, sink)?;
        let now = Instant::now();
        self.wait = Pace::new(self.socket.capacity()).next_wait(&received, now.duration_since(self.last_receive));
        self.last_receive = now;
        let cut = u64::try_from(received.truncated).unwrap_or(u64::MAX);
        let lost = self.socket.check_loss()?.saturating_add(cut);
        if let Some(buffer) = self.socket.grow(&received)? {
            tracing::info!("events pile up in the socket: {buffer}");
        }
        Ok(Round { received, lost })
    }
}
