//! The bounds of the protocol, each with its derivation.
//!
//! The relations between the bounds are checked at compile time, at the end of this file.

use crate::ctflow::batch::HEADROOM_BYTES;
use crate::ctflow::seal::TAG_BYTES;
use crate::ctflow::wire::HEADER_BYTES;
use crate::limits::{ENTRY_BYTES_MAX, PEERS_MAX, STREAMS_MAX};

/// The longest datagram, in bytes: the protocol's own bound, below UDP's 65,507 and the 65,535 of a 2-byte length on
/// TCP.
pub const DATAGRAM_BYTES_MAX: usize = 65_000;

/// The least datagram size that can be configured, in bytes: the least MTU of IPv6 (1,280) without the IPv6 and UDP
/// headers (48). Every entry fits a batch of this size.
pub const DATAGRAM_BYTES_MIN: usize = 1_232;

/// The longest name of a node, in bytes; host names have at most 253.
pub const NAME_BYTES_MAX: usize = 255;

/// The most derived keys that are cached: one for every peer, and one more for each while it restarts. A key that is
/// not cached is derived again, which takes some microseconds.
pub const KEYS_MAX: usize = 2 * PEERS_MAX;

/// The most gaps in one acknowledgement; the others are reported when these are closed.
pub const GAPS_PER_ACK: usize = 16;

/// The most batches of a stream that are resent to one peer in one round: 128 datagrams of Ethernet size are 190 KB,
/// which fit the default receive buffer of 208 KiB.
pub const RESENDS_PER_ROUND: usize = 128;

/// The shortest time between two rounds of resends of a stream to one peer, in milliseconds: some round trips of a link
/// between firewalls, so a batch in flight is not sent twice.
pub const RESEND_ROUND_MS: u64 = 10;

/// The number of received batches after which an acknowledgement is sent at once.
pub const ACK_BATCHES: u32 = 32;

/// The longest time from the receipt of a batch to its acknowledgement, in milliseconds.
pub const ACK_MS: u64 = 5;

/// The reordering window, in milliseconds: a gap older than this is reported to the source.
pub const REORDER_WINDOW_MS: u64 = 1;

/// The time after which an open gap is reported again, in milliseconds: the source resends no sooner.
pub const GAP_REPEAT_MS: u64 = RESEND_ROUND_MS;

/// The time after which a want for unknown buckets is repeated, in milliseconds.
pub const WANT_REPEAT_MS: u64 = 100;

/// The time after a malformed batch in which no bucket is wanted, in milliseconds: a source that keeps sending
/// malformed batches must not be kept busy with resyncs.
pub const MALFORMED_PAUSE_MS: u64 = 1_000;

/// The time between two hellos, in milliseconds.
pub const HELLO_MS: u64 = 1_000;

/// The time between two heads while a batch is not acknowledged, in milliseconds.
pub const HEADS_BUSY_MS: u64 = 100;

/// The time between two heads while every batch is acknowledged, in milliseconds.
pub const HEADS_IDLE_MS: u64 = 1_000;

/// The time after which a source no longer waits for a peer that is silent or acknowledges nothing new, in
/// milliseconds.
pub const RESPONSIVE_MS: u64 = 1_000;

/// The time of silence after which a peer is lost, in milliseconds: three hellos and as many heads in a row did not
/// arrive.
pub const LOST_MS: u64 = 3_000;

/// The time between two verify requests until all peers have answered, in milliseconds.
pub const VERIFY_REPEAT_MS: u64 = 1_000;

/// The bytes that a kept batch is charged besides its own: its slot in the queue and the allocator's overhead.
pub const BATCH_OVERHEAD_BYTES: usize = 96;

/// The default size of the resend queue in bytes, for all streams of a node together. At 100,000 deltas a second of 60
/// bytes it holds 11 seconds: enough for a peer's restart of its network, not of its machine.
pub const RESEND_BYTES_DEFAULT: usize = 64 * 1_024 * 1_024;

/// The default window in bytes, for the batches of a stream in flight to a peer: 100 ms of 100,000 deltas a second.
pub const WINDOW_BYTES_DEFAULT: usize = 1_024 * 1_024;

/// The default bound of the batches held back behind a gap in one stream, in bytes: all that can be in flight.
pub const HELD_BACK_BYTES_DEFAULT: usize = 2 * WINDOW_BYTES_DEFAULT;

/// The default refresh time of alarm mode, in milliseconds: every bucket is sent once in it.
pub const REFRESH_MS_DEFAULT: u64 = 15_000;

/// The default cache timeout of alarm mode, in milliseconds: an entry that is no longer sent expires after one to two
/// of it.
pub const CACHE_TIMEOUT_MS_DEFAULT: u64 = 180_000;

// Every entry fits the shortest batch, behind its type, age (10) and length (3).
const _: () = assert!(ENTRY_BYTES_MAX + 1 + 10 + 3 <= DATAGRAM_BYTES_MIN - HEADROOM_BYTES - TAG_BYTES);
// Half of all digests fit a batch of the least size, so they are sent in two items or three.
const _: () = assert!(1 + 8 + 2 + 2 + 128 * 8 <= DATAGRAM_BYTES_MIN - HEADROOM_BYTES - TAG_BYTES);
// The longest acknowledgement with its want fits a control message, and so does the longest hello.
const _: () = assert!(24 + 4 + 12 + 16 * GAPS_PER_ACK + 4 + 36 <= DATAGRAM_BYTES_MIN - HEADER_BYTES - TAG_BYTES);
const _: () = assert!(24 + 4 + 20 + NAME_BYTES_MAX <= DATAGRAM_BYTES_MIN - HEADER_BYTES - TAG_BYTES);
const _: () = assert!(DATAGRAM_BYTES_MIN < DATAGRAM_BYTES_MAX && DATAGRAM_BYTES_MAX <= u16::MAX as usize);
// An acknowledgement is sent well before the source stops waiting for this node, and before it marks it lost.
const _: () = assert!(ACK_MS < HEADS_BUSY_MS && HEADS_BUSY_MS < RESPONSIVE_MS && RESPONSIVE_MS < LOST_MS);
const _: () = assert!(HELLO_MS * 3 <= LOST_MS && HEADS_IDLE_MS * 3 <= LOST_MS);
const _: () = assert!(HELD_BACK_BYTES_DEFAULT >= WINDOW_BYTES_DEFAULT);
const _: () = assert!(RESEND_BYTES_DEFAULT >= WINDOW_BYTES_DEFAULT * STREAMS_MAX as usize);
