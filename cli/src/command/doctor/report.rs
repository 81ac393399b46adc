//! Prints findings as text for people and as JSON for programs.
//!
//! The JSON is one object on one line. Its keys are stable; later versions may add keys.
//!
//! ```json
//! {"ready": true, "findings": [{"name": "events", "level": "note", "found": "2: …", "mend": "sysctl …", "value": 2}]}
//! ```
//!
//! `level` is `ok`, `note`, `warning` or `missing`. `mend` is a line for a shell (a comment where no command helps) or
//! null. `value` has what the check measured; it is null if the check measures nothing or the value is unknown:
//!
//! | `name` | `value` |
//! |---|---|
//! | `kernel` | `release`; `lacks`: objects of `what` and `since` |
//! | `build` | `lacks`: names of options; null where the kernel's configuration cannot be read |
//! | `conntrack`, `event_mask` | null |
//! | `netlink` | `count`, `max`, by netlink |
//! | `rights` | `listen`, `force_buffer` |
//! | `events`, `accounting`, `timestamps` | the setting |
//! | `table` | `count`, `max` |
//! | `buckets` | `buckets`, `max` |
//! | `buffer` | `asked_bytes`; `effective_bytes`, `events`, `stall_ms`; `unprivileged_bytes`, `…_events`; `rmem_max` |
//! | `filter` | `instructions`, `optmem_max` |
//! | `io_uring` | `permitted`, `disabled`, `seccomp` |
//! | `namespaces` | `permitted` |

use std::fmt::Write;

use serde_json::{Value, json};

use super::finding::{Finding, missing_count};

/// The widest tag, `MISSING`.
const TAG_WIDTH: usize = 7;

/// Returns a line for each finding, with its remedy in the line below, and the verdict in the last line.
pub(super) fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { name, level, found, mend, .. } in findings {
        let tag = level.tag();
        let _ = writeln!(text, "{tag:TAG_WIDTH$}  {name:width$}  {found}"); // writing to a String cannot fail
        if let Some(mend) = mend {
            let indent = TAG_WIDTH + width + 4;
            let _ = writeln!(text, "{:indent$}{mend}", "");
        }
    }
    let _ = writeln!(text, "{}", verdict(missing_count(findings)));
    text
}

/// Returns the last line: whether the machine is ready.
fn verdict(missing: usize) -> String {
    match missing {
        0 => "ready".into(),
        1 => "not ready: 1 essential thing is missing".into(),
        _ => format!("not ready: {missing} essential things are missing"),
    }
}

/// Returns all findings as one object on one line.
pub(super) fn json(findings: &[Finding]) -> String {
    let list: Vec<Value> = findings.iter().map(object).collect();
    format!("{}\n", json!({ "ready": missing_count(findings) == 0, "findings": list }))
}

/// Returns a finding as an object.
fn object(finding: &Finding) -> Value {
    let Finding { name, level, found, mend, value } = finding;
    json!({ "name": name, "level": level.name(), "found": found, "mend": mend, "value": value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> [Finding; 3] {
        [
            Finding::ok("kernel", "6.18"),
            Finding::missing("events", "0: off").mend("sysctl -w x=1").value(json!(0)),
            Finding::missing("rights", "none"),
        ]
    }

    #[test]
    fn lines_are_aligned_and_end_in_a_verdict() {
        let lines = "ok       kernel  6.18\nMISSING  events  0: off\n                 sysctl -w x=1\n\
                     MISSING  rights  none\nnot ready: 2 essential things are missing\n";
        assert_eq!(text(&findings()), lines);
        assert_eq!(text(&findings()[2..]).lines().last(), Some("not ready: 1 essential thing is missing"));
        assert_eq!(text(&[Finding::warning("table", "full")]), "warn     table  full\nready\n");
    }

    #[test]
    fn json_has_every_key_in_every_finding() {
        let line = json(&findings());
        let object: Value = serde_json::from_str(&line).unwrap();
        assert!(line.ends_with("}\n") && line.lines().count() == 1);
        assert_eq!(object["ready"], false);
        let expected = json!({"name": "kernel", "level": "ok", "found": "6.18", "mend": null, "value": null});
        assert_eq!(object["findings"][0], expected);
        let expected =
            json!({"name": "events", "level": "missing", "found": "0: off", "mend": "sysctl -w x=1", "value": 0});
        assert_eq!(object["findings"][1], expected);
    }
}
