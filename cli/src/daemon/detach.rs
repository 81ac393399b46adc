//! Starting in the background: the program starts itself again, in a new session, and waits until that process runs.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use ctflow_engine::os_error::os_error_text;

use crate::failure::Failure;

/// Environment variable that is set for the background process.
const VARIABLE: &str = "CTFLOW_DETACHED";
/// Line that the background process prints once the daemon runs.
const RUNNING: &str = "running";

/// Returns whether this is the background process.
pub(super) fn is_background_run() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Starts the background process with the same arguments, and waits until its daemon runs or has failed.
///
/// # Errors
/// The process cannot be started, or the last line that it printed on standard error.
pub(super) fn start_in_background() -> Result<(), Failure> {
    let failed = |error| Failure::Daemon(format!("cannot start in the background: {}", os_error_text(&error)));
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
    let why = why.lines().last().unwrap_or("it ended without an error message");
    // This process prints the program's name and "cannot run the daemon" itself, so both are removed from the line.
    let why = why.split_once(": ").map_or(why, |(_, why)| why);
    Err(Failure::Daemon(why.strip_prefix("cannot run the daemon: ").unwrap_or(why).to_owned()))
}

/// In the background process: prints that the daemon runs, starts a session, and closes the terminal.
pub(super) fn leave_terminal() {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{RUNNING}").and_then(|()| stdout.flush()); // the process that reads it may have ended
    let _ = rustix::process::setsid();
    let _ = env::set_current_dir("/");
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}
