//! `-G`: prints one entry, found by its exact tuple.

use ctflow_engine::kernel::request::Requester;
use ctflow_parser::record::{Record, Subject as RecordSubject};
use ctflow_parser::request;
use ctflow_parser::tuple::Tuple;
use ctflow_parser::write::Writer;
use jiff::tz::TimeZone;

use super::summary::Summary;
use crate::clock;
use crate::failure::Failure;
use crate::flags::plan::Get;
use crate::output::stdout::StdoutBuffer;
use crate::output::{Format, Printer, RecordContext, Subject};
use crate::persona::Persona;

/// Prints the flow that `plan` names.
///
/// # Errors
/// The kernel has no flow with this tuple, or the flow does not match the other options.
pub(super) fn flow(persona: Persona, plan: &Get, mut printer: Printer) -> Result<(), Failure> {
    let (mut sink, mut shown, mut malformed) = (StdoutBuffer::open()?, 0, None);
    let on_record = |record: &Record<'_>| match record.flow() {
        Ok(flow) if record.subject() == RecordSubject::Flow && plan.selection.matches(&flow) => {
            printer.print_flow(&mut sink.lines, &flow, &listed_context());
            shown += 1;
        }
        Ok(_) => {}
        Err(error) => malformed = Some(error),
    };
    let write = |writer: &mut Writer<'_>, seq| request::get(writer, seq, &plan.selector, plan.zone);
    Requester::open()?.request("find the flow", write, on_record).map_err(Failure::Operation)?;
    printer.finish(&mut sink.lines);
    sink.flush()?;
    if let Some(first) = malformed {
        return Err(Failure::Malformed { count: 1, first });
    }
    Summary::Listed(Subject::Flows, shown).print(persona);
    if shown == 0 { Err(Failure::NothingDone) } else { Ok(()) }
}

/// Prints the expectation that awaits `tuple`.
///
/// # Errors
/// The kernel has no such expectation.
pub(super) fn expectation(tuple: &Tuple) -> Result<(), Failure> {
    let mut printer = Printer::new(Format::default(), Subject::Expectations, TimeZone::system());
    let (mut sink, mut malformed) = (StdoutBuffer::open()?, None);
    let on_record = |record: &Record<'_>| match record.expect() {
        Ok(expect) => printer.print_expect(&mut sink.lines, &expect, &listed_context()),
        Err(error) => malformed = Some(error),
    };
    let write = |writer: &mut Writer<'_>, seq| request::get_expect(writer, seq, tuple, None);
    Requester::open()?.request("find the expectation", write, on_record).map_err(Failure::Operation)?;
    sink.flush()?;
    malformed.map_or(Ok(()), |first| Err(Failure::Malformed { count: 1, first }))
}

/// Returns the context of a listed record: only the wall clock.
fn listed_context() -> RecordContext<'static> {
    RecordContext { now_ns: clock::now_ns(), ..RecordContext::default() }
}
