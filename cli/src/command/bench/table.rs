//! The results as text.

use std::fmt::Write;

use super::results::Results;
use super::sections::{Section, head, sections};

/// The gap between two columns.
const GAP: &str = "  ";

/// Returns all results as text.
pub(super) fn table(results: &Results) -> String {
    let mut text = head(results).join("\n") + "\n";
    for section in sections(results) {
        text.push('\n');
        write_aligned(&section, &mut text);
    }
    for note in &results.notes {
        let _ = writeln!(text, "\n{note}"); // writing to a String cannot fail
    }
    text + "\nctflow(1) explains each figure, at bench: `ctflow man | man -l -'\n"
}

/// Appends a section as a table: names and remarks left-aligned, numbers right-aligned.
fn write_aligned(section: &Section, text: &mut String) {
    let widest = |cells: &mut dyn Iterator<Item = &String>| cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
    let names = section.rows.iter().map(|row| &row.name);
    let first = widest(&mut names.chain([&section.title]));
    let column = |(index, name)| widest(&mut section.rows.iter().filter_map(|row| row.cells.get(index)).chain([name]));
    let widths: Vec<usize> = section.columns.iter().enumerate().map(column).collect();
    let mut line = |name: &str, cells: &[String], remark: &str| {
        let mut line = format!("{name:<first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(line, "{GAP}{cell:>width$}");
        }
        let _ = writeln!(text, "{}", (line + GAP + remark).trim_end());
    };
    line(&section.title, &section.columns, "");
    section.rows.iter().for_each(|row| line(&row.name, &row.cells, &row.remark));
}
