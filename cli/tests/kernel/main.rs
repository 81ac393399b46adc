//! The program on a real kernel, each test in a network of its own.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by it, here in its helpers too

mod change;
mod compare;
mod daemon;
mod edges;
mod follow;
mod kinds;
mod roundtrip;
mod support;
