//! Into the background: the program starts itself once more, in a session of its own, and waits until that runs.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::failure::Failure;

/// Says to the second run that it is one.
const VARIABLE: &str = "CTFLOW_DETACHED";
/// What it says once it runs.
const RUNNING: &str = "running";

/// Whether this is the second run.
pub(super) fn is_background_run() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Starts the second run with the same arguments, and waits until it runs or says why it does not.
///
/// # Errors
/// What it said.
pub(super) fn start_in_background() -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Daemon(format!("cannot start in the background: {error}"));
    let mut command = Command::new(env::current_exe().map_err(failed)?);
    command.args(env::args_os().skip(1)).env(VARIABLE, "1");
    if let Some(name) = env::args_os().next() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let mut first_line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut first_line).map_err(failed)?;
    }
    if first_line.trim_end() == RUNNING {
        return Ok(());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let why = String::from_utf8_lossy(&output.stderr);
    let why = why.lines().last().unwrap_or("it ended and did not say why");
    let why = why.split_once(": ").map_or(why, |(_, why)| why); // the program's name, and what is said here likewise
    Err(Failure::Daemon(why.strip_prefix("cannot run the daemon: ").unwrap_or(why).to_owned()))
}

/// In the second run: says that it runs, and lets go of the terminal.
pub(super) fn leave_terminal() {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{RUNNING}").and_then(|()| stdout.flush()); // whoever started it may have gone
    let _ = rustix::process::setsid();
    let _ = env::set_current_dir("/");
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
