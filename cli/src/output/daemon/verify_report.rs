//! `ctflow sync verify`: the copies of this node's flows on the peers, the copies of the peers' flows here, and
//! whether each is identical to its source.

use std::fmt::Write;

use serde_json::Value;

use super::document::Document;
use crate::text::counted;

/// Buckets that a line lists at most.
const BUCKETS_LISTED: usize = 8;

/// The report of a verify document, and whether all copies are identical: a line for each peer's copy and for each copy
/// of a peer, and the result. If they are not identical, a table of this node's streams here and on the peers comes
/// first.
pub(crate) fn verify_report(document: &Value) -> (String, bool) {
    let document = Document(document);
    let agrees = document.is_true("agrees");
    let mut text = String::new();
    if !agrees && document.list("peers").next().is_some() {
        append_table(&mut text, document);
    }
    for peer in document.list("peers") {
        append_copies(&mut text, peer);
    }
    text += result(document);
    (text, agrees)
}

/// Appends the table of this node's streams, here and on each peer.
fn append_table(text: &mut String, document: Document<'_>) {
    append_line(text, ["node", "stream", "entries", "digest", "seq"], "");
    for stream in document.list("streams") {
        append_stream(text, "this node", stream, "");
    }
    for peer in document.list("peers") {
        let name = peer.display("name");
        if !peer.is_true("answered") {
            append_line(text, [&name, "-", "-", "-", "-"], "no answer");
            continue;
        }
        for stream in peer.list("streams") {
            append_stream(text, &name, stream, &difference(stream));
        }
    }
    text.push('\n');
}

/// Appends a table line of one stream.
fn append_stream(text: &mut String, node: &str, stream: Document<'_>, difference: &str) {
    let [number, entries, digest, seq] = ["stream", "entries", "digest", "seq"].map(|key| stream.display(key));
    append_line(text, [node, &number, &entries, &digest, &seq], difference);
}

/// Appends a table line.
fn append_line(text: &mut String, [node, stream, entries, digest, seq]: [&str; 5], difference: &str) {
    let line = format!("{node:<20}{stream:>8}{entries:>12}  {digest:<20}{seq:>12}  {difference}");
    let _ = writeln!(text, "{}", line.trim_end());
}

/// Appends a line for a peer's copy of this node's flows, and one for this node's copy of the peer's flows.
/// A daemon that sends no `held` does not compare its own copies.
fn append_copies(text: &mut String, peer: Document<'_>) {
    let name = peer.display("name");
    if !peer.is_true("answered") {
        let _ = writeln!(text, "{name} did not answer: see `ctflow status`");
        return;
    }
    for (key, copy) in [("streams", format!("{name}'s copy of this node")), ("held", format!("our copy of {name}"))] {
        if peer.list(key).next().is_none() {
            continue;
        }
        let is_identical = peer.list(key).all(|stream| stream.is_true("agrees"));
        let verb = if is_identical { "is identical" } else { "differs" };
        let _ = writeln!(text, "{copy} {verb} ({})", counted(peer.sum(key, "entries"), "entry", "entries"));
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
        "Not all copies are identical: the parts that differ are sent again.\n"
    } else {
        "Not all peers answered.\n"
    }
}

/// Whether a stream's copy is identical; if not, the differing buckets.
fn difference(stream: Document<'_>) -> String {
    if stream.is_true("agrees") {
        return "identical".to_owned();
    }
    let buckets: Vec<_> = stream.list("differing").map(|bucket| bucket.0.to_string()).collect();
    let listed = buckets.iter().take(BUCKETS_LISTED).cloned().collect::<Vec<_>>().join(", ");
    match buckets.len() {
        0 => "differs".to_owned(),
        1 => format!("differs in part {listed}"),
        2..=BUCKETS_LISTED => format!("differs in parts {listed}"),
        count => format!("differs in {count} parts: {listed}, …"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_has_both_sides_of_every_stream() {
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
        let expected = "node                  stream     entries  digest                       seq
this node                  0           5  00ab                          12
fw2                        0           4  00aa                          12  differs in parts 7, 256
fw2                        1           4  17                             9  identical
fw3                        -           -  -                              -  no answer

fw2's copy of this node differs (8 entries)
our copy of fw2 is identical (1 entry)
fw3 did not answer: see `ctflow status`
Not all copies are identical: the parts that differ are sent again.
";
        assert_eq!(verify_report(&document), (expected.to_owned(), false));
    }

    #[test]
    fn the_last_line_is_the_result() {
        let (text, agrees) = verify_report(&json!({"agrees": true, "peers": [{"name": "x", "answered": true}]}));
        assert!(agrees && text == "All copies are identical.\n", "{text}");
        let (text, agrees) = verify_report(&json!({"agrees": false, "peers": [{"name": "x", "answered": false}]}));
        assert!(!agrees && text.ends_with("\nNot all peers answered.\n"), "{text}");
        assert_eq!(verify_report(&Value::Null).0, "There is no peer to compare with: see `ctflow status`.\n");
        let held = json!([{"stream": 0, "entries": 0, "agrees": false, "differing": [1]}]);
        let (text, _) = verify_report(&json!({"peers": [{"name": "fw1", "answered": true, "held": held}]}));
        assert!(text.contains("\nour copy of fw1 differs (0 entries)\nNot all copies are identical: "), "{text}");
    }

    #[test]
    fn a_difference_lists_the_first_buckets() {
        let of = |buckets: std::ops::Range<u16>| {
            difference(Document(&json!({"agrees": false, "differing": buckets.collect::<Vec<_>>()})))
        };
        assert_eq!(of(0..0), "differs");
        assert_eq!(of(7..8), "differs in part 7");
        assert_eq!(of(0..20), "differs in 20 parts: 0, 1, 2, 3, 4, 5, 6, 7, …");
    }
}
