//! The commands, one to a file.

use std::io::{self, Write};

use crate::failure::Failure;
use crate::flags::plan::{Command, Plan};

mod about;
mod clock;
mod count;
mod demo;
mod doctor;
mod event;
mod list;
pub(crate) mod summary;

/// Carries out what the command line means.
pub(crate) fn run(plan: &Plan) -> Result<(), Failure> {
    for warning in &plan.warnings {
        let _ = writeln!(io::stderr().lock(), "{warning}"); // a closed stderr wants no warnings
    }
    match &plan.command {
        Command::Help(topic) => about::help(plan.persona, topic),
        Command::Version => about::version(plan.persona),
        Command::List(list) => list::run(plan.persona, list),
        Command::Events(events) => event::run(plan.persona, events),
        Command::Count(count) => count::count(*count),
        Command::Stats(subject) => count::statistics(*subject),
        Command::Demo => demo::run(),
        Command::Doctor(plan) => doctor::run(*plan),
        Command::Get(_) | Command::GetExpect(_) => Err(Failure::Absent("-G")),
        Command::Delete(_) | Command::DeleteExpect(_) => Err(Failure::Absent("-D")),
        Command::Create(_) | Command::CreateExpect(_) => Err(Failure::Absent("creating entries")),
        Command::Update(_) => Err(Failure::Absent("-U")),
        Command::Flush(_) => Err(Failure::Absent("-F")),
        Command::Load(_) => Err(Failure::Absent("-R")),
    }
}
