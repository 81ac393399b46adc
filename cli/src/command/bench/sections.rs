//! The results as tables of text, which both the printed text and the HTML page use.

use indicatif::HumanFloatCount;

use super::idle::IdleFigures;
use super::pipeline::Depth;
use super::results::{Held, Latency, Limit, Measured, Rate, Results, Spread};
use super::run::Outcome;
use crate::text::counted;

/// A table with a title.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) about: About,
    pub(super) title: String,
    /// Names of the columns of cells. The columns of row names and remarks have no name.
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Row>,
}

/// The part of the results that a table shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// [`Results::kernel`].
    Kernel,
    /// [`Results::depths`].
    Depths,
    /// [`Results::steps`].
    Steps,
    /// [`Results::held`].
    Held,
    /// [`Results::rates`].
    Rates,
    /// [`Results::stock`].
    Stock,
}

/// A line of a table, with as many cells as there are columns.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) cells: Vec<String>,
    pub(super) remark: String,
}

impl Row {
    /// Creates a row without a remark.
    fn new(name: impl Into<String>, cells: impl IntoIterator<Item = String>) -> Self {
        Self { name: name.into(), cells: cells.into_iter().collect(), remark: String::new() }
    }

    /// Sets the remark.
    fn remark(self, remark: impl Into<String>) -> Self {
        Self { remark: remark.into(), ..self }
    }
}

impl Section {
    /// Creates a table without the columns that are empty in every row.
    fn new<'c>(
        about: About,
        title: impl Into<String>,
        columns: impl IntoIterator<Item = &'c str>,
        rows: Vec<Row>,
    ) -> Self {
        let columns = columns.into_iter().map(str::to_owned).collect();
        let mut section = Self { about, title: title.into(), columns, rows };
        section.drop_empty_columns();
        section
    }

    /// Removes the columns that are empty in every row: they were not measured.
    fn drop_empty_columns(&mut self) {
        for column in (0..self.columns.len()).rev() {
            if self.rows.iter().all(|row| row.cells.get(column).is_none_or(String::is_empty)) {
                self.columns.remove(column);
                self.rows.iter_mut().filter(|row| column < row.cells.len()).for_each(|row| {
                    row.cells.remove(column);
                });
            }
        }
    }
}

/// Returns the name of a depth.
pub(super) fn depth_name(depth: Depth) -> &'static str {
    match depth {
        Depth::Unheard => "unheard",
        Depth::Drain => "drained",
        Depth::Capture => "captured",
        Depth::Replicate => "replicated",
    }
}

/// Returns a line with what was measured, and a line with the machine.
pub(super) fn head(results: &Results) -> [String; 2] {
    let (machine, settings) = (&results.machine, &results.settings);
    let replicas = match settings.replicas {
        0 => "no replica".to_owned(),
        many => counted(many as u64, "replica", "replicas"),
    };
    let what = format!(
        "ctflow {}: {} load, {} flows, {} s a trial, {}; {}, back end {}, {replicas}",
        results.ctflow,
        settings.load,
        count(f64::from(settings.flows)),
        settings.seconds,
        counted(settings.rounds as u64, "round", "rounds"),
        counted(settings.workers.into(), "worker", "workers"),
        settings.backend,
    );
    let place = format!(
        "{}, {}, Linux {}, load {}",
        machine.processor,
        counted(machine.cores as u64, "core", "cores"),
        machine.kernel,
        machine.load_average,
    );
    [what, place]
}

/// Returns all tables that have rows.
pub(super) fn sections(results: &Results) -> Vec<Section> {
    let sections =
        [kernel(results), depths(results), steps(results), held(results), rates(&results.rates), stock(&results.stock)];
    sections.into_iter().filter(|section| !section.rows.is_empty()).collect()
}

/// Returns the table of the kernel's figures.
fn kernel(results: &Results) -> Section {
    let kernel = &results.kernel;
    let row = |name: &str, spread: &Spread| Row::new(name, [count(spread.median)]);
    let delivery = format!("each event costs the packet path {} ns", count(kernel.delivery_ns_per_event));
    let rows = vec![
        row("no listener", &kernel.unheard_flows_per_second),
        row("events discarded", &kernel.heard_flows_per_second).remark(delivery),
    ];
    Section::new(About::Kernel, "the kernel alone", ["flows/s"], rows)
}

/// Returns the table of the depths.
fn depths(results: &Results) -> Section {
    let columns = [
        "events/s",
        "lost",
        "CPU ns/event",
        "worker",
        "control",
        "stage",
        "backups",
        "beside floor",
        "wake-ups/s",
        "wire bytes/flow",
    ];
    let listening = results.depths.iter().filter(|measured| measured.depth != Depth::Unheard);
    let rows = listening.map(|measured| depth_row(measured, results.settings.compare)).collect();
    Section::new(About::Depths, "events", columns, rows)
}

/// Returns the row of a depth, with medians; `several` adds the back end to its name.
fn depth_row(measured: &Measured, several: bool) -> Row {
    let median = |of: fn(&Outcome) -> f64| measured.spread(of).median;
    let part = |value: f64| if value >= 0.5 { count(value) } else { String::new() };
    let lost: u64 = measured.rounds.iter().map(|one| one.lost).sum();
    let floor = measured
        .to_floor
        .map_or_else(String::new, |spread| format!("{:.2} ({:.2}-{:.2})", spread.median, spread.min, spread.max));
    let name = depth_name(measured.depth);
    let name = if several { format!("{name}, {}", measured.backend) } else { name.to_owned() };
    let wire = median(|one| one.wire_bytes_per_flow);
    Row::new(
        name,
        [
            count(median(|one| one.events_per_second)),
            count(lost as f64),
            count(median(|one| one.cpu.total_ns)),
            part(median(|one| one.cpu.worker_ns)),
            part(median(|one| one.cpu.control_ns)),
            part(median(|one| one.cpu.stage_ns)),
            part(median(|one| one.cpu.backups_ns)),
            floor,
            count(median(|one| one.wakeups_per_second)),
            if wire > 0.0 { decimal(wire) } else { String::new() },
        ],
    )
}

/// Returns the table of the steps.
fn steps(results: &Results) -> Section {
    let (names, times): (Vec<_>, Vec<_>) = results.steps.significant().map(|(_, name, ns)| (name, ns)).unzip();
    Section::new(About::Steps, "by step", names, vec![Row::new("CPU ns/event", times.into_iter().map(count))])
}

/// Returns the table of the highest rates.
fn held(results: &Results) -> Section {
    let limit = |held: &Held| match held.limit {
        Limit::Load if results.settings.rate.is_some() => "the requested rate; more may be possible",
        Limit::Load => "limited by the load; more may be possible",
        Limit::Loss => "at higher rates events are lost",
        Limit::None => "events are lost at every rate",
    };
    let rows = results.held.iter().map(|held| {
        let rate = held.events_per_second.map_or_else(|| "none".to_owned(), count);
        let part = held.to_drain.map_or_else(String::new, hundredths);
        Row::new(depth_name(held.depth), [rate, part]).remark(limit(held))
    });
    Section::new(About::Held, "highest rate without loss", ["events/s", "of drained"], rows.collect())
}

/// Returns the table of the steady rates.
fn rates(rates: &[Rate]) -> Section {
    let columns = ["lost", "CPU ns/event", "wake-ups/s", "latency ms p50", "p99", "p99.9", "max"];
    let rows = rates.iter().map(|rate| {
        let outcome = &rate.outcome;
        let ms = |of: fn(&Latency) -> u64| {
            rate.latency.as_ref().map_or_else(String::new, |latency| decimal(of(latency) as f64 / 1e3))
        };
        Row::new(
            format!("{} events/s", count(outcome.events_per_second)),
            [
                count(outcome.lost as f64),
                count(outcome.cpu.total_ns),
                count(outcome.wakeups_per_second),
                ms(|latency| latency.p50_us),
                ms(|latency| latency.p99_us),
                ms(|latency| latency.p999_us),
                ms(|latency| latency.max_us),
            ],
        )
    });
    Section::new(About::Rates, "at a steady rate", columns, rows.collect())
}

/// Returns the table of the figures of a full, idle table.
fn stock(stock: &IdleFigures) -> Section {
    let shown = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(String::new, show);
    let row = |name, primary: Option<f64>, backup: Option<f64>, show| {
        Row::new(name, [shown(primary, show), shown(backup, show)])
    };
    let rows = [
        row("bytes a flow", Some(stock.primary_bytes_per_flow), stock.backup_bytes_per_flow, decimal),
        row("% of a core", Some(stock.primary_idle_percent), stock.backup_idle_percent, hundredths),
        row("resync, ms", Some(stock.kernel_resync_ms), stock.peer_resync_ms, decimal),
        row("bytes sent a flow", stock.told_bytes_per_flow, None, decimal),
        row("commit, ms", None, stock.commit_ms, decimal),
    ];
    let filled = rows.into_iter().filter(|row| row.cells.iter().any(|cell| !cell.is_empty()));
    let title = format!("{} flows, idle", count(stock.flows as f64));
    Section::new(About::Stock, title, ["primary", "backup"], filled.collect())
}

/// Returns a number with one decimal.
fn decimal(value: f64) -> String {
    format!("{value:.1}")
}

/// Returns a number with two decimals.
fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

/// Returns a whole number with commas between the thousands.
pub(super) fn count(value: f64) -> String {
    format!("{:.0}", HumanFloatCount(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_that_no_row_fills_is_left_out() {
        let rows = || vec![Row::new("a", ["1".to_owned(), String::new(), "3".to_owned()]), Row::new("b", [])];
        let section = Section::new(About::Rates, "", ["x", "y", "z"], rows());
        assert_eq!(section.columns, ["x", "z"]);
        assert_eq!(section.rows.iter().map(|row| row.cells.as_slice()).collect::<Vec<_>>(), [&["1", "3"][..], &[]]);
    }

    #[test]
    fn thousands_are_separated_by_commas() {
        let cases = [(0.4, "0"), (999.0, "999"), (1_000.0, "1,000"), (12_345_678.0, "12,345,678"), (-100.0, "-100")];
        for (value, text) in cases {
            assert_eq!(count(value), text);
        }
        assert_eq!(count(-123_456.0), "-123,456");
    }
}
