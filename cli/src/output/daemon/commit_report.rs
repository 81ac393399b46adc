//! The result of a commit as text.

use std::fmt::Write;

use serde_json::Value;

use super::document::Document;
use crate::text::counted;

/// The report of a commit's document, one fact to a line, and the number of refused entries.
pub(crate) fn commit_report(document: &Value) -> (String, u64) {
    let commit = Document(document);
    let created = counted(commit.number("created"), "flow", "flows");
    let expectations = counted(commit.number("expectations"), "expectation", "expectations");
    let kept = match commit.number("kept") {
        0 => String::new(),
        kept => format!("{kept} kept (newer here), "),
    };
    let (updated, took) = (commit.number("updated"), commit.display("took_ms"));
    let mut text = format!("{created} created, {updated} updated, {kept}{expectations}, took {took} ms\n");
    for (reason, count) in document.get("refused").and_then(Value::as_object).into_iter().flatten() {
        let _ = writeln!(text, "{count} refused: {reason}");
    }
    let unknown = commit.number("unknown_buckets");
    if unknown > 0 {
        let parts = counted(unknown, "part", "parts");
        let _ =
            writeln!(text, "flows may be missing: {parts} of the peers' flows not received yet; see `ctflow status`");
    }
    (text, commit.number("failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_commit_report_counts_refused_and_missing_flows() {
        let all = json!({"created": 5, "updated": 2, "expectations": 1, "failed": 0, "refused": {}, "took_ms": 3});
        assert_eq!(commit_report(&all), ("5 flows created, 2 updated, 1 expectation, took 3 ms\n".to_owned(), 0));
        let some = json!({"created": 1, "updated": 2, "expectations": 0, "failed": 4, "refused": {"table full": 4},
            "unknown_buckets": 9, "took_ms": 3});
        let (text, failed) = commit_report(&some);
        assert!(text.starts_with("1 flow created, 2 updated, 0 expectations, took 3 ms\n"), "{text}");
        assert!(failed == 4 && text.contains("4 refused: table full\n") && text.contains("9 parts"), "{text}");
    }
}
