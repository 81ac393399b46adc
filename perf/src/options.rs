//! What the command line asks for.

use std::num::NonZeroU32;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::failure::Failure;
use crate::scenario::Scenario;

/// Printed for `--help`.
pub(crate) const HELP: &str = "\
Compares ctflow with the installed conntrack and conntrackd on the same work, in turns, in private network namespaces.

usage: ctflow-perf [--rounds N] [--flows N] [--rate N] [--program PATH] [--write FILE] [SCENARIO]...

  --rounds N      runs of each program in each scenario (default 5)
  --flows N       flows instead of each scenario's own number
  --rate N        new flows a second in events (default 30000)
  --program PATH  what to measure instead of the ctflow beside this program
  --write FILE    the results as Markdown, too; other scenarios' on the same machine stay there
  events          CPU time for each event followed, at a rate that both can hold
  burst           events followed of flows that come as fast as packets go, then are flushed
  list            time, memory and text of a listing
  json            time and memory of a listing as JSON, beside our own text
  delete          time of deleting four flows of five, each printed
  load            time of loading a file of flows
  replicate       a full table replicated by two daemons, beside conntrackd's: CPU, memory, bytes sent
  loss            how soon a replica is equal when a tenth of the datagrams is lost, beside conntrackd's
  lag             time from an event in the kernel to the replica
  return          how soon a replica is equal after a restart, and after 30 s without a link
  commit          time of putting a full replica into the kernel, beside conntrackd's
  takeover        how long connections are silent when a firewall dies, beside conntrackd's
  bench           ctflow bench: the pipeline beside the floor, large tables, what a least age saves

All of these scenarios are run unless some are named. Needs no root but for the socket buffer of burst.
";

/// A command line's meaning.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// The help text.
    Help,
    /// A comparison.
    Run(Options),
}

/// What to compare and how.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Runs of each program in each scenario.
    pub(crate) rounds: usize,
    /// Flows instead of a scenario's own number.
    pub(crate) flows: Option<u32>,
    /// New flows a second where they are paced.
    pub(crate) rate: NonZeroU32,
    /// The program to measure instead of the built one.
    pub(crate) program: Option<PathBuf>,
    /// Where the results are written, too.
    pub(crate) write: Option<PathBuf>,
    /// In this order.
    pub(crate) scenarios: Vec<Scenario>,
}

impl Default for Options {
    fn default() -> Self {
        // About 16 % of a CPU for conntrack at the 5.3 µs an event measured. Its socket buffer of 166 events
        // overflows when it is kept waiting for 5.5 ms at this rate, which happens, but seldom.
        const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(29_999);
        Self { rounds: 5, flows: None, rate: RATE, program: None, write: None, scenarios: Vec::new() }
    }
}

impl Options {
    /// What to type for a scenario of these.
    pub(crate) fn command(&self, scenario: Scenario) -> String {
        let own = Self::default();
        let mut words = format!("`perf/run --rounds {}", self.rounds);
        if let Some(flows) = self.flows {
            words.push_str(&format!(" --flows {flows}"));
        }
        if self.rate != own.rate {
            words.push_str(&format!(" --rate {}", self.rate));
        }
        words + " " + scenario.name() + "`"
    }
}

/// Reads the command line.
///
/// # Errors
/// [`Failure::Usage`].
pub(crate) fn parse(mut words: lexopt::Parser) -> Result<Invocation, Failure> {
    let mut options = Options::default();
    while let Some(word) = words.next()? {
        match word {
            Short('h') | Long("help") => return Ok(Invocation::Help),
            Long("rounds") => options.rounds = words.value()?.parse::<NonZeroU32>()?.get() as usize,
            Long("flows") => options.flows = Some(words.value()?.parse::<NonZeroU32>()?.get()),
            Long("rate") => options.rate = words.value()?.parse()?,
            Long("program") => options.program = Some(words.value()?.into()),
            Long("write") => options.write = Some(words.value()?.into()),
            Value(name) => options.scenarios.push(name.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if options.scenarios.is_empty() {
        options.scenarios = Scenario::ALL.to_vec();
    }
    Ok(Invocation::Run(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Options, String> {
        match parse(lexopt::Parser::from_args(words.split_whitespace())) {
            Ok(Invocation::Run(options)) => Ok(options),
            Ok(Invocation::Help) => Err("help".into()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn all_scenarios_run_unless_some_are_named() {
        assert_eq!(parsed("").unwrap().scenarios, Scenario::ALL);
        assert_eq!(parsed("list events").unwrap().scenarios, [Scenario::List, Scenario::Events]);
        assert!(parsed("lists").unwrap_err().contains(
            "events, burst, list, json, delete, load, replicate, loss, lag, return, commit, takeover, bench"
        ));
    }

    #[test]
    fn a_scenarios_command_names_the_options_that_differ() {
        let command = |words| parsed(words).unwrap().command(Scenario::List);
        assert_eq!(command(""), "`perf/run --rounds 5 list`");
        assert_eq!(command("--flows 9 --rate 5 --rounds 1"), "`perf/run --rounds 1 --flows 9 --rate 5 list`");
    }

    #[test]
    fn numbers_are_read_and_zero_is_refused() {
        let options = parsed("--rounds 2 --flows=1000 --rate 5 --program /bin/x").unwrap();
        assert_eq!((options.rounds, options.flows, options.rate.get()), (2, Some(1000), 5));
        assert_eq!(options.program, Some("/bin/x".into()));
        assert_eq!(parsed("--write x.md").unwrap().write, Some("x.md".into()));
        assert!(parsed("--rounds 0").is_err() && parsed("--flows 0").is_err() && parsed("--rate 0").is_err());
        assert_eq!(parsed("--help").unwrap_err(), "help");
        assert!(parsed("--nonsense").unwrap_err().ends_with("see --help"));
    }
}
