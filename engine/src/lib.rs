//! Threads, memory and the kernel.

pub mod limits;
pub mod receive;
pub mod steer;
pub mod sys;
