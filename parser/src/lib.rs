//! Bytes to meaning: what ctnetlink says of flows and expectations, as checked views over the received bytes.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod error;
pub mod uapi;
pub mod write;
