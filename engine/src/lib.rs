//! Threads, memory and the kernel.

pub mod sys;
