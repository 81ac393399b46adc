//! `ctflow doctor` on this kernel, in private networks.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, but not in their helpers

use std::process::{Command, Output};

use ctflow_lab::{Lab, or_skip, sysctl};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");

fn doctor(args: &[&str]) -> (i32, String, String) {
    read(Command::new(PROGRAM).arg("doctor").args(args).output().unwrap())
}

fn read(Output { status, stdout, stderr }: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Returns the finding with this name.
fn finding(name: &str) -> Value {
    let (_, stdout, _) = doctor(&["--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    report["findings"].as_array().unwrap().iter().find(|finding| finding["name"] == name).unwrap().clone()
}

/// Runs the command of a finding. Returns why this machine cannot.
fn run_mend(finding: &Value) -> Result<(), String> {
    let command = finding["mend"].as_str().unwrap();
    let program = command.split(' ').next().unwrap();
    Command::new(program).arg("--version").output().map_err(|error| format!("{program}: {error}"))?;
    let (code, _, stderr) = read(Command::new("/bin/sh").args(["-c", command]).output().unwrap());
    assert_eq!(code, 0, "{command}: {stderr}");
    Ok(())
}

#[test]
fn a_private_network_is_ready() {
    ctflow_lab::isolated!({
        Lab::enter().unwrap();
        let (code, stdout, stderr) = doctor(&[]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        assert_eq!(stdout.lines().last(), Some("ready"));
        assert!(stdout.lines().any(|line| line.starts_with("ok       netlink ")), "{stdout}");
    });
}

#[test]
fn disabled_events_are_not_ready_until_enabled() {
    ctflow_lab::isolated!({
        Lab::enter().unwrap();
        sysctl::write("net/netfilter/nf_conntrack_events", "0").unwrap();
        let (code, stdout, stderr) = doctor(&[]);
        assert_eq!((code, stderr.as_str()), (1, ""), "{stdout}");
        assert_eq!(stdout.lines().last(), Some("not ready: 1 essential thing is missing"));
        let after: Vec<_> = stdout.lines().skip_while(|line| !line.starts_with("MISSING  events ")).collect();
        assert_eq!(after[1].trim_start(), "sysctl -w net.netfilter.nf_conntrack_events=1");
        or_skip!(run_mend(&finding("events")));
        assert_eq!(doctor(&[]).0, 0);
    });
}

#[test]
fn json_has_the_documented_keys() {
    ctflow_lab::isolated!({
        Lab::enter().unwrap();
        let (code, stdout, _) = doctor(&["--json"]);
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &report["ready"]), (0, &Value::Bool(true)));
        assert_eq!(report.as_object().unwrap().len(), 2);
        let findings = report["findings"].as_array().unwrap();
        for finding in findings {
            let keys: Vec<_> = finding.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["found", "level", "mend", "name", "value"], "{finding}");
            assert!(["ok", "note", "warning"].contains(&finding["level"].as_str().unwrap()), "{finding}");
        }
        let names: Vec<_> = findings.iter().map(|finding| finding["name"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "kernel",
                "build",
                "conntrack",
                "netlink",
                "rights",
                "events",
                "accounting",
                "timestamps",
                "table",
                "buckets",
                "buffer",
                "filter",
                "io_uring",
                "namespaces",
                "event_mask"
            ]
        );
    });
}

#[test]
fn printed_commands_run_as_printed() {
    ctflow_lab::isolated!({
        Lab::enter().unwrap();
        for name in ["accounting", "timestamps", "events"] {
            sysctl::write(&format!("net/netfilter/nf_conntrack_{}", setting(name)), off(name)).unwrap();
            or_skip!(run_mend(&finding(name)));
            assert_eq!(finding(name)["level"], "ok", "{name}");
        }
        for name in ["table", "event_mask"] {
            or_skip!(run_mend(&finding(name))); // the level stays: the table is still empty, and the check does not read rules
        }
    });
}

fn setting(finding: &str) -> &str {
    match finding {
        "accounting" => "acct",
        "timestamps" => "timestamp",
        other => other,
    }
}

fn off(finding: &str) -> &str {
    if finding == "events" { "2" } else { "0" }
}

#[test]
fn without_rights_it_prints_how_to_get_them() {
    ctflow_lab::isolated!({
        Lab::enter().unwrap();
        let without_rights = ["--bounding-set=-all", "--inh-caps=-all", PROGRAM, "doctor"];
        let (code, stdout, stderr) = read(Command::new("setpriv").args(without_rights).output().unwrap());
        assert_eq!((code, stderr.as_str()), (1, ""), "{stdout}");
        assert_eq!(stdout.lines().last(), Some("not ready: 1 essential thing is missing"), "{stdout}");
        let after: Vec<_> = stdout.lines().skip_while(|line| !line.starts_with("MISSING  rights ")).collect();
        assert!(after[1].trim_start().starts_with("setcap cap_net_admin+ep "), "{stdout}");
    });
}
