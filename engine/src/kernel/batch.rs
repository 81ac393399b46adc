//! Many requests in one datagram. The kernel answers only the refused ones and the last.
//!
//! ```text
//! add ─► | request 1 | request 2 | … | request 64, ACK | ─► send: the kernel carries them out, one after the other
//!                                                            answers: refusal of 2, refusal of 17, ACK of 64
//! ```
//!
//! The kernel processes the datagram within the sending call. When that returns, every answer is queued, so reading
//! never waits, and sending the next datagram earlier would gain nothing. A refused request does not stop the later
//! ones. Without `CAP_NET_ADMIN` the kernel refuses the first request and ignores the others.

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
    /// The tag that the caller passed with the request.
    pub tag: u64,
    /// The kernel's refusal, or [`KernelError::TooLong`] for a request that was not sent.
    pub error: KernelError,
}

/// Counts of the requests of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchOutcome {
    /// Requests that were added to the batch.
    pub requests: u64,
    /// Requests among them that were refused.
    pub refused: u64,
}

impl BatchOutcome {
    /// The number of requests that the kernel carried out.
    #[must_use]
    pub fn carried_out(&self) -> u64 {
        self.requests.saturating_sub(self.refused)
    }
}

/// Gathers requests and sends them together: when the batch is full, and in [`Batch::finish`]. Requests that are
/// gathered when the batch is dropped are never sent.
#[derive(Debug)]
pub struct Batch {
    socket: NetlinkSocket,
    /// What the requests do, as a verb phrase for the errors.
    operation: &'static str,
    /// The gathered requests, in the first `length` bytes.
    requests: Box<[u8]>,
    length: usize,
    /// The tag of each gathered request, in order.
    tags: Vec<u64>,
    /// The sequence number of the first gathered request; the numbers of the others follow it.
    first_seq: u32,
    /// The sequence number of the next request.
    next_seq: u32,
    answer: Box<[u8]>,
    done: BatchOutcome,
}

/// What is known from the answers read so far.
#[derive(Debug, Default)]
struct Answers {
    /// Whether the last request was answered; all others are answered before it.
    complete: bool,
    /// Whether the kernel dropped answers because the socket's buffer was full.
    lost: bool,
    /// The refusal of the first request with EPERM. If no answer follows, it applies to all requests.
    first_forbidden: Option<Refused>,
}

impl Batch {
    /// Opens a socket in the calling thread's network namespace. `operation` is a verb phrase for the errors.
    ///
    /// # Errors
    /// [`KernelError::Open`].
    pub fn open(operation: &'static str) -> Result<Self, KernelError> {
        let socket = NetlinkSocket::open(Protocol::Netfilter).map_err(KernelError::Open)?;
        // Where a kernel does not know these options, its refusals have no text and repeat the request. Answers that do
        // not fit the buffer are noticed when they are read.
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

    /// The socket's netlink port id. The kernel puts it into the events that the requests cause.
    #[must_use]
    pub fn port_id(&self) -> u32 {
        self.socket.port_id()
    }

    /// Adds the one request that `write` writes with the sequence number it is called with. If the batch is full then,
    /// it is sent. `refused` is called with each request that the kernel refused or that is too long, in the order of
    /// the requests.
    ///
    /// # Errors
    /// An error that concerns all requests: the socket failed, the process lacks the right, or answers were lost
    /// ([`KernelError::Unanswered`]). The batch is empty then.
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
                self.send(refused, &mut |_, _| {})?; // reports the refusals of earlier requests before this one
                let error = KernelError::TooLong { operation: self.operation, source };
                self.done.report_refusal(Refused { tag, error }, refused);
            }
        }
        if self.is_full(BATCH_REQUESTS) { self.send(refused, &mut |_, _| {}) } else { Ok(()) }
    }

    /// Adds the one query that `write` writes. `on_record` is called with the tag and each record that the kernel
    /// returns. A refused query is counted and not reported. The batch must hold queries only;
    /// [`Batch::finish_queries`] sends those that are left.
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub(crate) fn add_query(
        &mut self,
        tag: u64,
        write: impl FnOnce(&mut Writer<'_>, u32) -> Result<(), Full>,
        on_record: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), KernelError> {
        self.done.requests = self.done.requests.saturating_add(1);
        match self.write_request(write) {
            Ok(bytes) => self.append_request(tag, bytes),
            Err(_) => self.done.refused = self.done.refused.saturating_add(1),
        }
        if self.is_full(BATCH_QUERIES) { self.send(&mut |_| {}, on_record) } else { Ok(()) }
    }

    /// Sends the queries that are left; returns the counts of all queries since the batch was opened or last finished.
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub(crate) fn finish_queries(
        &mut self,
        on_record: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<BatchOutcome, KernelError> {
        self.send(&mut |_| {}, on_record)?;
        Ok(std::mem::take(&mut self.done))
    }

    /// Sends the requests that are left; returns the counts of all requests since the batch was opened or last
    /// finished.
    ///
    /// # Errors
    /// As [`Batch::add`].
    pub fn finish(&mut self, refused: &mut impl FnMut(Refused)) -> Result<BatchOutcome, KernelError> {
        self.send(refused, &mut |_, _| {})?;
        Ok(std::mem::take(&mut self.done))
    }

    /// Appends the request of `bytes` bytes that was written behind the others.
    fn append_request(&mut self, tag: u64, bytes: usize) {
        self.length = self.length.saturating_add(bytes);
        self.tags.push(tag);
        self.next_seq = self.next_seq.wrapping_add(1);
    }

    /// Writes a request behind the gathered ones; returns its length in bytes.
    fn write_request(&mut self, write: impl FnOnce(&mut Writer<'_>, u32) -> Result<(), Full>) -> Result<usize, Full> {
        let room = self.requests.get_mut(self.length..).and_then(|free| free.get_mut(..REQUEST_BYTES));
        let mut writer = Writer::new(room.ok_or(Full)?);
        write(&mut writer, self.next_seq)?;
        Ok(writer.bytes().len())
    }

    /// Whether the batch has `requests_max` requests, or might have no room for the next one.
    fn is_full(&self, requests_max: usize) -> bool {
        self.tags.len() >= requests_max || self.length.saturating_add(REQUEST_BYTES) > BATCH_BYTES
    }

    /// Sends the gathered requests and reads the answers. The batch is empty afterwards, even after an error.
    fn send(
        &mut self,
        refused: &mut impl FnMut(Refused),
        on_record: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), KernelError> {
        let requests = self.requests.get_mut(..self.length).unwrap_or_default();
        if requests.is_empty() {
            return Ok(());
        }
        acknowledge_last(requests);
        let result = self.socket.send(requests).map_err(|source| self.transport(source));
        let result = result.and_then(|()| self.read_answers(refused, on_record));
        self.first_seq = self.next_seq;
        self.length = 0;
        self.tags.clear();
        result
    }

    /// Reads the answers to the requests that were just sent. All of them are queued already.
    fn read_answers(
        &mut self,
        refused: &mut impl FnMut(Refused),
        on_record: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), KernelError> {
        let mut answers = Answers::default();
        while !answers.complete {
            match self.socket.try_receive(&mut self.answer) {
                Ok(Some(bytes)) => self.read_answer(bytes, &mut answers, refused, on_record)?,
                Ok(None) => break,
                // The kernel reports the overrun once, before the answers that did fit, which are still to be read.
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

    /// Processes one datagram of answers: records, refusals, or the acknowledgement of the last request.
    fn read_answer(
        &mut self,
        bytes: usize,
        answers: &mut Answers,
        refused: &mut impl FnMut(Refused),
        on_record: &mut impl FnMut(u64, &Record<'_>),
    ) -> Result<(), KernelError> {
        let operation = self.operation;
        let frame = self.answer.get(..bytes).ok_or(KernelError::Cut { operation, bytes })?;
        for message in Messages::new(frame) {
            let ack = match message.map_err(|source| KernelError::Malformed { operation, source })? {
                Message::Ack(ack) => ack,
                Message::Record(record) => {
                    let request = position_of(record.seq(), self.first_seq, &self.tags);
                    request.into_iter().for_each(|(_, tag)| on_record(tag, &record));
                    continue;
                }
                Message::Done { .. } | Message::Other => continue,
            };
            // An answer to none of these requests was left unread by an earlier failure.
            let Some((position, tag)) = position_of(ack.seq, self.first_seq, &self.tags) else { continue };
            answers.complete |= matches!(position, Position::Last);
            if let Some(first) = answers.first_forbidden.take() {
                self.done.report_refusal(first, refused); // an answer follows it, so it is about the first request only
            }
            if ack.errno == 0 {
                continue;
            }
            let refusal = Refused { tag, error: KernelError::refused(operation, &ack) };
            if matches!(position, Position::First) && Errno::from_raw_os_error(ack.errno) == Errno::PERM {
                answers.first_forbidden = Some(refusal);
            } else {
                self.done.report_refusal(refusal, refused);
            }
        }
        Ok(())
    }

    /// An error of the socket.
    fn transport(&self, source: io::Error) -> KernelError {
        KernelError::Transport { operation: self.operation, source }
    }
}

impl BatchOutcome {
    /// Counts a refusal and reports it.
    fn report_refusal(&mut self, refusal: Refused, refused: &mut impl FnMut(Refused)) {
        self.refused = self.refused.saturating_add(1);
        refused(refusal);
    }
}

/// The position of a request among those sent together. A single request is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    First,
    Between,
    Last,
}

/// The position and tag of the request with sequence number `seq`, among requests that are numbered from `first_seq`
/// on; `None` where it is none of them.
fn position_of(seq: u32, first_seq: u32, tags: &[u64]) -> Option<(Position, u64)> {
    let index = usize::try_from(seq.wrapping_sub(first_seq)).ok()?;
    let tag = *tags.get(index)?;
    let position = match index {
        _ if index.saturating_add(1) == tags.len() => Position::Last,
        0 => Position::First,
        _ => Position::Between,
    };
    Some((position, tag))
}

#[cfg(test)]
mod tests {
    use ctflow_parser::request::{self, Selector};
    use ctflow_parser::tuple::{L4, Tuple};

    use super::*;
    use ctflow_lab::Lab;

    #[test]
    fn an_answer_is_matched_across_the_wrap_of_the_sequence() {
        let position = |seq, tags: &[u64]| position_of(seq, u32::MAX, tags);
        assert_eq!(position(u32::MAX, &[7, 8, 9]), Some((Position::First, 7)));
        assert_eq!(position(0, &[7, 8, 9]), Some((Position::Between, 8)));
        assert_eq!(position(1, &[7, 8, 9]), Some((Position::Last, 9)));
        assert_eq!(position(u32::MAX, &[7]), Some((Position::Last, 7)));
        assert_eq!((position(2, &[7, 8, 9]), position(u32::MAX - 1, &[7, 8, 9])), (None, None));
    }

    #[test]
    fn lost_answers_are_an_error_and_the_next_batch_works() {
        ctflow_lab::isolated!({
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
            batch.socket.set_receive_buffer(0).unwrap(); // the kernel uses its minimum
            let mut refused_tags = Vec::new();
            for tag in 0..40 {
                batch.add(tag, delete, &mut |refused| refused_tags.push(refused.tag)).unwrap();
            }
            let error = batch.finish(&mut |refused| refused_tags.push(refused.tag)).unwrap_err();
            assert!(matches!(error, KernelError::Unanswered { requests: 40, .. }), "{error}");
            assert!(!refused_tags.is_empty() && refused_tags.len() < 40, "{refused_tags:?}");
            assert!(refused_tags.iter().copied().eq(0..refused_tags.len() as u64), "{refused_tags:?}");

            batch.add(99, delete, &mut |_| {}).unwrap();
            refused_tags.clear();
            batch.finish(&mut |refused| refused_tags.push(refused.tag)).unwrap();
            assert_eq!(refused_tags, [99]);
        });
    }
}
