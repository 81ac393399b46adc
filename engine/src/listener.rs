//! One event socket, drained: how long to wait, what was taken, what was lost, whether the buffer should grow. What the
//! buffer is, and what limits it, is in the log, at the beginning and whenever it grows.
//!
//! The light half of a worker, without a cache: what `ctflow -E` reads from, and what each worker reads from.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::pace::Pace;
use crate::receive::{self, BackendKind, Interrupts, OpenError, Receive, ReceiveError, Received, Sink, Wait};
use crate::socket::{Buffer, EventSocket, Options, SocketError};

/// A listener that cannot be opened, or not go on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The event socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The receive back end.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A receive that failed.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
}

/// Whether a round waits for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As long as the pace of events says.
    Paced,
    /// Likewise, but no longer than this: something is due then.
    PacedWithin(Duration),
    /// Not at all: there is other work.
    None,
}

/// What one round brought.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// What was taken.
    pub received: Received,
    /// Events lost since the last round: to a full socket buffer, or too long for a receive buffer. They stood behind
    /// what was queued then, so among or after what was taken now.
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
    /// Drains `socket` with a back end of `kind`, woken by `interrupts` too.
    ///
    /// # Errors
    /// [`ListenError::Open`].
    pub fn new(socket: EventSocket, kind: BackendKind, interrupts: Interrupts) -> Result<Self, ListenError> {
        let receive = receive::open(kind, socket.netlink(), interrupts)?;
        tracing::info!(backend = receive.name(), "listening: {}", socket.buffer());
        Ok(Self { socket, receive, wait: Wait::UntilAny, last_receive: Instant::now() })
    }

    /// Opens a socket and drains it, as [`Listener::new`].
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn open(options: &Options, kind: BackendKind, interrupts: Interrupts) -> Result<Self, ListenError> {
        Self::new(EventSocket::open(options)?, kind, interrupts)
    }

    /// The name of the back end.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.receive.name()
    }

    /// The socket buffer as it is now.
    #[must_use]
    pub fn buffer(&self) -> Buffer {
        self.socket.buffer()
    }

    /// Stops listening: no more events arrive, and those that have are still there to take.
    ///
    /// # Errors
    /// [`ListenError::Socket`] when the kernel does not let go of a group.
    pub fn leave_groups(&mut self) -> Result<(), ListenError> {
        Ok(self.socket.leave_groups()?)
    }

    /// How many events are queued and not yet taken, at most.
    ///
    /// # Errors
    /// [`ListenError::Socket`] on a kernel without `SO_MEMINFO`.
    pub fn queued_at_most(&self) -> Result<u64, ListenError> {
        Ok(self.socket.queued_at_most()?)
    }

    /// Waits, takes what is queued and hands it to `sink`, then looks at what did not fit.
    ///
    /// # Errors
    /// When the socket or the back end cannot be used any more. A loss is none.
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
            tracing::info!("under pressure: {buffer}");
        }
        Ok(Round { received, lost })
    }
}
