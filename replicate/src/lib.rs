//! The agreement between nodes: what changed, told once, in order. `PROTOCOL.md` is the specification; the words are its.
//!
//! No I/O, no clock, no randomness: bytes and time come in, messages go out. From the wire up:
//!
//! | module | what it is |
//! |---|---|
//! | [`wire`], [`seal`] | a datagram's header, and its encryption |
//! | `control` | control messages and their blocks |
//! | [`entry`], [`item`], [`batch`] | a flow in its canonical form, the items of a batch, a batch being written |
//! | [`delta`], [`buckets`] | the change to one flow; the parts a shard is compared and told again by |
//! | `source`, `resend` | the sending half of a stream; sealed batches kept |
//! | `receive`, `held` | the receiving half; batches that came before their turn |
//! | `peer`, [`node`] | another node; all of it together |
//! | [`host`], [`note`] | what the caller provides; what it is to log |
//! | `sim` | a cluster, its shards and a faulty network, all from one seed |
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
