//! A cluster of nodes, their shards and the network between them, all from one seed.
//!
//! ```text
//!  seed ──► plan ──► faulty time ──────────────► faults end ──► at most 10 s ──► everything agrees ──► quiet
//!                    loss, repeats, delay,        flows still                     entries compared      no traffic but
//!                    damage, replays, partitions, change for                      verify says so        hello and heads
//!                    crashes, full and slow peers half a second
//! ```
//!
//! [`run`] either returns what happened or says what did not hold; the same seed always does the same.

mod cluster;
mod host;
mod network;
mod plan;
mod rng;
mod shard;

pub use cluster::{Report, run};

#[cfg(test)]
mod tests {
    /// More than these: `cargo run --release -p ctflow-replicate --features sim --example simulate -- --seeds 10000`.
    #[test]
    fn after_faults_end_all_replicas_equal_their_sources() {
        for seed in 0..200 {
            if let Err(failure) = super::run(seed) {
                panic!("seed {seed}: {failure}");
            }
        }
    }

    #[test]
    fn the_same_seed_does_the_same() {
        assert_eq!(super::run(7), super::run(7));
    }
}
