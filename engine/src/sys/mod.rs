//! The kernel's interfaces as safe Rust. This is the only folder with `unsafe`, one operation a block.
//!
//! The files build on each other: memory (`pages`, `buffers`), one socket ([`netlink`]), many datagrams a call
//! (`recvmmsg`), many datagrams a wake-up (`ring`). Apart from them, [`namespace`] creates private networks, `clock`
//! reads a thread's processor time, and `prefetch` loads a cache line ahead of its use. Policy, as fallbacks and
//! waiting times, is above, in `receive` and `socket`.
#![allow(unsafe_code)] // the kernel's interfaces need raw pointers; the rest of the workspace denies unsafe code

pub(crate) mod buffers;
pub(crate) mod clock;
pub mod namespace;
pub mod netlink;
pub(crate) mod pages;
pub(crate) mod prefetch;
pub(crate) mod recvmmsg;
pub(crate) mod ring;
