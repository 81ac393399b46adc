//! `ctflow demo`, as the README shows it. Alone in its test program, so that no other test takes its cores.
#![allow(clippy::unwrap_used, clippy::panic)] // tests may fail by both

use std::process::Command;
use std::time::Instant;

#[test]
fn the_demo_captures_every_event_and_loses_no_connection() {
    ctflow_lab::or_skip!(ctflow_lab::probe());
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_ctflow")).arg("demo").env("COLUMNS", "60").output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
    let number = |start: &str| {
        let line =
            stdout.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{start}: {stdout}"));
        line.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(stdout.lines().any(|line| line == "lost: 0"), "{stdout}");
    assert!(stdout.lines().any(|line| line == "survived: 26 of 26"), "{stdout}");
    assert!(number("longest silence: ") >= 300, "the detection alone takes 300 ms: {stdout}");
    // At least one NEW, one UPDATE and one DESTROY event for each flow.
    assert!(number("events captured: ") > 3 * number("flows: ") && number("flows: ") > 1_000, "{stdout}");
    let is_new =
        |line: &str| line.starts_with("    [NEW] tcp SYN_SENT    192.0.2.2:") && line.ends_with(" -> 192.0.2.1:9000");
    assert!(stdout.lines().any(is_new), "{stdout}");
    assert!(stdout.contains(" ms  fw2 took over in "), "{stdout}");
    assert!(stdout.lines().rev().take(3).all(|line| line.starts_with("  ctflow ")), "three things to try: {stdout}");
    assert!(stdout.lines().all(|line| line.chars().count() <= 60), "every line fits the terminal: {stdout}");
}
