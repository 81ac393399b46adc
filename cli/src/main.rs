//! ctflow: connection tracking events, listing and replication for busy Linux firewalls.
//!
//! ```text
//! argv ──► persona   the name that the program was called by
//!      └─► flags     arguments to a Plan ──► command   carries it out ──► output   records to text
//!                                                └──► failure   one line on stderr, an exit code
//! ```

use std::env;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

pub(crate) mod capture;
pub(crate) mod change;
pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod daemon;
pub(crate) mod event;
pub(crate) mod failure;
pub(crate) mod flags;
pub(crate) mod labels;
pub(crate) mod output;
pub(crate) mod persona;
pub(crate) mod protocol;
pub(crate) mod selection;
pub(crate) mod text;
mod troff;
pub(crate) mod words;

use tracing_subscriber::filter::LevelFilter;

use failure::Failure;
use flags::plan::Command;
use persona::Persona;

fn main() -> ExitCode {
    let mut args = env::args_os();
    let persona = Persona::from_program(args.next().as_deref());
    match run(persona, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(persona),
    }
}

/// Parses the command line and carries it out.
///
/// # Errors
/// The command line is wrong, or the command failed.
fn run(persona: Persona, args: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let plan = flags::parse(persona, args)?;
    // The daemon starts its own log.
    if !matches!(plan.command, Command::Daemon(_)) {
        start_log();
    }
    command::run(plan)
}

/// Logs the engine's messages to standard error: errors only, or more with `CTFLOW_LOG=warn`, `info` or `debug`. By
/// default scripts that compare standard error find only conntrack's lines there.
fn start_log() {
    let level = env::var("CTFLOW_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::ERROR);
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_max_level(level).init();
}
