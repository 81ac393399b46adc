//! A cluster of nodes, their shards and the network between them, all from one seed.
//!
//! ```text
//!  seed ──► plan ──► faulty time ──────────────► faults end ──► at most 10 s ──► everything agrees ──► quiet
//!                    loss, repeats, delay,        flows still                     entries compared     no traffic but
//!                    damage, replays, partitions, change for                      verify confirms it   hello and heads
//!                    crashes, full and slow peers half a second
//! ```
//!
//! [`run`] returns a report, or an error that describes the check that failed. The same seed always gives the same
//! result.

mod cluster;
pub(crate) mod host;
mod network;
mod plan;
pub(crate) mod rng;
pub(crate) mod shard;

pub use cluster::{Report, run};

#[cfg(test)]
mod tests {
    /// To run more seeds: `cargo run --release -p ctflow-replicate --features sim --example simulate -- --seeds 10000`.
    #[test]
    fn after_faults_end_all_replicas_equal_their_sources() {
        let run = |first: usize| {
            for seed in (0..300).skip(first).step_by(2) {
                if let Err(failure) = super::run(seed) {
                    panic!("seed {seed}: {failure}");
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(move || run(0));
            run(1);
        });
    }

    #[test]
    fn the_same_seed_gives_the_same_report() {
        assert_eq!(super::run(7), super::run(7));
    }
}
