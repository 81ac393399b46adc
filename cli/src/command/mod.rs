//! The commands, each in a file of its own.

use std::io::{self, Write};

use crate::failure::Failure;
use crate::flags::plan::{Command, Plan};
use crate::output::{Format, Printer, Subject};
use jiff::tz::TimeZone;

mod about;
mod bench;
mod bulk;
mod change;
mod control;
mod count;
mod daemon;
mod demo;
mod doctor;
mod event;
mod get;
mod keygen;
mod labels;
mod list;
mod load;
mod progress;
mod staged;
pub(crate) mod summary;

/// Carries out a parsed command line.
///
/// # Errors
/// The command failed.
pub(crate) fn run(mut plan: Plan) -> Result<(), Failure> {
    for warning in &plan.warnings {
        let _ = writeln!(io::stderr().lock(), "{warning}"); // no warning if stderr is closed
    }
    let labels = labels::resolve(&mut plan)?;
    let printer = |format: Format| Printer::new(format, Subject::Flows, TimeZone::system()).with_labels(labels.clone());
    let persona = plan.persona;
    match &plan.command {
        Command::Help(topic) => about::help(persona, topic),
        Command::Version => about::version(persona),
        Command::List(list) => list::run(persona, list, labels),
        Command::Get(get) => get::flow(persona, get, printer(get.format)),
        Command::GetExpect(tuple) => get::expectation(tuple),
        Command::Delete(delete) => change::delete(persona, delete),
        Command::DeleteExpect(tuple) => change::delete_expect(persona, tuple),
        Command::Create(create) => change::create(persona, create),
        Command::CreateExpect(expected) => change::create_expect(expected),
        Command::Update(update) => {
            change::update(persona, update, printer(Format { ktimestamp: false, ..update.format }))
        }
        Command::Flush(flush) => {
            change::flush(*flush).map_err(Failure::Operation)?;
            summary::Summary::Emptied(flush.subject).print(persona);
            Ok(())
        }
        Command::Load(load) => load::run(persona, load),
        Command::Events(events) => event::run(persona, events, labels),
        Command::Count(count) => count::count(*count),
        Command::Stats(stats) => count::statistics(*stats),
        Command::Demo => demo::run(),
        Command::Bench(plan) => bench::run(plan),
        Command::Doctor(plan) => doctor::run(*plan),
        Command::Completions(shell) => about::completions(*shell),
        Command::Man(page) => about::man(*page),
        Command::DaemonHelp => about::letters(persona),
        Command::Daemon(daemon) => daemon::run(daemon),
        Command::Keygen(file) => keygen::run(file.as_deref()),
        Command::Control(control) => control::run(persona, control, labels),
    }
}
