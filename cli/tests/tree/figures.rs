//! Figures: a measured number in a document stands beside the command that measures it.
//!
//! A number counts as measured if it has a unit of nanoseconds or microseconds, or a fraction and a unit of time,
//! `million`, `×` or `times`, or if it is a percentage. Whole milliseconds and seconds are mostly settings and are left
//! alone, and so is what stands in a block of code. The paragraph, list or table row of a figure must have a command in
//! backticks: one of `cargo`, `ctflow` or `perf/run`.

use super::{Source, sources};

const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "BENCH.md", "perf/README.md"];

/// Beginnings of a command in backticks.
const COMMANDS: &[&str] = &["`cargo ", "`ctflow ", "`perf/run"];

/// The paragraphs and table rows of a document, each with the number of its first line and its lines joined by spaces.
fn paragraphs(text: &str) -> Vec<(usize, String)> {
    let mut found = vec![(1, String::new())];
    let mut is_code = false;
    for (number, line) in (1..).zip(text.lines()) {
        is_code ^= line.starts_with("```");
        if line.trim().is_empty() || line.starts_with('|') || line.starts_with("```") {
            found.push((number, String::new()));
        }
        if let Some((_, paragraph)) = found.last_mut().filter(|_| !is_code) {
            *paragraph += line.trim();
            paragraph.push(' ');
        }
    }
    found
}

/// Returns the first measured number of a paragraph, with its unit.
fn figure(paragraph: &str) -> Option<String> {
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    words.windows(2).find_map(|pair| {
        let number = pair[0].trim_start_matches(['(', '≤', '<', '~']);
        let unit = pair[1].trim_end_matches(|letter: char| !letter.is_alphanumeric() && !"%×".contains(letter));
        let is_number = number.starts_with(|letter: char| letter.is_ascii_digit())
            && number.chars().all(|letter| letter.is_ascii_digit() || ".,".contains(letter));
        let is_fraction = number.contains('.') && ["ms", "s", "min", "h", "million", "×", "times"].contains(&unit);
        let is_measured = is_fraction || ["ns", "µs", "us", "%"].contains(&unit);
        (is_number && is_measured).then(|| format!("{number} {unit}"))
    })
}

#[test]
fn figures_are_recognized() {
    for text in ["it takes 271 µs with", "(0.44 s, of which", "saves 72 % of it", "1.15 times", "36 ns, nothing"] {
        assert!(figure(text).is_some(), "{text}");
    }
    for text in ["every 5 s", "at most 10 ms", "version 1.4.9 of", "100 flows", "Linux 6.18:"] {
        assert_eq!(figure(text), None, "{text}");
    }
}

#[test]
fn every_figure_names_its_command() {
    let mut found = Vec::new();
    let mut figures = 0;
    for Source { path, text } in sources(|path| DOCUMENTS.contains(&path)) {
        for (number, paragraph) in paragraphs(&text) {
            let Some(figure) = figure(&paragraph) else { continue };
            figures += 1;
            if !COMMANDS.iter().any(|command| paragraph.contains(command)) {
                found.push(format!("{path}:{number}: {figure}"));
            }
        }
    }
    assert!(found.is_empty(), "these do not name the command that measures them:\n{}", found.join("\n"));
    assert!(figures > 5, "only {figures} paragraphs have a figure: they are not recognized");
}
