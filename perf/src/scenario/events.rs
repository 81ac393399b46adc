//! `events`: packets create new flows at a steady rate that both programs hold, and each program prints the events with
//! all options.
//!
//! The figure is the process's CPU time for each printed event, including system calls. The kernel's work to create an
//! event is counted for the packets' sender and not included.

use crate::failure::Failure;
use crate::lines::Tally;
use crate::network::Network;
use crate::options::Options;
use crate::program::{Program, Programs};
use crate::report::{Goal, Row, Table};
use crate::runs::Runs;

use super::following::Following;

const FLOWS: u32 = 100_000;
const ARGUMENTS: [&str; 3] = ["-E", "-o", "extended,timestamp,id"];
/// The goal of the CPU time an event, as a share of conntrack's.
const SHARE: f64 = 0.25;

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, network: &Network, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let once = |program: &Program| {
        Network::flush()?;
        Following::run(program, &ARGUMENTS, || {
            let (_, new) = network.send_flows(network.open_flood()?, flows, Some(options.rate))?;
            Ok(Tally { new, ..Tally::default() })
        })
    };
    let runs = Runs::alternate("events", options.rounds, programs.both(), once)?;
    Network::flush()?;
    let (flows, rate, words) = (super::count(flows), super::count(options.rate.get()), ARGUMENTS.join(" "));
    let title = format!("events: {flows} new flows at {rate}/s, printed by {words}, {} rounds", options.rounds);
    Ok(Table { title, names: super::names(programs), rows: rows(&runs), notes: note.into_iter().collect() })
}

fn rows(runs: &Runs<Following>) -> Vec<Row> {
    vec![
        Row::both("CPU an event, ns", runs.summaries(Following::cpu_per_event_ns)).with_goal_of_reference(SHARE),
        Row::both("events printed", runs.summaries(Following::printed)),
        Row::both("events missing", runs.summaries(Following::missing)).with_goal(Goal::zero),
    ]
}
