//! Why the program ends without success: one line on standard error, and an exit code that scripts can tell apart.

use std::io::{self, Write};
use std::process::ExitCode;

use ctflow_engine::engine::StartError;
use ctflow_engine::kernel::KernelError;
use ctflow_engine::lab::LabError;
use ctflow_engine::listener::ListenError;
use ctflow_engine::receive::InterruptError;
use ctflow_parser::error::ParseError;
use thiserror::Error;

use crate::flags::usage::Usage;
use crate::persona::Persona;

/// What ends the program. 2 is for the command line, mostly ([`Usage::code`]), as in conntrack, 1 for everything else.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// Standard output refused what was printed: a full disk, or a reader that has gone.
    #[error("cannot write to standard output: {0}; {hint}", hint = output_hint(.0))]
    Output(#[from] io::Error),
    /// The kernel refused, or its answer makes no sense.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Events cannot be listened to.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What ends a wait cannot be watched.
    #[error(transparent)]
    Interrupts(#[from] InterruptError),
    /// Signals cannot be caught.
    #[error("cannot catch SIGINT and SIGTERM: {0}; raise the limit on open files (RLIMIT_NOFILE)")]
    Signals(#[source] io::Error),
    /// Some of the kernel's records do not parse; all others were printed.
    #[error("{count} records of the kernel were not understood and are missing; the first: {first}")]
    Malformed {
        /// How many.
        count: u64,
        /// Why the first was not.
        first: ParseError,
    },
    /// The kernel's answer has no number of entries.
    #[error("the kernel does not say how many flows there are")]
    NoCount,
    /// The demonstration's network cannot be made, or its traffic does not flow.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The capture cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The demonstration ran, and did not show what it is for.
    #[error("the demonstration failed: {0}")]
    Demo(String),
    /// A command that the command line knows and nothing carries out.
    #[error("{0} is not carried out yet")]
    Absent(&'static str),
    /// The machine lacks something essential; what, standard output says already.
    #[error("this machine is not ready")]
    Unready,
}

impl Failure {
    /// Says why on standard error, if that is still there, and gives the exit code.
    pub(crate) fn report(&self, persona: Persona) -> ExitCode {
        let (banner, name) = (persona.banner(), persona.name());
        let mut stderr = io::stderr().lock();
        if !matches!(self, Self::Unready) {
            let _ = writeln!(stderr, "{banner}: {self}"); // nowhere is left to say that this failed
        }
        if let Self::Usage(usage) = self
            && usage.wants_help()
        {
            let _ = writeln!(stderr, "Try `{name} --help' for more information.");
        }
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(usage) => usage.code(),
            _ => 1,
        }
    }
}

fn output_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::BrokenPipe => "its reader has gone, so nothing more is shown",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room, or write elsewhere",
        _ => "what was to be shown is incomplete",
    }
}
