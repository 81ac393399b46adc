//! `RESULTS.md`: the results, the machine, and the command of each result.
//!
//! Each scenario has a section. A new measurement replaces its scenario's section. The other sections stay as long as
//! the machine is the same. The text below the heading [`REMARKS`] is written by hand and stays, too.

use std::fs;
use std::io;
use std::path::Path;

use crate::failure::Failure;
use crate::scenario::Scenario;

/// The heading of the text that is written by hand.
const REMARKS: &str = "## What does not hold, and what was tried";
/// The text before each section's name.
const HEADING: &str = "\n## ";

/// The result of one scenario.
pub(crate) struct Section<'t> {
    /// The scenario that was measured.
    pub(crate) scenario: Scenario,
    /// The machine and the programs.
    pub(crate) about: &'t str,
    /// The command, and the load averages before and after.
    pub(crate) by: &'t str,
    /// The table of figures, as text.
    pub(crate) table: &'t str,
}

/// Writes the section into the file, which need not exist.
///
/// # Errors
/// When the file cannot be read or written.
pub(crate) fn write(path: &Path, section: &Section<'_>) -> Result<(), Failure> {
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(Failure::system(format!("read {}", path.display())))?,
    };
    fs::write(path, with_section(section, &before)).map_err(Failure::system(format!("write {}", path.display())))
}

/// The file's text `before`, with `section` in its scenario's place.
fn with_section(section: &Section<'_>, before: &str) -> String {
    let mut text = format!(
        "# Results\n\n\
         Written by `perf/run --write FILE`; each section names its command. Trust ratios, not absolute figures.\n\
         [README.md](README.md) describes what each scenario does, how it is measured, and how to read it.\n\n\
         ```text\n{}\n```\n",
        section.about
    );
    let (sections, remarks) = before.split_at(before.find(REMARKS).unwrap_or(before.len()));
    let same_machine = before.contains(&format!("```text\n{}\n```\n", section.about));
    for scenario in Scenario::ALL {
        let name = scenario.name();
        if scenario == section.scenario {
            text.push_str(&format!("{HEADING}{name}\n\n{}\n\n```text\n{}\n```\n", section.by, section.table));
        } else if let Some(old) = old_section(sections, name).filter(|_| same_machine) {
            text.push_str(&format!("{HEADING}{old}\n"));
        }
    }
    let remarks = if remarks.is_empty() { REMARKS } else { remarks };
    format!("{text}\n{}\n", remarks.trim_end())
}

/// The section of the scenario `name` in the file's text before.
fn old_section<'b>(before: &'b str, name: &str) -> Option<&'b str> {
    let mut sections = before.split(HEADING).skip(1);
    sections.find(|section| section.lines().next() == Some(name)).map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(scenario: Scenario, table: &'static str) -> Section<'static> {
        Section { scenario, about: "machine: one", by: "by hand", table }
    }

    #[test]
    fn a_section_is_replaced_and_all_else_stays() {
        let list = with_section(&section(Scenario::List, "list: 7"), "");
        assert!(list.contains("machine: one") && list.ends_with(&format!("{REMARKS}\n")), "{list}");
        let remarked = format!("{list}\nIt is slow since it rains.\n");
        let both = with_section(&section(Scenario::Events, "events: 8"), &remarked);
        assert!(both.find("events: 8") < both.find("list: 7"), "sections are in the order of the scenarios: {both}");
        let again = with_section(&section(Scenario::List, "list: 9"), &both);
        assert!(again.contains("events: 8") && again.contains("list: 9") && !again.contains("list: 7"), "{again}");
        assert_eq!(again.matches(REMARKS).count(), 1);
        assert!(again.ends_with("It is slow since it rains.\n"), "{again}");
        assert_eq!(with_section(&section(Scenario::List, "list: 9"), &again), again);
    }

    #[test]
    fn another_machines_figures_are_not_kept() {
        let list = with_section(&section(Scenario::List, "list: 7"), "");
        let other = with_section(&Section { about: "machine: other", ..section(Scenario::Events, "events: 8") }, &list);
        assert!(!other.contains("list: 7"), "{other}");
    }
}
