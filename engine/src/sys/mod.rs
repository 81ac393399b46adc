//! The kernel's interfaces as safe Rust: the only place with `unsafe`, one operation to a block.
//!
//! The files rise in steps: memory (`pages`, `buffers`), one socket ([`netlink`]), many datagrams a call (`recvmmsg`),
//! many datagrams a wake-up (`ring`). Apart from them, [`namespace`] makes private networks, `clock` reads a thread's
//! processor time, and `prefetch` tells the processor what comes next. Policy (what to fall back to, how long to wait) is
//! above, in `receive` and `socket`.
#![allow(unsafe_code)] // the kernel takes and gives raw pointers; everything else in the workspace denies it

pub(crate) mod buffers;
pub(crate) mod clock;
pub mod namespace;
pub mod netlink;
pub(crate) mod pages;
pub(crate) mod prefetch;
pub(crate) mod recvmmsg;
pub(crate) mod ring;
