//! Replication: each node sends the changes of its flows to its peers, once and in order. `PROTOCOL.md` specifies the
//! protocol, and this crate uses its terms.
//!
//! The crate does no I/O, reads no clock and draws no random numbers: the caller passes received bytes and the time,
//! and sends what a node passes to [`Host::send`].
//!
//! | module | content |
//! |---|---|
//! | [`model`] | what is replicated, and the interface that the caller implements |
//! | [`protocol`] | a protocol, as the caller drives it |
//! | [`ctflow`] | the one protocol: its datagrams, and the state machine of a node |
//! | [`limits`] | the bounds whatever the protocol |
//! | `sim` | a simulated cluster with its shards and a faulty network, all from one seed |
#![forbid(unsafe_code)]

pub mod ctflow;
mod cursor;
pub mod limits;
pub mod model;
pub mod protocol;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use cursor::Malformed;
pub use model::host::{Address, DatagramClass, Destination, Host, Replica, ReplicaId};
pub use model::mode::{Mode, Role};
pub use model::note::Note;
pub use model::status::{PeerState, PeerStatus, Reason, ReceiveCounters, SourceStatus, Status, VerdictStatus};
pub use model::time::{Epoch, Time};
pub use model::{buckets, delta, entry, host};
pub use protocol::{BatchWriter, Config, Key, Payload, Protocol, WriteError};
