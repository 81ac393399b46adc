//! Requests in batches, each with the line to print once the kernel has carried it out.
//!
//! A line is printed only if its request was not refused, so lines wait until their batch has been answered. Where the
//! entries come from a listing, one that has vanished meanwhile is not an error: it is neither printed nor counted.

use std::io;

use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::batch::{Batch, Refused};
use ctflow_engine::limits::BATCH_REQUESTS;
use ctflow_parser::flow::FlowView;
use ctflow_parser::write::{Full, Writer};
use rustix::io::Errno;

use crate::failure::Failure;
use crate::output::stdout::StdoutBuffer;
use crate::output::{Printer, RecordContext};

/// What to do with a request that the kernel refuses because the entry does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vanished {
    /// Ignore it: the entry has vanished since it was listed.
    Ignore,
    /// Report it as a failure: the entry was expected to exist.
    Fail,
}

/// Requests that are being gathered, sent and answered.
pub(super) struct Bulk {
    batch: Batch,
    printer: Printer,
    sink: StdoutBuffer,
    vanished: Vanished,
    /// Requests that are not answered yet.
    pending: Vec<Pending>,
    /// The lines of the pending requests, one after another.
    lines: Vec<u8>,
    /// The refusals of the current batch, tagged with the index in `pending`.
    refused: Vec<Refused>,
    /// Requests carried out since the last [`Self::outcome`].
    done: u64,
    /// Failed requests that the caller has not received yet, with the caller's tags: the first [`BATCH_REQUESTS`].
    failed: Vec<Refused>,
    /// All requests that failed since the last [`Self::outcome`].
    failed_count: u64,
}

/// A request that is not answered yet.
struct Pending {
    /// The caller's tag.
    tag: u64,
    /// End of its line in the lines of all pending requests.
    end: usize,
}

/// The result of the requests since the last [`Bulk::outcome`].
pub(super) struct Outcome {
    /// Requests carried out.
    pub(super) done: u64,
    /// Requests that failed: the first [`BATCH_REQUESTS`] that the caller has not received yet, with its tags.
    pub(super) failed: Vec<Refused>,
    /// The number of all requests that failed.
    pub(super) failed_count: u64,
}

impl Bulk {
    /// Opens a bulk of requests. `operation` is a verb phrase for error messages.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub(super) fn open(operation: &'static str, printer: Printer, vanished: Vanished) -> Result<Self, Failure> {
        let (batch, sink) = (Batch::open(operation)?, StdoutBuffer::open()?);
        let (pending, lines, refused, failed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { batch, printer, sink, vanished, pending, lines, refused, done: 0, failed, failed_count: 0 })
    }

    /// Adds a request, and sends the batch if it is full. `flow`, if any, is printed when the request is carried out.
    /// `tag` identifies the request if it fails.
    ///
    /// # Errors
    /// The batch cannot be sent, or standard output cannot be written.
    pub(super) fn add(
        &mut self,
        tag: u64,
        flow: Option<(&FlowView<'_>, &RecordContext<'_>)>,
        write: impl FnOnce(&mut Writer<'_>, u32) -> Result<(), Full>,
    ) -> Result<(), Failure> {
        if let Some((flow, context)) = flow {
            self.printer.print_flow(&mut self.lines, flow, context);
        }
        let index = self.pending.len() as u64; // the tag within the batch: below BATCH_REQUESTS
        self.pending.push(Pending { tag, end: self.lines.len() });
        let refused = &mut self.refused;
        self.batch.add(index, write, &mut |one| refused.push(one))?;
        if self.pending.len() == BATCH_REQUESTS { self.finish_batch() } else { Ok(()) }
    }

    /// Sends the batch, waits for its answers, and prints the lines of the requests that were carried out.
    ///
    /// # Errors
    /// The batch cannot be sent, or standard output cannot be written.
    fn finish_batch(&mut self) -> Result<(), Failure> {
        let refused = &mut self.refused;
        self.batch.finish(&mut |one| refused.push(one))?;
        self.refused.sort_by_key(|one| one.tag);
        let mut refused = self.refused.drain(..).peekable();
        let mut start = 0;
        for (index, Pending { tag, end }) in (0u64..).zip(self.pending.drain(..)) {
            match refused.next_if(|one| one.tag == index) {
                None => {
                    self.done += 1;
                    self.sink.lines.extend_from_slice(self.lines.get(start..end).unwrap_or_default());
                }
                Some(one) if self.vanished == Vanished::Ignore && is_not_found(&one.error) => {}
                Some(one) => {
                    self.failed_count += 1;
                    if self.failed.len() < BATCH_REQUESTS {
                        self.failed.push(Refused { tag, error: one.error });
                    }
                }
            }
            start = end;
        }
        self.lines.clear();
        drop(refused);
        Ok(self.sink.flush_if_large()?)
    }

    /// Waits for all answers, writes all lines, and returns the result since the last call.
    ///
    /// # Errors
    /// The batch cannot be sent, or standard output cannot be written.
    pub(super) fn outcome(&mut self) -> Result<Outcome, Failure> {
        self.finish_batch()?;
        self.sink.flush()?;
        let failed_count = std::mem::take(&mut self.failed_count);
        Ok(Outcome { done: std::mem::take(&mut self.done), failed: self.take_failed(), failed_count })
    }

    /// Returns the number of requests carried out since the last [`Self::outcome`] that succeeded.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Returns the failed requests that the caller has not received yet.
    pub(super) fn take_failed(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.failed)
    }

    /// Writes what the format needs after the last line.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.printer.finish(&mut self.sink.lines);
        self.sink.flush()
    }
}

/// Returns whether the kernel refused because the entry does not exist: it was deleted, or has expired.
pub(super) fn is_not_found(error: &KernelError) -> bool {
    matches!(error.errno().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::TIME))
}
