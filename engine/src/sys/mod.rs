//! System calls that no safe wrapper covers; the one folder of the workspace where `unsafe` is allowed.
#![allow(unsafe_code)] // everything else forbids it, so that a review of memory safety is a review of this folder

pub mod extended_ack;
pub mod namespace;
