//! What became of a commit, as text.

use std::fmt::Write;

use serde_json::Value;

use super::document::Document;

/// What was done and what was refused, and how many entries that was.
pub(crate) fn commit_report(document: &Value) -> (String, u64) {
    let shown = Document(document);
    let [created, updated, expectations, took] =
        ["created", "updated", "expectations", "took_ms"].map(|key| shown.display(key));
    let kept = match shown.number("kept") {
        0 => String::new(),
        kept => format!("{kept} newer here, "),
    };
    let mut text =
        format!("{created} flows created, {updated} updated, {kept}{expectations} expectations, in {took} ms\n");
    for (reason, count) in document.get("refused").and_then(Value::as_object).into_iter().flatten() {
        let _ = writeln!(text, "{count} refused: {reason}");
    }
    let unknown = shown.number("unknown_buckets");
    if unknown > 0 {
        let _ = writeln!(text, "flows may be missing: {unknown} buckets of the replicas are not in sync");
    }
    (text, shown.number("failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_commit_report_counts_refused_and_missing_flows() {
        let all = json!({"created": 5, "updated": 2, "expectations": 1, "failed": 0, "refused": {}, "took_ms": 3});
        assert_eq!(commit_report(&all), ("5 flows created, 2 updated, 1 expectations, in 3 ms\n".to_owned(), 0));
        let some = json!({"created": 5, "updated": 2, "expectations": 1, "failed": 4, "refused": {"table full": 4},
            "unknown_buckets": 9, "took_ms": 3});
        let (text, failed) = commit_report(&some);
        assert!(failed == 4 && text.contains("4 refused: table full\n") && text.contains("9 buckets"), "{text}");
    }
}
