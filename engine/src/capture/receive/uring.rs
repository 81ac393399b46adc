//! The io_uring back end: one `io_uring_enter` waits for the socket and the interrupts, reads all queued datagrams, and
//! re-arms.
//!
//! The receive is multishot: it stays armed and completes once for each datagram, until it runs out of buffers or the
//! socket overruns. The kernel reports both as `-ENOBUFS`, and only the socket's drop counter distinguishes them. In
//! both cases the receive is armed again.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::{Interrupts, OpenError, Receive, ReceiveError, Received, Sink, Wait};
use crate::limits::{DATAGRAMS_PER_RECEIVE, RECEIVE_BATCH, RING_COMPLETIONS};
use crate::sys::netlink::memory_info;
use crate::sys::ring::{Completion, Ring, UnboundRing};

const NAME: &str = "io_uring";

/// The io_uring back end.
pub(super) struct Uring {
    ring: Ring,
    /// The socket's drop counter when it was last read.
    drops: u32,
    /// Whether the kernel has refused to watch a descriptor during this call.
    watch_refused: bool,
}

/// Sets up the ring and its memory, all that the kernel may refuse.
pub(super) fn set_up() -> Result<UnboundRing, OpenError> {
    UnboundRing::set_up().map_err(|errno| OpenError::Refused { backend: NAME, source: errno.into(), hint: hint(errno) })
}

/// The usual cause of a refusal, or the remedy.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            "allow it by sysctl kernel.io_uring_disabled=0 and in the container's seccomp profile"
        }
        Errno::NOSYS => "this kernel is built without it, or the container's seccomp profile hides it",
        Errno::INVAL => "it needs Linux 6.1 or later",
        Errno::MFILE | Errno::NFILE => "raise the limit on open files (RLIMIT_NOFILE)",
        Errno::NOMEM => "raise the limit on locked memory (RLIMIT_MEMLOCK) or the container's memory",
        _ => "use another receive back end",
    }
}

impl Uring {
    /// A back end that drains `socket` by `ring` and is woken by `interrupts`.
    pub(super) fn new(ring: UnboundRing, socket: OwnedFd, interrupts: Interrupts) -> Self {
        let drops = memory_info(socket.as_fd()).map_or(0, |info| info.drops);
        Self { ring: ring.bind(socket, interrupts.into_watched()), drops, watch_refused: false }
    }

    /// Arms the receive and the watches that have ended, then waits. Returns whether a signal arrived.
    fn wait(&mut self, wait: Wait) -> Result<bool, Errno> {
        self.ring.arm_receive()?;
        self.ring.arm_watches()?;
        if self.ring.has_unsubmitted() {
            // Not together with the wait: `io_uring_enter` returns the number of submissions then, and not the wait's
            // EINTR.
            self.ring.submit()?;
        }
        let waited = match wait {
            Wait::AtMost(time) => self.ring.wait(RING_COMPLETIONS, Some(time)),
            _ if self.ring.has_completions() => Ok(()),
            Wait::UntilAny => self.ring.wait(1, None),
            Wait::AnyWithin(time) => self.ring.wait(1, Some(time)),
            Wait::None if self.ring.has_pending() => self.ring.submit(),
            Wait::None => Ok(()),
        };
        match waited {
            Err(Errno::INTR) => Ok(true),
            waited => waited.map(|()| false),
        }
    }

    /// Passes the completed datagrams to `sink`, a batch at a time. A batch's buffers go back to the kernel after the
    /// sink has handled it.
    fn drain_completions(&mut self, received: &mut Received, sink: &mut dyn Sink) -> Result<(), Errno> {
        let mut more = true;
        while more && !received.is_full() {
            let mut batch = [(0, 0); RECEIVE_BATCH];
            let (mut filled, room) = (0, received.room_left());
            let ended = loop {
                let Some(slot) = batch.get_mut(filled).filter(|_| filled < room) else { break Ok(()) };
                match self.ring.next_completion() {
                    Some(Completion::Datagram { buffer, bytes }) => {
                        *slot = (buffer, bytes);
                        filled += 1;
                    }
                    Some(Completion::Ready) => received.interrupted = true,
                    Some(Completion::ReceiveFailed(errno)) => {
                        let end = self.on_receive_failed(errno, received);
                        if end.is_err() {
                            break end;
                        }
                    }
                    Some(Completion::WatchRefused) => self.watch_refused = true,
                    Some(Completion::ReceiveEnded) => {}
                    None => {
                        more = false;
                        break Ok(());
                    }
                }
            };
            let batch = batch.get(..filled).unwrap_or_default();
            received.pass_to_sink(batch.iter().map(|(buffer, bytes)| self.ring.datagram(*buffer, *bytes)), sink);
            batch.iter().for_each(|(buffer, _)| self.ring.recycle_buffer(*buffer));
            ended?;
        }
        Ok(())
    }

    /// Handles the end of the multishot receive: no buffer was left, the socket overran, or it cannot be used any more.
    fn on_receive_failed(&mut self, errno: Errno, received: &mut Received) -> Result<(), Errno> {
        match errno {
            Errno::NOBUFS => {
                let drops = memory_info(self.ring.socket().as_fd())?.drops;
                received.overrun |= drops != self.drops;
                self.drops = drops;
                Ok(())
            }
            Errno::INTR | Errno::AGAIN => Ok(()),
            other => Err(other),
        }
    }

    /// Reads until the socket's queue is empty, or the call has read as much as it may. Each pass of the loop reads at
    /// least one completion, so a working kernel never reaches the bound on passes.
    fn drain_socket(&mut self, received: &mut Received, sink: &mut dyn Sink) -> Result<(), Errno> {
        for _ in 0..DATAGRAMS_PER_RECEIVE {
            self.drain_completions(received, sink)?;
            if received.is_full() {
                break;
            }
            if self.ring.has_pending() {
                // The receive may have run out of buffers, which are recycled by now, or the kernel has deferred its
                // work.
                self.ring.arm_receive()?;
                self.ring.submit()?;
            }
            if !self.ring.has_completions() {
                received.drained = true;
                break;
            }
        }
        Ok(())
    }
}

impl Receive for Uring {
    fn receive(&mut self, wait: Wait, sink: &mut dyn Sink) -> Result<Received, ReceiveError> {
        let failed = |errno| ReceiveError::new(NAME, "io_uring_enter", errno);
        let mut received = Received { interrupted: self.wait(wait).map_err(failed)?, ..Received::default() };
        self.drain_socket(&mut received, sink).map_err(failed)?;
        let nothing = Received { drained: true, ..Received::default() };
        if std::mem::take(&mut self.watch_refused) && received == nothing {
            return self.receive(wait, sink); // only the refusal ended the wait, which happens once per descriptor
        }
        Ok(received)
    }

    fn name(&self) -> &'static str {
        NAME
    }
}
