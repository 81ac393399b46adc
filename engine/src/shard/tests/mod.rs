//! What a shard promises: it mirrors the kernel's table, and replicas that received its batches agree with it.

mod mirrors_kernel;
mod replicas_agree;
