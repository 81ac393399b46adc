//! `events`: new flows made by packets at a steady rate that both programs hold, followed and printed with everything.
//!
//! The figure is the CPU time of the process for each event that it printed, system calls included; what the kernel does on
//! the packets' side to make the event is not in it.

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
/// Of conntrack's CPU time an event.
const SHARE: f64 = 0.25;

/// Runs it.
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
    let title = format!("events: {flows} new flows at {rate}/s, followed with {words}, {} rounds", options.rounds);
    Ok(Table { title, names: super::names(programs), rows: rows(&runs), notes: note.into_iter().collect() })
}

fn rows(runs: &Runs<Following>) -> Vec<Row> {
    vec![
        Row::both("CPU an event, ns", runs.summaries(Following::cpu_per_event_ns)).with_goal_of_reference(SHARE),
        Row::both("events printed", runs.summaries(Following::printed)),
        Row::both("events missing", runs.summaries(Following::missing)).with_goal(Goal::zero),
    ]
}
