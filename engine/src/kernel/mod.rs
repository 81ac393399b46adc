//! Work against the kernel's tables: listing them in constant memory, single requests, and requests by the thousand.

pub mod batch;
pub mod commit;
pub mod dump;
mod error;
pub(crate) mod local;
pub(crate) mod purge;
pub mod request;

pub use error::KernelError;
