//! Kernel settings of the calling thread's network namespace, by their path under `/proc/sys`.
//!
//! The kernel shows each thread its own namespace's values under one and the same path, so nothing needs mounting.

use super::error::LabError;

/// Writes a setting: `write("net/ipv4/ip_forward", "1")`.
///
/// # Errors
/// [`LabError::System`] when the kernel has no such setting, or `/proc/sys` is read-only as in many containers.
pub fn write(name: &str, value: &str) -> Result<(), LabError> {
    let failed = |error| LabError::system(format!("set /proc/sys/{name} to {value}"), error);
    std::fs::write(format!("/proc/sys/{name}"), value).map_err(failed)
}

/// Reads a setting that is one number.
///
/// # Errors
/// [`LabError::System`] when the kernel has no such setting, or it is no number.
pub fn read(name: &str) -> Result<u64, LabError> {
    let failed = |error| LabError::system(format!("read /proc/sys/{name}"), error);
    let text = std::fs::read_to_string(format!("/proc/sys/{name}")).map_err(failed)?;
    text.trim().parse().map_err(|error| failed(std::io::Error::other(error)))
}

/// Flows in the calling thread's network namespace right now.
///
/// # Errors
/// [`LabError::System`] when the kernel has no connection tracking.
pub fn flow_count() -> Result<u64, LabError> {
    read("net/netfilter/nf_conntrack_count")
}
