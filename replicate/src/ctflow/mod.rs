//! The protocol that `PROTOCOL.md` specifies. From the wire upwards:
//!
//! | module | content |
//! |---|---|
//! | [`wire`], [`seal`] | the header of a datagram, and its encryption |
//! | `control` | control messages and their blocks |
//! | [`item`], [`batch`] | the items of a batch, the writer of a batch |
//! | `source`, `resend_queue` | the sending half of a stream; sealed batches kept for resending |
//! | `receive`, `held_back` | the receiving half of a stream; batches that arrived ahead of a gap |
//! | `peer`, [`node`] | the state kept of a peer; a node with its streams and peers |
//! | [`limits`] | the bounds of all these |

pub mod batch;
mod bucket_cycle;
mod control;
mod held_back;
pub mod item;
pub mod limits;
pub mod node;
mod peer;
mod receive;
mod resend_queue;
pub mod seal;
mod source;
pub mod wire;

pub use batch::{BatchWriter, Payload, WriteError};
pub use node::{Config, Node};
pub use seal::Key;
