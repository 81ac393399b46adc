//! The reasons why a comparison cannot be made.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use ctflow_engine::kernel::KernelError;
use ctflow_engine::os_error::os_error_text;
use ctflow_lab::LabError;
use thiserror::Error;

/// A comparison that could not be made.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line is wrong.
    #[error("{0}; see --help")]
    Usage(#[from] lexopt::Error),
    /// The private network failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A request to the kernel failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A system call failed.
    #[error("cannot {operation}: {}", os_error_text(.source))]
    System {
        /// The operation that failed, as a verb phrase.
        operation: String,
        /// The system's error.
        source: io::Error,
    },
    /// The program to compare with is not installed.
    #[error("{0} is not installed: it is neither on PATH nor in /usr/sbin; Debian and Ubuntu have it in package {0}")]
    NotInstalled(&'static str),
    /// The program to measure was not built, or its path is wrong.
    #[error("there is no program {0}: start perf/run, which builds it, or pass --program")]
    NoProgram(String),
    /// A measured program ended too early or failed.
    #[error("{command} ended with {status}; its standard error: {stderr}")]
    Exited {
        /// The program and its arguments.
        command: String,
        /// The exit status.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// An awaited condition did not occur in time.
    #[error("waited {timeout:?} in vain for {what}")]
    TimedOut {
        /// The awaited condition, as a noun phrase.
        what: String,
        /// How long it was awaited.
        timeout: Duration,
    },
    /// The kernel refused changes of its table.
    #[error("the kernel refused {refused} changes of the table; the first: {first}")]
    Refused {
        /// The number of refused changes.
        refused: u64,
        /// The error of the first refused change.
        first: KernelError,
    },
    /// SIGINT or SIGTERM arrived.
    #[error("interrupted")]
    Interrupted,
    /// A file or document has a form that this program does not know. The text names it.
    #[error("cannot parse {0}")]
    Unreadable(String),
}

impl Failure {
    /// Returns a function that wraps a system error. `operation` is the verb phrase of what failed.
    pub(crate) fn system<E: Into<io::Error>>(operation: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::System { operation: operation.into(), source: source.into() }
    }
}
