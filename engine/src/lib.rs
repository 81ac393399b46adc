//! Threads, memory and the kernel.
