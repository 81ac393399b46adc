//! Threads, memory and the kernel.

pub mod limits;
pub mod shard;
