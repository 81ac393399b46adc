//! Every bound of the replication protocol, and how it was derived.
//!
//! Bounds that depend on each other are checked against each other at compile time, at the end of this file.

use crate::batch::HEADROOM_BYTES;
use crate::seal::TAG_BYTES;
use crate::wire::HEADER_BYTES;

/// The longest datagram, in bytes: the protocol's own bound, below UDP's 65,507 and what 2 bytes of length can say.
pub const DATAGRAM_BYTES_MAX: usize = 65_000;

/// The shortest a datagram may be set to, in bytes: what IPv6 carries over any link (1,280) without the IPv6 and UDP
/// headers (48), rounded down. Every entry fits a batch of it.
pub const DATAGRAM_BYTES_MIN: usize = 1_232;

/// The longest encoded flow or expectation, in bytes. A flow with everything a flow can have takes under 1,000: two
/// texts and a blob of 255 bytes each, and IPv6 ends of three tuples.
pub const ENTRY_BYTES_MAX: usize = 1_100;

/// Streams of a node: as many as the engine has workers at most.
pub const STREAMS_MAX: u16 = 64;

/// Peers a node knows. Two is what most have; a hello more is refused, and one that was never proven makes room first.
pub const PEERS_MAX: usize = 64;

/// Bytes of a node's name that are kept; host names have at most 253.
pub const NAME_BYTES_MAX: usize = 255;

/// Keys of other nodes' epochs that are kept: one for every peer, and one more each while it restarts. A key that is not
/// kept is derived again, some microseconds.
pub const KEYS_MAX: usize = 2 * PEERS_MAX;

/// Gaps that one acknowledgement names; the rest shows when these are closed.
pub const GAPS_PER_ACK: usize = 16;

/// Batches that are sent again to one peer in one round: 128 datagrams of an Ethernet's size are 190 KB, which the default
/// receive buffer of 208 KiB takes at once.
pub const RESENDS_PER_ROUND: usize = 128;

/// The shortest time between two rounds of resends of a stream to one peer, in milliseconds: some round trips of a link
/// between firewalls, so a batch on its way is not sent twice.
pub const RESEND_ROUND_MS: u64 = 10;

/// Batches taken without an acknowledgement, at most.
pub const ACK_BATCHES: u32 = 32;

/// The longest that a batch waits for its acknowledgement, in milliseconds.
pub const ACK_MS: u64 = 5;

/// How long a gap may be a mere reordering before it is told, in milliseconds.
pub const REORDER_WINDOW_MS: u64 = 1;

/// How soon a gap that is still there is told again, in milliseconds: as soon as it would be answered again.
pub const GAP_REPEAT_MS: u64 = RESEND_ROUND_MS;

/// How soon wanted buckets are told again, in milliseconds.
pub const WANT_REPEAT_MS: u64 = 100;

/// How long buckets are not wanted again after a malformed batch, in milliseconds: a sender that cannot do better must not
/// be kept busy by it.
pub const MALFORMED_PAUSE_MS: u64 = 1_000;

/// Time between two hellos, in milliseconds.
pub const HELLO_MS: u64 = 1_000;

/// Time between two heads while something is not acknowledged, in milliseconds.
pub const HEADS_BUSY_MS: u64 = 100;

/// Time between two heads while everything is acknowledged, in milliseconds.
pub const HEADS_IDLE_MS: u64 = 1_000;

/// A peer that acknowledged nothing new for so long holds up nobody, in milliseconds.
pub const RESPONSIVE_MS: u64 = 1_000;

/// A peer not heard for so long is lost, in milliseconds: three hellos and as many heads in a row did not come.
pub const LOST_MS: u64 = 3_000;

/// How often the same thing about the same peer is said in the log, in milliseconds.
pub const NOTE_MS: u64 = 60_000;

/// Notes kept in mind so as not to be repeated: every kind, of every peer. Past that the oldest is forgotten.
pub const NOTES_KEPT: usize = 4 * PEERS_MAX;

/// How often a verification is asked for until all peers answered, in milliseconds.
pub const VERIFY_REPEAT_MS: u64 = 1_000;

/// How long a verification waits for answers, in milliseconds.
pub const VERIFY_MS: u64 = 10_000;

/// What a kept batch is charged besides its bytes: its place in the queue and the allocator's own.
pub const BATCH_OVERHEAD_BYTES: usize = 96;

/// Bytes of batches kept for resending when nothing else is said, all streams of a node together. At 100,000 deltas a
/// second of 60 bytes it is 11 seconds: a peer's restart of its network, not of its machine.
pub const RESEND_BYTES_DEFAULT: usize = 64 * 1_024 * 1_024;

/// Bytes of a stream's batches on their way to a peer when nothing else is said: 100 ms of 100,000 deltas a second.
pub const WINDOW_BYTES_DEFAULT: usize = 1_024 * 1_024;

/// Bytes of batches held back behind a gap in one stream when nothing else is said: all that can be on its way.
pub const HELD_BACK_BYTES_DEFAULT: usize = 2 * WINDOW_BYTES_DEFAULT;

/// How often every bucket is told in alarm mode when nothing else is said, in milliseconds.
pub const REFRESH_MS_DEFAULT: u64 = 15_000;

/// How long an entry that was not told stays in alarm mode when nothing else is said, in milliseconds.
pub const CACHE_TIMEOUT_MS_DEFAULT: u64 = 180_000;

// Every entry fits the shortest batch, behind its type, age (10) and length (3).
const _: () = assert!(ENTRY_BYTES_MAX + 1 + 10 + 3 <= DATAGRAM_BYTES_MIN - HEADROOM_BYTES - TAG_BYTES);
// Half of all digests fit a batch of the shortest kind, so they are told in two items or three.
const _: () = assert!(1 + 8 + 2 + 2 + 128 * 8 <= DATAGRAM_BYTES_MIN - HEADROOM_BYTES - TAG_BYTES);
// The longest acknowledgement, with what is wanted, fits a control message; so does the longest hello.
const _: () = assert!(24 + 4 + 12 + 16 * GAPS_PER_ACK + 4 + 36 <= DATAGRAM_BYTES_MIN - HEADER_BYTES - TAG_BYTES);
const _: () = assert!(24 + 4 + 20 + NAME_BYTES_MAX <= DATAGRAM_BYTES_MIN - HEADER_BYTES - TAG_BYTES);
const _: () = assert!(DATAGRAM_BYTES_MIN < DATAGRAM_BYTES_MAX && DATAGRAM_BYTES_MAX <= u16::MAX as usize);
// An acknowledgement comes well before its sender would take this side for silent, and before it is lost.
const _: () = assert!(ACK_MS < HEADS_BUSY_MS && HEADS_BUSY_MS < RESPONSIVE_MS && RESPONSIVE_MS < LOST_MS);
const _: () = assert!(HELLO_MS * 3 <= LOST_MS && HEADS_IDLE_MS * 3 <= LOST_MS);
const _: () = assert!(HELD_BACK_BYTES_DEFAULT >= WINDOW_BYTES_DEFAULT);
const _: () = assert!(RESEND_BYTES_DEFAULT >= WINDOW_BYTES_DEFAULT * STREAMS_MAX as usize);
