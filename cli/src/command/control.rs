//! `sync`, `role`, `status`, and the daemon's letters: sends a request to the running daemon and prints its answer.

use std::sync::Arc;

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::about::print;
use super::progress::Progress;
use super::summary::Summary;
use crate::clock;
use crate::control::Reach;
use crate::control::entry::{Decoded, Entry};
use crate::control::request::{Cache, Request};
use crate::control::{self, ControlError, Frame};
use crate::failure::Failure;
use crate::flags::plan::{Control, ControlRequest};
use crate::labels::LabelMap;
use crate::output::daemon::{
    CachePrinter, commit_report, role_change_report, role_in_status, split_brain, statistics_page, status_report,
    takeover_blockers, verify_report,
};
use crate::output::stdout::StdoutBuffer;
use crate::output::{Format, Printer, RecordContext, Subject};
use crate::persona::Persona;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// Sends the request that `plan` names and prints the answer.
///
/// # Errors
/// The daemon cannot be reached, refuses, or its answer is not valid; replicas differ; the node is not ready; another
/// node is primary, too; a commit or a change of role is not complete.
pub(super) fn run(persona: Persona, plan: &Control, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    let reach = &plan.reach;
    match plan.request {
        ControlRequest::Status { json } => {
            let status = control::request_document(reach, Request::Status)?;
            print(&if json { format!("{status:#}\n") } else { status_report(&status) })?;
            fail_on_split_brain(&status)
        }
        ControlRequest::Ready => match takeover_blockers(&control::request_document(reach, Request::Status)?) {
            Some(blockers) => Err(Failure::NotReady(blockers)),
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
        ControlRequest::Statistics(page) => {
            print(&statistics_page(page, &control::request_document(reach, Request::Status)?))
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

/// Commits the external cache and prints the result. Under conntrackd's name only refusals are printed, as conntrackd
/// does.
///
/// # Errors
/// The request failed, or the kernel refused entries.
fn commit(persona: Persona, reach: &Reach, of: Option<Subject>) -> Result<(), Failure> {
    let document = request_with_progress(reach, Request::Commit(of))?;
    let (text, failed) = commit_report(&document);
    if failed > 0 || !persona.is_daemon() {
        print(&text)?;
    }
    if failed > 0 { Err(Failure::CommitIncomplete(failed)) } else { Ok(()) }
}

/// Sends a request that may take seconds, and shows a progress bar on a terminal. Returns the document of the answer.
///
/// # Errors
/// The request failed.
fn request_with_progress(reach: &Reach, request: Request) -> Result<Value, Failure> {
    let mut bar = None;
    let document = control::request_document_with_progress(reach, request, |done, of| {
        let (bar, before) = bar.get_or_insert_with(|| (Progress::of(of, "flows"), 0));
        bar.add(done.saturating_sub(*before));
        *before = done;
    });
    Ok(document?)
}

/// Fails if the status has another primary.
///
/// # Errors
/// [`Failure::SplitBrain`].
fn fail_on_split_brain(status: &Value) -> Result<(), Failure> {
    split_brain(status).map_or(Ok(()), |conflict| Err(Failure::SplitBrain(conflict)))
}

/// Compares the caches with the peers' replicas and prints the result.
///
/// # Errors
/// The request failed, or a replica differs.
fn verify(reach: &Reach) -> Result<(), Failure> {
    let (table, agrees) = verify_report(&control::request_document(reach, Request::Verify)?);
    print(&table)?;
    if agrees { Ok(()) } else { Err(Failure::CachesDiffer) }
}

/// Prints a cache in the formats of `-L`. Returns the number of entries.
///
/// # Errors
/// The request failed, or standard output cannot be written.
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
        // The time to print is that of the entry's last change.
        let context = RecordContext {
            now_ns: entry.head.changed_ms.saturating_mul(NS_PER_MS).min(now_ns),
            ..RecordContext::default()
        };
        match entry.decode()? {
            Decoded::Flow(flow) => printer.print_flow(lines, &flow, &context),
            Decoded::Expect(expect) => printer.print_expect(lines, &expect, &context),
        }
        shown += 1;
        Ok(())
    });
    printer.finish(&mut sink.lines);
    sink.flush()?;
    result.map(|()| shown)
}

/// Prints a cache in conntrackd's format.
///
/// # Errors
/// The request failed, or standard output cannot be written.
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

/// Requests a dump of a cache and calls `print_entry` for each entry. The caller prints the entries before a failure.
///
/// # Errors
/// The request failed, an entry is not valid, or standard output cannot be written.
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
            Frame::Document(_) => {} // it names the peer of the entries that follow; no format has a field for it
            Frame::Done => return Ok(()),
            Frame::Messages(_) | Frame::Lost(_) => {
                return Err(ControlError::Protocol("it has other frames than entries").into());
            }
        }
    }
}
