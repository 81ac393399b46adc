//! The `recvmmsg` back end: `poll`, then a batch of datagrams a call. To let events pile up it sleeps in `poll` without
//! the socket, so that no event causes a wake-up. That makes it hard to beat.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::{Interrupts, OpenError, Receive, ReceiveError, Received, Sink, Wait};
use crate::limits::RECEIVE_BATCH;
use crate::sys::recvmmsg::Batch;

const NAME: &str = "recvmmsg";

/// The `recvmmsg` back end.
pub(super) struct Recvmmsg {
    socket: OwnedFd,
    interrupts: Interrupts,
    batch: Batch,
}

/// Allocates the memory and checks whether the system permits the call.
pub(super) fn set_up(socket: BorrowedFd<'_>) -> Result<Batch, OpenError> {
    let batch = Batch::new().and_then(|batch| batch.probe(socket).map(|()| batch));
    batch.map_err(|errno| OpenError::Refused { backend: NAME, source: errno.into(), hint: hint(errno) })
}

/// The usual remedy for a refusal.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => "allow it in the container's seccomp profile",
        Errno::NOMEM => "give the process more memory (RLIMIT_AS, the container's limit)",
        _ => "use another receive back end",
    }
}

impl Recvmmsg {
    /// A back end that drains `socket` into `batch` and is woken by `interrupts`.
    pub(super) fn new(batch: Batch, socket: OwnedFd, interrupts: Interrupts) -> Self {
        Self { socket, interrupts, batch }
    }
}

impl Receive for Recvmmsg {
    fn receive(&mut self, wait: Wait, sink: &mut dyn Sink) -> Result<Received, ReceiveError> {
        let interrupted = self.interrupts.wait(self.socket.as_fd(), wait);
        let interrupted = interrupted.map_err(|errno| ReceiveError::new(NAME, "poll", errno))?;
        let mut received = Received { interrupted, ..Received::default() };
        while !received.is_full() {
            let count = match self.batch.receive(self.socket.as_fd()) {
                Ok(count) => count,
                Err(errno) => return received.ended_by(errno).map_err(|errno| ReceiveError::new(NAME, NAME, errno)),
            };
            received.pass_to_sink(self.batch.datagrams(), sink);
            if count < RECEIVE_BATCH {
                received.drained = true; // the next call reports an error that ended the batch early
                break;
            }
        }
        Ok(received)
    }

    fn name(&self) -> &'static str {
        NAME
    }
}
