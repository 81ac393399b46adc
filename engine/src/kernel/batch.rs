//! Requests by the thousand: many in one datagram, and answers only to what was refused.
//!
//! ```text
//! add ─► | request 1 | request 2 | … | request 64, ACK | ─► send: the kernel carries them out, one after the other
//!                                                            answers: refusal of 2, refusal of 17, ACK of 64
//! ```
//!
//! The kernel works on the datagram within the sending call, so when that returns every answer is queued and reading
//! never waits; there is nothing to gain from sending ahead. A refused request does not keep the later ones from being
//! carried out. Without `CAP_NET_ADMIN` the kernel looks at the first request only.

use std::io;

use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::Record;
use ctflow_parser::request::REQUEST_BYTES;
use ctflow_parser::write::{Full, Writer, acknowledge_last};
use rustix::io::Errno;

use super::KernelError;
use crate::limits::{BATCH_ANSWERS_BYTES, BATCH_BYTES, BATCH_QUERIES, BATCH_REQUESTS, DATAGRAM_BYTES};
use crate::sys::netlink::{NetlinkSocket, Protocol};

/// A request that was not carried out.
#[derive(Debug)]
pub struct Refused {
    /// What the caller gave with the request.
    pub tag: u64,
    /// The kernel's refusal, or [`KernelError::TooLong`] for a request that never got there.
    pub error: KernelError,
}

/// What became of the requests of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchOutcome {
    /// Requests that were added.
    pub requests: u64,
    /// Those of them that were refused, and told of.
    pub refused: u64,
}

impl BatchOutcome {
    /// Requests that the kernel carried out.
    #[must_use]
    pub fn carried_out(&self) -> u64 {
        self.requests.saturating_sub(self.refused)
    }
}

/// Gathers requests that change something, and sends them together. What is neither sent by a full batch nor by
/// [`Batch::finish`] is never sent.
#[derive(Debug)]
pub struct Batch {
    socket: NetlinkSocket,
    operation: &'static str,
    /// The requests gathered, in the first `length` bytes.
    requests: Box<[u8]>,
    length: usize,
    /// The tag of each request gathered, in order.
    tags: Vec<u64>,
    /// The sequence number of the first request gathered; the others follow.
    first_seq: u32,
    /// The sequence number of the next request.
    next_seq: u32,
    answer: Box<[u8]>,
    done: BatchOutcome,
}

/// What the answers read so far say of the requests sent together.
#[derive(Debug, Default)]
struct Answers {
    /// The last request is answered, and with it all of them.
    complete: bool,
    /// Some did not fit the socket's buffer.
    lost: bool,
    /// "Not permitted" of the first request. It speaks for all of them when nothing follows it.
    first_forbidden: Option<Refused>,
}

impl Batch {
    /// Opens a socket in the calling thread's network namespace. `operation` is a verb phrase for the errors.
    ///
    /// # Errors
    /// [`KernelError::Open`].
    pub fn open(operation: &'static str) -> Result<Self, KernelError> {
        let socket = NetlinkSocket::open(Protocol::Netfilter).map_err(KernelError::Open)?;
        // Without these an old kernel's refusals are merely less wordy, and longer; what does not fit is noticed.
        let _ = socket.set_extended_ack().and_then(|()| socket.set_capped_ack());
        let _ = socket.set_receive_buffer(BATCH_ANSWERS_BYTES);
        Ok(Self {
            socket,
            operation,
            requests: vec![0; BATCH_BYTES].into_boxed_slice(),
            length: 0,
            tags: Vec::with_capacity(BATCH_REQUESTS),
            first_seq: 1,
            next_seq: 1,
            answer: vec![0; DATAGRAM_BYTES].into_boxed_slice(),
            done: BatchOutcome::default(),
        })
    }

    /// The port that the kernel knows this socket by: it stands in the events that the requests cause.
    #[must_use]
    pub fn port_id(&self) -> u32 {
        self.socket.port_id()
    }

    /// Adds the one request that `write` writes under the sequence number it is given. When that makes the batch full,
    /// it is sent, and what the kernel refused of it goes to `refused`, in the order of the requests; so does a request
    /// that is too long.
    ///
    /// # Errors
    /// What concerns all requests: the socket failed, nothing is permitted, or answers were lost
    /// ([`KernelError::Unanswered`]). The batch is then empty again.
    pub fn add(
        &mut self,
        tag: u64,
        write: impl FnOnce(&mut Writer<'_>, u32) -> Result<(), Full>,
        refused: &mut impl FnMut(Refused),
    ) -> Result<(), KernelError> {
        self.done.requests = self.done.requests.saturating_add(1);
        match self.write_request(write) {
            Ok(bytes) => self.append_request(tag, bytes),
            Err(source) => {
                self.send(refused, &mut |_, _| {})?; // what came before it is told of before it
                let error = KernelError::TooLong { operation: self.operation, source };
                self.done.report_refusal(Refused { tag, error }, refused);
            }
        }
        if self.is_full(BATCH_REQUESTS) { self.send(refused, &mut |_, _| {}) } else { Ok(()) }
    }

    /// Adds the one request that `write` writes, which asks to be told something: what is told goes to `told` with the tag.
    /// What the kernel refuses to tell is counted, and otherwise as if it had not been asked. The batch must hold nothing but
    /// such requests; [`Batch::finish_queries`] sends what is left.
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub fn add_query(
        &mut self,
        tag: u64,
        write: impl FnOnce(&mut Writer<'_>, u32) -> Result<(), Full>,
        told: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), KernelError> {
        self.done.requests = self.done.requests.saturating_add(1);
        match self.write_request(write) {
            Ok(bytes) => self.append_request(tag, bytes),
            Err(_) => self.done.refused = self.done.refused.saturating_add(1),
        }
        if self.is_full(BATCH_QUERIES) { self.send(&mut |_| {}, told) } else { Ok(()) }
    }

    /// Sends what is left of what was asked, and says how many questions there were and how many came to nothing.
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub fn finish_queries(&mut self, told: &mut impl FnMut(u64, &Record<'_>)) -> Result<BatchOutcome, KernelError> {
        self.send(&mut |_| {}, told)?;
        Ok(std::mem::take(&mut self.done))
    }

    /// Sends what is left, and says what became of all requests since the batch was opened or last finished.
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub fn finish(&mut self, refused: &mut impl FnMut(Refused)) -> Result<BatchOutcome, KernelError> {
        self.send(refused, &mut |_, _| {})?;
        Ok(std::mem::take(&mut self.done))
    }

    /// Takes in what was written behind the others.
    fn append_request(&mut self, tag: u64, bytes: usize) {
        self.length = self.length.saturating_add(bytes);
        self.tags.push(tag);
        self.next_seq = self.next_seq.wrapping_add(1);
    }

    /// Writes a request behind those gathered, and gives its length.
    fn write_request(&mut self, write: impl FnOnce(&mut Writer<'_>, u32) -> Result<(), Full>) -> Result<usize, Full> {
        let room = self.requests.get_mut(self.length..).and_then(|free| free.get_mut(..REQUEST_BYTES));
        let mut writer = Writer::new(room.ok_or(Full)?);
        write(&mut writer, self.next_seq)?;
        Ok(writer.bytes().len())
    }

    /// Whether the next request might not fit.
    fn is_full(&self, requests: usize) -> bool {
        self.tags.len() >= requests || self.length.saturating_add(REQUEST_BYTES) > BATCH_BYTES
    }

    fn send(
        &mut self,
        refused: &mut impl FnMut(Refused),
        told: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), KernelError> {
        let requests = self.requests.get_mut(..self.length).unwrap_or_default();
        if requests.is_empty() {
            return Ok(());
        }
        acknowledge_last(requests);
        let result = self.socket.send(requests).map_err(|source| self.transport(source));
        let result = result.and_then(|()| self.read_answers(refused, told));
        self.first_seq = self.next_seq;
        self.length = 0;
        self.tags.clear();
        result
    }

    /// Reads the answers to the requests just sent: all are queued.
    fn read_answers(
        &mut self,
        refused: &mut impl FnMut(Refused),
        told: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), KernelError> {
        let mut answers = Answers::default();
        while !answers.complete {
            match self.socket.try_receive(&mut self.answer) {
                Ok(Some(bytes)) => self.read_answer(bytes, &mut answers, refused, told)?,
                Ok(None) => break,
                // Said once, before what did fit: that is still there to be read.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => answers.lost = true,
                Err(error) => return Err(self.transport(error)),
            }
        }
        match answers {
            Answers { lost: false, complete: true, .. } => Ok(()),
            Answers { lost: false, first_forbidden: Some(Refused { error, .. }), .. } => Err(error),
            _ => Err(KernelError::Unanswered { operation: self.operation, requests: self.tags.len() }),
        }
    }

    /// Looks at one answer: what was asked for, the last request's acknowledgement, or a refusal.
    fn read_answer(
        &mut self,
        bytes: usize,
        answers: &mut Answers,
        refused: &mut impl FnMut(Refused),
        told: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), KernelError> {
        let operation = self.operation;
        let frame = self.answer.get(..bytes).ok_or(KernelError::Cut { operation, bytes })?;
        for message in Messages::new(frame) {
            let ack = match message.map_err(|source| KernelError::Malformed { operation, source })? {
                Message::Ack(ack) => ack,
                Message::Record(record) => {
                    let place = position_of(record.seq(), self.first_seq, &self.tags);
                    place.into_iter().for_each(|(_, tag)| told(tag, &record));
                    continue;
                }
                Message::Done { .. } | Message::Other => continue,
            };
            // What answers none of these requests is what an earlier failure left unread.
            let Some((place, tag)) = position_of(ack.seq, self.first_seq, &self.tags) else { continue };
            answers.complete |= matches!(place, Position::Last);
            if let Some(first) = answers.first_forbidden.take() {
                self.done.report_refusal(first, refused); // something follows it, so it spoke for itself only
            }
            if ack.errno == 0 {
                continue;
            }
            let refusal = Refused { tag, error: KernelError::refused(operation, &ack) };
            if matches!(place, Position::First) && Errno::from_raw_os_error(ack.errno) == Errno::PERM {
                answers.first_forbidden = Some(refusal);
            } else {
                self.done.report_refusal(refusal, refused);
            }
        }
        Ok(())
    }

    fn transport(&self, source: io::Error) -> KernelError {
        KernelError::Transport { operation: self.operation, source }
    }
}

impl BatchOutcome {
    fn report_refusal(&mut self, refusal: Refused, refused: &mut impl FnMut(Refused)) {
        self.refused = self.refused.saturating_add(1);
        refused(refusal);
    }
}

/// Where a request stands among those sent together. One alone is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    First,
    Between,
    Last,
}

/// Finds the request that an answer is for, among those that begin with `first_seq`.
fn position_of(seq: u32, first_seq: u32, tags: &[u64]) -> Option<(Position, u64)> {
    let index = usize::try_from(seq.wrapping_sub(first_seq)).ok()?;
    let tag = *tags.get(index)?;
    let place = match index {
        _ if index.saturating_add(1) == tags.len() => Position::Last,
        0 => Position::First,
        _ => Position::Between,
    };
    Some((place, tag))
}

#[cfg(test)]
mod tests {
    use ctflow_parser::request::{self, Selector};
    use ctflow_parser::tuple::{L4, Tuple};

    use super::*;
    use crate::lab::Lab;

    #[test]
    fn an_answer_is_matched_across_the_wrap_of_the_sequence() {
        let place = |seq, tags: &[u64]| position_of(seq, u32::MAX, tags);
        assert_eq!(place(u32::MAX, &[7, 8, 9]), Some((Position::First, 7)));
        assert_eq!(place(0, &[7, 8, 9]), Some((Position::Between, 8)));
        assert_eq!(place(1, &[7, 8, 9]), Some((Position::Last, 9)));
        assert_eq!(place(u32::MAX, &[7]), Some((Position::Last, 7)));
        assert_eq!((place(2, &[7, 8, 9]), place(u32::MAX - 1, &[7, 8, 9])), (None, None));
    }

    #[test]
    fn lost_answers_are_an_error_and_the_next_batch_works() {
        crate::isolated!({
            let _lab = Lab::enter().unwrap();
            let mut batch = Batch::open("delete flows").unwrap();
            let absent = Selector::Orig(Tuple {
                src: [192, 0, 2, 1].into(),
                dst: [192, 0, 2, 2].into(),
                proto: 17,
                l4: L4::Ports { src: 1, dst: 2 },
                zone: None,
            });
            let delete = |writer: &mut Writer<'_>, seq| request::delete(writer, seq, &absent, None, None);
            batch.socket.set_receive_buffer(0).unwrap(); // the kernel makes it the smallest there is
            let mut told = Vec::new();
            for tag in 0..40 {
                batch.add(tag, delete, &mut |refused| told.push(refused.tag)).unwrap();
            }
            let error = batch.finish(&mut |refused| told.push(refused.tag)).unwrap_err();
            assert!(matches!(error, KernelError::Unanswered { requests: 40, .. }), "{error}");
            assert!(!told.is_empty() && told.len() < 40 && told.iter().copied().eq(0..told.len() as u64), "{told:?}");

            batch.add(99, delete, &mut |_| {}).unwrap();
            told.clear();
            batch.finish(&mut |refused| told.push(refused.tag)).unwrap();
            assert_eq!(told, [99]);
        });
    }
}
