//! An io_uring that reads one socket into provided buffers and watches a few other descriptors.
//!
//! One receive request stays armed and completes once for every datagram ("multishot"). For each the kernel takes a
//! buffer from a ring that this process fills:
//!
//! ```text
//!            recycle_buffer(): entry = buffer 7, tail + 1
//!  entries   [ 3 | 4 | 5 | 6 | 7 |  ...  ]        shared memory, a power of two
//!              ▲ the kernel takes from its head, names the buffer in the completion
//! ```
//!
//! `DEFER_TASKRUN` makes the kernel do all of this inside the thread's own `io_uring_enter`. So it neither interrupts
//! the thread nor writes to a buffer while the thread runs. `SINGLE_ISSUER`, which that requires, ties the ring to the
//! thread that created it, so the type is not `Send`. Least kernel: 6.1.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::buffers::Buffers;
use super::pages::Pages;
use crate::limits::{DATAGRAM_BYTES, RING_BUFFERS, RING_COMPLETIONS, RING_SUBMISSIONS};

/// The one group of provided buffers.
const GROUP: u16 = 0;
/// [`DATAGRAM_BYTES`] in the type of a ring entry.
#[allow(clippy::cast_possible_truncation)] // compared just below
const BUFFER_BYTES: u32 = DATAGRAM_BYTES as u32;
const _: () = assert!(BUFFER_BYTES as usize == DATAGRAM_BYTES);
/// The user data of the receive's completions. A watch has its index instead.
const RECEIVE: u64 = u64::MAX;

/// A completion of the kernel.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A datagram of `bytes` is in `buffer`, truncated if `bytes` is more than a buffer holds. Recycle the buffer when
    /// it is read.
    Datagram { buffer: u16, bytes: usize },
    /// The receive ended with an error, and is no longer armed.
    ReceiveFailed(Errno),
    /// A watched descriptor is ready, and its watch is no longer armed.
    Ready,
    /// The kernel cannot watch a descriptor (a plain file, `/dev/null`): it will never be ready, and is not armed
    /// again.
    WatchRefused,
    /// The receive ended without an error, and is no longer armed.
    ReceiveEnded,
}

/// An io_uring with its buffers and without a socket: all that the kernel may refuse.
pub(crate) struct UnboundRing {
    ring: IoUring, // first, so that it is closed before its memory is unmapped
    group: Group,
}

impl UnboundRing {
    /// Sets up the ring and allocates all its memory.
    pub(crate) fn set_up() -> Result<Self, Errno> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_cqsize(RING_COMPLETIONS);
        let ring = builder.build(RING_SUBMISSIONS).map_err(errno)?;
        let group = Group::register(&ring)?;
        Ok(Self { ring, group })
    }

    /// Returns a ring that reads `socket` and watches `watched`. No request is armed yet.
    pub(crate) fn bind(self, socket: OwnedFd, watched: Vec<(OwnedFd, PollFlags)>) -> Ring {
        let watches = watched.into_iter().map(|(fd, events)| Watch { fd, events, state: WatchState::Idle }).collect();
        let Self { ring, group } = self;
        Ring { ring, group, socket, receiving: false, watches }
    }
}

/// The ring, the buffers it fills and the descriptors it works on.
pub(crate) struct Ring {
    ring: IoUring, // first, so that it is closed before its memory is unmapped and its descriptors are closed
    group: Group,
    socket: OwnedFd,
    /// Whether the receive is armed.
    receiving: bool,
    watches: Vec<Watch>,
}

/// A descriptor whose readiness ends a wait.
struct Watch {
    fd: OwnedFd,
    events: PollFlags,
    state: WatchState,
}

/// The state of a watch.
#[derive(PartialEq)]
enum WatchState {
    /// The watch has to be armed.
    Idle,
    /// The kernel watches the descriptor.
    Armed,
    /// The kernel cannot watch the descriptor, for example a plain file: it will never be ready.
    Refused,
}

impl Ring {
    /// Arms the receive if it has ended.
    pub(crate) fn arm_receive(&mut self) -> Result<(), Errno> {
        if self.receiving {
            return Ok(());
        }
        let receive = opcode::RecvMulti::new(Fd(self.socket.as_raw_fd()), GROUP).flags(libc::MSG_TRUNC);
        self.receiving = true;
        push(&mut self.ring, &receive.build().user_data(RECEIVE))
    }

    /// Arms every watch that has ended. A watch whose descriptor is already ready completes at once.
    pub(crate) fn arm_watches(&mut self) -> Result<(), Errno> {
        for (index, watch) in (0u64..).zip(&mut self.watches) {
            if watch.state == WatchState::Idle {
                let poll = opcode::PollAdd::new(Fd(watch.fd.as_raw_fd()), u32::from(watch.events.bits()));
                watch.state = WatchState::Armed;
                push(&mut self.ring, &poll.build().user_data(index))?;
            }
        }
        Ok(())
    }

    /// Submits the armed requests, and lets the kernel run its pending work, without waiting.
    pub(crate) fn submit(&mut self) -> Result<(), Errno> {
        self.ring.submitter().submit().map(drop).or_else(|error| ignore_benign(errno(error)))
    }

    /// Waits until `completions` have arrived or the time is up.
    ///
    /// # Errors
    /// `EINTR` on a signal. The end of the time is no error.
    pub(crate) fn wait(&mut self, completions: u32, at_most: Option<Duration>) -> Result<(), Errno> {
        let time = Timespec::from(at_most.unwrap_or_default());
        let arguments = match at_most {
            Some(_) => SubmitArgs::new().timespec(&time),
            None => SubmitArgs::new(),
        };
        let waited = self.ring.submitter().submit_with_args(completions as usize, &arguments);
        waited.map(drop).or_else(|error| ignore_benign(errno(error)))
    }

    /// Whether armed requests wait to be submitted.
    pub(crate) fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether completions are queued.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Whether the receive may have more datagrams: the kernel has deferred work until the next `enter`, or the receive
    /// has ended. It can be a false alarm, because the kernel sets its flag after it queued the work, which may be done
    /// by then.
    pub(crate) fn has_pending(&mut self) -> bool {
        !self.receiving || self.ring.submission().taskrun()
    }

    /// Removes the next completion from the queue and returns it, and updates the state of its request.
    pub(crate) fn next_completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        if entry.user_data() == RECEIVE {
            return Some(self.on_receive_completion(&entry));
        }
        let index = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
        let watch = self.watches.get_mut(index)?;
        let (state, completion) = match entry.result() {
            ..0 => (WatchState::Refused, Completion::WatchRefused),
            _ => (WatchState::Idle, Completion::Ready),
        };
        watch.state = state;
        Some(completion)
    }

    /// Handles a completion of the receive.
    fn on_receive_completion(&mut self, entry: &cqueue::Entry) -> Completion {
        self.receiving = cqueue::more(entry.flags());
        match (usize::try_from(entry.result()), cqueue::buffer_select(entry.flags())) {
            (Ok(bytes), Some(buffer)) => Completion::Datagram { buffer, bytes },
            (Ok(_), None) => Completion::ReceiveEnded,
            (Err(_), _) => Completion::ReceiveFailed(Errno::from_raw_os_error(-entry.result())),
        }
    }

    /// The datagram of a completion: the first `bytes` of `buffer`, or `None` if it was truncated.
    pub(crate) fn datagram(&self, buffer: u16, bytes: usize) -> Option<&[u8]> {
        // SAFETY: the kernel writes only during `enter` (DEFER_TASKRUN), which needs `self` mutably and so cannot run
        // while the slice lives.
        unsafe { self.group.buffers.bytes(usize::from(buffer), bytes) }
    }

    /// Returns a buffer to the kernel, which may fill it again.
    pub(crate) fn recycle_buffer(&mut self, buffer: u16) {
        self.group.recycle_buffer(buffer);
    }

    /// The socket that the ring reads.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}

/// Queues one request for the next submission.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> Result<(), Errno> {
    // SAFETY: the requests made here name descriptors and buffers owned by the `Ring`, which drops them after the ring.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.map_err(|_| Errno::NOBUFS) // never: the queue has a slot for each request (limits.rs)
}

/// Ignores results of `enter` that are no failures: the time is up, or completions must be read before more is
/// submitted.
fn ignore_benign(error: Errno) -> Result<(), Errno> {
    match error {
        Errno::TIME | Errno::BUSY | Errno::AGAIN => Ok(()),
        other => Err(other),
    }
}

/// The errno of a system error.
#[allow(clippy::needless_pass_by_value)] // the signature that `map_err` needs
fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// The receive buffers, and the shared ring that lists the free ones for the kernel.
struct Group {
    /// The ring of free buffers.
    entries: Pages,
    buffers: Buffers,
    /// The index behind the last free buffer; it wraps.
    tail: u16,
}

impl Group {
    /// Allocates the memory, registers the ring of free buffers, and adds all buffers to it.
    fn register(ring: &IoUring) -> Result<Self, Errno> {
        let entries = Pages::map(usize::from(RING_BUFFERS) * size_of::<BufRingEntry>())?;
        let buffers = Buffers::map(usize::from(RING_BUFFERS))?;
        let start = entries.at(0, 0).ok_or(Errno::INVAL)?.as_ptr() as u64;
        // SAFETY: `start` is page-aligned memory for RING_BUFFERS entries, kept by the `Ring` until its io_uring is
        // closed.
        unsafe { ring.submitter().register_buf_ring_with_flags(start, RING_BUFFERS, GROUP, 0) }.map_err(errno)?;
        let mut group = Self { entries, buffers, tail: 0 };
        (0..RING_BUFFERS).for_each(|buffer| group.recycle_buffer(buffer));
        Ok(group)
    }

    /// Adds a buffer to the ring of free buffers.
    fn recycle_buffer(&mut self, buffer: u16) {
        let Some(address) = self.buffers.address(usize::from(buffer)) else { return };
        let Some(mut entry) = self.entry(self.tail % RING_BUFFERS) else { return };
        // SAFETY: aligned memory of `self.entries`; the kernel does not read an entry at or past the tail.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(BUFFER_BYTES);
        entry.set_bid(buffer);
        self.set_tail(self.tail.wrapping_add(1));
    }

    /// Moves the tail, which passes the entries before it to the kernel.
    fn set_tail(&mut self, tail: u16) {
        self.tail = tail;
        let Some(first) = self.entry(0) else { return };
        // SAFETY: `first` is the ring's first entry, whose last field is the tail.
        let shared = unsafe { BufRingEntry::tail(first.as_ptr()) };
        // SAFETY: an aligned u16 of `self.entries`, shared with the kernel only, which reads it as atomically.
        let shared = unsafe { AtomicU16::from_ptr(shared.cast_mut()) };
        shared.store(tail, Ordering::Release); // release: the kernel sees the entry before the tail counts it
    }

    /// The address of a ring entry.
    fn entry(&self, index: u16) -> Option<NonNull<BufRingEntry>> {
        let bytes = size_of::<BufRingEntry>();
        Some(self.entries.at(usize::from(index) * bytes, bytes)?.cast())
    }
}
