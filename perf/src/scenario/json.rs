//! `json`: ctflow lists the table as JSON, compared with its own listing as text.
//!
//! conntrack cannot print JSON, so the figures show the cost of the richer format.

use crate::failure::Failure;
use crate::lines;
use crate::network::Network;
use crate::options::Options;
use crate::process::{Process, RUN_TIMEOUT};
use crate::program::Programs;
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;

use super::cost::Cost;

const FLOWS: u32 = 300_000;
const JSON: [&str; 3] = ["-L", "-o", "json"];
const TEXT: [&str; 3] = ["-L", "-o", "extended"];
/// The goal of the time, as a share of the text's.
const SHARE: f64 = 1.33;

/// The measurements of one run.
#[derive(Debug)]
struct Listing {
    cost: Cost,
    /// The difference between the numbers of lines and of flows.
    misprinted: u64,
    bytes_a_flow: f64,
}

/// Runs the scenario.
///
/// # Errors
/// When the program or the network fails.
pub(super) fn run(options: &Options, network: &Network, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    Network::flush()?;
    let (_, made) = network.send_flows(network.open_flood()?, flows, None)?;
    let once = |arguments: &[&str; 3]| {
        let ended = Process::start(&programs.ours, arguments)?.run_to_end(RUN_TIMEOUT)?;
        let bytes_a_flow = ended.output.len() as f64 / made.max(1) as f64;
        let misprinted = lines::count(&ended.output).abs_diff(made);
        Ok(Listing { cost: Cost::of(&ended), misprinted, bytes_a_flow })
    };
    let runs = Runs::alternate("json", options.rounds, [&JSON, &TEXT], once)?;
    Network::flush()?;
    let (flows, json, text) = (super::count(flows), JSON.join(" "), TEXT.join(" "));
    let title =
        format!("json: {flows} flows to a file with {json}, compared with ctflow's {text}, {} rounds", options.rounds);
    let names = ["json", "extended"].map(str::to_owned);
    Ok(Table { title, names, rows: rows(&runs), notes: note.into_iter().collect() })
}

fn rows(runs: &Runs<Listing>) -> Vec<Row> {
    vec![
        Row::both("wall, ms", runs.summaries(|run| run.cost.wall_ms())).with_goal_of_reference(SHARE),
        Row::both("CPU, ms", runs.summaries(|run| run.cost.cpu_ms())),
        Row::both("peak memory, KiB", runs.summaries(|run| run.cost.peak_kib())),
        Row::both("bytes a flow", runs.summaries(|run| run.bytes_a_flow)),
        Row::both("lines missing or too many", runs.summaries(|run| run.misprinted as f64)).with_goal(Goal::zero),
    ]
}
