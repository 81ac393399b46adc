//! What is replicated, and what a protocol requires of its caller.
//!
//! | module | content |
//! |---|---|
//! | [`entry`] | the canonical form of a flow or an expectation |
//! | [`delta`], [`buckets`] | the kinds of change to a flow; the parts in which a shard is compared and sent again |
//! | [`mode`], [`time`] | the modes and roles of a node; the time that the caller passes |
//! | [`host`], [`note`] | the interface that the caller implements; the events for its log |
//! | [`status`] | the status of a node and its peers |

pub mod buckets;
pub mod delta;
pub mod entry;
pub mod host;
pub mod mode;
pub mod note;
pub mod status;
pub mod time;
