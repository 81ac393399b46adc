//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;

use lexopt::prelude::*;

use crate::failure::Failure;
use crate::scenario::Scenario;

/// The text printed by `--help`.
pub(crate) const HELP: &str = "\
Compares ctflow with the installed conntrack and conntrackd on the same work, in turns, in private network namespaces.

usage: ctflow-perf [--rounds N] [--flows N] [--rate N] [--program PATH] [--write FILE] [SCENARIO]...

  --rounds N      runs of each program in each scenario (default 5)
  --flows N       number of flows, instead of each scenario's default
  --rate N        new flows a second in events (default 30000)
  --program PATH  the program to measure, instead of the ctflow beside this program
  --write FILE    also write the results to FILE as Markdown; keeps other scenarios' results of the same machine
  events          CPU time an event printed by -E, at a rate that both can hold
  burst           events printed of flows created as fast as possible, then flushed
  list            time and memory of a listing, and lines that differ
  json            time and memory of a listing as JSON, compared with ctflow's own text
  delete          time to delete four flows of five, each printed
  load            time to load a file of flows
  replicate       a full table replicated by two daemons, compared with conntrackd: CPU, memory, bytes sent
  loss            time until a replica is equal while a tenth of the datagrams is lost, compared with conntrackd
  lag             time from an event in the kernel to the replica
  return          time until a replica is equal after a restart, and after 30 s without a link
  commit          time to commit a full replica to the kernel, compared with conntrackd
  takeover        how long connections are interrupted when a firewall fails, compared with conntrackd
  bench           ctflow bench: the pipeline compared with the floor, large tables, savings of a least age

Runs all scenarios unless some are named. Needs no root, except for the socket buffer of burst.
";

/// A parsed command line.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Print the help text.
    Help,
    /// Run scenarios.
    Run(Options),
}

/// The options of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Runs of each program in each scenario; at least 1.
    pub(crate) rounds: usize,
    /// The number of flows, instead of each scenario's default.
    pub(crate) flows: Option<u32>,
    /// New flows a second in `events`.
    pub(crate) rate: NonZeroU32,
    /// The program to measure, instead of the ctflow beside this program.
    pub(crate) program: Option<PathBuf>,
    /// The file that the results are also written to.
    pub(crate) write: Option<PathBuf>,
    /// The scenarios to run, in this order.
    pub(crate) scenarios: Vec<Scenario>,
}

impl Default for Options {
    fn default() -> Self {
        // About 16 % of a CPU for conntrack, at the measured 5.3 µs an event. Its socket buffer holds 166 events: at
        // this rate it overflows when conntrack does not run for 5.5 ms, which happens rarely.
        const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(29_999);
        Self { rounds: 5, flows: None, rate: RATE, program: None, write: None, scenarios: Vec::new() }
    }
}

impl Options {
    /// The command that runs one scenario with these options, in Markdown.
    pub(crate) fn command(&self, scenario: Scenario) -> String {
        let default = Self::default();
        let mut words = format!("`perf/run --rounds {}", self.rounds);
        if let Some(flows) = self.flows {
            words.push_str(&format!(" --flows {flows}"));
        }
        if self.rate != default.rate {
            words.push_str(&format!(" --rate {}", self.rate));
        }
        words + " " + scenario.name() + "`"
    }
}

/// Parses the command line.
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
