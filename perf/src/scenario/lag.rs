//! `lag`: flows start and end at a steady rate, and ctflow's backup reports in its status how long each change took
//! from the kernel's event to the replica. The kernel adds timestamps to events (`nf_conntrack_timestamp`, Linux 6.14),
//! so that the lag includes the time in the socket.
//!
//! conntrackd does not measure this, so nothing is compared.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::failure::Failure;
use crate::options::Options;
use crate::pair::{Pair, Side};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::statistics::Summary;
use crate::suite::{Suite, json_number};
use crate::table::{Churn, Table as KernelTable};

/// The number of flows that exist throughout.
const FLOWS: u32 = 100_000;
/// Events a second, from the first flow on.
const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(49_999);
/// The duration of the load after the first flows were created.
const DURATION: Duration = Duration::from_secs(20);
/// The goal of the lag's 99th percentile, in milliseconds.
const P99_GOAL_MS: f64 = 5.0;
/// How long the caches may take to agree after the last event.
const EQUAL_WITHIN: Duration = Duration::from_secs(5);

/// The measurements of one run.
#[derive(Debug)]
struct LagRun {
    per_second: f64,
    /// The lag's p50, p99, p99.9 and maximum, in milliseconds.
    lag_ms: [f64; 4],
    /// The number of events that the primary's socket lost.
    lost: f64,
    /// The number of lines of the dumps that differ at the end.
    differing: f64,
}

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let (pair, suite) = (Pair::build()?, Suite::ours(programs)?);
    pair.set_event_timestamps(true)?;
    let mut runs = Vec::with_capacity(options.rounds);
    for round in 1..=options.rounds {
        eprintln!("lag: round {round} of {}", options.rounds);
        runs.push(measure(&pair, &suite, flows)?);
    }
    let title = format!(
        "lag: {} events a second for {} s, {} flows throughout, {} rounds",
        super::count(RATE.get()),
        DURATION.as_secs(),
        super::count(flows),
        options.rounds
    );
    let names = [suite.name(), String::new()];
    Ok(Table { title, names, rows: rows(&runs), notes: note.into_iter().collect() })
}

fn measure(pair: &Pair, suite: &Suite, flows: u32) -> Result<LagRun, Failure> {
    let running = suite.start(pair)?;
    let mut table = KernelTable::open(pair.host(Side::Primary))?;
    table.create_paced(0..flows, RATE)?;
    let churned = Churn::start(table, 0..flows, RATE, DURATION)?.wait()?;
    running.await_agreement(EQUAL_WITHIN)?;
    let (primary, backup) = (running.status(Side::Primary)?, running.status(Side::Backup)?);
    let differing = running.dumps()?.difference().lines as f64;
    running.stop()?;
    let peer = &backup["peers"][0];
    let lag_ms = ["lag_ms_p50", "lag_ms_p99", "lag_ms_p999", "lag_ms_max"].map(|key| json_number(&peer[key]));
    let lost = json_number(&primary["engine"]["events_lost"]);
    Ok(LagRun { per_second: churned.per_second(), lag_ms, lost, differing })
}

fn rows(runs: &[LagRun]) -> Vec<Row> {
    let row = |figure: &str, value: &dyn Fn(&LagRun) -> f64| Row::single(figure, Summary::of(runs.iter().map(value)));
    vec![
        row("events a second", &|run| run.per_second),
        row("kernel to replica, p50, ms", &|run| run.lag_ms[0]),
        row("kernel to replica, p99, ms", &|run| run.lag_ms[1])
            .with_goal(|ours| Goal::new(format!("< {P99_GOAL_MS}"), ours.median < P99_GOAL_MS)),
        row("kernel to replica, p99.9, ms", &|run| run.lag_ms[2]),
        row("kernel to replica, max, ms", &|run| run.lag_ms[3]),
        row("events lost", &|run| run.lost).with_goal(Goal::zero),
        row("lines that differ", &|run| run.differing).with_goal(Goal::zero),
    ]
}
