//! Kernel tests in namespaces of their own, under `cargo test` and `cargo nextest`, with root or without.
//!
//! A test runner's process has many threads, so it cannot enter a user namespace. The test therefore starts the test
//! program a second time, inside fresh namespaces, with arguments that select this one test; its body runs there. Since
//! each test has a namespace of its own, tests never see each other's flows and may change any setting.
//!
//! ```ignore
//! #[test]
//! fn a_new_network_has_no_flows() {
//!     ctflow_lab::isolated!({
//!         assert_eq!(ctflow_lab::sysctl::flow_count().unwrap(), 0);
//!     });
//! }
//! ```
#![allow(clippy::panic)] // a panic is the only way to report a failure to a test runner

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use super::error::LabError;
use ctflow_engine::sys::namespace;

/// The environment variable that names the test to the second run.
const VARIABLE: &str = "CTFLOW_ISOLATED_TEST";
/// A test that takes longer than this is killed.
const LONGEST: Duration = Duration::from_secs(120);
/// The interval at which a running test is polled.
const TICK: Duration = Duration::from_millis(5);
/// How much of the end of a failed test's output is printed.
const SHOWN_BYTES: u64 = 64 * 1024;

/// Runs the block inside namespaces of its own: `isolated!({ … })`, as the only statement of a test.
///
/// The macro derives the test's name from the path of a function that it defines; see [`isolated`].
#[macro_export]
macro_rules! isolated {
    ($body:block) => {{
        fn here() {}
        let test = $crate::isolated::test_path(::std::any::type_name_of_val(&here));
        $crate::isolated::isolated(test, || $body);
    }};
}

/// Returns the value of a `Result` inside the calling test. Where there is none the test ends, as [`skip`] states it,
/// with the error as the reason.
#[macro_export]
macro_rules! or_skip {
    ($needed:expr) => {
        match $needed {
            Ok(needed) => needed,
            Err(why) => return $crate::isolated::skip(&why),
        }
    };
}

/// Reports that the calling test cannot run on this machine, and why: with a line on standard error, or with a failure
/// where `CI` is set. The caller returns. It is the only way to leave out a test (`cli/tests/tree/skips.rs`).
///
/// # Panics
/// With `CI` set.
#[track_caller]
pub fn skip(why: &dyn Display) {
    let thread = std::thread::current(); // the test runner names it after the test
    let test = thread.name().unwrap_or("a test");
    assert!(std::env::var_os("CI").is_none(), "{test} cannot run: {why}");
    eprintln!("skipped: {test}: {why}");
}

/// Returns the test runner's name of a test from the path of a function inside it: the path without crate and function.
#[must_use]
pub fn test_path(inner: &str) -> &str {
    let outer = inner.rsplit_once("::").map_or(inner, |(outer, _)| outer);
    outer.split_once("::").map_or(outer, |(_, test)| test)
}

/// Runs `body` inside user and network namespaces of its own, as root there. `test` is the test runner's name of the
/// calling test; a wrong name fails.
///
/// Where namespaces are forbidden, the test does not run, as [`skip`] states it.
///
/// # Panics
/// When the test fails, does not run exactly once, hangs, or cannot be started.
pub fn isolated(test: &str, body: impl FnOnce()) {
    match std::env::var(VARIABLE) {
        Ok(meant) => {
            assert_eq!(meant, test, "started for another test: its name or its call of isolated! is wrong");
            body();
            println!("\n{}", done_line(test));
        }
        Err(_) => rerun_isolated(test),
    }
}

/// The line that proves that the body of `test` ran to its end.
fn done_line(test: &str) -> String {
    format!("isolated {test}: done")
}

/// Runs the test in a second process, and checks that it ran and succeeded.
fn rerun_isolated(test: &str) {
    match spawn_isolated(test) {
        Ok((child, output)) => check_child(test, child, output),
        Err(error @ LabError::Forbidden(_)) => skip(&error),
        Err(error) => panic!("{test} cannot run: {error}"),
    }
}

/// Starts the second run. Its standard output and error go to one file in memory, which never blocks the writer and
/// keeps their order.
fn spawn_isolated(test: &str) -> Result<(Child, File), LabError> {
    let failed = |error| LabError::system("prepare the second run of the test program", error);
    let program = std::env::current_exe().map_err(failed)?;
    let output: File = memfd_create(c"isolated", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?.into();
    let mut command = Command::new(program);
    command
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(failed)?)
        .stderr(output.try_clone().map_err(failed)?);
    let child = namespace::start_in_private_network(&mut command).spawn().map_err(LabError::enter_failed)?;
    Ok((child, output))
}

/// Waits for the second run, prints its output, and panics unless `test` ran exactly once and succeeded.
fn check_child(test: &str, mut child: Child, mut output: File) {
    let status = wait_or_kill(&mut child, LONGEST);
    let text = tail(&mut output).unwrap_or_else(|error| format!("(its output cannot be read: {error})"));
    print!("{text}"); // the runner shows it if the test fails
    match status {
        Ok(Some(status)) => assert!(status.success(), "{test} failed in its namespaces, see its output above"),
        Ok(None) => panic!("{test} was killed: it took longer than {LONGEST:?}"),
        Err(error) => panic!("{test} cannot be waited for: {error}"),
    }
    let once = text.lines().filter(|line| *line == done_line(test)).count() == 1;
    assert!(once, "{test} did not run in its namespaces: the test program knows no test of this name");
}

/// Waits for the child at most `longest`. Returns `None` when the child took longer and was killed.
fn wait_or_kill(child: &mut Child, longest: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    while started.elapsed() < longest {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(TICK);
    }
    child.kill()?;
    child.wait().map(|_| None)
}

/// Returns the last [`SHOWN_BYTES`] of the output.
fn tail(output: &mut File) -> io::Result<String> {
    let length = output.metadata()?.len();
    output.seek(io::SeekFrom::Start(length.saturating_sub(SHOWN_BYTES)))?;
    let mut bytes = Vec::new();
    output.take(SHOWN_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn the_runners_name_of_a_test_is_found() {
        assert_eq!(test_path("ctflow_lab::tests::works::here"), "tests::works");
        assert_eq!(test_path("integration::works::here"), "works");
    }

    #[test]
    fn a_wrong_name_fails() {
        or_skip!(crate::probe());
        let panic = catch_unwind(|| isolated("isolated::tests::no_such_test", || {})).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("knows no test of this name"), "{text}");
    }

    #[test]
    fn a_failure_inside_fails_outside() {
        const TEST: &str = "isolated::tests::a_failure_inside_fails_outside";
        if std::env::var_os(VARIABLE).is_some() {
            return isolated(TEST, || panic!("inside"));
        }
        or_skip!(crate::probe());
        let panic = catch_unwind(|| isolated(TEST, || {})).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("failed in its namespaces"), "{text}");
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        assert_eq!(wait_or_kill(&mut child, Duration::from_millis(50)).unwrap(), None);
        assert!(child.try_wait().unwrap().is_some(), "killed and waited for");
    }
}
