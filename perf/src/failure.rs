//! Why a comparison could not be made.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use ctflow_engine::kernel::KernelError;
use ctflow_engine::lab::LabError;
use thiserror::Error;

/// A comparison that could not be made.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line.
    #[error("{0}; see --help")]
    Usage(#[from] lexopt::Error),
    /// The private network.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A request to the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A system call.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was being done, as a verb phrase.
        operation: String,
        /// The system's answer.
        source: io::Error,
    },
    /// There is nothing to compare with.
    #[error("{0} is not installed: it is neither on PATH nor in /usr/sbin; Debian and Ubuntu have it in package {0}")]
    NotInstalled(&'static str),
    /// The program to measure was not built, or not where its path says.
    #[error("there is no program {0}: start perf/run, which builds it, or give --program")]
    NoProgram(String),
    /// A measured program ended by itself, or badly.
    #[error("{command} ended with {status}; it said: {said}")]
    Exited {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        said: String,
    },
    /// A wait was over before what it was for came.
    #[error("waited {longest:?} in vain for {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        longest: Duration,
    },
    /// A change to the kernel's table was refused.
    #[error("the kernel refused {refused} changes of the table, one of them so: {first}")]
    Refused {
        /// How many.
        refused: u64,
        /// Why the first of them.
        first: KernelError,
    },
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// A file of `/proc` has another form than this program knows.
    #[error("cannot make sense of {0}")]
    Unreadable(String),
}

impl Failure {
    /// Says what was being done when the system refused.
    pub(crate) fn system<E: Into<io::Error>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::System { operation: operation.into(), source: source.into() }
    }
}
