//! `poll`, then one `recv` a datagram: no arrays, no shared memory, nothing a sandbox would forbid.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::{Interrupts, Receive, ReceiveError, Received, Sink, Wait};
use crate::limits::DATAGRAM_BYTES;
use crate::sys::netlink::receive_one;

const NAME: &str = "recv";

pub(super) struct Recv {
    socket: OwnedFd,
    interrupts: Interrupts,
    buffer: Box<[u8]>,
}

impl Recv {
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
    /// What a socket's refusal to give another datagram means: the end of the queue, an overrun, a signal, or an error.
    pub(super) fn ended_by(self, errno: Errno) -> Result<Self, Errno> {
        match errno {
            Errno::AGAIN => Ok(Self { drained: true, ..self }),
            Errno::NOBUFS => Ok(Self { overrun: true, ..self }), // read once, it is cleared; the queue is still there
            Errno::INTR => Ok(Self { interrupted: true, ..self }),
            other => Err(other),
        }
    }
}
