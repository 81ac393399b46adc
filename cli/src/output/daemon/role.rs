//! Roles as text: the node's role, the report of a role change, and the reasons against a takeover.

use std::fmt::Write;

use serde_json::Value;

use super::commit_report::commit_report;
use super::document::Document;
use crate::text::counted;

/// The role in a status document: `none`, `primary`, `backup` or `fault`; `-` without replication.
pub(crate) fn role_in_status(status: &Value) -> String {
    Document(status).display("role")
}

/// Which peers of a status document are primary while this node is, and what to do; `None` without a split brain.
pub(crate) fn split_brain(status: &Value) -> Option<String> {
    let names = Document(status).texts("split_brain");
    let verb = if names.len() == 1 { "is" } else { "are" };
    let names = Some(names.join(", ")).filter(|names| !names.is_empty())?;
    Some(format!("{names} {verb} primary, too; run `ctflow role backup` on all nodes but one and check the links"))
}

/// The reasons in a status document why this node should not take over yet; `None` if it may.
pub(crate) fn takeover_blockers(status: &Value) -> Option<String> {
    let status = Document(status);
    (!status.is_true("gate.open")).then(|| match status.texts("gate.waits").join("; ") {
        reasons if reasons.is_empty() => "the daemon sent no reason".to_owned(),
        reasons => reasons,
    })
}

/// The report of a role change's document, one step to a line, and whether the change is complete.
pub(crate) fn role_change_report(document: &Value) -> (String, bool) {
    let change = Document(document);
    let missing = change.texts("missing");
    let role = change.display("role");
    if change.is_true("already") {
        return (format!("already {role}: nothing was done\n"), true);
    }
    let before = change.display("before");
    let before = if before == "none" { "no role" } else { before.as_str() };
    let mut text = format!("now {role} (was: {before}), took {} ms\n", change.display("took_ms"));
    if let Some(commit) = document.get("committed").filter(|commit| commit.is_object()) {
        let _ = write!(text, "committed: {}", commit_report(commit).0);
    }
    if let Some(flows) = change.optional_number("internal_flows") {
        let _ = writeln!(text, "cache matches the kernel: {}", counted(flows, "flow", "flows"));
    }
    if let Some(purge_in_ms) = change.optional_number("purge_in_ms") {
        let _ = writeln!(
            text,
            "the flows tracked by this node are deleted from the kernel in {} s, unless it becomes primary before",
            purge_in_ms / 1_000
        );
    }
    for reason in &missing {
        let _ = writeln!(text, "incomplete: {reason}");
    }
    (text, missing.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_role_change_report_lists_its_steps_and_what_is_missing() {
        let primary = json!({
            "role": "primary", "before": "backup", "took_ms": 45, "internal_flows": 302, "missing": ["3 buckets"],
            "committed": {"created": 300, "updated": 2, "kept": 1, "expectations": 0, "took_ms": 20}
        });
        let (text, complete) = role_change_report(&primary);
        let expected = "now primary (was: backup), took 45 ms\n\
                        committed: 300 flows created, 2 updated, 1 kept (newer here), 0 expectations, took 20 ms\n\
                        cache matches the kernel: 302 flows\nincomplete: 3 buckets\n";
        assert_eq!((text.as_str(), complete), (expected, false));
        let first = json!({"role": "primary", "before": "none", "took_ms": 177, "internal_flows": 1, "missing": []});
        let expected = "now primary (was: no role), took 177 ms\ncache matches the kernel: 1 flow\n";
        assert_eq!(role_change_report(&first), (expected.to_owned(), true));
        let backup = json!({"role": "backup", "before": "primary", "took_ms": 0, "purge_in_ms": 60_000, "missing": []});
        let (text, complete) = role_change_report(&backup);
        assert!(text.contains("deleted from the kernel in 60 s") && complete, "{text}");
        let already = json!({"role": "fault", "already": true});
        assert_eq!(role_change_report(&already).0, "already fault: nothing was done\n");
    }

    #[test]
    fn a_closed_gate_has_its_reasons() {
        assert_eq!(takeover_blockers(&json!({"gate": {"open": true, "waits": ["x"]}})), None);
        assert_eq!(takeover_blockers(&json!({"gate": {"open": false, "waits": ["x", "y"]}})).unwrap(), "x; y");
        assert!(takeover_blockers(&json!({})).is_some(), "an older daemon sends no gate");
        assert!(split_brain(&json!({"split_brain": ["a", "b"]})).unwrap().starts_with("a, b are primary, too; run "));
        assert!(split_brain(&json!({"split_brain": ["a"]})).unwrap().starts_with("a is primary, too; run "));
        assert_eq!(split_brain(&json!({})), None);
    }
}
