//! Requests to the kernel's conntrack and expectation tables: dumps in constant memory, single requests, batches.

pub mod batch;
pub mod commit;
pub mod dump;
mod error;
pub(crate) mod local;
pub(crate) mod purge;
pub mod request;

pub use error::KernelError;
