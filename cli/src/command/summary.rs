//! The line on standard error that says how much a command did, in conntrack's words: scripts read it.

use std::fmt;
use std::io::{self, Write};

use crate::output::Subject;
use crate::persona::Persona;

/// How much a command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Summary {
    /// `-L`: entries of a table.
    Listed(Subject, u64),
    /// `-E`: events of a table.
    Events(Subject, u64),
}

impl Summary {
    /// Prints the line.
    pub(crate) fn print(self, persona: Persona) {
        let _ = writeln!(io::stderr().lock(), "{}: {self}", persona.banner()); // a closed stderr wants no summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, what) = match self {
            Self::Listed(Subject::Flows, count) => (count, "flow entries"),
            Self::Listed(Subject::Expectations, count) => (count, "expectations"),
            Self::Events(Subject::Flows, count) => (count, "flow events"),
            Self::Events(Subject::Expectations, count) => (count, "expectation events"),
        };
        write!(out, "{count} {what} have been shown.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_conntracks() {
        let lines = [
            (Summary::Listed(Subject::Flows, 7), "7 flow entries have been shown."),
            (Summary::Listed(Subject::Expectations, 0), "0 expectations have been shown."),
            (Summary::Events(Subject::Flows, 166), "166 flow events have been shown."),
            (Summary::Events(Subject::Expectations, 1), "1 expectation events have been shown."),
        ];
        for (summary, line) in lines {
            assert_eq!(summary.to_string(), line);
        }
    }
}
