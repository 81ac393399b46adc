//! The daemon as a source: the events that it receives, through its control socket.

use std::rc::Rc;

use super::{Frame, Loss, Next, Round, Source};
use crate::control::Reach;
use crate::control::request::Request;
use crate::control::{self, Answer};
use crate::event::interruption::Interruption;
use crate::failure::Failure;
use crate::output::Subject;

/// Events of the daemon's answer.
pub(super) struct Daemon {
    answer: Answer,
    interruption: Rc<Interruption>,
}

impl Daemon {
    /// Connects to the daemon and requests its events of `subject`.
    ///
    /// # Errors
    /// The daemon cannot be reached, or signals cannot be caught.
    pub(super) fn open(reach: &Reach, subject: Subject) -> Result<Self, Failure> {
        let answer = control::send_request(reach, Request::Events(subject))?;
        Ok(Self { answer, interruption: Rc::new(Interruption::open()?) })
    }
}

impl Source for Daemon {
    fn interruption(&self) -> Option<Rc<Interruption>> {
        Some(Rc::clone(&self.interruption))
    }

    /// Ends at a signal, and leaves that in the pipe, so that the last events are written only if their reader reads
    /// them at once.
    fn next_round(&mut self, receive: &mut dyn FnMut(Frame<'_>)) -> Result<Round, Failure> {
        let end = Round { loss: None, next: Next::End };
        if !self.answer.has_buffered() && !self.interruption.wait_for(&self.answer)? {
            return Ok(end);
        }
        let mut loss = None;
        match self.answer.next_frame()? {
            control::Frame::Messages(bytes) => receive(Frame { time_ns: None, bytes }),
            control::Frame::Lost(count) => {
                loss = Some(Loss { count, reason: "the daemon or this reader was too slow".to_owned() });
            }
            control::Frame::Done => return Ok(end),
            control::Frame::Entries(_) | control::Frame::Document(_) => {}
        }
        let next = if self.answer.has_buffered() { Next::More } else { Next::Wait };
        Ok(Round { loss, next })
    }
}
