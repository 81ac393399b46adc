//! Runs simulated clusters, one for each seed: `simulate --seeds 10000 --from 0`. The first failure prints its seed and
//! ends the run.

use std::process::ExitCode;

use ctflow_replicate::sim;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let value = arguments.iter().skip_while(|argument| *argument != name).nth(1);
        value.map_or(Ok(default), |value| value.parse::<u64>())
    };
    let (Ok(seeds), Ok(from)) = (number("--seeds", 1_000), number("--from", 0)) else {
        eprintln!("usage: simulate [--seeds COUNT] [--from SEED]");
        return ExitCode::FAILURE;
    };
    let (mut datagrams, mut restarts, mut resent, mut skips, mut agreed_ms_max) = (0, 0, 0, 0, 0);
    for seed in from..from.saturating_add(seeds) {
        match sim::run(seed) {
            Ok(report) => {
                datagrams += report.datagrams;
                restarts += report.restarts;
                resent += report.resent;
                skips += report.skips;
                agreed_ms_max = agreed_ms_max.max(report.agreed_ms);
            }
            Err(failure) => {
                eprintln!("seed {seed}: {failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{seeds} seeds from {from}: all replicas match, the last after {agreed_ms_max} ms");
    println!("{datagrams} datagrams, {resent} batches resent, {skips} skips, {restarts} restarts");
    ExitCode::SUCCESS
}
