//! The real program, run as a user runs it.

use std::path::Path;
use std::process::{Command, Output};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");

/// Exit code, standard output and standard error of the program under the name that `program` has.
pub(crate) fn run_as(program: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(program).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Likewise under its own name.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    run_as(Path::new(PROGRAM), args)
}
