//! `delete`: four flows of five are deleted by a filter on their port, and each is printed to a file.
//!
//! Before each run ctflow fills the table from a file, whichever program is measured. This is not timed.

use ctflow_lab::sysctl;

use crate::failure::Failure;
use crate::lines;
use crate::network::Network;
use crate::options::Options;
use crate::process::{Process, RUN_TIMEOUT};
use crate::program::{Program, Programs};
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;
use crate::saved::{self, SavedTable};

use super::cost::Cost;

const FLOWS: u32 = 150_000;
/// The goal of the time, as a share of conntrack's.
const SHARE: f64 = 0.5;

/// The measurements of one run.
#[derive(Debug)]
struct Deleting {
    cost: Cost,
    /// The difference between the numbers of printed lines and of flows to delete.
    misprinted: u64,
    /// The difference between the number of flows left and the expected number.
    misdeleted: u64,
}

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let table = SavedTable::with_flows(flows)?;
    let to_delete = saved::common_count(flows);
    let port = saved::COMMON_PORT.to_string();
    let arguments = ["-D", "-p", "tcp", "--dport", &port];
    let once = |program: &Program| {
        Network::flush()?;
        table.load(&programs.ours)?;
        let ended = Process::start(program, &arguments)?.run_to_end(RUN_TIMEOUT)?;
        let misprinted = lines::count(&ended.output).abs_diff(u64::from(to_delete));
        let misdeleted = sysctl::flow_count()?.abs_diff(u64::from(flows - to_delete));
        Ok(Deleting { cost: Cost::of(&ended), misprinted, misdeleted })
    };
    let runs = Runs::alternate("delete", options.rounds, programs.both(), once)?;
    Network::flush()?;
    let (to_delete, flows, words) = (super::count(to_delete), super::count(flows), arguments.join(" "));
    let title = format!("delete: {to_delete} of {flows} flows with {words}, each printed, {} rounds", options.rounds);
    Ok(Table { title, names: super::names(programs), rows: rows(&runs), notes: note.into_iter().collect() })
}

fn rows(runs: &Runs<Deleting>) -> Vec<Row> {
    vec![
        Row::both("wall, ms", runs.summaries(|run| run.cost.wall_ms())).with_goal_of_reference(SHARE),
        Row::both("CPU, ms", runs.summaries(|run| run.cost.cpu_ms())),
        Row::both("peak memory, KiB", runs.summaries(|run| run.cost.peak_kib())),
        Row::both("lines missing or too many", runs.summaries(|run| run.misprinted as f64)).with_goal(Goal::zero),
        Row::both("flows missing or too many", runs.summaries(|run| run.misdeleted as f64)).with_goal(Goal::zero),
    ]
}
