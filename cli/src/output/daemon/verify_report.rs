//! `ctflow sync verify`: the copies of this node's flows on the peers, the copies of the peers' flows here, and
//! whether each is identical to its source.

use std::fmt::Write;

use serde_json::Value;

use super::document::Document;
use crate::text::counted;

/// The report of a verify document, and whether all copies are identical: a line for each peer's copy of this node and
/// for each copy of a peer here, then the result.
pub(crate) fn verify_report(document: &Value) -> (String, bool) {
    let document = Document(document);
    let mut text = String::new();
    for peer in document.list("peers") {
        append_copies(&mut text, document, peer);
    }
    text += result(document);
    (text, document.is_true("agrees"))
}

/// Appends a line for a peer's copy of this node's flows, and one for this node's copy of the peer's flows. A daemon
/// that sends no `held` does not compare its own copies.
fn append_copies(text: &mut String, document: Document<'_>, peer: Document<'_>) {
    let name = peer.display("name");
    if !peer.is_true("answered") {
        let _ = writeln!(text, "{name} did not answer: check its daemon and the links (`ctflow status`)");
        return;
    }
    let here = document.sum("streams", "entries");
    for (key, copy, source) in
        [("streams", format!("{name}'s copy of this node"), Some(here)), ("held", format!("our copy of {name}"), None)]
    {
        if peer.list(key).next().is_none() {
            continue;
        }
        let entries = counted(peer.sum(key, "entries"), "entry", "entries");
        if peer.list(key).all(|stream| stream.is_true("agrees")) {
            let _ = writeln!(text, "{copy} is identical ({entries})");
        } else {
            let parts = peer.list(key).map(|stream| stream.list("differing").count() as u64).sum();
            let source = source.map(|entries| format!(", {entries} here")).unwrap_or_default();
            let _ = writeln!(text, "{copy} differs in {} ({entries}{source})", counted(parts, "part", "parts"));
        }
    }
}

/// The result of all comparisons. Replicas request differing buckets by themselves.
fn result(document: Document<'_>) -> &'static str {
    let differs = |peer: Document<'_>| {
        let mut streams = peer.list("streams").chain(peer.list("held"));
        peer.is_true("answered") && streams.any(|stream| !stream.is_true("agrees"))
    };
    if document.list("peers").next().is_none() {
        "There is no peer to compare with: see `ctflow status`.\n"
    } else if document.is_true("agrees") {
        "All copies are identical.\n"
    } else if document.list("peers").any(differs) {
        "Not all copies are identical. In mode ftfw the parts that differ are sent again; otherwise run `ctflow sync bulk`.\n"
    } else {
        "Not all peers answered.\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_copy_has_its_line() {
        let document = json!({
            "agrees": false,
            "streams": [{"stream": 0, "entries": 5, "digest": "00ab", "seq": 12}],
            "peers": [
                {"name": "fw2", "answered": true, "streams": [
                    {"stream": 0, "entries": 4, "digest": "00aa", "seq": 12, "agrees": false, "differing": [7, 256]},
                    {"stream": 1, "entries": 4, "digest": 17, "seq": 9, "agrees": true, "differing": []}
                ], "held": [{"stream": 0, "entries": 1, "digest": "00cc", "seq": 3, "agrees": true, "differing": []}]},
                {"name": "fw3", "answered": false, "streams": []}
            ]
        });
        let expected = "fw2's copy of this node differs in 2 parts (8 entries, 5 here)
our copy of fw2 is identical (1 entry)
fw3 did not answer: check its daemon and the links (`ctflow status`)
Not all copies are identical. In mode ftfw the parts that differ are sent again; otherwise run `ctflow sync bulk`.
";
        assert_eq!(verify_report(&document), (expected.to_owned(), false));
    }

    #[test]
    fn the_last_line_is_the_result() {
        let (text, agrees) = verify_report(&json!({"agrees": true, "peers": [{"name": "x", "answered": true}]}));
        assert!(agrees && text == "All copies are identical.\n", "{text}");
        let (text, agrees) = verify_report(&json!({"agrees": false, "peers": [{"name": "x", "answered": false}]}));
        assert!(!agrees && text.ends_with("`)\nNot all peers answered.\n"), "{text}");
        assert_eq!(verify_report(&Value::Null).0, "There is no peer to compare with: see `ctflow status`.\n");
        let held = json!([{"stream": 0, "entries": 0, "agrees": false, "differing": [1]}]);
        let (text, _) = verify_report(&json!({"peers": [{"name": "fw1", "answered": true, "held": held}]}));
        assert!(
            text.contains("our copy of fw1 differs in 1 part (0 entries)\nNot all copies are identical. "),
            "{text}"
        );
    }
}
