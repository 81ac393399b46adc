//! Threads, memory and the kernel.

pub mod lab;
pub mod sys;
