//! The line on standard error with the number of entries that a command worked on. Its text is conntrack's: scripts
//! read it.

use std::fmt;
use std::io::{self, Write};

use crate::output::Subject;
use crate::persona::Persona;

/// The number of entries that a command worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Summary {
    /// `-L`: entries of a table.
    Listed(Subject, u64),
    /// `-I`: flows created.
    Created(u64),
    /// `-A`: flows created or changed.
    Added(u64),
    /// `-U`: flows changed.
    Updated(u64),
    /// `-D`: flows deleted.
    Deleted(u64),
    /// `-D expect`: expectations deleted.
    ExpectationsDeleted(u64),
    /// `-F`: the table was emptied.
    Emptied(Subject),
    /// `-E`: events of a table: shown, then lost.
    Events(Subject, u64, u64),
}

impl Summary {
    /// Prints the line.
    pub(crate) fn print(self, persona: Persona) {
        let lost = self.lost(persona);
        let _ = writeln!(io::stderr().lock(), "{}: {self}{lost}", persona.banner()); // no summary if stderr is closed
    }

    /// Returns the sentence about lost events. conntrack has none, so under its name there is one only if events were
    /// lost.
    fn lost(self, persona: Persona) -> String {
        match self {
            Self::Events(_, _, lost) if lost > 0 || persona == Persona::Ctflow => {
                format!(" {lost} events have been lost.")
            }
            _ => String::new(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed(Subject::Flows, count) => write!(out, "{count} flow entries have been shown."),
            Self::Listed(Subject::Expectations, count) => write!(out, "{count} expectations have been shown."),
            Self::Events(Subject::Flows, count, _) => write!(out, "{count} flow events have been shown."),
            Self::Events(Subject::Expectations, count, _) => {
                write!(out, "{count} expectation events have been shown.")
            }
            Self::Created(count) => write!(out, "{count} flow entries have been created."),
            Self::Added(count) => write!(out, "{count} flow entries have been added."),
            Self::Updated(count) => write!(out, "{count} flow entries have been updated."),
            Self::Deleted(count) => write!(out, "{count} flow entries have been deleted."),
            Self::ExpectationsDeleted(count) => write!(out, "{count} expectations have been deleted."),
            Self::Emptied(Subject::Flows) => write!(out, "connection tracking table has been emptied."),
            Self::Emptied(Subject::Expectations) => write!(out, "expectation table has been emptied."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lines_match_conntrack() {
        let lines = [
            (Summary::Listed(Subject::Flows, 7), "7 flow entries have been shown."),
            (Summary::Listed(Subject::Expectations, 0), "0 expectations have been shown."),
            (Summary::Events(Subject::Flows, 166, 0), "166 flow events have been shown."),
            (Summary::Events(Subject::Expectations, 1, 0), "1 expectation events have been shown."),
        ];
        for (summary, line) in lines {
            assert_eq!(summary.to_string(), line);
        }
    }

    #[test]
    fn a_loss_is_always_printed_and_no_loss_only_by_ctflow() {
        let lost = |persona, lost| Summary::Events(Subject::Flows, 5, lost).lost(persona);
        assert_eq!(lost(Persona::Ctflow, 0), " 0 events have been lost.");
        assert_eq!(lost(Persona::Ctflow, 3), " 3 events have been lost.");
        assert_eq!(lost(Persona::Conntrack, 0), "");
        assert_eq!(lost(Persona::Conntrack, 3), " 3 events have been lost.");
    }
}
