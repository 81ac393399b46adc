//! Whole-system comparison: ctflow and the installed conntrack do the same work in turns, and the cost of each is
//! printed.
//!
//! ```text
//! options ──► network   client, firewall, server: private namespaces; this process runs on the firewall
//!         ├─► pair      two firewalls on one cable, for replication; suite: their daemons; table: their flows
//!         └─► program   finds both programs and their versions
//!               └─► scenario/   events, list, load … ──► process   one measured run: CPU, memory, output
//!                                      └─► report   min, median, max of both, ratio, goal
//! ```
//!
//! A missed goal does not change the exit code, since figures depend on the machine. `perf/README.md` describes the
//! method.

use std::process::ExitCode;

mod failure;
mod lines;
mod network;
mod options;
mod pair;
mod process;
mod procfs;
mod program;
mod report;
mod results;
mod runs;
mod saved;
mod scenario;
mod statistics;
mod suite;
mod table;
mod wait;

use failure::Failure;
use network::Network;
use options::{Invocation, Options};
use program::Programs;
use results::Section;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ctflow-perf: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let options = match options::parse(lexopt::Parser::from_env())? {
        Invocation::Help => {
            print!("{}", options::HELP);
            return Ok(());
        }
        Invocation::Run(options) => options,
    };
    // First: an unprivileged process must still have a single thread here, and processes started later share the
    // network.
    let network = Network::build()?;
    wait::catch_signals()?;
    run_scenarios(&options, &network)
}

/// Runs the selected scenarios, prints each result, and writes it to the results file where there is one.
fn run_scenarios(options: &Options, network: &Network) -> Result<(), Failure> {
    let programs = Programs::find(options.program.as_deref())?;
    let about = report::preamble(&programs)?;
    println!("{about}");
    for &scenario in &options.scenarios {
        let before = report::load_average()?;
        let table = scenario.run(options, network, &programs)?.to_string();
        let by = format!("{}; load {before} before, {} after", options.command(scenario), report::load_average()?);
        println!("\n{by}\n{table}");
        if let Some(path) = &options.write {
            results::write(path, &Section { scenario, about: &about, by: &by, table: &table })?;
        }
    }
    Ok(())
}
