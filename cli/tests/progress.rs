//! The progress bar on a real terminal, which `script` makes: that of a deletion whose lines a slow reader takes.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, not in what those share

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use ctflow_engine::lab::Lab;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");
/// Their lines are several times what a pipe and the program's own buffer hold.
const FLOWS: u32 = 3_000;
/// When the first line comes the work is under way, and a second later a bar is due. The rest is read then.
const SLOW_READER: &str = "{ read -r line; sleep 1.2; cat >/dev/null; }";

/// What a terminal shows of `command`, in which `$0` is the program, with flows to delete.
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

fn deleted_line() -> String {
    format!("ctflow v{}: {FLOWS} flow entries have been deleted.\r\n", env!("CARGO_PKG_VERSION"))
}

#[test]
fn a_terminal_shows_a_bar_while_a_pipe_takes_the_lines() {
    ctflow_engine::isolated!({
        Lab::enter().unwrap();
        let shown = terminal_output(&format!("$0 -D | {SLOW_READER}"));
        let (bars, summary) = shown.rsplit_once("\r\u{1b}[2K").unwrap();
        assert!(bars.starts_with('[') && bars.contains(&format!(" of {FLOWS} flows, ")), "{shown:?}");
        assert_eq!(summary, deleted_line(), "it is wiped out before anything else is said");
    });
}

#[test]
fn without_a_terminal_no_bar_is_drawn() {
    ctflow_engine::isolated!({
        Lab::enter().unwrap();
        let shown = terminal_output(&format!("{{ $0 -D 2>&1 >&3 | cat >&2; }} 3>&1 | {SLOW_READER}"));
        assert_eq!(shown, deleted_line(), "cat reads what is said");
    });
}
