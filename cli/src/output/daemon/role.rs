//! Roles: which side the firewall is on, what a change came to, whether it may take over.

use std::fmt::Write;

use serde_json::Value;

use super::commit_report::commit_report;
use super::document::Document;

/// The role in a status.
pub(crate) fn role_in_status(status: &Value) -> String {
    Document(status).display("role")
}

/// The peers in a status that are primary as this one is; nothing where there are none.
pub(crate) fn split_brain_peers(status: &Value) -> Option<String> {
    Some(Document(status).texts("split_brain").join(", ")).filter(|names| !names.is_empty())
}

/// Why the firewall of a status is not to take over yet; nothing where it may.
pub(crate) fn takeover_blockers(status: &Value) -> Option<String> {
    let status = Document(status);
    (!status.is_true("gate.open")).then(|| match status.texts("gate.waits").join("; ") {
        waits if waits.is_empty() => "the daemon does not say why".to_owned(),
        waits => waits,
    })
}

/// What a change of roles came to, and whether it is complete.
pub(crate) fn role_change_report(document: &Value) -> (String, bool) {
    let shown = Document(document);
    let missing = shown.texts("missing");
    let (role, before) = (shown.display("role"), shown.display("before"));
    if shown.is_true("already") {
        return (format!("{role} already: nothing was done\n"), true);
    }
    let mut text = format!("{role}, {before} before, in {} ms\n", shown.display("took_ms"));
    if let Some(commit) = document.get("committed").filter(|commit| commit.is_object()) {
        let _ = write!(text, "committed: {}", commit_report(commit).0);
    }
    if let Some(flows) = shown.optional_number("internal_flows") {
        let _ = writeln!(text, "internal cache: {flows} flows, as the kernel has them");
    }
    if let Some(purge_in_ms) = shown.optional_number("purge_in_ms") {
        let _ = writeln!(text, "the kernel will be cleared in {} s of what was tracked here", purge_in_ms / 1_000);
    }
    for missing in &missing {
        let _ = writeln!(text, "missing: {missing}");
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
        let told = "primary, backup before, in 45 ms\n\
                    committed: 300 flows created, 2 updated, 1 newer here, 0 expectations, in 20 ms\n\
                    internal cache: 302 flows, as the kernel has them\nmissing: 3 buckets\n";
        assert_eq!((text.as_str(), complete), (told, false));
        let backup = json!({"role": "backup", "before": "primary", "took_ms": 0, "purge_in_ms": 60_000, "missing": []});
        assert!(role_change_report(&backup).0.contains("cleared in 60 s") && role_change_report(&backup).1);
        assert_eq!(
            role_change_report(&json!({"role": "fault", "already": true})).0,
            "fault already: nothing was done\n"
        );
    }

    #[test]
    fn a_closed_gate_has_its_reasons() {
        assert_eq!(takeover_blockers(&json!({"gate": {"open": true, "waits": ["x"]}})), None);
        assert_eq!(takeover_blockers(&json!({"gate": {"open": false, "waits": ["x", "y"]}})).unwrap(), "x; y");
        assert!(takeover_blockers(&json!({})).is_some(), "an older daemon cannot say that it is ready");
        assert_eq!(split_brain_peers(&json!({"split_brain": ["a", "b"]})).unwrap(), "a, b");
        assert_eq!(split_brain_peers(&json!({})), None);
    }
}
