//! Why the program ends without success: one line on standard error that says what happened, why, and what to do, and
//! an exit code for scripts.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use ctflow_engine::capture::listener::ListenError;
use ctflow_engine::capture::receive::InterruptError;
use ctflow_engine::engine::StartError;
use ctflow_engine::kernel::KernelError;
use ctflow_engine::os_error::os_error_text;
use ctflow_engine::server::ServerError;
use ctflow_lab::LabError;
use ctflow_lab::load::LoadError;
use ctflow_parser::error::ParseError;
use rustix::io::Errno;
use thiserror::Error;

use crate::capture::CaptureError;
use crate::config::ConfigError;
use crate::control::ControlError;
use crate::flags::line::LineError;
use crate::flags::usage::Usage;
use crate::labels::LabelError;
use crate::persona::Persona;
use crate::text::counted;

/// An error that ends the program. The exit code is 2 for most errors of the command line ([`Usage::code`]), as in
/// conntrack, 3 for a split brain, the code that the daemon sent for errors of the control socket, and 1 for
/// everything else.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// Standard output cannot be written: the disk is full, or the reader of the pipe has gone.
    #[error("cannot write to standard output: {}; {}", os_error_text(.0), output_hint(.0))]
    Output(#[from] io::Error),
    /// The kernel refused a request, or its answer is malformed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The socket for the kernel's events cannot be opened or read.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The descriptors that interrupt a wait (signals, a closed pipe) cannot be polled.
    #[error(transparent)]
    Interrupts(#[from] InterruptError),
    /// Signals cannot be caught.
    #[error("cannot catch SIGINT and SIGTERM: {}; raise the limit on open files (RLIMIT_NOFILE)", os_error_text(.0))]
    Signals(#[source] io::Error),
    /// Some of the kernel's records are malformed; all others were printed.
    #[error(
        "{} of the kernel not understood and not printed; the first: {first}",
        counted(*.count, "record", "records")
    )]
    Malformed {
        /// The number of malformed records.
        count: u64,
        /// The error of the first one.
        first: ParseError,
    },
    /// The kernel's answer has no number of entries.
    #[error("the kernel's answer does not contain the number of flows")]
    NoCount,
    /// The demonstration's network cannot be created, or its traffic does not arrive.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The daemon's control socket cannot be opened.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The engine cannot start to receive events.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The demonstration ran and did not succeed.
    #[error("the demonstration failed: {0}")]
    Demo(String),
    /// The benchmark's load cannot be generated.
    #[error(transparent)]
    BenchLoad(#[from] LoadError),
    /// The benchmark could not be carried out.
    #[error("the benchmark failed: {0}")]
    Bench(String),
    /// The benchmark's report cannot be written.
    #[error("cannot write the report {}: {}; name a file in a directory that you may write to", .path.display(), os_error_text(.source))]
    Report {
        /// The report's file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused the only request of a command. The text is conntrack's if conntrack has one for the error.
    #[error("Operation failed: {}", operation_text(.0))]
    Operation(#[source] KernelError),
    /// The kernel refused some of many requests.
    #[error("Operation failed: {}; {count} flows were refused, this is the first error", operation_text(.first))]
    Operations {
        /// The first refusal.
        #[source]
        first: KernelError,
        /// The number of refused flows.
        count: u64,
    },
    /// No entry matched, as the printed summary says. No error line is printed.
    #[error("nothing was done")]
    NothingDone,
    /// A label on the command line is unknown, or has a number that no flow can have.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A file of commands cannot be read. Nothing was done.
    #[error("cannot read {name}: {}; nothing was done, check the name and its permissions", os_error_text(.source))]
    Load {
        /// The file.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// A capture file cannot be read or written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A line of a file of commands cannot be split into words, because of its quotes or its length. Nothing was done.
    #[error("{name}, line {number}: {source}; nothing was done")]
    LineSyntax {
        /// The file.
        name: String,
        /// The line's number, from 1.
        number: u64,
        /// What is wrong with the line.
        source: LineError,
    },
    /// A line of a file of commands is wrong. Nothing was done.
    #[error("{name}, line {number}: {usage}; nothing was done")]
    LineUsage {
        /// The file.
        name: String,
        /// The line's number, from 1.
        number: u64,
        /// What is wrong with the line.
        usage: Box<Usage>,
    },
    /// Two lines of a file name a label file. Nothing was done.
    #[error("{name}, line {number}: option `--labelmap' may be given once in a file; nothing was done")]
    SecondLabelmap {
        /// The file.
        name: String,
        /// The number of the second such line, from 1.
        number: u64,
    },
    /// The kernel refused lines of a file of commands.
    #[error("{name}, line {number}: {}{}; {}", operation_text(.error), other_lines_text(.more), executed_lines_text(*.number, *.last))]
    LineRefused {
        /// The file.
        name: String,
        /// The number of the first refused line, from 1.
        number: u64,
        /// The kernel's error.
        #[source]
        error: KernelError,
        /// The numbers of the other lines that were refused with it.
        more: Vec<u64>,
        /// The number of the last line that was sent.
        last: u64,
    },
    /// The daemon's configuration cannot be read, or is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A request could not be sent to the daemon, or the daemon refused it or failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A key file cannot be created.
    #[error("cannot write the key to {name}: {}; {hint}", os_error_text(.source))]
    Keygen {
        /// The file.
        name: String,
        /// The system's error.
        source: io::Error,
        /// What the operator should do.
        hint: &'static str,
    },
    /// A copy of a cache differs from its source, or a peer did not answer. The printed report names it.
    #[error("not every copy is proven identical: see the lines above")]
    CachesDiffer,
    /// So many entries of a commit were refused. The printed report has the reasons.
    #[error(
        "{} refused: the takeover is not complete; the reasons are above and in the daemon's log",
        counted(*.0, "entry was", "entries were")
    )]
    CommitIncomplete(u64),
    /// Some steps of a role change failed. The printed report has the reasons.
    #[error("the change of role is not complete: the reasons are above and in the daemon's log")]
    RoleIncomplete,
    /// This node should not take over yet, for these reasons.
    #[error("not ready: {0}")]
    NotReady(String),
    /// Other peers are primary while this node is: which, and what to do.
    #[error("split brain: {0}")]
    SplitBrain(String),
    /// The daemon cannot start, or had to stop.
    #[error("cannot run the daemon: {0}")]
    Daemon(String),
    /// An essential requirement of the machine is missing. Standard output names it, so no error line is printed.
    #[error("this machine is not ready")]
    MachineNotReady,
}

impl Failure {
    /// Prints the error as one line on standard error and returns the exit code. If standard error cannot be
    /// written, only the exit code reports the error.
    pub(crate) fn report(&self, persona: Persona) -> ExitCode {
        let (banner, name) = (persona.banner(), persona.name());
        let mut stderr = io::stderr().lock();
        if !matches!(self, Self::MachineNotReady | Self::NothingDone) {
            let message = self.message_for(persona);
            let _ = writeln!(stderr, "{banner}: {message}"); // there is no other channel for an error of this write
        }
        let suggests_help = match self {
            Self::Usage(usage) => usage.suggests_help(),
            other => matches!(other, Self::Label(_) | Self::Load { .. }),
        };
        if suggests_help {
            let help = match self {
                _ if persona.is_daemon() => "-h".to_owned(),
                Self::Usage(usage) => usage.verb().map_or_else(|| "--help".to_owned(), |verb| format!("help {verb}")),
                _ => "--help".to_owned(),
            };
            let _ = writeln!(stderr, "Try `{name} {help}' for more information.");
        }
        // conntrackd exits with 1 after every failure.
        ExitCode::from(if persona.is_daemon() { 1 } else { self.code() })
    }

    /// The text of the error. Under the name conntrack, every refusal of the kernel has conntrack's text.
    fn message_for(&self, persona: Persona) -> String {
        match (persona, self) {
            (Persona::Conntrack, Self::Kernel(error @ KernelError::Refused { .. })) => {
                format!("Operation failed: {}", operation_text(error))
            }
            (Persona::Conntrack, Self::Usage(usage)) => usage.without_suggestion(),
            _ => self.to_string(),
        }
    }

    /// The exit code, except under the name of conntrackd.
    fn code(&self) -> u8 {
        match self {
            Self::Usage(usage) => usage.code(),
            Self::LineUsage { usage, .. } => usage.code(),
            Self::Control(error) => error.code(),
            Self::SplitBrain(_) => 3,
            Self::LineSyntax { .. } | Self::SecondLabelmap { .. } | Self::Label(_) | Self::Load { .. } => 2,
            _ => 1,
        }
    }
}

/// conntrack's text for an error of the kernel; the system's text if conntrack has none. Scripts match these texts.
fn operation_text(error: &KernelError) -> String {
    let errno = error.errno().map(Errno::from_raw_os_error);
    let known = match (errno, expectation_text(error)) {
        (_, Some(text)) => text.to_owned(),
        (Some(Errno::EXIST), _) => "Such conntrack exists, try -U to update".to_owned(),
        (Some(Errno::NOENT), _) => "such conntrack doesn't exist".to_owned(),
        (Some(Errno::INVAL), _) => "invalid parameters".to_owned(),
        (Some(Errno::NOMEM), _) => "not enough memory".to_owned(),
        (Some(Errno::TIME), _) => "conntrack has expired".to_owned(),
        (Some(Errno::PERM), _) => "sorry, you must be root or get CAP_NET_ADMIN capability to do this".to_owned(),
        _ => match error {
            KernelError::Refused { source, .. } => os_error_text(source),
            other => return other.to_string(),
        },
    };
    match error {
        KernelError::Refused { kernel_text: Some((text, _)), .. } => format!("{known} ({text})"),
        _ => known,
    }
}

/// conntrack's text for an error of an expectation's request. `ENOENT` on creation means that the master flow does
/// not exist; conntrack's other texts are about flows and do not fit.
fn expectation_text(error: &KernelError) -> Option<&'static str> {
    let KernelError::Refused { operation, .. } = error else { return None };
    let errno = error.errno().map(Errno::from_raw_os_error);
    match (*operation, errno?) {
        ("create an expectation", Errno::NOENT) => Some("master conntrack not found"),
        (operation, Errno::NOENT) if operation.ends_with("expectation") => Some("No such file or directory"),
        (operation, Errno::EXIST) if operation.ends_with("expectation") => Some("File exists"),
        _ => None,
    }
}

/// The other refused lines of a file, as an addition to the message about the first.
fn other_lines_text(more: &[u64]) -> String {
    match more {
        [] => String::new(),
        [one] => format!("; line {one} was refused too"),
        [first, ..] => format!("; {} more were refused, from line {first} on", more.len()),
    }
}

/// Which lines of a file have been executed when the kernel refuses line `refused`. Lines are sent in batches, and
/// the kernel executes the other lines of a batch, too; `last` is the last line that was sent.
fn executed_lines_text(refused: u64, last: u64) -> String {
    if last <= refused {
        "lines before it are carried out".to_owned()
    } else {
        format!("the others up to line {last} are carried out")
    }
}

/// What an error of standard output means for the operator, or what to do about it.
fn output_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::BrokenPipe => "its reader has gone, so the rest is not printed",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room, or write elsewhere",
        _ => "the output is incomplete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_refusals_have_conntracks_words() {
        let text = |operation, errno: Errno| {
            let source = io::Error::from_raw_os_error(errno.raw_os_error());
            operation_text(&KernelError::Refused { operation, source, kernel_text: None })
        };
        let table = [
            ("create a flow", Errno::EXIST, "Such conntrack exists, try -U to update"),
            ("create a flow", Errno::BUSY, "Device or resource busy"),
            ("find the flow", Errno::NOENT, "such conntrack doesn't exist"),
            ("create an expectation", Errno::NOENT, "master conntrack not found"),
            ("create an expectation", Errno::EXIST, "File exists"),
            ("find the expectation", Errno::NOENT, "No such file or directory"),
            ("delete an expectation", Errno::OPNOTSUPP, "Operation not supported"),
        ];
        for (operation, errno, expected) in table {
            assert_eq!(text(operation, errno), expected, "{operation}");
        }
        let source = io::Error::from_raw_os_error(Errno::PERM.raw_os_error());
        let refused =
            Failure::Kernel(KernelError::Refused { operation: "list the conntrack table", source, kernel_text: None });
        let theirs = "Operation failed: sorry, you must be root or get CAP_NET_ADMIN capability to do this";
        assert_eq!(refused.message_for(Persona::Conntrack), theirs);
        assert!(refused.message_for(Persona::Ctflow).contains("list the conntrack table"));
    }

    #[test]
    fn error_lines_have_no_numbers_of_the_system() {
        let full = Failure::from(io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error()));
        let expected = "cannot write to standard output: No space left on device; make room, or write elsewhere";
        assert_eq!(full.to_string(), expected);
    }

    #[test]
    fn numbers_agree_with_their_nouns() {
        let incomplete = |count| Failure::CommitIncomplete(count).to_string();
        assert!(incomplete(1).starts_with("1 entry was refused: "));
        assert!(incomplete(2).starts_with("2 entries were refused: "));
    }
}
