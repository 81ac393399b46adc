//! Why the program ends without success: one line on standard error, and an exit code that scripts can tell apart.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use ctflow_engine::engine::StartError;
use ctflow_engine::kernel::KernelError;
use ctflow_engine::lab::LabError;
use ctflow_engine::lab::load::LoadError;
use ctflow_engine::listener::ListenError;
use ctflow_engine::receive::InterruptError;
use ctflow_engine::server::ServerError;
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
    /// The control socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The capture cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The demonstration ran, and did not show what it is for.
    #[error("the demonstration failed: {0}")]
    Demo(String),
    /// The benchmark's load.
    #[error(transparent)]
    BenchLoad(#[from] LoadError),
    /// The benchmark could not be carried out.
    #[error("the benchmark failed: {0}")]
    Bench(String),
    /// The benchmark's report cannot be written.
    #[error("cannot write the report {}: {source}", .path.display())]
    Report {
        /// Where to.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused the one thing to do; in conntrack's words where it has any.
    #[error("Operation failed: {}", operation_text(.0))]
    Operation(#[source] KernelError),
    /// It refused some of many.
    #[error("Operation failed: {}: so the first of {count} flows that were refused", operation_text(.first))]
    Operations {
        /// The first refusal.
        #[source]
        first: KernelError,
        /// How many there were.
        count: u64,
    },
    /// Nothing was found to do anything with, as the summary says.
    #[error("nothing was done")]
    NothingDone,
    /// A label that was named and has no number.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A file of commands cannot be read. Nothing was done.
    #[error("cannot read {name}: {source}")]
    Load {
        /// The file.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A capture file.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A line of a file of commands is no list of words. Nothing was done.
    #[error("{name}, line {number}: {source}; nothing was done")]
    LineSyntax {
        /// The file.
        name: String,
        /// The line.
        number: u64,
        /// Why not.
        source: LineError,
    },
    /// A line of a file of commands is wrong. Nothing was done.
    #[error("{name}, line {number}: {usage}; nothing was done")]
    LineUsage {
        /// The file.
        name: String,
        /// The line.
        number: u64,
        /// What is wrong with it.
        usage: Box<Usage>,
    },
    /// Two lines of a file name a label file. Nothing was done.
    #[error("{name}, line {number}: option `--labelmap' may be given once in a file; nothing was done")]
    SecondLabelmap {
        /// The file.
        name: String,
        /// The second line.
        number: u64,
    },
    /// The kernel refused lines of a file of commands.
    #[error("{name}, line {number}: {}{}; {}", operation_text(.error), other_lines_text(.more), executed_lines_text(*.number, *.last))]
    LineRefused {
        /// The file.
        name: String,
        /// The first line that was refused.
        number: u64,
        /// Why.
        #[source]
        error: KernelError,
        /// Other lines that were refused with it.
        more: Vec<u64>,
        /// The last line that was sent.
        last: u64,
    },
    /// The daemon's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon was not asked, or did not do it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A key cannot be made.
    #[error("cannot write the key to {name}: {source}; {hint}")]
    Keygen {
        /// The file.
        name: String,
        /// Why not.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// Peers' replicas are not what they should be, as the table says.
    #[error("the caches differ, or a peer did not answer")]
    CachesDiffer,
    /// The kernel refused so many entries of a commit, as the summary says.
    #[error(
        "the kernel refused {0} entries: the takeover is not complete; see above for its reasons, and the daemon's log"
    )]
    CommitIncomplete(u64),
    /// A change of roles could not do all that belongs to it, as the report says.
    #[error("the change of roles is not complete: see above for what is missing, and the daemon's log")]
    RoleIncomplete,
    /// This firewall is not to take over yet, for these reasons.
    #[error("not ready: {0}")]
    NotReady(String),
    /// These peers are primary as this one is.
    #[error("split brain: {0} is primary, too: have one take the role of backup, and look at the links between them")]
    SplitBrain(String),
    /// The daemon cannot run.
    #[error("cannot run the daemon: {0}")]
    Daemon(String),
    /// The machine lacks something essential; what, standard output says already.
    #[error("this machine is not ready")]
    MachineNotReady,
}

impl Failure {
    /// Says why on standard error, if that is still there, and gives the exit code.
    pub(crate) fn report(&self, persona: Persona) -> ExitCode {
        let (banner, name) = (persona.banner(), persona.name());
        let mut stderr = io::stderr().lock();
        if !matches!(self, Self::MachineNotReady | Self::NothingDone) {
            let said = self.message_for(persona);
            let _ = writeln!(stderr, "{banner}: {said}"); // nowhere is left to say that this failed
        }
        let wants_help = match self {
            Self::Usage(usage) => usage.suggests_help(),
            other => matches!(other, Self::Label(_) | Self::Load { .. }),
        };
        if wants_help {
            let help = if persona.is_daemon() { "-h" } else { "--help" };
            let _ = writeln!(stderr, "Try `{name} {help}' for more information.");
        }
        // Of conntrackd every failure is a 1.
        ExitCode::from(if persona.is_daemon() { 1 } else { self.code() })
    }

    /// The message. As conntrack, all that the kernel refuses is told in its words.
    fn message_for(&self, persona: Persona) -> String {
        match (persona, self) {
            (Persona::Conntrack, Self::Kernel(error @ KernelError::Refused { .. })) => {
                format!("Operation failed: {}", operation_text(error))
            }
            _ => self.to_string(),
        }
    }

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

/// conntrack's words for what a kernel refuses, where it has any, else the system's; scripts look for them.
fn operation_text(error: &KernelError) -> String {
    let errno = error.errno().map(Errno::from_raw_os_error);
    let known = match (errno, expectation_text(error)) {
        (_, Some(words)) => words.to_owned(),
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
        KernelError::Refused { said: Some((text, _)), .. } => format!("{known} ({text})"),
        _ => known,
    }
}

/// Of an expectation it may be the flow that is not there; what else is said of flows does not fit it.
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

/// The system's text alone, without the number that the standard library appends.
pub(crate) fn os_error_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_owned())
}

fn other_lines_text(more: &[u64]) -> String {
    match more {
        [] => String::new(),
        [one] => format!("; line {one} was refused too"),
        [first, ..] => format!("; {} more were refused, from line {first} on", more.len()),
    }
}

/// What has been done of a file when a line of it is refused: the kernel looks at the whole batch.
fn executed_lines_text(refused: u64, last: u64) -> String {
    if last <= refused {
        "lines before it are carried out".to_owned()
    } else {
        format!("the others up to line {last} are carried out")
    }
}

fn output_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::BrokenPipe => "its reader has gone, so nothing more is shown",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room, or write elsewhere",
        _ => "what was to be shown is incomplete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_refusals_have_conntracks_words() {
        let words = |operation, errno: Errno| {
            let source = io::Error::from_raw_os_error(errno.raw_os_error());
            operation_text(&KernelError::Refused { operation, source, said: None })
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
            assert_eq!(words(operation, errno), expected, "{operation}");
        }
        let source = io::Error::from_raw_os_error(Errno::PERM.raw_os_error());
        let refused =
            Failure::Kernel(KernelError::Refused { operation: "list the conntrack table", source, said: None });
        let theirs = "Operation failed: sorry, you must be root or get CAP_NET_ADMIN capability to do this";
        assert_eq!(refused.message_for(Persona::Conntrack), theirs);
        assert!(refused.message_for(Persona::Ctflow).contains("list the conntrack table"));
    }
}
