//! The work that is compared. Each scenario is a file: what it does is its module's text.

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

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Following events at a steady rate.
    Events,
    /// Following a burst of events.
    Burst,
    /// Listing the table.
    List,
    /// Listing it as JSON.
    Json,
    /// Deleting most of it.
    Delete,
    /// Loading it from a file.
    Load,
    /// Replicating a full table.
    Replicate,
    /// Replicating while datagrams are lost.
    Loss,
    /// How long replicating takes.
    Lag,
    /// Replicating again after a restart, and after an interruption.
    Return,
    /// Putting a replica into the kernel.
    Commit,
    /// Connections through a firewall that dies.
    Takeover,
    /// What `ctflow bench` says.
    Bench,
}

impl Scenario {
    /// In the order of the report.
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

    /// Their names.
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

    /// What to type for it.
    pub(crate) fn name(self) -> &'static str {
        let mut known = Self::ALL.into_iter().zip(Self::NAMES);
        known.find(|(scenario, _)| *scenario == self).map_or("", |(_, name)| name)
    }

    /// Does the work with both contestants in turns.
    ///
    /// # Errors
    /// When a program or the network fails. A missed goal is none.
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

/// The flows of a scenario, and a note where the machine's table does not take as many as asked.
fn fit_flows(options: &Options, own: u32) -> Result<(u32, Option<String>), Failure> {
    let asked = options.flows.unwrap_or(own);
    let flows = Network::fit_to_table(asked)?;
    let note = || {
        let (flows, asked) = (count(flows), count(asked));
        format!("{flows} flows instead of {asked}: the machine's nf_conntrack_max takes no more, and is left as it is.")
    };
    Ok((flows, (flows < asked).then(note)))
}

fn count(flows: u32) -> String {
    number(f64::from(flows))
}

fn names(programs: &Programs) -> [String; 2] {
    programs.both().map(|program| program.name.clone())
}
