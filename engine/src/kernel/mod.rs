//! Work against the kernel's tables: listing them in constant memory, and single requests.

pub mod dump;
mod error;
pub mod request;

pub use error::KernelError;
