//! The report as plain text: one table for each scenario.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::thread::available_parallelism;

use indicatif::HumanFloatCount;

use crate::failure::Failure;
use crate::procfs;
use crate::program::Programs;
use crate::statistics::Summary;

/// The text between two columns.
const GAP: &str = "  ";
/// The columns of the reference and the ratio. They are omitted where nothing is compared.
const COMPARISON: Range<usize> = 4..8;

/// Describes the machine and the programs.
///
/// # Errors
/// When a program cannot be run, or `/proc` cannot be read.
pub(crate) fn preamble(programs: &Programs) -> Result<String, Failure> {
    let cpuinfo = read("/proc/cpuinfo")?;
    let model = procfs::cpuinfo_model(&cpuinfo).unwrap_or("processor of unknown name");
    let cores = available_parallelism().map_or(1, usize::from);
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_string_lossy();
    let mut text = format!("machine: {model}, {cores} cores, Linux {kernel}");
    for program in programs.both() {
        // The path of the project's folder is omitted, since it does not affect the results.
        let folder = std::env::current_dir().unwrap_or_default();
        let path = program.path.strip_prefix(folder).ok();
        let path = path.unwrap_or(&program.path).display();
        text.push_str(&format!("\n{}: {}, {path}", program.name, program.version()?));
    }
    Ok(text)
}

/// The machine's load averages over 1, 5 and 15 minutes.
///
/// # Errors
/// When `/proc/loadavg` cannot be read.
pub(crate) fn load_average() -> Result<String, Failure> {
    let loadavg = read("/proc/loadavg")?;
    let averages: Vec<&str> = loadavg.split_whitespace().take(3).collect();
    Ok(averages.join(" "))
}

fn read(path: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(Failure::system(format!("read {path}")))
}

/// A goal for ctflow's figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Goal {
    text: String,
    met: bool,
}

impl Goal {
    /// A goal described by `text`, and whether it is met.
    pub(crate) fn new(text: impl Into<String>, met: bool) -> Self {
        Self { text: text.into(), met }
    }

    /// The goal that ctflow's median is at most `limit`.
    pub(crate) fn at_most(limit: f64, reached: &Summary) -> Self {
        Self::new(format!("≤ {}", number(limit)), reached.median <= limit)
    }

    /// The goal that the figure is 0 in every round.
    pub(crate) fn zero(reached: &Summary) -> Self {
        Self::new("0", reached.max == 0.0)
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.text, if self.met { "met" } else { "MISSED" })
    }
}

/// One figure of a scenario.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    figure: String,
    ours: Summary,
    reference: Option<Summary>,
    goal: Option<Goal>,
}

impl Row {
    /// A figure of both programs.
    pub(crate) fn both(figure: impl Into<String>, [ours, reference]: [Summary; 2]) -> Self {
        Self { figure: figure.into(), ours, reference: Some(reference), goal: None }
    }

    /// A figure of ctflow alone.
    pub(crate) fn single(figure: impl Into<String>, value: Summary) -> Self {
        Self { figure: figure.into(), ours: value, reference: None, goal: None }
    }

    /// Adds a goal, computed from ctflow's summary.
    pub(crate) fn with_goal(mut self, goal: impl FnOnce(&Summary) -> Goal) -> Self {
        self.goal = Some(goal(&self.ours));
        self
    }

    /// Adds the goal that ctflow's median is at most `share` times the reference's.
    pub(crate) fn with_goal_of_reference(mut self, share: f64) -> Self {
        let ratio = self.reference.as_ref().and_then(|reference| self.ours.ratio_to(reference));
        self.goal = ratio.map(|ratio| Goal::new(format!("ratio ≤ {}", (share * 1e3).round() / 1e3), ratio <= share));
        self
    }

    /// The row's cells, one for each column.
    fn cells(&self) -> Vec<String> {
        let summary = |summary: &Summary| [summary.min, summary.median, summary.max].map(number);
        let reference = self.reference.as_ref();
        let ratio = reference.and_then(|reference| self.ours.ratio_to(reference));
        let mut cells = vec![self.figure.clone()];
        cells.extend(summary(&self.ours));
        cells.extend(reference.map_or_else(Default::default, summary));
        cells.push(ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")));
        cells.push(self.goal.as_ref().map_or_else(String::new, Goal::to_string));
        cells
    }
}

/// The result of a scenario.
#[derive(Debug)]
pub(crate) struct Table {
    /// The scenario and its parameters.
    pub(crate) title: String,
    /// The names of the programs: ctflow, then the reference.
    pub(crate) names: [String; 2],
    /// The figures.
    pub(crate) rows: Vec<Row>,
    /// Notes printed below the table, such as parameters that had to be reduced.
    pub(crate) notes: Vec<String>,
}

impl Table {
    /// The cells of the heading and of all rows.
    fn cells(&self) -> Vec<Vec<String>> {
        let [ours, reference] = &self.names;
        let head = ["figure", &format!("{ours} min"), "median", "max", &format!("{reference} min"), "median", "max"];
        let head = head.into_iter().chain(["ratio", "goal"]).map(str::to_owned).collect();
        let mut cells: Vec<Vec<String>> = [head].into_iter().chain(self.rows.iter().map(Row::cells)).collect();
        if self.rows.iter().all(|row| row.reference.is_none()) {
            cells.iter_mut().for_each(|row| drop(row.drain(COMPARISON)));
        }
        cells
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.title)?;
        let cells = self.cells();
        let width =
            |column: usize| cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..).map_while(width).collect();
        for row in &cells {
            let line = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                // The first and last columns are words, aligned left. The others are numbers, aligned right.
                let is_word = column == 0 || column + 1 == row.len();
                if is_word { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            let line: Vec<String> = line.collect();
            write!(formatter, "\n{}", line.join(GAP).trim_end())?;
        }
        self.notes.iter().try_for_each(|note| write!(formatter, "\n{note}"))
    }
}

/// Formats a number with commas between the thousands, and with one decimal where it is not 0 and the number is below
/// 100.
pub(crate) fn number(value: f64) -> String {
    let decimals = usize::from(value.abs() < 100.0 && value.fract() != 0.0);
    format!("{:.decimals$}", HumanFloatCount(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(99.46), "99.5");
        assert_eq!(number(75.98), "76");
        assert_eq!(number(100.4), "100");
        assert_eq!(number(1_234.0), "1,234");
        assert_eq!(number(300_000.0), "300,000");
        assert_eq!(number(-123_456.0), "-123,456");
    }

    #[test]
    fn a_table_is_aligned_and_says_whether_goals_are_met() {
        let of = |value: f64| Summary::of([value]);
        let table = Table {
            title: "events: 5 flows".into(),
            names: ["ctflow".into(), "conntrack".into()],
            rows: vec![
                Row::both("CPU an event, ns", [of(2_000.0), of(10_000.0)])
                    .with_goal(|ours| Goal::at_most(2_500.0, ours)),
                Row::single("lines that differ", of(3.0)).with_goal(Goal::zero),
            ],
            notes: vec!["a note".into()],
        };
        let expected = "\
events: 5 flows
figure             ctflow min  median    max  conntrack min  median     max  ratio  goal
CPU an event, ns        2,000   2,000  2,000         10,000  10,000  10,000   0.20  ≤ 2,500: met
lines that differ           3       3      3                                        0: MISSED
a note";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn a_table_without_comparison_has_no_columns_for_it() {
        let table = Table {
            title: "lag".into(),
            names: ["ctflow".into(), String::new()],
            rows: vec![Row::single("p99, ms", Summary::of([3.0])).with_goal(Goal::zero)],
            notes: Vec::new(),
        };
        let expected = "lag\nfigure   ctflow min  median  max  goal\np99, ms           3       3    3  0: MISSED";
        assert_eq!(table.to_string(), expected);
    }
}
