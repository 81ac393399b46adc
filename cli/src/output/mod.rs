//! Flows, expectations and statistics as text for standard output.
//!
//! ```text
//! Format     the options of `-o`                 RecordContext   what the record does not contain: event, clock,
//!    │                                              │            requesting process
//!    └──────────────► Printer ◄─────────────────────┘
//!                        │  reads a view, appends a line to the caller's reusable buffer
//!    text.rs   xml.rs ◄──┴──► save.rs   json.rs              append.rs: numbers and addresses
//! ```
//!
//! The formats do no I/O: only [`requester`] reads files, and only [`stdout`] writes. The formats allocate nothing
//! once the buffer has reached the length of its longest line. The clock is an argument of each record.

use std::sync::Arc;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{FlowView, Labels};
use ctflow_parser::record::Event;
use jiff::tz::TimeZone;

use crate::labels::LabelMap;

mod append;
pub(crate) mod daemon;
mod json;
pub(crate) mod requester;
mod save;
pub(crate) mod stats;
pub(crate) mod stdout;
mod text;
mod when;
mod xml;

#[cfg(test)]
mod tests;

/// Nanoseconds of a second. Kernel time stamps and [`RecordContext::now_ns`] are in nanoseconds.
const NS_PER_SECOND: u64 = 1_000_000_000;

/// The format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Encoding {
    /// conntrack's default line.
    #[default]
    Text,
    /// One `<flow>` element to a line.
    Xml,
    /// One command to a line, for `--load-file`; expectations are printed as text.
    Save,
    /// One JSON object to a line, with every value that the kernel sent, whatever the other options of `-o` are.
    Json,
}

/// The options of `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Format {
    /// The format of a line.
    pub(crate) encoding: Encoding,
    /// Whether the address family's name and number precede the line.
    pub(crate) extended: bool,
    /// Whether the kernel's flow id follows. XML always has it.
    pub(crate) id: bool,
    /// Whether events have their time: in front of the line, or as `<when>`.
    pub(crate) timestamp: bool,
    /// Whether the times of the flow's start and end are printed. Only `-L`, `-G` and `-E` set it.
    pub(crate) ktimestamp: bool,
    /// Whether the names of the flow's labels are printed. Every command except `-D` may set it.
    pub(crate) labels: bool,
}

/// The table that the printed records belong to. It selects the XML root and the names of statistics counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The conntrack table, or events about it.
    Flows,
    /// The expectation table.
    Expectations,
}

/// What a [`Printer`] needs beside a record: facts that the record itself does not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RecordContext<'a> {
    /// The kind of event; `None` in a listing.
    pub(crate) event: Option<Event>,
    /// The time at which the record was read, in nanoseconds since 1970.
    pub(crate) now_ns: u64,
    /// The process whose request caused the event; `None` if a packet or a timer caused it.
    pub(crate) requester: Option<Requester<'a>>,
}

/// The process whose request caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Requester<'a> {
    /// The netlink port id of its socket, from [`Record::requester`](ctflow_parser::record::Record::requester).
    pub(crate) port_id: u32,
    /// The program's name; `None` if [`requester::Requesters`] did not find the process.
    pub(crate) program: Option<&'a str>,
}

/// Appends records to a buffer, one by one, with the head and the tail that the format needs around them.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    subject: Subject,
    /// The time zone of `<when>` and `[start=…]`, which are in local time.
    zone: TimeZone,
    /// The names of labels; `None` without a label file, or with an empty one.
    labels: Option<Arc<LabelMap>>,
    /// Whether this program has just deleted the printed flows. If so, `-o save` prints `-D` lines.
    prints_deleted: bool,
    /// Which parts of the XML root element have been printed.
    root: RootState,
}

/// How much of the XML document's root element has been printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RootState {
    /// Nothing of it.
    Unopened,
    /// The start tag.
    Open,
    /// All of it, or it is suppressed.
    Closed,
}

impl Printer {
    /// A printer of records of `subject`, with local times in `zone`.
    pub(crate) fn new(format: Format, subject: Subject, zone: TimeZone) -> Self {
        Self { format, subject, zone, labels: None, prints_deleted: false, root: RootState::Unopened }
    }

    /// Adds the names of labels. An empty map counts as no map, as in conntrack.
    pub(crate) fn with_labels(self, labels: Option<Arc<LabelMap>>) -> Self {
        Self { labels: labels.filter(|labels| !labels.is_empty()), ..self }
    }

    /// Suppresses the XML root element: every printed element stands alone.
    pub(crate) fn without_root(self) -> Self {
        Self { root: RootState::Closed, ..self }
    }

    /// Marks the records as just deleted, for `-D`. Their text has no `[DESTROY]` tag, because they are no events; with
    /// `-o save` they are `-D` lines.
    pub(crate) fn for_deleted(self) -> Self {
        Self { prints_deleted: true, ..self }
    }

    /// Appends one flow's line.
    #[inline]
    pub(crate) fn print_flow(&mut self, out: &mut Vec<u8>, flow: &FlowView<'_>, context: &RecordContext<'_>) {
        match self.format.encoding {
            Encoding::Text => text::append_flow(self, out, flow, context),
            Encoding::Xml => {
                self.open_root(out);
                xml::append_flow(self, out, flow, context);
            }
            Encoding::Save => {
                let deleted = self.prints_deleted.then_some(Event::Destroy);
                save::append_flow(out, flow, context.event.or(deleted), self.labels.as_deref());
            }
            Encoding::Json => json::append_flow(out, flow, context, self.labels.as_deref()),
        }
    }

    /// Appends one expectation's line.
    pub(crate) fn print_expect(&mut self, out: &mut Vec<u8>, expect: &ExpectView<'_>, context: &RecordContext<'_>) {
        match self.format.encoding {
            Encoding::Text | Encoding::Save => text::append_expect(&self.format, out, expect, context),
            Encoding::Xml => {
                self.open_root(out);
                let zone = self.format.timestamp.then_some(&self.zone);
                xml::append_expect(out, expect, context, zone);
            }
            Encoding::Json => json::append_expect(out, expect, context),
        }
    }

    /// Appends the tail that the format needs after the last record. XML without any record is a complete document,
    /// too.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.format.encoding == Encoding::Xml && self.root != RootState::Closed {
            self.open_root(out);
            xml::close_root(out, self.subject);
            self.root = RootState::Closed;
        }
    }

    /// A flow's labels and the label names; `None` unless `-o labels` is set and both exist.
    #[inline]
    fn named_labels(&self, labels: Option<Labels>) -> Option<(Labels, &LabelMap)> {
        labels.filter(|_| self.format.labels).zip(self.labels.as_deref())
    }

    /// Appends the XML root's start tag, once.
    #[inline]
    fn open_root(&mut self, out: &mut Vec<u8>) {
        if self.root == RootState::Unopened {
            xml::open_root(out, self.subject);
            self.root = RootState::Open;
        }
    }
}

/// The time of an event in nanoseconds since 1970: the kernel's time stamp if it sent one (Linux 6.14 and later),
/// else the time of reading.
#[inline]
fn event_ns(kernel_ns: Option<u64>, context: &RecordContext<'_>) -> u64 {
    kernel_ns.unwrap_or(context.now_ns)
}

/// How long a flow has lived, in seconds: until `end_ns` if that is known, or until now. Both times are truncated to
/// whole seconds before the subtraction, as in conntrack: a flow from 4.8 s to 5.1 s lived 1 s.
#[inline]
fn lifetime_seconds(start_ns: Option<u64>, end_ns: Option<u64>, context: &RecordContext<'_>) -> Option<u64> {
    let end_ns = end_ns.unwrap_or(context.now_ns);
    Some((end_ns / NS_PER_SECOND).saturating_sub(start_ns? / NS_PER_SECOND))
}

/// The time of a flow's start in nanoseconds since 1970. The kernel sends 0 for a flow that began
/// before time stamps were switched on; such a flow has none.
#[inline]
fn known_start(start_ns: Option<u64>) -> Option<u64> {
    start_ns.filter(|&start_ns| start_ns != 0)
}
