//! A codec for ctnetlink: it parses messages about flows, expectations and statistics, and writes requests.
//!
//! Received bytes pass these steps. Each step is a view over the one before, and is checked once:
//!
//! ```text
//! one datagram ── frame::Messages ──► frame::Message ── record::Record ──► flow::FlowView | expect::ExpectView | stats
//!                 nlmsghdr by          netlink's own                        attributes walked once, widths checked,
//!                 nlmsghdr             messages, or a record                numbers by value, text and blobs borrowed
//! ```
//!
//! Requests are written by [`request`], whole messages at a time, into a caller's buffer with [`write::Writer`].
//! A flow that must outlive its datagram is stored as a [`compact::Flow`], which fits one cache line for IPv4.
//!
//! Nothing here allocates (the crate has no allocator), does I/O, or panics, whatever the bytes are. An unknown
//! attribute is skipped, because kernels add new ones. A malformed attribute is an [`error::ParseError`] with its
//! offset.
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
pub mod header;
pub mod proto;
pub mod record;
pub mod request;
pub mod stats;
pub mod tuple;
pub mod uapi;
pub mod write;
