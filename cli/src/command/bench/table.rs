//! The results as text.

use std::fmt::Write;

use super::pipeline::Depth;
use super::results::{Limit, Measured, Rate, Results, Spread};
use super::stock::Stock;

/// Between two columns.
const GAP: &str = "  ";

/// What a depth is called.
pub(super) fn name(depth: Depth) -> &'static str {
    match depth {
        Depth::Unheard => "unheard",
        Depth::Drain => "drained",
        Depth::Capture => "captured",
        Depth::Replicate => "replicated",
    }
}

/// All of it.
pub(super) fn table(results: &Results) -> String {
    let mut text = head(results);
    let sections =
        [kernel(results), depths(results), steps(results), held(results), rates(&results.rates), stock(&results.stock)];
    for section in sections.into_iter().filter(|section| !section.is_empty()) {
        text.push('\n');
        text.push_str(&section);
    }
    for note in &results.notes {
        let _ = writeln!(text, "\n{note}"); // a String takes everything
    }
    text
}

pub(super) fn head(results: &Results) -> String {
    let (machine, settings) = (&results.machine, &results.settings);
    let replicas = match settings.replicas {
        0 => "no replica".to_owned(),
        1 => "1 replica".to_owned(),
        many => format!("{many} replicas"),
    };
    format!(
        "ctflow {}: {} load, {} flows, {} s a trial, {} rounds; {} by {}, {replicas}\n{}, {}, Linux {}, load {}\n",
        results.ctflow,
        settings.load,
        count(f64::from(settings.flows)),
        settings.seconds,
        settings.rounds,
        plural(settings.workers.into(), "worker"),
        settings.backend,
        machine.processor,
        plural(machine.cores as u64, "core"),
        machine.kernel,
        machine.load_average,
    )
}

fn plural(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

fn kernel(results: &Results) -> String {
    let kernel = &results.kernel;
    let row = |name: &str, spread: &Spread, note: String| vec![name.to_owned(), count(spread.median), note];
    let delivery = format!("event delivery costs the packet path {:.0} ns an event", kernel.delivery_ns_per_event);
    aligned(&[
        vec!["the kernel alone".to_owned(), "flows/s".to_owned(), String::new()],
        row("nobody listens", &kernel.unheard_flows_per_second, String::new()),
        row("events thrown away", &kernel.heard_flows_per_second, delivery),
    ])
}

fn depths(results: &Results) -> String {
    let several = results.settings.compare;
    let head = [
        "events",
        "events/s",
        "lost",
        "CPU ns/event",
        "worker",
        "control",
        "stage",
        "backups",
        "beside floor",
        "wake-ups/s",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let all = results.depths.iter().filter(|measured| measured.depth != Depth::Unheard);
    rows.extend(all.map(|measured| depth(measured, several)));
    aligned(&rows)
}

fn depth(measured: &Measured, several: bool) -> Vec<String> {
    let median = |of: fn(&super::trial::Outcome) -> f64| measured.spread(of).median;
    let part = |value: f64| if value >= 0.5 { count(value) } else { String::new() };
    let lost: u64 = measured.rounds.iter().map(|one| one.lost).sum();
    let floor = measured
        .to_floor
        .map_or_else(String::new, |spread| format!("{:.2} ({:.2}-{:.2})", spread.median, spread.min, spread.max));
    let name = name(measured.depth);
    vec![
        if several { format!("{name}, {}", measured.backend) } else { name.to_owned() },
        count(median(|one| one.events_per_second)),
        count(lost as f64),
        count(median(|one| one.cpu.total_ns)),
        part(median(|one| one.cpu.worker_ns)),
        part(median(|one| one.cpu.control_ns)),
        part(median(|one| one.cpu.stage_ns)),
        part(median(|one| one.cpu.backups_ns)),
        floor,
        count(median(|one| one.wakeups_per_second)),
    ]
}

fn steps(results: &Results) -> String {
    let named: Vec<(&str, f64)> = results.steps.named().into_iter().filter(|(_, ns)| *ns >= 0.5).collect();
    let mut head = vec!["by step".to_owned()];
    head.extend(named.iter().map(|(name, _)| (*name).to_owned()));
    let mut row = vec!["CPU ns/event".to_owned()];
    row.extend(named.iter().map(|(_, ns)| count(*ns)));
    aligned(&[head, row])
}

fn held(results: &Results) -> String {
    let held = &results.held;
    let mut rows = vec![["highest rate without loss", "events/s", "of drained", ""].map(str::to_owned).to_vec()];
    rows.extend(held.iter().map(|held| {
        let limit = match held.limit {
            Limit::Load if results.settings.rate.is_some() => "as much as was asked for",
            Limit::Load => "as fast as this load comes",
            Limit::Loss => "above it, events are lost",
            Limit::None => "events are lost at every rate",
        };
        let rate = held.events_per_second.map_or_else(|| "-".to_owned(), count);
        let part = held.to_drain.map_or_else(String::new, |part| format!("{part:.2}"));
        vec![name(held.depth).to_owned(), rate, part, limit.to_owned()]
    }));
    if held.is_empty() { String::new() } else { aligned(&rows) }
}

fn rates(rates: &[Rate]) -> String {
    let head = ["at a steady rate", "lost", "CPU ns/event", "wake-ups/s", "latency ms p50", "p99", "p99.9", "max"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(rates.iter().map(|rate| {
        let outcome = &rate.outcome;
        let latency = rate.latency.as_ref();
        let ms = |of: fn(&super::results::Latency) -> u64| {
            latency.map_or_else(String::new, |latency| format!("{:.1}", of(latency) as f64 / 1e3))
        };
        vec![
            format!("{} events/s", count(outcome.events_per_second)),
            count(outcome.lost as f64),
            count(outcome.cpu.total_ns),
            count(outcome.wakeups_per_second),
            ms(|latency| latency.p50_us),
            ms(|latency| latency.p99_us),
            ms(|latency| latency.p999_us),
            ms(|latency| latency.max_us),
        ]
    }));
    if rates.is_empty() { String::new() } else { aligned(&rows) }
}

fn stock(stock: &Stock) -> String {
    let row = |name: &str, primary: String, backup: Option<String>| {
        vec![name.to_owned(), primary, backup.unwrap_or_default()]
    };
    let mut rows = vec![
        row(&format!("{} flows, idle", count(stock.flows as f64)), "primary".to_owned(), Some("backup".to_owned())),
        row("bytes a flow", decimal(stock.primary_bytes_per_flow), stock.backup_bytes_per_flow.map(decimal)),
        row("% of a core", hundredths(stock.primary_idle_percent), stock.backup_idle_percent.map(hundredths)),
        row("known again, ms", decimal(stock.kernel_resync_ms), stock.peer_resync_ms.map(decimal)),
    ];
    if let Some(commit) = stock.commit_ms {
        rows.push(row("bytes told a flow", stock.told_bytes_per_flow.map_or_else(String::new, decimal), None));
        rows.push(row("committed, ms", String::new(), Some(decimal(commit))));
    } else {
        rows.iter_mut().for_each(|row| row.truncate(2));
    }
    aligned(&rows)
}

pub(super) fn decimal(value: f64) -> String {
    format!("{value:.1}")
}

pub(super) fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

/// With commas between the thousands.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let first = digits.len() % 3;
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && index % 3 == first && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The first column to the left, and so the last where it is words; the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let words = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        column == 0 || cells.skip(1).any(|cell| cell.contains(' ') && cell.starts_with(char::is_alphabetic))
    };
    let left: Vec<bool> = (0..columns).map(words).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).zip(&left);
        let cells = cells
            .map(|((cell, width), left)| if *left { format!("{cell:<width$}") } else { format!("{cell:>width$}") });
        let line: Vec<String> = cells.collect();
        let _ = writeln!(text, "{}", line.join(GAP).trim_end());
    }
    text
}
