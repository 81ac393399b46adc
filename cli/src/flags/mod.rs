//! The command line: conntrack's grammar, and verbs of our own.
//!
//! ```text
//! defs    one item per flag: names, argument, help, where it is legal, what it does
//!   │ ├──► doc    the help text
//!   ▼ ▼
//! raw     as typed: which command, which options, their values read one by one
//!   ▼
//! plan    as meant: what a command needs to know, defaults filled in, nonsense refused
//! ```
//!
//! `verbs` reads command lines that begin with a word; [`usage`] has everything that can be wrong with one.

use std::ffi::OsString;

use crate::persona::Persona;

pub(crate) mod defs;
pub(crate) mod doc;
pub(crate) mod plan;
pub(crate) mod raw;
pub(crate) mod usage;
pub(crate) mod verbs;
mod words;

use plan::Plan;
use raw::Raw;
use usage::Usage;

/// Reads the arguments behind the program's name.
///
/// # Errors
/// The first thing that is wrong with them, left to right; combinations after single words.
pub(crate) fn parse(persona: Persona, args: impl Iterator<Item = OsString>) -> Result<Plan, Usage> {
    let args: Vec<_> = args.collect();
    let command = match (persona, args.split_first()) {
        (Persona::Ctflow, Some((word, rest))) if !raw::is_option(word) => verbs::read(word, rest)?,
        _ => plan::command(&Raw::read(args)?)?,
    };
    Ok(Plan { persona, command })
}
