//! Applies a batch of event datagrams to a shard: prefetches the flows, parses the messages, counts and applies them.
//!
//! It also forwards the events to watchers, and passes them to `unreported.rs`, which finds changes that events do not
//! report.

use std::hint::black_box;

use ctflow_parser::error::ParseError;
use ctflow_parser::flow::FlowView;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::{Event, Record, Subject};
use ctflow_replicate::delta::Change;

use crate::capture::receive::Sink;
use crate::clock::now_ms;
use crate::metrics::Counts;
use crate::shard::{Applied, Shard};
use crate::worker::meter::Meter;
use crate::worker::unreported::Unreported;
use crate::worker::watch::Watcher;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// The sink of one round's events.
pub struct Intake<'w> {
    shard: &'w mut Shard,
    counts: &'w mut Counts,
    watchers: &'w mut [Watcher],
    unreported: Option<&'w mut Unreported>,
    meter: Option<&'w mut Meter>,
    malformed: Option<ParseError>,
    /// Whether no datagram of this round has arrived yet.
    is_first: bool,
}

impl<'w> Intake<'w> {
    /// A sink that applies events to `shard` and counts them in `counts`.
    pub fn new(shard: &'w mut Shard, counts: &'w mut Counts) -> Self {
        Self { shard, counts, watchers: &mut [], unreported: None, meter: None, malformed: None, is_first: true }
    }

    /// Also passes the events to `watchers` and `unreported`.
    pub(crate) fn with_watchers(&mut self, watchers: &'w mut [Watcher], unreported: Option<&'w mut Unreported>) {
        (self.watchers, self.unreported) = (watchers, unreported);
    }

    /// Also measures the processor time of each step, if `meter` is on.
    pub(crate) fn measure(&mut self, meter: &'w mut Meter) {
        self.meter = Some(meter).filter(|meter| meter.is_on());
    }

    /// Nanoseconds since the meter's last lap; 0 when it is off.
    #[inline]
    fn lap(&mut self) -> u64 {
        self.meter.as_mut().map_or(0, |meter| meter.lap())
    }

    /// The error of the first malformed message, if there was any.
    #[must_use]
    pub fn malformed(&self) -> Option<ParseError> {
        self.malformed
    }
}

impl Sink for Intake<'_> {
    fn on_datagrams(&mut self, datagrams: &[&[u8]]) {
        if std::mem::take(&mut self.is_first) {
            self.shard.set_time(now_ms()); // the events that ended the wait arrived now
        }
        let mut parsed_ns = 0;
        if self.meter.is_some() {
            self.counts.receive_cpu_ns += self.lap();
            // Parsing and applying are interleaved, so parsing alone is measured by a pass of its own.
            datagrams.iter().for_each(|datagram| parse_only(datagram));
            parsed_ns = self.lap();
            self.counts.parse_cpu_ns += parsed_ns;
        }
        self.shard.prefetch(datagrams.iter().filter_map(|datagram| flow_of(datagram)));
        let mut view = FlowView::default();
        for datagram in datagrams {
            self.watchers.iter_mut().for_each(|watcher| watcher.on_datagram(datagram));
            if let Err(error) =
                apply_frame(self.shard, self.counts, self.unreported.as_deref_mut(), &mut view, datagram)
            {
                self.malformed.get_or_insert(error);
            }
        }
        self.counts.cache_cpu_ns += self.lap().saturating_sub(parsed_ns); // less the second parsing
    }
}

/// Parses a datagram and drops the result, to measure the cost of parsing.
fn parse_only(datagram: &[u8]) {
    let mut view = FlowView::default();
    for message in Messages::new(datagram) {
        if let Ok(Message::Record(record)) = message {
            let _ = black_box(record.read_flow(&mut view));
        }
    }
}

/// The address family and id of the flow in a datagram's first message.
#[inline]
fn flow_of(datagram: &[u8]) -> Option<(u8, u32)> {
    let Some(Ok(Message::Record(record))) = Messages::new(datagram).next() else { return None };
    Some((record.family(), record.flow_id()?))
}

/// Applies every message of one datagram, parsing each into `view`. Returns the error of the first malformed one; the
/// others are applied all the same.
#[inline]
fn apply_frame<'f>(
    shard: &mut Shard,
    counts: &mut Counts,
    mut unreported: Option<&mut Unreported>,
    view: &mut FlowView<'f>,
    frame: &'f [u8],
) -> Result<(), ParseError> {
    let mut result = Ok(());
    for message in Messages::new(frame) {
        let applied = match message {
            Ok(Message::Record(record)) => apply_record(shard, counts, unreported.as_deref_mut(), view, &record),
            Ok(Message::Ack(_) | Message::Done { .. } | Message::Other) => Ok(()),
            Err(error) => Err(error),
        };
        if applied.is_err() {
            counts.malformed += 1;
            result = result.and(applied);
        }
    }
    result
}

/// Applies one record, an event of a flow or an expectation.
#[inline]
fn apply_record<'f>(
    shard: &mut Shard,
    counts: &mut Counts,
    unreported: Option<&mut Unreported>,
    view: &mut FlowView<'f>,
    record: &Record<'f>,
) -> Result<(), ParseError> {
    match record.subject() {
        Subject::Flow => {}
        Subject::Expect => {
            counts.events_expect += 1;
            let expectation = record.expect()?;
            if record.event() == Event::New {
                unreported.into_iter().for_each(|unreported| unreported.on_expectation(&expectation));
            }
            let applied = shard.apply_expectation(record.event(), &expectation);
            counts.expectations_refused += u64::from(applied == Applied::Full);
            return Ok(());
        }
        _ => return Ok(()),
    }
    let event = record.event();
    match event {
        Event::New => counts.events_new += 1,
        Event::Update => counts.events_update += 1,
        Event::Destroy => counts.events_destroy += 1,
    }
    record.read_flow(view)?;
    let flow = &*view;
    if let Some(event_ns) = flow.event_ns {
        shard.set_time(event_ns / NS_PER_MS); // it may have waited in the socket since then
    }
    if let Some(unreported) = unreported {
        if event != Event::Destroy {
            unreported.on_flow(flow);
        } else if unreported.has_moved(flow) {
            counts.moved += 1;
            return Ok(()); // the flow goes on behind the other firewall: it stays in the shard
        }
    }
    count_applied(counts, shard.apply(event, flow));
    Ok(())
}

/// Counts the outcome of an event or a dumped flow.
#[inline]
pub(crate) fn count_applied(counts: &mut Counts, applied: Applied) {
    match applied.change() {
        Some(Change::Created) => counts.flows_created += 1,
        Some(Change::Updated) => counts.flows_updated += 1,
        Some(Change::Destroyed) => counts.flows_destroyed += 1,
        None => {}
    }
    match applied {
        Applied::Full => counts.flows_refused += 1,
        Applied::NotAFlow => counts.malformed += 1,
        Applied::Created | Applied::Updated | Applied::Unchanged | Applied::Destroyed | Applied::Unknown => {}
    }
}

#[cfg(test)]
mod tests {
    use ctflow_parser::request::{self, FlowChange, IfExists};
    use ctflow_parser::tuple::{L4, Tuple};
    use ctflow_parser::uapi::{AF_INET, IPPROTO_TCP};
    use ctflow_parser::write::Writer;

    use super::*;
    use crate::shard::entries::Entries;

    /// The change time of a flow that was created by an event with the kernel timestamp `event_ns`, read at 9 s.
    fn changed_ms(event_ns: Option<u64>) -> u64 {
        let ends = |src: [u8; 4], dst: [u8; 4]| Tuple {
            src: src.into(),
            dst: dst.into(),
            proto: IPPROTO_TCP,
            l4: L4::Ports { src: 1, dst: 2 },
            zone: None,
        };
        let (orig, reply) = (Some(ends([10, 0, 0, 1], [10, 0, 0, 2])), Some(ends([10, 0, 0, 2], [10, 0, 0, 1])));
        let flow = FlowView { family: AF_INET, orig, reply, id: Some(7), event_ns, ..FlowView::default() };
        let mut bytes = [0; 512];
        let mut writer = Writer::new(&mut bytes);
        request::create(&mut writer, 1, &FlowChange { flow, ..FlowChange::default() }, IfExists::Change).unwrap();
        let mut shard = Shard::new(10);
        shard.set_time(9_000);
        apply_frame(&mut shard, &mut Counts::default(), None, &mut FlowView::default(), writer.bytes()).unwrap();
        let mut entries = Vec::new();
        (0..256).for_each(|bucket| shard.encode_bucket(bucket, 0, &mut entries));
        Entries::new(&entries).next().unwrap().unwrap().0.changed_ms
    }

    #[test]
    fn an_event_has_the_kernels_time_or_else_the_read_time() {
        assert_eq!(changed_ms(Some(5_000_999_999)), 5_000);
        assert_eq!(changed_ms(None), 9_000);
    }
}
