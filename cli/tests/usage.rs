//! The real program's manners: what it says to wrong command lines, where it says it, and with which exit code.
#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml allows them in test functions, not in what those share

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");

fn run_as(program: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(program).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn run(args: &[&str]) -> (i32, String, String) {
    run_as(Path::new(PROGRAM), args)
}

/// A wrong command line: exit code 2, nothing on stdout, one line that names what is wrong and a hint at the help.
#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    let (code, stdout, stderr) = run(args);
    assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
    let [line, hint] = stderr.lines().collect::<Vec<_>>()[..] else { panic!("{args:?}: {stderr}") };
    assert!(line.starts_with(concat!("ctflow v", env!("CARGO_PKG_VERSION"), ": ")), "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}");
    assert_eq!(hint, "Try `ctflow --help' for more information.");
}

#[test]
fn unknown_options_and_commands() {
    refused(&["-X"], &["unknown option `-X'"]);
    refused(&["-L", "--frobnicate"], &["unknown option `--frobnicate'"]);
    for command in ["-G", "-D", "-I", "-A", "-U", "-F", "-R", "--get", "--load-file"] {
        refused(&[command, "-p", "tcp"], &[&format!("unknown option `{command}'")]);
    }
}

#[test]
fn an_ambiguous_prefix_names_what_it_could_be() {
    refused(&["--e"], &["`--e' is ambiguous", "event and event-mask"]);
}

#[test]
fn a_missing_argument_is_described() {
    refused(&["-L", "-o"], &["`-o' needs an argument: TYPE[,TYPE...]"]);
    refused(&["-E", "--buffer-size"], &["`--buffer-size' needs an argument: BYTES"]);
    refused(&["--version=3"], &["`--version' takes no argument"]);
}

#[test]
fn bad_values_say_what_would_be_right() {
    refused(&["-L", "-o", "id,foo"], &["`-o' does not take `foo'", "xml, extended, timestamp and id"]);
    refused(&["-E", "-e", "NEW,"], &["`-e' does not take `'", "ALL, NEW, UPDATES and DESTROY"]);
    refused(&["-E", "-b", "lots"], &["`-b' does not take `lots'", "number of bytes"]);
    refused(&["-L", "--proto", "foo"], &["`--proto' does not take `foo'", "/etc/protocols", "0 to 255"]);
    refused(&["-L", "-p", "256"], &["`-p' does not take `256'"]);
    refused(&["-L", "-f", "ipx"], &["`-f' does not take `ipx'", "ipv4 or ipv6"]);
}

#[test]
fn unknown_tables_name_those_of_the_command() {
    refused(&["-L", "foo"], &["unknown table `foo' for `-L'", "expect, conntrack, dying and unconfirmed"]);
    refused(&["--stats", "dying"], &["unknown table `dying' for `--stats'", "expect and conntrack"]);
}

#[test]
fn combinations_that_mean_nothing() {
    refused(&["-L", "--event"], &["`-L' and `--event'"]);
    refused(&["-L", "-h"], &["`-L' and `-h'"]);
    refused(&["-o", "xml"], &["no command", "-L, -E"]);
    refused(&["-L", "-e", "NEW"], &["`--event-mask' does not go with `-L': it goes with -E"]);
    refused(&["-V", "-o", "id"], &["`--output' does not go with `-V'"]);
    refused(&["-E", "expect", "-e", "NEW"], &["`--event-mask' does not go with `-E expect'"]);
}

#[test]
fn unknown_verbs_name_those_that_there_are() {
    refused(&["list"], &["unknown verb `list'", "demo, doctor and help"]);
    refused(&["doctor", "--jsn"], &["`doctor' does not take `--jsn'", "--json"]);
    refused(&["help", "--get"], &["`help' does not take `--get'"]);
}

#[test]
fn help_is_no_error() {
    let (code, everything, stderr) = run(&[]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(everything.contains("-L, --dump [TABLE]") && everything.contains("doctor [--json]"), "{everything}");
    for args in [&["-h"][..], &["--help"], &["help"], &["-h", "-p", "tcp"], &["--he"]] {
        assert_eq!(run(args), (0, everything.clone(), String::new()), "{args:?}");
    }
    let (code, output, _) = run(&["help", "-o"]);
    assert!(code == 0 && output.starts_with("-o, --output TYPE[,TYPE...]\n    "), "{output}");
}

#[test]
fn the_version_is_one_line() {
    let line = concat!("ctflow v", env!("CARGO_PKG_VERSION"), "\n");
    for option in ["-V", "--version", "--ver"] {
        assert_eq!(run(&[option]), (0, line.to_owned(), String::new()));
    }
}

/// A directory with the program under another name, removed at the end.
struct Installed(PathBuf);

impl Installed {
    fn as_name(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("ctflow-usage-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        symlink(PROGRAM, directory.join(name)).unwrap();
        Self(directory.join(name))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        fs::remove_dir_all(self.0.parent().unwrap()).unwrap();
    }
}

#[test]
fn called_conntrack_it_behaves_as_conntrack() {
    let conntrack = Installed::as_name("conntrack");
    let run = |args: &[&str]| run_as(&conntrack.0, args);
    assert_eq!(run(&["-V"]), (0, "conntrack v1.4.9 (conntrack-tools)\n".into(), String::new()));
    let (code, help, _) = run(&[]);
    assert!(code == 0 && help.contains("Usage: conntrack") && !help.contains("doctor"), "{help}");
    for words in [&["doctor"][..], &["demo", "--", "-L"], &["help", "me"]] {
        assert_eq!(run(words), (0, help.clone(), String::new()), "words are no verbs");
    }
    let (code, stdout, stderr) = run(&["-L", "foo"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.starts_with("conntrack v1.4.9 (conntrack-tools): unknown table `foo'"), "{stderr}");
    assert!(stderr.ends_with("Try `conntrack --help' for more information.\n"), "{stderr}");
}

/// No panic, and one line that says why there is no more.
#[test]
fn a_closed_pipe_is_told_in_one_line() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let Output { status, stderr, .. } = Command::new(PROGRAM).arg("-h").stdout(writer).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("its reader has gone"), "{text}");
}
