//! Skips: no test is left out in silence.
//!
//! A test that cannot run on a machine ends by `isolated::skip` of the lab, or by its macro `or_skip!`, both of which fail
//! where `CI` is set. Nothing else may read `CI` or print that something is skipped, and test code has no other early
//! return without a value.

use super::{Source, sources, split_tests};

/// The file that defines the one way to skip a test.
const DEFINITION: &str = "engine/lab/src/isolated.rs";

/// Functions of test code that may return early, and why. By file and name.
const RETURNS: &[(&str, &str, &str)] = &[
    ("engine/tests/link.rs", "poll_until", "returns when its condition is met, and fails otherwise"),
    (
        "replicate/src/model/entry/tests.rs",
        "assert_compact_form_encodes_alike",
        "not every generated flow has the compact form",
    ),
];

/// Returns whether the line returns early without a value.
fn returns_early(line: &str) -> bool {
    line.trim() == "return;"
        || line.contains("{ return }")
        || line.contains("{ return;")
        || line.contains("return eprint")
}

#[test]
fn early_returns_are_recognized() {
    for line in ["        return;", "let Some(x) = y else { return };", "if a { return; }", "return eprintln!(\"\");"] {
        assert!(returns_early(line), "{line}");
    }
    for line in ["return None;", "else { return Ok(()) };", "return skip(&why);", "// it may return"] {
        assert!(!returns_early(line), "{line}");
    }
}

#[test]
fn every_skip_fails_with_ci_set() {
    let mut found = Vec::new();
    for Source { path, text } in sources(|path| path.ends_with(".rs") && path != "cli/tests/tree/skips.rs") {
        for (number, line) in (1..).zip(text.lines()) {
            let is_other_way = line.contains("\"CI\"") || line.contains("\"skipped:");
            if is_other_way && path != DEFINITION {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "use ctflow_lab::or_skip! or ctflow_lab::isolated::skip:\n{}", found.join("\n"));
}

#[test]
fn no_test_returns_early() {
    let mut found = Vec::new();
    let mut unused = RETURNS.to_vec();
    for file in sources(|path| path.ends_with(".rs") && path != "cli/tests/tree/skips.rs") {
        let mut function = "";
        for (number, line) in split_tests(&file).1 {
            if let Some((_, behind)) = line.split_once("fn ") {
                function = behind.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap();
            }
            if returns_early(line) {
                let is_this = |(path, name, _): &(&str, &str, &str)| (*path, *name) == (file.path.as_str(), function);
                unused.retain(|exception| !is_this(exception));
                if !RETURNS.iter().any(is_this) {
                    found.push(format!("{}:{number}: {}", file.path, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "use ctflow_lab::or_skip! or ctflow_lab::isolated::skip:\n{}", found.join("\n"));
    assert!(unused.is_empty(), "exceptions that no file needs any more: {unused:?}");
}
