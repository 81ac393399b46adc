//! The `recv` back end: `poll`, then one `recv` a datagram. It needs no arrays, no shared memory, and no call that
//! sandboxes forbid.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::{Interrupts, Receive, ReceiveError, Received, Sink, Wait};
use crate::limits::DATAGRAM_BYTES;
use crate::sys::netlink::receive_one;

const NAME: &str = "recv";

/// The `recv` back end.
pub(super) struct Recv {
    socket: OwnedFd,
    interrupts: Interrupts,
    buffer: Box<[u8]>,
}

impl Recv {
    /// A back end that drains `socket` and is woken by `interrupts`.
    pub(super) fn new(socket: OwnedFd, interrupts: Interrupts) -> Self {
        Self { socket, interrupts, buffer: vec![0; DATAGRAM_BYTES].into() }
    }
}

impl Receive for Recv {
    fn receive(&mut self, wait: Wait, sink: &mut dyn Sink) -> Result<Received, ReceiveError> {
        let interrupted = self.interrupts.wait(self.socket.as_fd(), wait);
        let interrupted = interrupted.map_err(|errno| ReceiveError::new(NAME, "poll", errno))?;
        let mut received = Received { interrupted, ..Received::default() };
        while !received.is_full() {
            match receive_one(self.socket.as_fd(), &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(length) => received.pass_to_sink([self.buffer.get(..length)].into_iter(), sink),
                Err(errno) => return received.ended_by(errno).map_err(|errno| ReceiveError::new(NAME, "recv", errno)),
            }
        }
        Ok(received)
    }

    fn name(&self) -> &'static str {
        NAME
    }
}

impl Received {
    /// The result of a call that ended because the socket returned `errno`: the queue is empty, the socket overran, a
    /// signal arrived, or the call failed.
    pub(super) fn ended_by(self, errno: Errno) -> Result<Self, Errno> {
        match errno {
            Errno::AGAIN => Ok(Self { drained: true, ..self }),
            Errno::NOBUFS => Ok(Self { overrun: true, ..self }), // reading it clears it; the queue stays
            Errno::INTR => Ok(Self { interrupted: true, ..self }),
            other => Err(other),
        }
    }
}
