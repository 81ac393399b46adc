//! `ctflow sync verify`: both sides of every stream, and whether they agree.

use std::fmt::Write;

use serde_json::Value;

use super::document::Document;

/// Buckets that a line names.
const BUCKETS_NAMED: usize = 8;

/// The table, and whether everything agrees.
pub(crate) fn verify_report(document: &Value) -> (String, bool) {
    let document = Document(document);
    let mut table = String::new();
    line(&mut table, ["node", "stream", "entries", "digest", "seq"], "");
    for stream in document.list("streams") {
        row(&mut table, "this node", stream, "");
    }
    for peer in document.list("peers") {
        let name = peer.display("name");
        if !peer.is_true("answered") {
            line(&mut table, [&name, "-", "-", "-", "-"], "no answer");
            continue;
        }
        for stream in peer.list("streams") {
            row(&mut table, &name, stream, &difference(stream));
        }
    }
    let agrees = document.is_true("agrees");
    let none = document.list("peers").next().is_none();
    table += match (agrees, none) {
        (true, false) => "All replicas agree.\n",
        (_, true) => "There is no peer to compare with.\n",
        (false, false) => "Not all replicas agree; what differs is asked for again.\n",
    };
    (table, agrees)
}

fn row(table: &mut String, node: &str, stream: Document<'_>, verdict: &str) {
    let [number, entries, digest, seq] = ["stream", "entries", "digest", "seq"].map(|key| stream.display(key));
    line(table, [node, &number, &entries, &digest, &seq], verdict);
}

fn line(table: &mut String, [node, stream, entries, digest, seq]: [&str; 5], verdict: &str) {
    let line = format!("{node:<20}{stream:>8}{entries:>12}  {digest:<20}{seq:>12}  {verdict}");
    let _ = writeln!(table, "{}", line.trim_end());
}

fn difference(stream: Document<'_>) -> String {
    if stream.is_true("agrees") {
        return "equal".to_owned();
    }
    let buckets: Vec<_> = stream.list("differing").map(|bucket| bucket.0.to_string()).collect();
    let named = buckets.iter().take(BUCKETS_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match buckets.len() {
        0 => "differs".to_owned(),
        1..=BUCKETS_NAMED => format!("differs in buckets {named}"),
        count => format!("differs in {count} buckets: {named}, …"),
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
                ]},
                {"name": "fw3", "answered": false, "streams": []}
            ]
        });
        let expected = "node                  stream     entries  digest                       seq
this node                  0           5  00ab                          12
fw2                        0           4  00aa                          12  differs in buckets 7, 256
fw2                        1           4  17                             9  equal
fw3                        -           -  -                              -  no answer
Not all replicas agree; what differs is asked for again.
";
        assert_eq!(verify_report(&document), (expected.to_owned(), false));
        let (text, agrees) = verify_report(&json!({"agrees": true, "peers": [{"name": "x", "answered": true}]}));
        assert!(agrees && text.ends_with("All replicas agree.\n"), "{text}");
        assert!(verify_report(&Value::Null).0.ends_with("no peer to compare with.\n"));
        let many = json!({"agrees": false, "differing": (0..20).collect::<Vec<_>>()});
        assert_eq!(difference(Document(&many)), "differs in 20 buckets: 0, 1, 2, 3, 4, 5, 6, 7, …");
    }
}
