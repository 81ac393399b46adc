//! Why the program ends without success: one line on standard error, and an exit code that scripts can tell apart.

use std::io::{self, Write};
use std::process::ExitCode;

use thiserror::Error;

use crate::flags::usage::Usage;
use crate::persona::Persona;

/// What ends the program. 2 is for the command line, as in conntrack, 1 for everything else.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// Standard output refused what was printed; a closed pipe in most cases.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// The command line asks for a command that this build has no code for.
    #[error("{0} is not in this build")]
    Absent(&'static str),
    /// The machine lacks something essential; what, standard output says already.
    #[error("this machine is not ready")]
    Unready,
}

impl Failure {
    /// Says why on standard error, if that is still there, and gives the exit code.
    pub(crate) fn report(&self, persona: Persona) -> ExitCode {
        if !self.is_told() {
            let (banner, name) = (persona.banner(), persona.name());
            let mut stderr = io::stderr().lock();
            let _ = writeln!(stderr, "{banner}: {self}"); // nowhere is left to say that this failed
            if let Self::Usage(_) = self {
                let _ = writeln!(stderr, "Try `{name} --help' for more information.");
            }
        }
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Output(_) | Self::Absent(_) | Self::Unready => 1,
        }
    }

    /// `ctflow -L | head` is no reason for a message: whoever read has seen enough. Nor are findings, whose last line
    /// is the verdict.
    fn is_told(&self) -> bool {
        match self {
            Self::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            Self::Unready => true,
            Self::Usage(_) | Self::Absent(_) => false,
        }
    }
}
