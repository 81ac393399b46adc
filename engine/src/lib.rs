//! Threads, memory and the kernel: event sockets, workers with their shards, kernel resyncs, replication over links,
//! takeover, and the control server.

mod access;
pub mod drain;
pub mod engine;
pub mod filter;
pub mod intake;
pub mod kernel;
mod kernel_resync;
pub mod lab;
pub mod limits;
pub mod link;
pub mod listener;
mod meter;
pub mod metrics;
pub mod netlink;
pub mod nft;
pub mod os_error;
pub mod pace;
pub mod receive;
pub mod replication;
mod reply;
mod rtnetlink;
mod seqadj_refresh;
pub mod server;
pub mod shard;
pub mod socket;
pub mod steer;
pub mod sys;
pub mod takeover;
pub mod threads;
mod unreported;
mod watch;
mod worker;
mod worker_channel;
