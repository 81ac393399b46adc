//! Counters: each is counted somewhere, and the status document has it or its documentation states that it does not.
//!
//! The structs of counters are known by name. A counter is counted where production code adds to a place of its name or
//! stores one there, and is in the status document where the engine's server reads it through one of the receivers
//! listed with its struct.

use super::{Source, sources, split_tests};

/// The statement of a counter that the status document does not have.
const NOT_REPORTED: &str = "Not in the status document.";

/// A struct of counters.
struct Struct {
    /// The folder whose crate has it.
    folder: &'static str,
    /// The line that opens its list of fields.
    opening: &'static str,
    /// The names through which the server reads it.
    receivers: &'static [&'static str],
}

const STRUCTS: &[Struct] = &[
    Struct { folder: "engine/src/", opening: "counters! {", receivers: &["totals"] },
    Struct { folder: "engine/src/", opening: "pub struct Changes {", receivers: &["status.changes"] },
    Struct { folder: "engine/src/", opening: "pub struct Traffic {", receivers: &["link.traffic"] },
    Struct { folder: "engine/src/", opening: "pub struct Tally {", receivers: &["tally"] },
    Struct { folder: "replicate/src/", opening: "pub struct Refusals {", receivers: &["refusals"] },
    Struct { folder: "replicate/src/", opening: "pub struct Counters {", receivers: &["node.counters"] },
    Struct { folder: "replicate/src/", opening: "pub struct ReceiveCounters {", receivers: &["counters"] },
];

/// A field of a struct of counters.
struct Counter {
    name: String,
    doc: String,
    /// Where it is defined.
    place: String,
}

/// The counters of a struct: its fields that are numbers.
fn counters(files: &[Source], of: &Struct) -> Vec<Counter> {
    let mut found = Vec::new();
    for Source { path, text } in files.iter().filter(|file| file.path.starts_with(of.folder)) {
        let mut doc = String::new();
        let behind = (1..).zip(text.lines()).skip_while(|(_, line)| *line != of.opening).skip(1);
        for (number, line) in behind.take_while(|(_, line)| *line != "}") {
            let line = line.trim();
            if let Some(part) = line.strip_prefix("///") {
                doc += part;
                continue;
            }
            let field = line.strip_prefix("pub ").unwrap_or(line);
            if let Some(name) = field.strip_suffix(": u64,").or(field.strip_suffix(',').filter(|name| is_name(name))) {
                found.push(Counter { name: name.into(), doc: doc.clone(), place: format!("{path}:{number}") });
            }
            doc.clear();
        }
    }
    assert!(found.len() > 1, "no counters below {} after {:?}", of.folder, of.opening);
    found
}

fn is_name(text: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
}

/// Returns whether `line` has `name` as a whole word.
fn has_word(line: &str, name: &str) -> bool {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == name)
}

/// Returns whether `line` adds to a place called `name`, or stores a number there.
fn counts(line: &str, name: &str) -> bool {
    let is_sum_of_sums = line.contains("+= other.");
    let stored = line.split_once(" += ").or_else(|| line.split_once(" = ")).map(|(place, _)| place);
    let place = stored.or_else(|| line.split_once(".fetch_add(").map(|(place, _)| place));
    !is_sum_of_sums && place.is_some_and(|place| !place.contains("let ") && has_word(place, name))
}

#[test]
fn counting_is_recognized() {
    for line in ["self.flows += 1;", "*flows += 1;", "(self.flows, a) = b;", "Some(x) => counts.flows += 1,"] {
        assert!(counts(line, "flows"), "{line}");
    }
    for line in ["self.flows += other.flows;", "a += self.flows;", "let flows = 1;", "flows: 1,", "self.flows_max = 1;"]
    {
        assert!(!counts(line, "flows"), "{line}");
    }
}

#[test]
fn every_counter_is_counted_and_reported() {
    let files =
        sources(|path| path.ends_with(".rs") && (path.starts_with("engine/src") || path.starts_with("replicate/src")));
    let production = files.iter().flat_map(|file| split_tests(file).0.into_iter().map(|(_, line)| (&file.path, line)));
    let lines: Vec<_> = production.collect();
    let mut found = Vec::new();
    for of in STRUCTS {
        for Counter { name, doc, place } in counters(&files, of) {
            if !lines.iter().any(|(_, line)| counts(line, &name)) {
                found.push(format!("{place}: nothing counts {name}"));
            }
            let reads = |line: &str| {
                of.receivers.iter().any(|receiver| {
                    line.split(&format!("{receiver}.{name}"))
                        .skip(1)
                        .any(|rest| !rest.starts_with(|next: char| next == '_' || next.is_alphanumeric()))
                })
            };
            let is_reported = lines.iter().any(|(path, line)| path.starts_with("engine/src/server/") && reads(line));
            if is_reported == doc.contains(NOT_REPORTED) {
                let whether = if is_reported { "it is" } else { "state in its documentation:" };
                found.push(format!("{place}: {name}: {whether} {NOT_REPORTED}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
