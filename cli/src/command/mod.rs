//! The commands, one to a file.

use crate::failure::Failure;
use crate::flags::plan::{Command, Plan};

mod about;
mod doctor;
pub(crate) mod summary;

/// Carries out what the command line means.
pub(crate) fn run(plan: &Plan) -> Result<(), Failure> {
    match &plan.command {
        Command::Help(topic) => about::help(plan.persona, topic),
        Command::Version => about::version(plan.persona),
        Command::List(_) => Err(Failure::Absent("listing")),
        Command::Events(_) => Err(Failure::Absent("following events")),
        Command::Count(_) | Command::Stats(_) => Err(Failure::Absent("counting")),
        Command::Demo => Err(Failure::Absent("the demonstration")),
        Command::Doctor(plan) => doctor::run(*plan),
    }
}
