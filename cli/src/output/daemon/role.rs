//! Roles: which side the firewall is on, what a change came to, whether it may take over.

use std::fmt::Write;

use serde_json::Value;

use super::commit_report::committed;
use super::document::Document;

/// The role in a status.
pub(crate) fn role(status: &Value) -> String {
    Document(status).shown("role")
}

/// The peers in a status that are primary as this one is; nothing where there are none.
pub(crate) fn rivals(status: &Value) -> Option<String> {
    Some(Document(status).texts("split_brain").join(", ")).filter(|names| !names.is_empty())
}

/// Why the firewall of a status is not to take over yet; nothing where it may.
pub(crate) fn gate(status: &Value) -> Option<String> {
    let status = Document(status);
    (!status.is("gate.open")).then(|| match status.texts("gate.waits").join("; ") {
        waits if waits.is_empty() => "the daemon does not say why".to_owned(),
        waits => waits,
    })
}

/// What a change of roles came to, and whether it is complete.
pub(crate) fn changed(document: &Value) -> (String, bool) {
    let shown = Document(document);
    let missing = shown.texts("missing");
    let (role, before) = (shown.shown("role"), shown.shown("before"));
    if shown.is("already") {
        return (format!("{role} already: nothing was done\n"), true);
    }
    let mut text = format!("{role}, {before} before, in {} ms\n", shown.shown("took_ms"));
    if let Some(commit) = document.get("committed").filter(|commit| commit.is_object()) {
        let _ = write!(text, "committed: {}", committed(commit).0);
    }
    if let Some(flows) = shown.optional("internal_flows") {
        let _ = writeln!(text, "internal cache: {flows} flows, as the kernel has them");
    }
    if let Some(purge_in_ms) = shown.optional("purge_in_ms") {
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
    fn a_change_is_told_step_by_step_and_what_is_missing_in_numbers() {
        let primary = json!({
            "role": "primary", "before": "backup", "took_ms": 45, "internal_flows": 302, "missing": ["3 buckets"],
            "committed": {"created": 300, "updated": 2, "kept": 1, "expectations": 0, "took_ms": 20}
        });
        let (text, complete) = changed(&primary);
        let told = "primary, backup before, in 45 ms\n\
                    committed: 300 flows created, 2 updated, 1 newer here, 0 expectations, in 20 ms\n\
                    internal cache: 302 flows, as the kernel has them\nmissing: 3 buckets\n";
        assert_eq!((text.as_str(), complete), (told, false));
        let backup = json!({"role": "backup", "before": "primary", "took_ms": 0, "purge_in_ms": 60_000, "missing": []});
        assert!(changed(&backup).0.contains("cleared in 60 s") && changed(&backup).1);
        assert_eq!(changed(&json!({"role": "fault", "already": true})).0, "fault already: nothing was done\n");
    }

    #[test]
    fn who_may_not_take_over_hears_why() {
        assert_eq!(gate(&json!({"gate": {"open": true, "waits": ["x"]}})), None);
        assert_eq!(gate(&json!({"gate": {"open": false, "waits": ["x", "y"]}})).unwrap(), "x; y");
        assert!(gate(&json!({})).is_some(), "an older daemon cannot say that it is ready");
        assert_eq!(rivals(&json!({"split_brain": ["a", "b"]})).unwrap(), "a, b");
        assert_eq!(rivals(&json!({})), None);
    }
}
