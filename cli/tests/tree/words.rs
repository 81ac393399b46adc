//! Words: code, documents and output use the field's words, one for one thing.
//!
//! `GLOSSARY.md` has the words to use. This test has those that the tree does not use, since they mean too many things
//! or are nobody's but ours. It splits identifiers at underscores and capitals, so that `last_heard_ms` and `HeardOf`
//! are words like others.

use std::collections::BTreeMap;

use super::{Source, sources};

/// Families of words that are not used, each with what to write instead.
const REFUSED: &[(&[&str], &str)] = &[
    (&["tell", "tells", "told", "telling", "teller"], "send, report, notify, return"),
    (&["hear", "hears", "heard", "hearing", "hearer"], "receive"),
    (&["wish", "wishes", "wished", "wishing"], "request"),
    (&["heed", "heeds", "heeded", "heeding"], "accept, handle, apply"),
    (&["untold"], "unreported"),
    (&["doubt", "doubts", "doubted"], "stale"),
    (&["likewise"], "repeat what is meant"),
];

/// Phrases that are not used, in lower case.
const REFUSED_PHRASES: &[(&str, &str)] =
    &[("lack of", "is missing"), ("lacks of", "is missing"), ("it lacks", "it is missing"), ("we lack", "is missing")];

/// Texts that may hold a refused word, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("last_heard_ms", "a key of the status document"),
    ("told_bytes_per_flow", "a key of the benchmark's document"),
    ("unheard_flows_per_second", "a key of the benchmark's document"),
    ("heard_flows_per_second", "a key of the benchmark's document"),
];

/// Words that are right of people and of std, but vague of machines, each with the number of places that may have it.
/// They must not take the place of the refused ones.
const RARE: &[(&[&str], usize)] = &[
    (&["say", "says", "said", "saying"], 30),
    (&["give", "gives", "given", "gave", "giving"], 200),
    (&["take", "takes", "taken", "took", "taking"], 570),
    (&["ask", "asks", "asked", "asking"], 30),
    (&["look", "looks", "looked"], 30),
];

/// How many functions may have a name that does not state what they do to what.
const VAGUE_FUNCTIONS_MAX: usize = 4;

/// Names of functions that can mean anything.
const VAGUE_FUNCTIONS: &[&str] =
    &["tell", "take", "begin", "put", "end", "turn", "look", "ask", "show", "say", "give", "hear", "heed", "hold"];

/// Beginnings of a doc comment that needs its neighbour to be understood.
const LEANING: &[&str] = &["Likewise", "Of these", "Of it", "So the next", "Whose it is", "The same."];

/// Every text that people read, except the change log, which keeps its history, and this file.
fn texts() -> Vec<Source> {
    sources(|path| {
        let is_read = path.ends_with(".rs") || path.ends_with(".md") || path.starts_with("packaging/");
        is_read && path != "CHANGELOG.md" && path != "cli/tests/tree/words.rs"
    })
}

/// The words of a line in lower case; identifiers are split at underscores and before capitals.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_is_lower = false;
    for letter in line.chars() {
        if !letter.is_ascii_alphabetic() || (letter.is_ascii_uppercase() && before_is_lower) {
            words.push(String::new());
        }
        if letter.is_ascii_alphabetic() {
            words.last_mut().unwrap().push(letter.to_ascii_lowercase());
        }
        before_is_lower = letter.is_ascii_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn identifiers_are_split_into_words() {
    assert_eq!(
        words("pub last_heard_ms: HeardOf<'a>, TOLD_MARK2"),
        ["pub", "last", "heard", "ms", "heard", "of", "a", "told", "mark"]
    );
}

#[test]
fn no_text_uses_a_refused_word() {
    let mut found = Vec::new();
    let mut unused: Vec<_> = EXCEPTIONS.iter().map(|(text, _)| *text).collect();
    for Source { path, text } in texts() {
        for (number, line) in (1..).zip(text.lines()) {
            let mut rest = line.to_owned();
            for (exception, _) in EXCEPTIONS {
                if rest.contains(exception) {
                    unused.retain(|text| text != exception);
                    rest = rest.replace(exception, "");
                }
            }
            let words = words(&rest);
            for (family, instead) in REFUSED {
                if let Some(word) = words.iter().find(|word| family.contains(&word.as_str())) {
                    found.push(format!("{path}:{number}: {word:?}: write {instead}: {}", line.trim()));
                }
            }
            let lower = rest.to_lowercase();
            for (phrase, instead) in REFUSED_PHRASES.iter().filter(|(phrase, _)| lower.contains(phrase)) {
                found.push(format!("{path}:{number}: {phrase:?}: write {instead}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
    assert!(unused.is_empty(), "exceptions that no file needs any more: {unused:?}");
}

#[test]
fn vague_words_stay_rare() {
    let mut places = vec![0; RARE.len()];
    for Source { text, .. } in texts() {
        for word in text.lines().flat_map(words) {
            let families = RARE.iter().zip(&mut places).filter(|((family, _), _)| family.contains(&word.as_str()));
            families.for_each(|(_, places)| *places += 1);
        }
    }
    for ((family, max), places) in RARE.iter().zip(places) {
        assert!(
            places <= *max,
            "{places} places have one of {family:?}, at most {max} may: write what is done to what"
        );
    }
}

#[test]
fn function_names_state_what_they_do_to_what() {
    let mut functions = BTreeMap::<&str, Vec<String>>::new();
    for Source { path, text } in sources(|path| path.ends_with(".rs")) {
        for (number, line) in (1..).zip(text.lines()) {
            let Some((_, behind)) = line.split_once("fn ").filter(|(before, _)| !before.contains("//")) else {
                continue;
            };
            let name = behind.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next();
            if let Some(name) = VAGUE_FUNCTIONS.iter().find(|vague| Some(**vague) == name) {
                functions.entry(name).or_default().push(format!("{path}:{number}"));
            }
        }
    }
    functions.retain(|_, places| places.len() > VAGUE_FUNCTIONS_MAX);
    assert!(functions.is_empty(), "more than {VAGUE_FUNCTIONS_MAX} of a name: {functions:?}");
}

#[test]
fn every_doc_comment_stands_alone() {
    let mut found = Vec::new();
    for Source { path, text } in sources(|path| path.ends_with(".rs") && path != "cli/tests/tree/words.rs") {
        let mut before_is_doc = false;
        for (number, line) in (1..).zip(text.lines()) {
            let doc = line.trim_start().strip_prefix("///").map(str::trim);
            let leans = |doc: &str| LEANING.iter().any(|leaning| doc.starts_with(leaning));
            if doc.is_some_and(leans) && !before_is_doc {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
            before_is_doc = doc.is_some();
        }
    }
    assert!(found.is_empty(), "these need the lines before them:\n{}", found.join("\n"));
}
