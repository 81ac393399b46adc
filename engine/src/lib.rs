//! Threads, memory and the kernel.

mod access;
mod control;
pub mod engine;
pub mod kernel;
pub mod lab;
pub mod limits;
pub mod link;
pub mod listener;
pub mod metrics;
pub mod netlink;
pub mod nft;
pub mod pace;
pub mod publish;
pub mod receive;
mod renewal;
pub mod replication;
mod reply;
pub mod server;
pub mod shard;
pub mod socket;
pub mod steer;
pub mod sys;
pub mod takeover;
mod telling;
mod untold;
mod watch;
mod worker;
