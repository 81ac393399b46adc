//! The scenarios. Each is a file, whose module text describes its work.

mod bench;
mod burst;
mod commit;
mod cost;
mod delete;
mod events;
mod following;
mod json;
mod lag;
mod list;
mod load;
mod loss;
mod rejoin;
mod replicate;
mod takeover;

use std::str::FromStr;

use crate::failure::Failure;
use crate::network::Network;
use crate::options::Options;
use crate::program::Programs;
use crate::report::{Table, number};

/// One scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Prints events at a steady rate.
    Events,
    /// Prints a burst of events.
    Burst,
    /// Lists the table.
    List,
    /// Lists the table as JSON.
    Json,
    /// Deletes most of the table.
    Delete,
    /// Loads the table from a file.
    Load,
    /// Replicates a full table.
    Replicate,
    /// Replicates while datagrams are lost.
    Loss,
    /// Measures the time from an event to the replica.
    Lag,
    /// Resyncs the backup after a restart, and after the link was down.
    Return,
    /// Commits a replica to the kernel.
    Commit,
    /// Takes over the connections of a firewall that fails.
    Takeover,
    /// Runs `ctflow bench`.
    Bench,
}

impl Scenario {
    /// All scenarios, in the order of the report.
    pub(crate) const ALL: [Self; 13] = [
        Self::Events,
        Self::Burst,
        Self::List,
        Self::Json,
        Self::Delete,
        Self::Load,
        Self::Replicate,
        Self::Loss,
        Self::Lag,
        Self::Return,
        Self::Commit,
        Self::Takeover,
        Self::Bench,
    ];

    /// The scenarios' names, in the order of [`Self::ALL`].
    const NAMES: [&str; 13] = [
        "events",
        "burst",
        "list",
        "json",
        "delete",
        "load",
        "replicate",
        "loss",
        "lag",
        "return",
        "commit",
        "takeover",
        "bench",
    ];

    /// The scenario's name on the command line.
    pub(crate) fn name(self) -> &'static str {
        let mut known = Self::ALL.into_iter().zip(Self::NAMES);
        known.find(|(scenario, _)| *scenario == self).map_or("", |(_, name)| name)
    }

    /// Runs the scenario with both contestants in turns.
    ///
    /// # Errors
    /// When a program or the network fails. A missed goal is not an error.
    pub(crate) fn run(self, options: &Options, network: &Network, programs: &Programs) -> Result<Table, Failure> {
        match self {
            Self::Events => events::run(options, network, programs),
            Self::Burst => burst::run(options, network, programs),
            Self::List => list::run(options, network, programs),
            Self::Json => json::run(options, network, programs),
            Self::Delete => delete::run(options, programs),
            Self::Load => load::run(options, programs),
            Self::Replicate => replicate::run(options, programs),
            Self::Loss => loss::run(options, programs),
            Self::Lag => lag::run(options, programs),
            Self::Return => rejoin::run(options, programs),
            Self::Commit => commit::run(options, programs),
            Self::Takeover => takeover::run(options, programs),
            Self::Bench => bench::run(options, programs),
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut known = Self::NAMES.into_iter().zip(Self::ALL);
        let found = known.find(|(known, _)| *known == name).map(|(_, scenario)| scenario);
        found.ok_or_else(|| format!("scenarios are {}", Self::NAMES.join(", ")))
    }
}

/// Returns the number of flows of a scenario whose default is `default`, and a note if the machine's table cannot hold
/// the requested number.
fn fit_flows(options: &Options, default: u32) -> Result<(u32, Option<String>), Failure> {
    let requested = options.flows.unwrap_or(default);
    let flows = Network::fit_to_table(requested)?;
    let note = || {
        let (flows, requested) = (count(flows), count(requested));
        format!("{flows} flows instead of {requested}: the machine's nf_conntrack_max is too low for more.")
    };
    Ok((flows, (flows < requested).then(note)))
}

/// Formats a count with commas between the thousands.
fn count(flows: u32) -> String {
    number(f64::from(flows))
}

/// The names of both programs.
fn names(programs: &Programs) -> [String; 2] {
    programs.both().map(|program| program.name.clone())
}
