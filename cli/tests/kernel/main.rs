//! The program on a real kernel, each test in a private network.
#![allow(clippy::unwrap_used, clippy::panic)] // tests and their helpers may fail by both

mod change;
mod compare;
mod daemon;
mod edges;
mod follow;
mod kinds;
mod roundtrip;
mod support;
