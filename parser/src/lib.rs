//! Bytes to meaning: what ctnetlink says of flows, expectations and statistics, and how to ask it.
//!
//! The way of received bytes, each step a view over the last and proven once:
//!
//! ```text
//! one datagram ── frame::Messages ──► frame::Message ── record::Record ──► flow::FlowView | expect::ExpectView | stats
//!                 nlmsghdr by          netlink's own                        attributes walked once, widths checked,
//!                 nlmsghdr             words or a record                    numbers by value, text and blobs borrowed
//! ```
//!
//! The way of a request: [`request`] puts whole messages into a caller's buffer with [`write::Writer`].
//! What outlives its datagram is kept as a [`compact::Flow`], one cache line for IPv4.
//!
//! Nothing here allocates (the crate has no allocator), does I/O, or panics, whatever the bytes. An attribute that
//! is not known is skipped: kernels grow them. One that is malformed is an [`error::ParseError`] with its offset.
//!
//! ```
//! use ctflow_parser::{frame::Messages, frame::Message, uapi, write::Writer};
//!
//! let mut buffer = [0u8; 64];
//! let mut writer = Writer::new(&mut buffer);
//! writer.netfilter(uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW, 0, 1, uapi::AF_INET, 0, |message| {
//!     message.be32(uapi::CTA_MARK, 42)
//! })?;
//! for message in Messages::new(writer.bytes()) {
//!     let Message::Record(record) = message? else { continue };
//!     assert_eq!(record.flow()?.mark, Some(42));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

#[cfg(test)]
extern crate std;

pub mod attr;
pub mod compact;
pub mod error;
pub mod expect;
pub mod filter;
pub mod flow;
pub mod frame;
pub mod proto;
pub mod record;
pub mod request;
pub mod stats;
pub mod tuple;
pub mod uapi;
pub mod write;
