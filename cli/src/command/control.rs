//! `sync`, `status`, and the daemon's letters: something is asked of the running daemon, and its answer shown.

use std::sync::Arc;

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::about::print;
use super::clock;
use super::progress::Progress;
use super::summary::Summary;
use crate::control::entry::{Decoded, Entry};
use crate::control::request::{Cache, Request};
use crate::control::{self, ControlError, Frame};
use crate::failure::Failure;
use crate::flags::plan::{Control, ControlRequest, Reach};
use crate::labels::LabelMap;
use crate::output::daemon::{
    CachePrinter, commit_report, role_change_report, role_in_status, split_brain_peers, statistics_page, status_report,
    takeover_blockers, verify_report,
};
use crate::output::stdout::StdoutBuffer;
use crate::output::{Format, Printer, RecordContext, Subject};
use crate::persona::Persona;

/// Nanoseconds of a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// Asks, and shows the answer.
///
/// # Errors
/// There is no daemon, it refuses, or its answer makes no sense; or replicas differ.
pub(super) fn run(persona: Persona, plan: &Control, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    let reach = &plan.reach;
    match plan.request {
        ControlRequest::Status { json } => {
            let status = control::request_document(reach, Request::Status)?;
            print(&if json { format!("{status:#}\n") } else { status_report(&status) })?;
            fail_on_split_brain(&status)
        }
        ControlRequest::Ready => match takeover_blockers(&control::request_document(reach, Request::Status)?) {
            Some(waits) => Err(Failure::NotReady(waits)),
            None => Ok(()),
        },
        ControlRequest::Role { role: None, json } => {
            let status = control::request_document(reach, Request::Status)?;
            print(&if json {
                format!("{}\n", json!({"role": role_in_status(&status)}))
            } else {
                format!("{}\n", role_in_status(&status))
            })?;
            fail_on_split_brain(&status)
        }
        ControlRequest::Role { role: Some(role), json } => {
            let document = request_with_progress(reach, Request::Role(role))?;
            let (text, complete) = role_change_report(&document);
            print(&if json { format!("{document:#}\n") } else { text })?;
            if complete { Ok(()) } else { Err(Failure::RoleIncomplete) }
        }
        ControlRequest::Statistics(show) => {
            print(&statistics_page(show, &control::request_document(reach, Request::Status)?))
        }
        ControlRequest::Simple(request) => Ok(control::execute(reach, request)?),
        ControlRequest::Verify => verify(reach),
        ControlRequest::Commit(of) => commit(persona, reach, of),
        ControlRequest::Dump { cache, of, format } => {
            let shown = dump(reach, cache, of, format, labels)?;
            Summary::Listed(of, shown).print(persona);
            Ok(())
        }
        ControlRequest::Cache { cache, of, xml } => dump_as_conntrackd(reach, cache, of, xml),
    }
}

/// conntrackd's letter says nothing of what was done, ours does; of what was refused, both.
fn commit(persona: Persona, reach: &Reach, of: Option<Subject>) -> Result<(), Failure> {
    let document = request_with_progress(reach, Request::Commit(of))?;
    let (text, failed) = commit_report(&document);
    if failed > 0 || !persona.is_daemon() {
        print(&text)?;
    }
    if failed > 0 { Err(Failure::CommitIncomplete(failed)) } else { Ok(()) }
}

/// Has the daemon do something that may take seconds, with a bar on a terminal.
fn request_with_progress(reach: &Reach, request: Request) -> Result<Value, Failure> {
    let mut bar = None;
    let document = control::request_document_with_progress(reach, request, |done, of| {
        let (bar, before) = bar.get_or_insert_with(|| (Progress::of(of, "flows"), 0));
        bar.add(done.saturating_sub(*before));
        *before = done;
    });
    Ok(document?)
}

/// A second primary is an error, whatever else was asked.
fn fail_on_split_brain(status: &Value) -> Result<(), Failure> {
    split_brain_peers(status).map_or(Ok(()), |names| Err(Failure::SplitBrain(names)))
}

fn verify(reach: &Reach) -> Result<(), Failure> {
    let (table, agrees) = verify_report(&control::request_document(reach, Request::Verify)?);
    print(&table)?;
    if agrees { Ok(()) } else { Err(Failure::CachesDiffer) }
}

/// Prints a cache in our own formats; how many entries it has.
fn dump(
    reach: &Reach,
    cache: Cache,
    of: Subject,
    format: Format,
    labels: Option<Arc<LabelMap>>,
) -> Result<u64, Failure> {
    let mut printer = Printer::new(format, of, TimeZone::system()).with_labels(labels);
    let mut sink = StdoutBuffer::open()?;
    let mut shown = 0;
    let now_ns = clock::now_ns();
    let result = for_each_entry(reach, cache, of, &mut sink, |lines, entry| {
        // An event's time is when it was heard of; an entry's is its last change.
        let occasion = RecordContext {
            now_ns: entry.head.changed_ms.saturating_mul(NS_PER_MS).min(now_ns),
            ..RecordContext::default()
        };
        match entry.decode()? {
            Decoded::Flow(flow) => printer.print_flow(lines, &flow, &occasion),
            Decoded::Expect(expect) => printer.print_expect(lines, &expect, &occasion),
        }
        shown += 1;
        Ok(())
    });
    printer.finish(&mut sink.lines);
    sink.flush()?;
    result.map(|()| shown)
}

/// Prints a cache as conntrackd does.
fn dump_as_conntrackd(reach: &Reach, cache: Cache, of: Subject, xml: bool) -> Result<(), Failure> {
    let mut printer = CachePrinter::new(cache, of, xml);
    let mut sink = StdoutBuffer::open()?;
    let now_ms = clock::now_ns() / NS_PER_MS;
    let result = for_each_entry(reach, cache, of, &mut sink, |lines, entry| {
        let seconds = now_ms.saturating_sub(entry.head.since_ms) / 1_000;
        match entry.decode()? {
            Decoded::Flow(flow) => printer.print_flow(lines, &flow, seconds),
            Decoded::Expect(expect) => printer.print_expect(lines, &expect, seconds),
        }
        Ok(())
    });
    sink.flush()?;
    result
}

/// Takes every entry of a cache. What came before a failure is printed all the same.
fn for_each_entry(
    reach: &Reach,
    cache: Cache,
    of: Subject,
    sink: &mut StdoutBuffer,
    mut print_entry: impl FnMut(&mut Vec<u8>, &Entry<'_>) -> Result<(), ControlError>,
) -> Result<(), Failure> {
    let mut answer = control::send_request(reach, Request::Dump(cache, of))?;
    loop {
        match answer.next_frame()? {
            Frame::Entries(entries) => {
                for entry in entries {
                    print_entry(&mut sink.lines, &entry?)?;
                    sink.flush_if_large()?;
                }
            }
            Frame::Document(_) => {} // whose replica follows, which no format has a place for
            Frame::Done => return Ok(()),
            Frame::Messages(_) | Frame::Lost(_) => {
                return Err(ControlError::Protocol("something else than entries").into());
            }
        }
    }
}
