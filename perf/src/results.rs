//! `RESULTS.md`: what was measured, on which machine, by which command.
//!
//! The tables are written anew each time. What people wrote below them, under the heading [`REMARKS`], stays.

use std::fs;
use std::io;
use std::path::Path;

use crate::failure::Failure;
use crate::options::Options;
use crate::report::Table;

/// Where what is written by hand begins.
const REMARKS: &str = "## What does not hold, and what was tried";

/// Writes the file.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn write(path: &Path, options: &Options, about: &str, tables: &[Table]) -> Result<(), Failure> {
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(Failure::system(format!("read {}", path.display())))?,
    };
    let text = text(options, about, tables, &before);
    fs::write(path, text).map_err(Failure::system(format!("write {}", path.display())))
}

fn text(options: &Options, about: &str, tables: &[Table], before: &str) -> String {
    let mut text = format!(
        "# Results\n\n\
         Written by `perf/run --rounds {} --write FILE`. Trust ratios, not absolute figures; [README.md](README.md) says what\n\
         each scenario does, how it is measured, and how to read it.\n\n```text\n{about}\n```\n",
        options.rounds
    );
    for table in tables {
        text.push_str(&format!("\n```text\n{table}\n```\n"));
    }
    let remarks = before.find(REMARKS).and_then(|place| before.get(place..)).unwrap_or(REMARKS);
    format!("{text}\n{}\n", remarks.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Row;
    use crate::statistics::Summary;

    #[test]
    fn tables_are_replaced_and_remarks_stay() {
        let table = |figure: f64| Table {
            title: "work".into(),
            names: ["ctflow".into(), "conntrack".into()],
            rows: vec![Row::single("CPU, ms", Summary::of([figure]))],
            notes: Vec::new(),
        };
        let options = Options { rounds: 2, ..Options::default() };
        let first = text(&options, "machine: one", &[table(7.0)], "");
        assert!(
            first.contains("--rounds 2") && first.contains("machine: one") && first.ends_with(&format!("{REMARKS}\n"))
        );
        let again = text(&options, "machine: other", &[table(8.0)], &format!("{first}\nIt is slow since it rains.\n"));
        assert!(again.contains("machine: other") && !again.contains("machine: one"));
        assert_eq!(again.matches(REMARKS).count(), 1);
        assert!(again.ends_with("It is slow since it rains.\n"), "{again}");
    }
}
