//! Flows, expectations and statistics as text: what goes to standard output.
//!
//! ```text
//! Format     what `-o` asked for                 Occasion   what the record does not say itself: clock, event,
//!    │                                              │       whose request it was
//!    └──────────────► Printer ◄─────────────────────┘
//!                        │  a view in, a line out, into the caller's reusable buffer
//!    text.rs   xml.rs ◄──┴──► save.rs   json.rs              put.rs: numbers and addresses
//! ```
//!
//! Nothing here does I/O but [`requester`], and nothing allocates once the buffer has held its longest line. The
//! clock arrives with each record.

use std::sync::Arc;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{FlowView, Labels};
use ctflow_parser::record::Event;
use jiff::tz::TimeZone;

use crate::labels::LabelMap;

pub(crate) mod daemon;
mod json;
mod put;
pub(crate) mod requester;
mod save;
pub(crate) mod stats;
pub(crate) mod stdout;
mod text;
mod when;
mod xml;

#[cfg(test)]
mod captures;
#[cfg(test)]
mod properties;

/// Nanoseconds of a second: kernel time stamps and our clock count in the former.
const NS_PER_SECOND: u64 = 1_000_000_000;

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Encoding {
    /// conntrack's default line.
    #[default]
    Text,
    /// One `<flow>` element to a line.
    Xml,
    /// One command to a line, for `--load-file`; expectations are printed as text.
    Save,
    /// One JSON object to a line, with all that the kernel said, whatever else was asked for.
    Json,
}

/// What `-o` asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Format {
    /// What a line looks like.
    pub(crate) encoding: Encoding,
    /// The family's name and number in front.
    pub(crate) extended: bool,
    /// The kernel's id behind; XML has it without being asked.
    pub(crate) id: bool,
    /// When it happened: in front of the line, or as `<when>`.
    pub(crate) timestamp: bool,
    /// When the flow began and ended. For `-L`, `-G` and `-E`; the others leave it out.
    pub(crate) ktimestamp: bool,
    /// The names of its labels. For all but `-D`.
    pub(crate) labels: bool,
}

/// What is being printed: names the XML root, and chooses the names of statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The conntrack table, or events about it.
    Flows,
    /// The expectation table.
    Expectations,
}

/// What a record does not say of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RecordContext<'a> {
    /// What happened; `None` in a listing.
    pub(crate) event: Option<Event>,
    /// The clock at reading, in nanoseconds since the epoch.
    pub(crate) now_ns: u64,
    /// Whose request caused the event; `None` for packets and timers.
    pub(crate) requester: Option<Requester<'a>>,
}

/// The process whose request caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Requester<'a> {
    /// Its netlink port id, from [`Record::requester`](ctflow_parser::record::Record::requester).
    pub(crate) port_id: u32,
    /// Its name, where [`requester::Requesters`] still found it.
    pub(crate) program: Option<&'a str>,
}

/// Prints records one by one, with what must stand before the first and after the last.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    subject: Subject,
    /// For `<when>` and `[start=…]`, which are in local time.
    zone: TimeZone,
    /// The names of labels; none where there is no file, or nothing in it.
    labels: Option<Arc<LabelMap>>,
    /// Whether what is printed has been deleted by us: its saved lines delete it elsewhere, too.
    prints_deleted: bool,
    /// How far the XML document is.
    root: RootState,
}

/// The XML document's root element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RootState {
    Unopened,
    Open,
    Closed,
}

impl Printer {
    /// Prints records of `subject`, local times in `zone`.
    pub(crate) fn new(format: Format, subject: Subject, zone: TimeZone) -> Self {
        Self { format, subject, zone, labels: None, prints_deleted: false, root: RootState::Unopened }
    }

    /// With names for labels. An empty map counts as none, as to conntrack.
    pub(crate) fn with_labels(self, labels: Option<Arc<LabelMap>>) -> Self {
        Self { labels: labels.filter(|labels| !labels.is_empty()), ..self }
    }

    /// For elements that stand by themselves: nothing before the first and after the last.
    pub(crate) fn without_root(self) -> Self {
        Self { root: RootState::Closed, ..self }
    }

    /// For what `-D` prints: not an event, so its text has no tag; but saved, it is a `-D` line.
    pub(crate) fn for_deleted(self) -> Self {
        Self { prints_deleted: true, ..self }
    }

    /// Appends one flow's line.
    #[inline]
    pub(crate) fn print_flow(&mut self, out: &mut Vec<u8>, flow: &FlowView<'_>, occasion: &RecordContext<'_>) {
        match self.format.encoding {
            Encoding::Text => text::append_flow(self, out, flow, occasion),
            Encoding::Xml => {
                self.open_root(out);
                xml::append_flow(self, out, flow, occasion);
            }
            Encoding::Save => {
                let deleted = self.prints_deleted.then_some(Event::Destroy);
                save::append_flow(out, flow, occasion.event.or(deleted), self.labels.as_deref());
            }
            Encoding::Json => json::append_flow(out, flow, occasion, self.labels.as_deref()),
        }
    }

    /// Appends one expectation's line.
    pub(crate) fn print_expect(&mut self, out: &mut Vec<u8>, expect: &ExpectView<'_>, occasion: &RecordContext<'_>) {
        match self.format.encoding {
            Encoding::Text | Encoding::Save => text::append_expect(&self.format, out, expect, occasion),
            Encoding::Xml => {
                self.open_root(out);
                let zone = self.format.timestamp.then_some(&self.zone);
                xml::append_expect(out, expect, occasion, zone);
            }
            Encoding::Json => json::append_expect(out, expect, occasion),
        }
    }

    /// Appends what must follow the last record. XML of no record at all is a document, too.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.format.encoding == Encoding::Xml && self.root != RootState::Closed {
            self.open_root(out);
            xml::close_root(out, self.subject);
            self.root = RootState::Closed;
        }
    }

    /// The labels to name and the names, where they were asked for and both are there.
    #[inline]
    fn named_labels(&self, flow: &FlowView<'_>) -> Option<(Labels, &LabelMap)> {
        flow.labels.filter(|_| self.format.labels).zip(self.labels.as_deref())
    }

    #[inline]
    fn open_root(&mut self, out: &mut Vec<u8>) {
        if self.root == RootState::Unopened {
            xml::open_root(out, self.subject);
            self.root = RootState::Open;
        }
    }
}

/// When an event happened: by the kernel's clock where it says (Linux 6.14), else when we read it.
#[inline]
fn event_ns(flow: &FlowView<'_>, occasion: &RecordContext<'_>) -> u64 {
    flow.event_ns.unwrap_or(occasion.now_ns)
}

/// How long a flow lived, in seconds: until it ended, or until now. Both ends are cut to whole seconds before they
/// are subtracted, as conntrack does: a flow from 4.8 s to 5.1 s lived 1 s.
#[inline]
fn lifetime_seconds(flow: &FlowView<'_>, occasion: &RecordContext<'_>) -> Option<u64> {
    let start_ns = start_ns(flow)?;
    let end_ns = flow.stop_ns.or(flow.event_ns).unwrap_or(occasion.now_ns);
    Some((end_ns / NS_PER_SECOND).saturating_sub(start_ns / NS_PER_SECOND))
}

/// When a flow began. A start of 0 is a flow that began before time stamps were switched on.
#[inline]
fn start_ns(flow: &FlowView<'_>) -> Option<u64> {
    flow.start_ns.filter(|&start_ns| start_ns != 0)
}
