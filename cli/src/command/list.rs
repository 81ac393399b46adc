//! `-L`: prints a table's entries, streamed from the kernel's dump to standard output in constant memory.

use std::io;
use std::sync::Arc;

use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_parser::error::ParseError;
use ctflow_parser::record::{Record, Subject as RecordSubject};
use jiff::tz::TimeZone;

use super::summary::Summary;
use crate::clock;
use crate::failure::Failure;
use crate::flags::plan::List;
use crate::labels::LabelMap;
use crate::output::stdout::StdoutBuffer;
use crate::output::{Printer, RecordContext};
use crate::persona::Persona;

/// Prints the entries that `plan` selects.
///
/// # Errors
/// The kernel refused, standard output cannot be written, or entries do not parse; the others are printed then.
pub(super) fn run(persona: Persona, plan: &List, labels: Option<Arc<LabelMap>>) -> Result<(), Failure> {
    let mut listing = Listing::new(plan, labels)?;
    let mut dump = Dump::start(plan.table, &plan.filter, plan.zero)?.read_ahead()?;
    let mut progress = Progress::More;
    while progress != Progress::Done {
        listing.now_ns = clock::now_ns();
        progress = dump.read(|record| listing.on_record(record))?;
        listing.sink.flush_if_large()?;
    }
    listing.finish(persona)
}

/// A listing in progress.
struct Listing<'p> {
    plan: &'p List,
    printer: Printer,
    sink: StdoutBuffer,
    /// The wall clock at the last batch of records, in nanoseconds.
    now_ns: u64,
    /// Entries printed so far.
    shown: u64,
    /// Entries that did not parse so far.
    malformed: u64,
    /// Why the first of them did not parse.
    first_error: Option<ParseError>,
}

impl<'p> Listing<'p> {
    /// Creates a listing that has printed nothing yet.
    ///
    /// # Errors
    /// No descriptor is left.
    fn new(plan: &'p List, labels: Option<Arc<LabelMap>>) -> io::Result<Self> {
        let printer = Printer::new(plan.format, plan.subject(), TimeZone::system()).with_labels(labels);
        let sink = StdoutBuffer::open()?;
        Ok(Self { plan, printer, sink, now_ns: 0, shown: 0, malformed: 0, first_error: None })
    }

    /// Prints a record, or counts it as malformed.
    fn on_record(&mut self, record: &Record<'_>) {
        if let Err(error) = self.print_record(record) {
            self.malformed += 1;
            self.first_error.get_or_insert(error);
        }
    }

    /// Prints a record if the plan selects it.
    ///
    /// # Errors
    /// The record does not parse.
    fn print_record(&mut self, record: &Record<'_>) -> Result<(), ParseError> {
        let context = RecordContext { now_ns: self.now_ns, ..RecordContext::default() };
        match record.subject() {
            RecordSubject::Flow => {
                let flow = record.flow()?;
                if self.plan.selection.matches(&flow) {
                    self.printer.print_flow(&mut self.sink.lines, &flow, &context);
                    self.shown += 1;
                }
            }
            RecordSubject::Expect => {
                self.printer.print_expect(&mut self.sink.lines, &record.expect()?, &context);
                self.shown += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the rest and prints the summary.
    ///
    /// # Errors
    /// Standard output cannot be written, or entries did not parse.
    fn finish(mut self, persona: Persona) -> Result<(), Failure> {
        self.printer.finish(&mut self.sink.lines);
        self.sink.flush()?;
        Summary::Listed(self.plan.subject(), self.shown).print(persona);
        match self.first_error {
            Some(first) => Err(Failure::Malformed { count: self.malformed, first }),
            None => Ok(()),
        }
    }
}
