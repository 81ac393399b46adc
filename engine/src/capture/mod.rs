//! Events from the kernel: the event socket, the filter that steers events to it, the receive back ends, and the pace
//! at which a reader wakes.
//!
//! ```text
//!  kernel ── steer: BPF ──► socket ──► receive: io_uring | recvmmsg | recv ──► listener ──► a worker, or `-E`
//!                                                    pace: when to wake
//! ```

pub mod listener;
pub mod pace;
pub mod receive;
pub mod socket;
pub mod steer;
