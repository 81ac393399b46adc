//! Threads, memory and the kernel: everything below the command line and above the protocol.
//!
//! The modules in the order of the data:
//!
//! | module | content |
//! |---|---|
//! | [`capture`] | events from the kernel: sockets, filters, receive back ends |
//! | [`worker`] | the pinned threads that apply events to shards, and the thread that keeps shards in sync with the kernel |
//! | [`shard`] | the flows of one worker, and the replicas of peers' shards |
//! | [`kernel`] | requests to the kernel's tables: dumps, batches of changes, the host's addresses |
//! | [`replication`] | which flows are replicated, the replication stage, and the links to peers |
//! | [`takeover`] | roles, commit, hot mode, isolation, split brain |
//! | [`server`] | the control socket |
//! | [`engine`] | sets all of these up, starts and stops them |
//!
//! Below them: [`netlink`] (route and nftables requests), [`sys`] (system calls, the only `unsafe` code), [`limits`] (every
//! bound with its derivation), [`metrics`] (counters) and [`os_error`].

pub mod capture;
pub mod worker;

pub mod shard;

pub mod kernel;

pub mod replication;

pub mod takeover;

pub mod server;

pub mod engine;

mod access;
mod clock;
pub mod limits;
pub mod metrics;
pub mod netlink;
pub mod os_error;
mod reply;
pub mod sys;
