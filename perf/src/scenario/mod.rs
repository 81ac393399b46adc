//! The work that is compared. Each scenario is a file: what it does is its module's text.

mod burst;
mod events;
mod following;
mod list;

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
}

impl Scenario {
    /// In the order of the report.
    pub(crate) const ALL: [Self; 3] = [Self::Events, Self::Burst, Self::List];

    /// Does the work with both programs in turns.
    ///
    /// # Errors
    /// When a program or the network fails. A missed goal is none.
    pub(crate) fn run(self, options: &Options, network: &Network, programs: &Programs) -> Result<Table, Failure> {
        match self {
            Self::Events => events::run(options, network, programs),
            Self::Burst => burst::run(options, network, programs),
            Self::List => list::run(options, network, programs),
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "events" => Ok(Self::Events),
            "burst" => Ok(Self::Burst),
            "list" => Ok(Self::List),
            _ => Err("a scenario is events, burst or list".into()),
        }
    }
}

/// The flows of a scenario, and a note where the machine's table does not take as many as asked.
fn flows(options: &Options, own: u32) -> Result<(u32, Option<String>), Failure> {
    let asked = options.flows.unwrap_or(own);
    let flows = Network::fitting(asked)?;
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
    [programs.ours.name.clone(), programs.peer.name.clone()]
}
