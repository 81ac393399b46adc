//! `list`: a small and a full table are listed to a file. Measures time and memory, and compares the output of both
//! programs.
//!
//! The floor is the kernel's dump, received and discarded by this process: no listing can be faster.

use std::time::{Duration, Instant};

use ctflow_engine::kernel::dump::Dump;
use ctflow_lab::traffic::Flood;
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::request::Table as KernelTable;

use crate::failure::Failure;
use crate::lines::{self, Difference};
use crate::network::Network;
use crate::options::Options;
use crate::process::{Exited, Process, RUN_TIMEOUT};
use crate::program::{Program, Programs};
use crate::report::{Goal, Row, Table, number};
use crate::runs::Runs;
use crate::statistics::Summary;

use super::cost::{Cost, milliseconds};

const FLOWS: u32 = 300_000;
/// The size of the small table, at which memory is compared.
const FEW: u32 = 25_000;
const ARGUMENTS: [&str; 3] = ["-L", "-o", "extended"];
/// The goal of the time, as a share of conntrack's.
const SHARE: f64 = 0.5;
/// The goal of the time, in percent of the floor's.
const OVER_FLOOR: f64 = 115.0;
/// The goal of the memory's growth from the small to the full table. The memory is the same for any table, except for
/// random differences smaller than this.
const GROWTH_KIB: f64 = 256.0;

/// Runs the scenario.
///
/// # Errors
/// When a program or the network fails.
pub(super) fn run(options: &Options, network: &Network, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let few = FEW.min(flows);
    Network::flush()?;
    let (flood, small) = measure_filled(options, network, programs, network.open_flood()?, few)?;
    let (_, full) = measure_filled(options, network, programs, flood, flows - few)?;
    Network::flush()?;
    let words = ARGUMENTS.join(" ");
    let title = format!("list: {} flows to a file with {words}, {} rounds", super::count(flows), options.rounds);
    let rows = rows(&small, &full, [few, flows].map(super::count));
    let notes = note.into_iter().chain(examples(&full.difference, programs)).collect();
    Ok(Table { title, names: super::names(programs), rows, notes })
}

/// For each program, a note with the first line that only this program printed.
fn examples(difference: &Difference, programs: &Programs) -> impl Iterator<Item = String> {
    let sides = [(&programs.ours, &difference.left), (&programs.reference, &difference.right)];
    let example = |(program, line): (&Program, &Option<String>)| {
        line.as_ref().map(|line| format!("Only {} has: {line}", program.name))
    };
    sides.map(example).into_iter().flatten()
}

/// The measurements of one size of the table.
#[derive(Debug)]
struct FilledTable {
    runs: Runs<Cost>,
    /// The time of the kernel's dump alone, in milliseconds.
    floor: Summary,
    /// The difference between one listing of each program.
    difference: Difference,
}

/// Adds `more` flows to the table, and measures listings of it.
fn measure_filled(
    options: &Options,
    network: &Network,
    programs: &Programs,
    flood: Flood,
    more: u32,
) -> Result<(Flood, FilledTable), Failure> {
    let (flood, flows) = network.send_flows(flood, more, None)?;
    let what = format!("list of {}", number(flows as f64));
    let mut floors = Vec::with_capacity(2 * options.rounds);
    let once = |program: &Program| {
        floors.push(milliseconds(floor()?));
        Ok(Cost::of(&run_listing(program)?))
    };
    let runs = Runs::alternate(&what, options.rounds, programs.both(), once)?;
    let difference = lines::difference(&run_listing(&programs.ours)?.output, &run_listing(&programs.reference)?.output);
    Ok((flood, FilledTable { runs, floor: Summary::of(floors), difference }))
}

/// Lists the table with one program.
fn run_listing(program: &Program) -> Result<Exited, Failure> {
    Process::start(program, &ARGUMENTS)?.run_to_end(RUN_TIMEOUT)
}

/// The time in which this process receives and discards the kernel's dump.
fn floor() -> Result<Duration, Failure> {
    let started = Instant::now();
    Dump::start(KernelTable::Conntrack, &DumpFilter::default(), false)?.read_all(|_| ())?;
    Ok(started.elapsed())
}

fn rows(small: &FilledTable, full: &FilledTable, [few, flows]: [String; 2]) -> Vec<Row> {
    let memory = |filled: &FilledTable| filled.runs.summaries(Cost::peak_kib);
    let [small_memory, _] = memory(small);
    let walls = full.runs.summaries(Cost::wall_ms);
    let over_floor = Summary::of([100.0 * walls[0].median / full.floor.median]);
    vec![
        Row::both("wall, ms", walls).with_goal_of_reference(SHARE),
        // The kernel composes a dump on one core. Where this ratio is above the goal, no listing can reach the goal.
        Row::both("kernel's dump alone, wall, ms", [full.floor, walls[1]]).with_goal_of_reference(SHARE),
        Row::single("wall, % of the kernel's dump alone", over_floor).with_goal(|ours| Goal::at_most(OVER_FLOOR, ours)),
        Row::both("CPU, ms", full.runs.summaries(Cost::cpu_ms)),
        Row::both(format!("peak memory at {few}, KiB"), memory(small)),
        Row::both(format!("peak memory at {flows}, KiB"), memory(full))
            .with_goal(|ours| Goal::at_most(small_memory.median + GROWTH_KIB, ours)),
        Row::single("lines that differ", Summary::of([(small.difference.lines + full.difference.lines) as f64]))
            .with_goal(Goal::zero),
    ]
}
