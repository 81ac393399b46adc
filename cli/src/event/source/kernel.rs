//! The kernel as a source: an event socket of this program's own.
//!
//! This thread alone drains the one [`Listener`], so that events keep the kernel's order. The listener decides how long
//! to wait: not at all on a quiet firewall, up to a millisecond on a busy one.

use std::fs;
use std::rc::Rc;

use ctflow_engine::capture::listener::{Listener, Patience};
use ctflow_engine::capture::receive::BackendKind;
use ctflow_engine::capture::socket::{BufferPlan, EventMask, Options};
use ctflow_engine::capture::steer::Filter;
use ctflow_parser::uapi;

use super::{Frame, Loss, Next, Round, Source};
use crate::event::interruption::Interruption;
use crate::failure::Failure;
use crate::flags::plan::{self, Events};
use crate::output::Subject;

/// The kernel's switch for events: at 0 it sends none.
const PROC_EVENTS: &str = "/proc/sys/net/netfilter/nf_conntrack_events";

/// Events of an event socket.
pub(super) struct Kernel {
    listener: Listener,
    interruption: Rc<Interruption>,
    /// Whether the operator requested a size of the socket buffer.
    has_buffer_request: bool,
    /// Whether the socket has left its groups, so that no more events arrive.
    stopped: bool,
}

impl Kernel {
    /// Opens the event socket with a filter as narrow as the kernel can apply.
    ///
    /// # Errors
    /// Events cannot be received, or signals cannot be caught.
    pub(super) fn open(plan: &Events) -> Result<Self, Failure> {
        let interruption = Interruption::open()?;
        let listener = Listener::open(&socket_options(plan), BackendKind::Auto, interruption.to_interrupts()?)?;
        let has_buffer_request = plan.buffer_bytes.is_some();
        Ok(Self { listener, interruption: Rc::new(interruption), has_buffer_request, stopped: false })
    }
}

impl Source for Kernel {
    fn interruption(&self) -> Option<Rc<Interruption>> {
        Some(Rc::clone(&self.interruption))
    }

    /// The buffer's size if one was requested, and how to enable events if the kernel sends none.
    fn notices(&self, banner: &str) -> Vec<String> {
        let (buffer, mut notices) = (self.listener.buffer(), Vec::new());
        if self.has_buffer_request {
            let bytes = buffer.effective;
            notices.push(format!("NOTICE: Netlink socket buffer size has been set to {bytes} bytes."));
            if buffer.limited {
                notices.push(format!("{banner}: {buffer}"));
            }
        }
        if fs::read_to_string(PROC_EVENTS).is_ok_and(|setting| setting.trim() == "0") {
            let command = "sysctl -w net.netfilter.nf_conntrack_events=1";
            notices.push(format!("{banner}: the kernel sends no events (nf_conntrack_events=0); {command}"));
        }
        notices
    }

    fn next_round(&mut self, receive: &mut dyn FnMut(Frame<'_>)) -> Result<Round, Failure> {
        let patience = if self.stopped { Patience::None } else { Patience::Paced };
        let round =
            self.listener.receive_round(patience, &mut |bytes: &[u8]| receive(Frame { time_ns: None, bytes }))?;
        let loss = (round.lost > 0).then(|| {
            let reason = format!("the reader was too slow: {}; use -b", self.listener.buffer());
            Loss { count: round.lost, reason }
        });
        let next = match (self.stopped, round.received) {
            (true, received) if received.drained => Next::End,
            (false, received) if received.interrupted => Next::Interrupted,
            _ => Next::Wait,
        };
        Ok(Round { loss, next })
    }

    fn stop(&mut self) -> Result<(), Failure> {
        self.stopped = true;
        Ok(self.listener.leave_groups()?)
    }

    /// Some events are unread only after a failure, or if the reader of the events was stuck.
    fn count_unread(&mut self) -> Result<u64, Failure> {
        self.stop()?;
        let mut unread = 0;
        loop {
            let round = self.listener.receive_round(Patience::None, &mut |_: &[u8]| unread += 1)?;
            unread += round.lost;
            if round.received.drained {
                return Ok(unread);
            }
        }
    }
}

/// Returns the options of the event socket. A requested buffer size is fixed; without one the buffer grows under
/// pressure.
fn socket_options(plan: &Events) -> Options {
    let bytes = plan.buffer_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let family = Some(plan.selection.family).filter(|family| *family != uapi::AF_UNSPEC);
    Options {
        events: event_groups(plan.subject, plan.mask),
        buffer: bytes.map_or_else(BufferPlan::default, BufferPlan::Fixed),
        filter: Filter { family, protocols: plan.selection.protocol.into_iter().collect(), ..Filter::default() },
        ..Options::default()
    }
}

/// Returns the netlink groups of the selected events.
fn event_groups(subject: Subject, mask: plan::EventMask) -> EventMask {
    let [new, update, destroy] = match subject {
        Subject::Flows => [EventMask::NEW, EventMask::UPDATE, EventMask::DESTROY],
        Subject::Expectations => [EventMask::EXPECT_NEW, EventMask::EXPECT_UPDATE, EventMask::EXPECT_DESTROY],
    };
    let chosen = [(mask.new, new), (mask.update, update), (mask.destroy, destroy)];
    chosen.iter().filter(|(selected, _)| *selected).fold(EventMask::default(), |mask, (_, group)| mask | *group)
}
