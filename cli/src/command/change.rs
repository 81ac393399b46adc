//! `-I`, `-A`, `-U`, `-D`, `-F`: creates, changes and deletes entries, one or many.
//!
//! `-U` and `-D` change the selected flows while they dump the table: requests go to the kernel in batches over a
//! second socket.

use std::ops::ControlFlow;

use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_engine::kernel::request::Requester;
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::flow::{FlowView, Labels, RareAttributes};
use ctflow_parser::request::{self, FlowChange, Selector, Table};
use ctflow_parser::tuple::Tuple;
use ctflow_parser::uapi;
use jiff::tz::TimeZone;

use super::bulk::{Bulk, Outcome, Vanished};
use super::summary::Summary;
use super::{count, progress};
use crate::change::ExpectationCreation;
use crate::clock;
use crate::failure::Failure;
use crate::flags::plan::{Create, Delete, Flush, Update};
use crate::output::{Format, Printer, RecordContext, Subject};
use crate::persona::Persona;
use crate::selection::Selection;

/// Opens a bulk of requests that do `operation` and print their flows in `format`.
///
/// # Errors
/// A socket cannot be opened.
pub(super) fn open_bulk(operation: &'static str, format: Format, vanished: Vanished) -> Result<Bulk, Failure> {
    // The changed flow has no time stamps, and conntrack prints none either.
    let format = Format { ktimestamp: false, ..format };
    Bulk::open(operation, Printer::new(format, Subject::Flows, TimeZone::system()), vanished)
}

/// Carries out `-D`: deletes the selected flows.
///
/// # Errors
/// The kernel refused, or no flow was deleted.
pub(super) fn delete(persona: Persona, plan: &Delete) -> Result<(), Failure> {
    let format = Format { ktimestamp: false, labels: false, ..plan.format };
    let printer = Printer::new(format, Subject::Flows, TimeZone::system()).for_deleted();
    let mut bulk = Bulk::open("delete a flow", printer, Vanished::Ignore)?;
    let result = delete_selected(plan, &mut bulk);
    print_outcome(persona, bulk, result, Summary::Deleted)
}

/// Adds a request to `bulk` for each flow that `plan` selects, to delete it.
///
/// # Errors
/// The table cannot be dumped, or the batch cannot be sent.
pub(super) fn delete_selected(plan: &Delete, bulk: &mut Bulk) -> Result<(), Failure> {
    for_each_selected(&plan.filter, &plan.selection, |flow, context| {
        let Some(orig) = flow.orig else { return Ok(()) };
        let which = Selector::Orig(orig);
        bulk.add(0, Some((flow, context)), |writer, seq| request::delete(writer, seq, &which, flow.zone, flow.id))
    })
}

/// Carries out `-U`: changes the selected flows.
///
/// # Errors
/// The kernel refused, or no flow was changed.
pub(super) fn update(persona: Persona, plan: &Update, printer: Printer) -> Result<(), Failure> {
    let mut bulk = Bulk::open("change a flow", printer, Vanished::Ignore)?;
    let result = update_selected(plan, &mut bulk);
    print_outcome(persona, bulk, result, Summary::Updated)
}

/// Adds a request to `bulk` for each flow that `plan` selects and that differs from what the plan sets.
///
/// # Errors
/// The table cannot be dumped, or the batch cannot be sent.
pub(super) fn update_selected(plan: &Update, bulk: &mut Bulk) -> Result<(), Failure> {
    for_each_selected(&plan.filter, &plan.selection, |flow, context| {
        let Some(change) = plan.update.change_for(flow) else { return Ok(()) };
        let after = flow_after(flow, &change);
        bulk.add(0, Some((&after, context)), |writer, seq| request::update(writer, seq, &change))
    })
}

/// Status bits that a request may have and that the kernel ignores: only the kernel decides what is offloaded.
const OFFLOADED: u32 = uapi::IPS_OFFLOAD | uapi::IPS_HW_OFFLOAD;

/// Returns the flow as it will be after the change. conntrack queries the kernel for each flow instead, and so prints a
/// use count that includes its own reference: therefore one is added here.
fn flow_after<'a>(flow: &FlowView<'a>, change: &FlowChange<'a>) -> FlowView<'a> {
    let FlowView {
        timeout,
        mark,
        status,
        proto,
        // The flow's key.
        family: _,
        orig: _,
        reply: _,
        zone: _,
        // Only the kernel sets these.
        id: _,
        use_count: _,
        secmark: _,
        counters_orig: _,
        counters_reply: _,
        start_ns: _,
        stop_ns: _,
        event_ns: _,
        rare:
            RareAttributes {
                labels,
                // `-U` does not set these.
                helper: _,
                secctx: _,
                seqadj_orig: _,
                seqadj_reply: _,
                synproxy: _,
                master: _,
            },
    } = &change.flow;
    let mask = change.mark_mask.unwrap_or(u32::MAX);
    let mark = mark.map(|mark| (flow.mark.unwrap_or(0) & !mask) ^ mark);
    let labels_mask = change.labels_mask.map_or(u128::MAX, |labels| labels.0);
    let labels =
        labels.map(|labels| Labels(flow.rare.labels.unwrap_or_default().0 & !labels_mask | labels.0 & labels_mask));
    FlowView {
        timeout: timeout.or(flow.timeout),
        mark: mark.or(flow.mark),
        status: status.map(|status| status & !OFFLOADED | flow.status.unwrap_or(0)).or(flow.status),
        proto: proto.or(flow.proto),
        rare: RareAttributes { labels: labels.or(flow.rare.labels), ..flow.rare },
        use_count: flow.use_count.map(|count| count.saturating_add(1)),
        ..*flow
    }
}

/// Carries out `-I` and `-A`: creates a flow.
///
/// # Errors
/// The kernel refused.
pub(super) fn create(persona: Persona, plan: &Create) -> Result<(), Failure> {
    let change = plan.creation.flow_change();
    let write =
        |writer: &mut ctflow_parser::write::Writer<'_>, seq| request::create(writer, seq, &change, plan.if_exists);
    Requester::open()?.request("create a flow", write, |_| {}).map_err(Failure::Operation)?;
    let summary = match plan.if_exists {
        request::IfExists::Refuse => Summary::Created(1),
        request::IfExists::Change => Summary::Added(1),
    };
    summary.print(persona);
    Ok(())
}

/// Carries out `-I expect`: creates an expectation.
///
/// # Errors
/// The kernel refused.
pub(super) fn create_expect(plan: &ExpectationCreation) -> Result<(), Failure> {
    let view = plan.view();
    let write = |writer: &mut ctflow_parser::write::Writer<'_>, seq| request::create_expect(writer, seq, &view);
    Requester::open()?.request("create an expectation", write, |_| {}).map_err(Failure::Operation)
}

/// Carries out `-D expect`: deletes the expectation of a tuple.
///
/// # Errors
/// The kernel refused.
pub(super) fn delete_expect(persona: Persona, tuple: &Tuple) -> Result<(), Failure> {
    let write = |writer: &mut ctflow_parser::write::Writer<'_>, seq| request::delete_expect(writer, seq, tuple, None);
    Requester::open()?.request("delete an expectation", write, |_| {}).map_err(Failure::Operation)?;
    Summary::ExpectationsDeleted(1).print(persona);
    Ok(())
}

/// Carries out `-F`: empties a table.
///
/// # Errors
/// The kernel refused.
pub(super) fn flush(plan: Flush) -> Result<(), KernelError> {
    let write = |writer: &mut ctflow_parser::write::Writer<'_>, seq| match plan.subject {
        Subject::Flows => request::flush(writer, seq, plan.family),
        Subject::Expectations => request::flush_expect(writer, seq),
    };
    Requester::open()?.request("empty the table", write, |_| {})
}

/// Dumps the table and calls `work` for each selected flow. Shows progress on a terminal.
///
/// # Errors
/// The dump failed, or the first error of `work`, after which it is not called again.
fn for_each_selected(
    filter: &DumpFilter,
    selection: &Selection,
    mut work: impl FnMut(&FlowView<'_>, &RecordContext<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut dump = Dump::start(Table::Conntrack, filter, false)?.read_ahead()?;
    let mut bar = progress::Progress::beside_lines(count::flow_count().unwrap_or(0).into(), "flows");
    let mut state = ControlFlow::Continue(());
    let mut progress = Progress::More;
    while progress != Progress::Done {
        let context = RecordContext { now_ns: clock::now_ns(), ..RecordContext::default() };
        let mut seen = 0;
        progress = dump.read(|record| {
            seen += 1;
            let flow = record.flow().ok().filter(|flow| selection.matches(flow));
            if let (ControlFlow::Continue(()), Some(flow)) = (&state, flow) {
                state = work(&flow, &context).map_or_else(ControlFlow::Break, ControlFlow::Continue);
            }
        })?;
        bar.add(seen);
        if let ControlFlow::Break(failure) = state {
            return Err(failure);
        }
    }
    Ok(())
}

/// Waits for all answers and prints the summary, also after a failure if anything was done.
///
/// # Errors
/// `result`'s error, else the first refusal, else [`Failure::NothingDone`] if nothing was done.
fn print_outcome(
    persona: Persona,
    mut bulk: Bulk,
    result: Result<(), Failure>,
    summary: fn(u64) -> Summary,
) -> Result<(), Failure> {
    let outcome = bulk.outcome();
    let done = outcome.as_ref().map_or_else(|_| bulk.done(), |outcome| outcome.done);
    let finished = bulk.finish();
    if done > 0 || result.is_ok() {
        summary(done).print(persona);
    }
    let Outcome { failed, failed_count, .. } = result.and(outcome)?;
    finished?;
    match failed.into_iter().next() {
        Some(first) if failed_count > 1 => Err(Failure::Operations { first: first.error, count: failed_count }),
        Some(first) => Err(Failure::Operation(first.error)),
        None if done == 0 => Err(Failure::NothingDone),
        None => Ok(()),
    }
}
