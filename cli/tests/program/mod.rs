//! The real program, run as a user runs it.

use std::path::Path;
use std::process::{Command, Output};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");

/// Runs the program by the name that `program` has. Returns exit code, standard output and standard error.
pub(crate) fn run_as(program: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(program).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Runs the program by its own name, as [`run_as`] does.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    run_as(Path::new(PROGRAM), args)
}
