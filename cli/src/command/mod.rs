//! The commands, one to a file.

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
    match &plan.command {
        Command::Help(topic) => about::help(plan.persona, topic),
        Command::Version => about::version(plan.persona),
        Command::List(list) => list::run(plan.persona, list),
        Command::Events(events) => event::run(plan.persona, events),
        Command::Count(count) => count::count(*count),
        Command::Stats(subject) => count::statistics(*subject),
        Command::Demo => demo::run(),
        Command::Doctor(plan) => doctor::run(*plan),
    }
}
