//! `load`: an empty table is filled from a file of commands, as `-L -o save` prints them; from a small and a large
//! file.

use ctflow_lab::sysctl;

use crate::failure::Failure;
use crate::network::Network;
use crate::options::Options;
use crate::program::{Program, Programs};
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;
use crate::saved::SavedTable;

use super::cost::Cost;

const FLOWS: u32 = 200_000;
/// The flows of the small file, small enough to show the cost of starting.
const FEW: u32 = 20_000;
/// The goal of the time, as a share of conntrack's.
const SHARE: f64 = 0.5;

/// The measurements of one run.
#[derive(Debug)]
struct Loading {
    cost: Cost,
    /// The number of flows missing or surplus afterwards.
    missing: u64,
}

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let few = FEW.min(flows);
    let small = measure(options, programs, few)?;
    let large = measure(options, programs, flows)?;
    Network::flush()?;
    let [few, flows] = [few, flows].map(super::count);
    let title = format!("load: files of {few} and of {flows} flows with -R FILE, {} rounds", options.rounds);
    let rows = rows(&few, &small).into_iter().chain(rows(&flows, &large)).collect();
    Ok(Table { title, names: super::names(programs), rows, notes: note.into_iter().collect() })
}

fn measure(options: &Options, programs: &Programs, flows: u32) -> Result<Runs<Loading>, Failure> {
    let file = SavedTable::with_flows(flows)?;
    let once = |program: &Program| {
        Network::flush()?;
        let cost = Cost::of(&file.load(program)?);
        Ok(Loading { cost, missing: sysctl::flow_count()?.abs_diff(u64::from(flows)) })
    };
    Runs::alternate(&format!("load of {}", super::count(flows)), options.rounds, programs.both(), once)
}

fn rows(flows: &str, runs: &Runs<Loading>) -> [Row; 4] {
    let row = |figure: &str, value: fn(&Loading) -> f64| Row::both(format!("{flows}: {figure}"), runs.summaries(value));
    [
        row("wall, ms", |run| run.cost.wall_ms()).with_goal_of_reference(SHARE),
        row("CPU, ms", |run| run.cost.cpu_ms()),
        row("peak memory, KiB", |run| run.cost.peak_kib()),
        row("flows missing or too many", |run| run.missing as f64).with_goal(Goal::zero),
    ]
}
