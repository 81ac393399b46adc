//! The command line: conntrack's grammar, and ctflow's own verbs.
//!
//! ```text
//! defs    one item per flag: names, argument, help, the commands that accept it, its effect
//!   │ ├──► doc    the help text; `man` the manual page, `completions` the scripts for shells
//!   ▼ ▼
//! raw     the arguments as typed: the command, the options, each value parsed by itself
//!   ▼
//! checks  combinations: which command accepts which option (`matrix`), which options require or exclude each other
//!   ▼
//! plan    the meaning: everything a command needs, with the defaults filled in
//! ```
//!
//! `verbs` parses command lines that begin with a word, `letters` those of the daemon's own name, and `line` splits the
//! lines of a load file into words. [`usage`] lists every error of a command line.

use std::ffi::{OsStr, OsString};

use crate::output::Subject;
use crate::persona::Persona;

mod checks;
pub(crate) mod completions;
pub(crate) mod defs;
pub(crate) mod doc;
pub(crate) mod letters;
pub(crate) mod line;
pub(crate) mod man;
mod matrix;
pub(crate) mod plan;
pub(crate) mod raw;
pub(crate) mod usage;
pub(crate) mod verbs;

use plan::{Command, Load, Plan};
use raw::{Action, RawArgs};
use usage::Usage;

/// Parses the arguments after the program's name.
///
/// # Errors
/// The first error, from left to right. Single arguments are checked before combinations.
pub(crate) fn parse(persona: Persona, args: impl Iterator<Item = OsString>) -> Result<Plan, Usage> {
    let args: Vec<_> = args.collect();
    let alone = |command| Plan { persona, command, labelmap: None, warnings: Vec::new() };
    match (persona, args.split_first()) {
        (Persona::Ctflowd | Persona::Conntrackd, _) => letters::read(persona, &args),
        (Persona::Ctflow, Some((word, rest))) if !raw::is_option(word) => verbs::read(word, rest).map(alone),
        (_, Some((word, rest))) if word == "-R" || word == "--load-file" => parse_load_file(word, rest).map(alone),
        _ => RawArgs::read(args).and_then(|raw| plan::plan(persona, raw)),
    }
}

/// Parses `-R FILE`, which must be the first argument. Like conntrack, ignores the arguments after it.
fn parse_load_file(option: &OsStr, rest: &[OsString]) -> Result<Command, Usage> {
    let missing = || Usage::MissingArgument { option: option.to_string_lossy().into_owned(), argument: "FILE" };
    let file = rest.first().ok_or_else(missing)?;
    Ok(Command::Load(if file == "-" { Load::Stdin } else { Load::File(file.into()) }))
}

/// Parses one line of a load file from the words that [`line::split_words`] returned.
///
/// # Errors
/// An error in the line, or a command that is not allowed in a load file.
pub(crate) fn parse_line(persona: Persona, words: Vec<OsString>) -> Result<Plan, Usage> {
    let raw = RawArgs::read(words)?;
    if let Some(chosen) = &raw.command {
        let changes =
            matches!(chosen.action, Action::Create | Action::Add | Action::Update | Action::Delete | Action::Flush);
        if !changes || chosen.subject() != Subject::Flows {
            let table = if chosen.subject() == Subject::Flows { "" } else { " expect" };
            return Err(Usage::NotInFile(format!("{}{table}", chosen.typed)));
        }
    } else {
        return Err(Usage::NoCommand { commands: "-I, -A, -U, -D, -F".to_owned() });
    }
    plan::plan(persona, raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_file_must_be_first_and_needs_a_file() {
        let load = |args: &[&str]| match parse(Persona::Conntrack, args.iter().map(OsString::from)) {
            Ok(Plan { command: Command::Load(load), .. }) => Some(load),
            _ => None,
        };
        assert_eq!(load(&["-R", "-"]), Some(Load::Stdin));
        assert_eq!(load(&["--load-file", "x", "-L"]), Some(Load::File("x".into())));
        for args in [&["-R"][..], &["-L", "-R", "x"], &["--load-file=x"], &["--load", "x"], &["-Rx"]] {
            assert_eq!(load(args), None, "{args:?}");
        }
    }

    #[test]
    fn a_line_of_a_file_may_only_change_flows() {
        let read = |line: &str| parse_line(Persona::Conntrack, line::split_words(line.as_bytes()).unwrap());
        for line in ["-D", "-F -f ipv6", "-U -m 5", "-A -p 50 -t 5 -s ::1 -d ::2", "--delete -p tcp"] {
            assert!(read(line).is_ok(), "{line}");
        }
        for line in ["-L", "-E", "-C", "-h", "-V", "-G", "-D expect", "-I expect", "-F expect"] {
            assert_eq!(read(line).unwrap_err(), Usage::NotInFile(line.to_owned()));
        }
        assert!(matches!(read("-R x"), Err(Usage::NotFirst(_))));
        assert!(matches!(read("-p tcp"), Err(Usage::NoCommand { .. })));
        assert!(matches!(read("word"), Err(Usage::NoCommand { .. })));
    }
}
