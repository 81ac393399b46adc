//! The bounds of replication whatever the protocol, each with its derivation.

/// The longest encoded flow or expectation, in bytes. A flow with every field has under 1,000: two texts and a blob of
/// 255 bytes each, and the IPv6 addresses and ports of three tuples.
pub const ENTRY_BYTES_MAX: usize = 1_100;

/// The most streams of a node: the engine's largest number of workers.
pub const STREAMS_MAX: u16 = 64;

/// The most peers of a node. Two is what most have. A hello of one more is refused, unless a peer that was never proven
/// can be dropped for it.
pub const PEERS_MAX: usize = 64;

/// The least time between two equal log lines about the same peer, in milliseconds.
pub const NOTE_MS: u64 = 60_000;

/// The most notes that are remembered to suppress repeats: several of every peer. Beyond that the oldest is forgotten.
pub const NOTES_KEPT: usize = 4 * PEERS_MAX;

/// The longest time that a verification waits for answers, in milliseconds.
pub const VERIFY_MS: u64 = 10_000;
