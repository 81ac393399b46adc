//! A capture file as a sink: each event is a packet, with its message as the kernel sent it.

use std::path::Path;

use super::{Event, EventCounts, Patience, Sink};
use crate::capture::{CaptureError, Writer};
use crate::failure::Failure;

/// Packets of a capture file.
pub(super) struct Pcapng {
    writer: Writer,
    counts: EventCounts,
}

impl Pcapng {
    /// Creates the file, or truncates it.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub(super) fn create(path: &Path) -> Result<Self, CaptureError> {
        Ok(Self { writer: Writer::create(path)?, counts: EventCounts::default() })
    }
}

impl Sink for Pcapng {
    fn name(&self) -> &'static str {
        "pcapng"
    }

    fn write_event(&mut self, event: &Event<'_>) -> Result<(), Failure> {
        self.counts.accepted += 1;
        Ok(self.writer.write_frame(event.now_ns, event.record.bytes())?)
    }

    /// Writes all packets, however long that is: a file has no reader that could be stuck.
    fn flush(&mut self, _patience: Patience<'_>) -> Result<u64, Failure> {
        self.writer.flush()?;
        self.counts.written = self.counts.accepted;
        Ok(0)
    }

    fn counts(&self) -> EventCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use ctflow_parser::flow::FlowView;
    use ctflow_parser::frame::{Message, Messages};

    use super::*;
    use crate::event::filter::View;

    const EVENTS: &[u8] = include_bytes!("../../../../parser/fixtures/events.nl");

    #[test]
    fn an_event_is_written_by_the_flush_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let Some(Ok(Message::Record(record))) = Messages::new(EVENTS).next() else { panic!("no event") };
        let event = Event { record: &record, view: View::Flow(&FlowView::default()), now_ns: 7 };
        let patience = Patience { interrupt: None, time: None };
        for (path, counts) in [(folder.path().join("x"), [1, 1]), ("/dev/full".into(), [1, 0])] {
            let mut sink = Pcapng::create(&path).unwrap();
            sink.write_event(&event).unwrap();
            assert_eq!(sink.counts(), EventCounts { accepted: 1, written: 0 });
            assert_eq!(sink.flush(patience).is_ok(), counts == [1, 1]);
            assert_eq!([sink.counts().accepted, sink.counts().written], counts);
            std::mem::forget(sink); // its drop would write again
        }
    }
}
