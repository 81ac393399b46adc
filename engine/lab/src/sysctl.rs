//! Kernel settings of the calling thread's network namespace, named by their path under `/proc/sys`.
//!
//! Under the same path each thread reads and writes the values of its own namespace, so nothing has to be mounted.

use super::error::LabError;

/// Writes a setting: `write("net/ipv4/ip_forward", "1")`.
///
/// # Errors
/// [`LabError::System`] when the kernel has no such setting, or `/proc/sys` is read-only as in many containers.
pub fn write(name: &str, value: &str) -> Result<(), LabError> {
    let failed = |error| LabError::system(format!("set /proc/sys/{name} to {value}"), error);
    std::fs::write(format!("/proc/sys/{name}"), value).map_err(failed)
}

/// Reads a setting whose value is one number.
///
/// # Errors
/// [`LabError::System`] when the kernel has no such setting, or its value is not a number.
pub fn read(name: &str) -> Result<u64, LabError> {
    let failed = |error| LabError::system(format!("read /proc/sys/{name}"), error);
    let text = std::fs::read_to_string(format!("/proc/sys/{name}")).map_err(failed)?;
    text.trim().parse().map_err(|error| failed(std::io::Error::other(error)))
}

/// The number of flows that the kernel tracks in the calling thread's network namespace.
///
/// # Errors
/// [`LabError::System`] when the kernel has no connection tracking.
pub fn flow_count() -> Result<u64, LabError> {
    read("net/netfilter/nf_conntrack_count")
}
