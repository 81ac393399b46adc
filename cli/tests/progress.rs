//! The progress bar of a deletion with a slow reader, on a real terminal that `script` provides.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, but not in their helpers

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use ctflow_lab::Lab;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");
/// Flows to delete. Their lines are several times as long as what a pipe and the program's buffer hold.
const FLOWS: u32 = 3_000;
/// A reader that pauses after the first line, so that the deletion lasts longer than the second after which a bar
/// appears.
const SLOW_READER: &str = "{ read -r line; sleep 1.2; cat >/dev/null; }";

/// Creates the flows and returns what a terminal shows of `command`, in which `$0` is the program.
fn terminal_output(command: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let flows = folder.path().join("flows");
    let mut lines = String::new();
    for port in 1..=FLOWS {
        let line = "-A -t 600 -u SEEN_REPLY -s 192.0.2.1 -d 192.0.2.2 -p tcp --dport 443 --state ESTABLISHED";
        writeln!(lines, "{line} --sport {port}").unwrap();
    }
    std::fs::write(&flows, lines).unwrap();
    assert!(Command::new(PROGRAM).arg("-R").arg(flows).status().unwrap().success());
    let command = command.replace("$0", PROGRAM);
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh").stdin(Stdio::null());
    String::from_utf8(script.output().unwrap().stdout).unwrap()
}

/// Returns the summary as a terminal shows it.
fn deleted_line() -> String {
    format!("ctflow v{}: {FLOWS} flow entries have been deleted.\r\n", env!("CARGO_PKG_VERSION"))
}

#[test]
fn a_terminal_shows_a_bar_while_a_pipe_takes_the_lines() {
    ctflow_lab::isolated!({
        Lab::enter().unwrap();
        let shown = terminal_output(&format!("$0 -D | {SLOW_READER}"));
        let (bars, summary) = shown.rsplit_once("\r\u{1b}[2K").unwrap();
        assert!(bars.starts_with('[') && bars.contains(&format!(" of {FLOWS} flows, ")), "{shown:?}");
        assert_eq!(summary, deleted_line(), "the bar is removed before the summary is printed");
    });
}

#[test]
fn without_a_terminal_no_bar_is_drawn() {
    ctflow_lab::isolated!({
        Lab::enter().unwrap();
        let shown = terminal_output(&format!("{{ $0 -D 2>&1 >&3 | cat >&2; }} 3>&1 | {SLOW_READER}"));
        assert_eq!(shown, deleted_line(), "standard error is a pipe");
    });
}
