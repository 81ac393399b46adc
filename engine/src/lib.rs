//! Threads, memory and the kernel.

pub mod lab;
pub mod limits;
pub mod pace;
pub mod receive;
pub mod shard;
pub mod socket;
pub mod steer;
pub mod sys;
