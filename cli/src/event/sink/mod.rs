//! Where events go.
//!
//! | sink | an event is | it is written |
//! |---|---|---|
//! | [`lines`] | a line of standard output, in any format of `-o` | when the source waits, or 64 KiB have gathered |
//! | [`pcapng`] | a packet of a capture file | when the source waits, or 64 KiB have gathered |
//!
//! A sink counts the events that it has accepted and those that it has written. So it decides itself what an event is
//! worth: a line, a packet, or a part of a message to another machine.
//!
//! To add a sink: write its file with its [`Sink`], add it to [`SinkChoice`] and to [`open`], and add a flag that
//! stores the choice.

mod lines;
mod pcapng;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use ctflow_parser::record::Record;
use jiff::tz::TimeZone;

use super::choice::SinkChoice;
use super::filter::View;
use crate::failure::Failure;
use crate::flags::plan::Events;
use crate::labels::LabelMap;
use crate::output::Printer;

use lines::Lines;
use pcapng::Pcapng;

/// A selected event.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    /// Its message, as the kernel sent it.
    pub(crate) record: &'a Record<'a>,
    /// Its content.
    pub(crate) view: View<'a>,
    /// When it was received, in nanoseconds since 1970.
    pub(crate) now_ns: u64,
}

/// How long a sink may wait for whoever reads from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience<'a> {
    /// Ends the wait when it is readable.
    pub(crate) interrupt: Option<BorrowedFd<'a>>,
    /// The longest time in which nothing is read; `None` for any time.
    pub(crate) time: Option<Duration>,
}

/// The events of a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct EventCounts {
    /// Events that the sink was handed, whether it could keep them or not.
    pub(crate) accepted: u64,
    /// Events of these that are where they should go, each of them whole.
    pub(crate) written: u64,
}

impl EventCounts {
    /// The events that are not written yet, or never will be.
    pub(crate) fn unwritten(self) -> u64 {
        self.accepted.saturating_sub(self.written)
    }
}

/// A place for events. After an error only its counts are used.
pub(crate) trait Sink {
    /// The sink's name in the log.
    fn name(&self) -> &'static str;

    /// Accepts an event, and writes it now or with a later [`Sink::flush`].
    ///
    /// # Errors
    /// A write failed. The event counts as accepted.
    fn write_event(&mut self, event: &Event<'_>) -> Result<(), Failure>;

    /// Accepts that `count` events were lost before the next one. Standard error has a line about them already.
    fn record_loss(&mut self, _count: u64) {}

    /// Whether so many events have gathered that they should be written before the source waits.
    fn is_large(&self) -> bool {
        false
    }

    /// Writes the gathered events until all are written or `patience` ends. Returns how many are left.
    ///
    /// # Errors
    /// A write failed.
    fn flush(&mut self, patience: Patience<'_>) -> Result<u64, Failure>;

    /// Appends what the sink needs after its last event. A [`Sink::flush`] follows.
    fn append_end(&mut self) {}

    /// The events so far.
    fn counts(&self) -> EventCounts;
}

/// Opens the sink that `plan` names.
///
/// # Errors
/// A file cannot be created, or no descriptor is left.
pub(crate) fn open(plan: &Events, labels: Option<Arc<LabelMap>>) -> Result<Box<dyn Sink>, Failure> {
    Ok(match &plan.sink {
        SinkChoice::Lines => {
            let printer = Printer::new(plan.format, plan.subject, TimeZone::system()).with_labels(labels);
            Box::new(Lines::open(printer, plan.read.is_none())?)
        }
        SinkChoice::Pcapng(path) => Box::new(Pcapng::create(path)?),
    })
}
