//! `burst`: packets create flows as fast as possible, then all flows are flushed at once. The programs print the events
//! with a socket buffer that holds all of them.
//!
//! No program prints as fast as that, so the figures show whether the buffer requested by `-b` is really allocated:
//! each flow must be printed twice, as NEW and as DESTROY.

use ctflow_engine::capture::socket::{BufferPlan, EventSocket, Options as SocketOptions, SocketError};

use crate::failure::Failure;
use crate::lines::Tally;
use crate::network::Network;
use crate::options::Options;
use crate::program::{Program, Programs};
use crate::report::{Goal, Row, Table, number};
use crate::runs::Runs;

use super::following::Following;

const FLOWS: u32 = 150_000;
const BUFFER_BYTES: usize = 268_435_456;
const ARGUMENTS: [&str; 5] = ["-E", "-o", "extended,timestamp,id", "-b", "268435456"];

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, network: &Network, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let once = |program: &Program| {
        Network::flush()?;
        Following::run(program, &ARGUMENTS, || create_and_flush(network, flows))
    };
    let notes = note.into_iter().chain(buffer_note(flows)?).collect();
    let runs = Runs::alternate("burst", options.rounds, programs.both(), once)?;
    let (flows, words) = (super::count(flows), ARGUMENTS.join(" "));
    let title =
        format!("burst: {flows} new flows at full speed, then flushed, printed by {words}, {} rounds", options.rounds);
    Ok(Table { title, names: super::names(programs), rows: rows(&runs), notes })
}

/// Creates flows and flushes them. Each flow causes two events, NEW and DESTROY.
fn create_and_flush(network: &Network, flows: u32) -> Result<Tally, Failure> {
    let (_, made) = network.send_flows(network.open_flood()?, flows, None)?;
    Network::flush()?;
    Ok(Tally { new: made, destroy: made, ..Tally::default() })
}

fn rows(runs: &Runs<Following>) -> Vec<Row> {
    vec![
        Row::both("events printed", runs.summaries(Following::printed)),
        Row::both("events missing", runs.summaries(Following::missing)).with_goal(Goal::zero),
        Row::both("CPU an event, ns", runs.summaries(Following::cpu_per_event_ns)),
    ]
}

/// Requests the same buffer, and returns a note if it holds fewer events. Without root outside of namespaces the kernel
/// allocates less.
fn buffer_note(flows: u32) -> Result<Option<String>, Failure> {
    let options = SocketOptions { buffer: BufferPlan::Fixed(BUFFER_BYTES), ..SocketOptions::default() };
    let socket = EventSocket::open(&options).map_err(|error: SocketError| Failure::System {
        operation: "open an event socket".into(),
        source: std::io::Error::other(error),
    })?;
    let buffer = socket.buffer();
    let events = 2 * u64::from(flows);
    let short = u64::try_from(buffer.capacity()).is_ok_and(|capacity| capacity < events);
    let events = number(events as f64);
    Ok(short.then(|| format!("The buffer does not hold {events} events, as it does with root: {buffer}.")))
}
