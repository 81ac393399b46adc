//! The agreement between nodes: what changed, told once, in order.
//!
//! No I/O and no clock: bytes and time come in, messages go out. [`delta`] is its first word, the change to one flow.
#![forbid(unsafe_code)]

pub mod batch;
pub mod buckets;
mod cursor;
pub mod delta;
pub mod entry;
pub mod item;
pub mod limits;
pub mod seal;
pub mod time;
pub mod wire;
