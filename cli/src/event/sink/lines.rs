//! Standard output as a sink: a line for each event. Lines gather in a buffer, so that a busy firewall's are written
//! in large writes.

use std::io;

use super::{Event, EventCounts, Patience, Sink};
use crate::event::filter::View;
use crate::failure::Failure;
use crate::output::requester::Requesters;
use crate::output::stdout::StdoutBuffer;
use crate::output::{Printer, RecordContext, Requester};

/// Lines on standard output.
pub(super) struct Lines {
    printer: Printer,
    buffer: StdoutBuffer,
    /// Finds the programs whose requests caused events; `None` if the events are old: by now another program may have
    /// the port id.
    requesters: Option<Requesters>,
    ends: LineEnds,
}

/// Where the lines of events end in a buffer that is written from its front.
#[derive(Debug, Default)]
struct LineEnds {
    /// All lines so far, written or not.
    accepted: u64,
    /// The end of each line that is in the buffer, as its distance from the buffer's start.
    buffered: Vec<usize>,
}

impl Lines {
    /// Opens standard output. `are_live` is true of events that happen now.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn open(printer: Printer, are_live: bool) -> io::Result<Self> {
        let requesters = are_live.then(Requesters::default);
        Ok(Self { printer, buffer: StdoutBuffer::open()?, requesters, ends: LineEnds::default() })
    }
}

impl Sink for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn write_event(&mut self, event: &Event<'_>) -> Result<(), Failure> {
        let Self { printer, buffer, requesters, ends } = self;
        let (record, now_ns) = (event.record, event.now_ns);
        let requester = record.requester().map(|port_id| {
            let program = requesters.as_mut().and_then(|requesters| requesters.program(port_id, now_ns));
            Requester { port_id, program }
        });
        let context = RecordContext { event: Some(record.event()), now_ns, requester };
        match event.view {
            View::Flow(flow) => printer.print_flow(&mut buffer.lines, flow, &context),
            View::Expectation(expect) => printer.print_expect(&mut buffer.lines, expect, &context),
        }
        ends.append(buffer.lines.len());
        Ok(())
    }

    fn is_large(&self) -> bool {
        self.buffer.is_large()
    }

    fn flush(&mut self, patience: Patience<'_>) -> Result<u64, Failure> {
        let before = self.buffer.lines.len();
        let result = self.buffer.flush_until(patience.interrupt, patience.time);
        self.ends.remove_front(before - self.buffer.lines.len());
        result?;
        Ok(self.counts().unwritten())
    }

    /// The end of an XML document, for example.
    fn append_end(&mut self) {
        self.printer.finish(&mut self.buffer.lines);
    }

    fn counts(&self) -> EventCounts {
        self.ends.counts()
    }
}

impl LineEnds {
    /// Adds a line that ends at `end` in the buffer.
    fn append(&mut self, end: usize) {
        self.accepted += 1;
        self.buffered.push(end);
    }

    /// Removes the lines that end within the first `bytes` of the buffer: these have been written.
    fn remove_front(&mut self, bytes: usize) {
        let whole = self.buffered.partition_point(|&end| end <= bytes);
        self.buffered.drain(..whole);
        self.buffered.iter_mut().for_each(|end| *end -= bytes);
    }

    /// The lines so far. A line of which only a part is written is not written.
    fn counts(&self) -> EventCounts {
        let buffered = u64::try_from(self.buffered.len()).unwrap_or(u64::MAX);
        EventCounts { accepted: self.accepted, written: self.accepted.saturating_sub(buffered) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_with_its_last_byte() {
        let mut ends = LineEnds::default();
        [10, 30, 35].into_iter().for_each(|end| ends.append(end)); // the first one may have a document's head before it
        let mut unwritten_after = |bytes| {
            ends.remove_front(bytes);
            ends.counts().unwritten()
        };
        assert_eq!([0, 9, 1, 19, 1].map(&mut unwritten_after), [3, 3, 2, 2, 1]);
        ends.append(6); // the third one still has 5 bytes in the buffer
        ends.remove_front(5);
        assert_eq!(ends.counts(), EventCounts { accepted: 4, written: 3 });
        ends.remove_front(20); // with a document's end after it
        assert_eq!(ends.counts(), EventCounts { accepted: 4, written: 4 });
    }
}
