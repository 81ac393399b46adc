//! `doctor`: reports what this machine can do, what limits it, and the command that removes each limit.
//!
//! ```text
//! probe   opens, queries and reads ──► Facts ──► checks   pure functions ──► Finding... ──► report   text or JSON
//! ```
//!
//! A probe that fails is itself a fact, so that a kernel without conntrack, a container without `/proc/sys` or a user
//! without rights also gets findings. The machine is not ready only if something essential is missing.

mod checks;
mod facts;
mod finding;
mod probe;
mod report;

use std::io::{self, Write};

use crate::failure::Failure;
use crate::flags::plan;

/// Examines the machine and prints the findings.
///
/// # Errors
/// [`Failure::MachineNotReady`] when something essential is missing; the findings name it.
pub(super) fn run(plan: plan::Doctor) -> Result<(), Failure> {
    let findings = checks::all(&probe::examine());
    let text = if plan.json { report::json(&findings) } else { report::text(&findings) };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    if finding::missing_count(&findings) == 0 { Ok(()) } else { Err(Failure::MachineNotReady) }
}
