//! Public items: what nothing outside a crate uses is not public.
//!
//! The test goes by names alone. An item is used if its name stands in a file of another crate, or in a test, example,
//! bench or fuzz target. A type is also used if another public line of its crate names it, the result of a function there,
//! or an associated type: callers have its values, though they need not name it. The parser is a library for others and exempt.

use std::collections::HashSet;

use super::{sources, split_tests};

/// The crates whose items are examined, by the folder of their sources.
const CRATES: &[&str] = &["engine/src/"];

/// Public items that nothing outside uses, and why they are public: the item with public documentation that links to it.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("DUMP_PARTS_AHEAD", "ReadAhead"),
    ("EXPECTATIONS_MAX", "Counts::expectations_refused"),
    ("INTERRUPTS", "TooMany"),
    ("LINK_TOKENS", "Links::open"),
    ("PAYLOAD_BYTES_MAX", "Length"),
    ("STAGE_ANSWER_MAX", "NoAnswer"),
    ("WORKERS_DEFAULT_MAX", "Settings::default"),
    ("try_read", "NotYet"),
];

/// The words of a text: names, numbers and keywords.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

/// The kind and the name of the public item that a line defines.
fn public_item(line: &str) -> Option<(&str, &str)> {
    let mut words = words(line.trim_start().strip_prefix("pub ")?).peekable();
    while words.next_if(|word| ["unsafe", "async"].contains(word)).is_some() {}
    let kind = words.next()?;
    let kind = if kind == "const" { words.next_if_eq(&"fn").unwrap_or(kind) } else { kind };
    ["fn", "struct", "enum", "const", "static", "trait", "type"].contains(&kind).then_some((kind, words.next()?))
}

/// Returns whether callers of the crate may have a value of the type `name`, as far as lines show it.
fn is_in_public_line(lines: &[&str], name: &str) -> bool {
    let starts = |line: &str| line.trim_start().starts_with("pub ") || line.trim_start().starts_with("type ");
    let is_public = |line: &str| starts(line) || line.contains("-> ");
    let defines = |line: &str| public_item(line).is_some_and(|(kind, item)| kind != "fn" && item == name);
    lines.iter().any(|line| is_public(line) && !defines(line) && words(line).any(|word| word == name))
}

#[test]
fn definitions_are_recognized() {
    for (line, item) in [
        ("    pub fn read<T>(&self)", Some(("fn", "read"))),
        ("pub const fn new() -> Self {", Some(("fn", "new"))),
        ("pub const LINKS: usize = 8;", Some(("const", "LINKS"))),
        ("pub unsafe fn map()", Some(("fn", "map"))),
        ("pub struct Shard {", Some(("struct", "Shard"))),
        ("pub(crate) fn read()", None),
        ("    pub flows: u64,", None),
    ] {
        assert_eq!(public_item(line), item, "{line}");
    }
}

#[test]
fn every_public_item_is_used_outside() {
    let files = sources(|path| path.ends_with(".rs") && !path.starts_with("cli/tests/tree/"));
    let mut found = Vec::new();
    let mut unused: Vec<_> = EXCEPTIONS.iter().map(|(item, _)| *item).collect();
    for folder in CRATES {
        let (own, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.path.starts_with(folder));
        let outside: HashSet<&str> = others.iter().flat_map(|file| words(&file.text)).collect();
        let lines: Vec<_> = own
            .iter()
            .flat_map(|file| split_tests(file).0.into_iter().map(move |(number, line)| (&file.path, number, line)))
            .collect();
        let texts: Vec<_> = lines.iter().map(|(.., line)| *line).collect();
        for (path, number, line) in lines {
            let Some((kind, name)) = public_item(line) else { continue };
            let is_type = ["struct", "enum", "type"].contains(&kind);
            let is_used = outside.contains(name) || is_type && is_in_public_line(&texts, name);
            if !is_used && !EXCEPTIONS.iter().any(|(item, _)| *item == name) {
                found.push(format!("{path}:{number}: {kind} {name}"));
            } else if !is_used {
                unused.retain(|item| *item != name);
            }
        }
    }
    assert!(found.is_empty(), "{} items, write pub(crate) or remove them:\n{}", found.len(), found.join("\n"));
    assert!(unused.is_empty(), "exceptions that nothing needs any more: {unused:?}");
}
