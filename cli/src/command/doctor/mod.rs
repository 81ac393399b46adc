//! `doctor`: what this machine can do, what holds it back, and the command that mends it.
//!
//! ```text
//! probe   really opens, asks and reads ──► Facts ──► checks   pure functions ──► Finding... ──► report   text or JSON
//! ```
//!
//! Whatever cannot be found out is itself a fact, so that a kernel without conntrack, a container without `/proc/sys`
//! or a user without rights gets its findings too. Only what nothing here can do without makes the machine unready.

mod checks;
mod facts;
mod finding;
mod probe;
mod report;

use std::io::{self, Write};

use crate::failure::Failure;
use crate::flags::plan;

/// Examines the machine and prints what was found.
///
/// # Errors
/// [`Failure::MachineNotReady`] when something essential is missing; the findings on standard output say what.
pub(super) fn run(plan: plan::Doctor) -> Result<(), Failure> {
    let findings = checks::all(&probe::examine());
    let text = if plan.json { report::json(&findings) } else { report::text(&findings) };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    if finding::missing_count(&findings) == 0 { Ok(()) } else { Err(Failure::MachineNotReady) }
}
