//! `-L`: a table's entries, streamed from the kernel's dump to standard output in constant memory.

use std::io;
use std::sync::Arc;

use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_parser::error::ParseError;
use ctflow_parser::record::{Record, Subject as RecordSubject};
use jiff::tz::TimeZone;

use super::clock;
use super::summary::Summary;
use crate::failure::Failure;
use crate::flags::plan::List;
use crate::labels::LabelMap;
use crate::output::stdout::StdoutBuffer;
use crate::output::{Printer, RecordContext};
use crate::persona::Persona;

/// Lists what `plan` names.
///
/// # Errors
/// The kernel's refusal, a full disk, a reader that has gone; or entries that do not parse, after all others.
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

struct Listing<'p> {
    plan: &'p List,
    printer: Printer,
    sink: StdoutBuffer,
    now_ns: u64,
    shown: u64,
    malformed: u64,
    first_error: Option<ParseError>,
}

impl<'p> Listing<'p> {
    fn new(plan: &'p List, labels: Option<Arc<LabelMap>>) -> io::Result<Self> {
        let printer = Printer::new(plan.format, plan.subject(), TimeZone::system()).with_labels(labels);
        let sink = StdoutBuffer::open()?;
        Ok(Self { plan, printer, sink, now_ns: 0, shown: 0, malformed: 0, first_error: None })
    }

    fn on_record(&mut self, record: &Record<'_>) {
        if let Err(error) = self.print_record(record) {
            self.malformed += 1;
            self.first_error.get_or_insert(error);
        }
    }

    fn print_record(&mut self, record: &Record<'_>) -> Result<(), ParseError> {
        let occasion = RecordContext { now_ns: self.now_ns, ..RecordContext::default() };
        match record.subject() {
            RecordSubject::Flow => {
                let flow = record.flow()?;
                if self.plan.selection.matches(&flow) {
                    self.printer.print_flow(&mut self.sink.lines, &flow, &occasion);
                    self.shown += 1;
                }
            }
            RecordSubject::Expect => {
                self.printer.print_expect(&mut self.sink.lines, &record.expect()?, &occasion);
                self.shown += 1;
            }
            _ => {}
        }
        Ok(())
    }

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
