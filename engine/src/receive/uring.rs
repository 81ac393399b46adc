//! io_uring: one `enter` waits for the socket and the interrupts, reads everything queued and re-arms.
//!
//! The receive is multishot: it stays armed and gives a completion for each datagram until it runs out of buffers or the
//! socket reports an error. Both say `-ENOBUFS`; the drop counter tells which it was. Either way it is armed again.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

use super::{Interrupts, OpenError, Receive, ReceiveError, Received, Sink, Wait};
use crate::limits::{DATAGRAMS_PER_RECEIVE, RECEIVE_BATCH, RING_COMPLETIONS};
use crate::sys::netlink::memory_info;
use crate::sys::ring::{Completion, Ring, UnboundRing};

const NAME: &str = "io_uring";

pub(super) struct Uring {
    ring: Ring,
    drops: u32,
    watch_refused: bool,
}

/// Asks the kernel for all that it may refuse.
pub(super) fn set_up() -> Result<UnboundRing, OpenError> {
    UnboundRing::set_up().map_err(|errno| OpenError::Refused { backend: NAME, source: errno.into(), hint: hint(errno) })
}

/// What usually is behind a refusal, and what to do.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            "allow it by sysctl kernel.io_uring_disabled=0 and in the container's seccomp profile"
        }
        Errno::NOSYS => "this kernel is built without it, or the container's seccomp profile hides it",
        Errno::INVAL => "it takes Linux 6.1 or later",
        Errno::MFILE | Errno::NFILE => "raise the limit on open files (RLIMIT_NOFILE)",
        Errno::NOMEM => "raise the limit on locked memory (RLIMIT_MEMLOCK) or the container's memory",
        _ => "use another receive back end",
    }
}

impl Uring {
    pub(super) fn new(ring: UnboundRing, socket: OwnedFd, interrupts: Interrupts) -> Self {
        let drops = memory_info(socket.as_fd()).map_or(0, |info| info.drops);
        Self { ring: ring.bind(socket, interrupts.into_watched()), drops, watch_refused: false }
    }

    /// Arms what has ended, then waits. Tells whether a signal came.
    fn wait(&mut self, wait: Wait) -> Result<bool, Errno> {
        self.ring.arm_receive()?;
        self.ring.arm_watches()?;
        if self.ring.has_unsubmitted() {
            self.ring.submit()?; // not together with the wait, whose EINTR the count of submissions would hide
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

    /// Hands over what has completed, a batch at a time: its buffers are the kernel's again when it has been taken in.
    fn drain_completions(&mut self, received: &mut Received, sink: &mut dyn Sink) -> Result<(), Errno> {
        let mut more = true;
        while more && !received.is_full() {
            let mut batch = [(0, 0); RECEIVE_BATCH];
            let (mut filled, room) = (0, received.room_left());
            let ended = loop {
                let Some(place) = batch.get_mut(filled).filter(|_| filled < room) else { break Ok(()) };
                match self.ring.next_completion() {
                    Some(Completion::Datagram { buffer, bytes }) => {
                        *place = (buffer, bytes);
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

    /// Why the receive has ended: no buffer was left, the socket overran, or it is of no use any more.
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

    /// Takes until the socket has nothing more, or as much as one call may. A turn brings at least one completion, so the
    /// bound on turns is never met by a kernel that works.
    fn drain_socket(&mut self, received: &mut Received, sink: &mut dyn Sink) -> Result<(), Errno> {
        for _ in 0..DATAGRAMS_PER_RECEIVE {
            self.drain_completions(received, sink)?;
            if received.is_full() {
                break;
            }
            if self.ring.has_pending() {
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
            return self.receive(wait, sink); // only that ended the wait, and only this once
        }
        Ok(received)
    }

    fn name(&self) -> &'static str {
        NAME
    }
}
