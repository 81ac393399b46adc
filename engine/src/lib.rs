//! Threads, memory and the kernel.

pub mod limits;
pub mod steer;
pub mod sys;
