//! Requests in batches, each with the line it prints once the kernel has carried it out.
//!
//! A line is printed only if its request was not refused, so lines wait until their batch has been answered. An entry
//! that vanished meanwhile is no failure: it is neither printed nor counted.

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

/// What becomes of a request that the kernel refuses because there is no such entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vanished {
    /// It has gone since it was listed: nothing is left to do.
    Ignore,
    /// It was to be there.
    Fail,
}

/// Requests under way.
pub(super) struct Bulk {
    batch: Batch,
    printer: Printer,
    sink: StdoutBuffer,
    vanished: Vanished,
    /// Requests that are not answered yet, and their lines.
    pending: Vec<Pending>,
    lines: Vec<u8>,
    refused: Vec<Refused>,
    done: u64,
    failed: Vec<Refused>,
    failed_count: u64,
}

/// A request that is not answered yet.
struct Pending {
    tag: u64,
    /// Where its line ends.
    end: usize,
}

/// What was done.
pub(super) struct Outcome {
    /// Requests carried out.
    pub(super) done: u64,
    /// Those that were not, by their number since the last call.
    pub(super) failed: Vec<Refused>,
    /// How many these are: [`BATCH_REQUESTS`] of them are kept.
    pub(super) failed_count: u64,
}

impl Bulk {
    /// Requests to do `operation`, a verb phrase.
    pub(super) fn open(operation: &'static str, printer: Printer, vanished: Vanished) -> Result<Self, Failure> {
        let (batch, sink) = (Batch::open(operation)?, StdoutBuffer::open()?);
        let (pending, lines, refused, failed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { batch, printer, sink, vanished, pending, lines, refused, done: 0, failed, failed_count: 0 })
    }

    /// Adds a request that prints `flow`, if any, when it is carried out. `tag` tells it from others when it fails.
    pub(super) fn add(
        &mut self,
        tag: u64,
        flow: Option<(&FlowView<'_>, &RecordContext<'_>)>,
        write: impl FnOnce(&mut Writer<'_>, u32) -> Result<(), Full>,
    ) -> Result<(), Failure> {
        if let Some((flow, occasion)) = flow {
            self.printer.print_flow(&mut self.lines, flow, occasion);
        }
        let index = self.pending.len() as u64; // the batch's own tag: below BATCH_REQUESTS
        self.pending.push(Pending { tag, end: self.lines.len() });
        let refused = &mut self.refused;
        self.batch.add(index, write, &mut |one| refused.push(one))?;
        if self.pending.len() == BATCH_REQUESTS { self.finish_batch() } else { Ok(()) }
    }

    /// Has everything answered, and prints what was carried out.
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

    /// What has been done since the last call; everything is answered, and written.
    pub(super) fn outcome(&mut self) -> Result<Outcome, Failure> {
        self.finish_batch()?;
        self.sink.flush()?;
        let failed_count = std::mem::take(&mut self.failed_count);
        Ok(Outcome { done: std::mem::take(&mut self.done), failed: self.take_failed(), failed_count })
    }

    /// Requests carried out since the last call of [`Self::outcome`] that succeeded.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// What has failed so far and was not told of.
    pub(super) fn take_failed(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.failed)
    }

    /// The end of the output.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.printer.finish(&mut self.sink.lines);
        self.sink.flush()
    }
}

/// Whether the kernel says that there is no such entry: deleted, expired, or about to be.
pub(super) fn is_not_found(error: &KernelError) -> bool {
    matches!(error.errno().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::TIME))
}
