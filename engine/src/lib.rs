//! Threads, memory and the kernel.

pub mod lab;
pub mod limits;
pub mod shard;
pub mod sys;
