//! The replication protocol: each node sends the changes of its flows to its peers, once and in order. `PROTOCOL.md` is
//! the specification, and this crate uses its terms.
//!
//! The crate does no I/O, reads no clock and draws no random numbers: the caller passes received bytes and the time,
//! and sends what a node passes to [`Host::send`]. From the wire upwards:
//!
//! | module | content |
//! |---|---|
//! | [`wire`], [`seal`] | the header of a datagram, and its encryption |
//! | `control` | control messages and their blocks |
//! | [`entry`], [`item`], [`batch`] | the canonical form of a flow, the items of a batch, the writer of a batch |
//! | [`delta`], [`buckets`] | the kinds of change to a flow; the parts in which a shard is compared and sent again |
//! | `source`, `resend_queue` | the sending half of a stream; sealed batches kept for resending |
//! | `receive`, `held_back` | the receiving half of a stream; batches that arrived ahead of a gap |
//! | `peer`, [`node`] | the state kept of a peer; a node with its streams and peers |
//! | [`host`], [`note`] | the interface that the caller implements; the events for its log |
//! | `sim` | a simulated cluster with its shards and a faulty network, all from one seed |
#![forbid(unsafe_code)]

pub mod batch;
mod bucket_cycle;
pub mod buckets;
mod control;
mod cursor;
pub mod delta;
pub mod entry;
mod held_back;
pub mod host;
pub mod item;
pub mod limits;
pub mod mode;
pub mod node;
pub mod note;
mod peer;
mod receive;
mod resend_queue;
pub mod seal;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod source;
pub mod time;
pub mod wire;

pub use batch::{BatchWriter, Payload};
pub use control::Reason;
pub use cursor::Malformed;
pub use host::{Address, Destination, Host, Replica, ReplicaId};
pub use mode::{Mode, Role};
pub use node::{Config, Node, Status};
pub use note::Note;
pub use peer::PeerState;
pub use receive::ReceiveCounters;
pub use seal::Key;
pub use time::{Epoch, Time};
