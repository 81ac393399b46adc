//! Errors of building and using a private network. Each message names what failed and, where possible, the remedy.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;

use ctflow_engine::netlink::NetlinkError;
use ctflow_engine::os_error::os_error_text;

/// A private network could not be created or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// The machine's settings or a container forbid user namespaces, and the caller has no privileges without one.
    #[error("user namespaces are forbidden here ({0}): {remedy}; or run as root", remedy = .0.remedy())]
    Forbidden(Forbidden),
    /// An unprivileged process can enter a user namespace only while it has a single thread: enter the lab first.
    #[error("no user namespace for a process with several threads: enter the lab before starting threads")]
    SeveralThreads,
    /// A system call failed; usually a missing `/proc`, or a limit on descriptors or threads.
    #[error("cannot {operation}: {}", os_error_text(.source))]
    System {
        /// The operation that failed, as a verb phrase: "open a raw socket".
        operation: String,
        /// The system's error.
        source: io::Error,
    },
    /// A netlink request failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A link that was switched on got no carrier.
    #[error("link {link} has no carrier after {waited:?}: switch its other end on")]
    NoCarrier {
        /// The link's name.
        link: String,
        /// How long the carrier was awaited.
        waited: Duration,
    },
    /// More flows were requested of a flood than its addresses and ports can keep distinct.
    #[error("a flood has {max} flows at most, {requested} were requested: start another")]
    FloodTooLarge {
        /// The flows requested, those already sent included.
        requested: u64,
        /// The most flows that one flood can have.
        max: u32,
    },
}

impl LabError {
    /// A system call failed during `operation`, which is a verb phrase.
    pub(super) fn system(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { operation: operation.into(), source: source.into() }
    }

    /// Finds out why entering namespaces failed. The errno alone is ambiguous; the machine's settings name the cause.
    pub(super) fn enter_failed(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EINVAL) => Self::SeveralThreads,
            Some(libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS) => {
                Self::Forbidden(Forbidden::detect(|path| {
                    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok())
                }))
            }
            _ => Self::system("enter a private network", error),
        }
    }
}

/// The setting that forbids unprivileged processes to create user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// `kernel.unprivileged_userns_clone` is 0. Debian and Ubuntu have this setting.
    Clone,
    /// `user.max_user_namespaces` is 0.
    Limit,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1: Ubuntu's AppArmor removes the new namespace's capabilities.
    AppArmor,
    /// None of the known settings forbids them: a container's seccomp filter, a chroot, or an exhausted limit does.
    Unknown,
}

impl Forbidden {
    /// For each known setting: its path, and the value that forbids user namespaces.
    const SETTINGS: [(Self, &str, u64); 3] = [
        (Self::Clone, "/proc/sys/kernel/unprivileged_userns_clone", 0),
        (Self::Limit, "/proc/sys/user/max_user_namespaces", 0),
        (Self::AppArmor, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1),
    ];

    /// Returns the first setting whose value forbids user namespaces. `setting` reads the number at a path.
    fn detect(setting: impl Fn(&str) -> Option<u64>) -> Self {
        let forbids = |(_, path, value): &&(Self, &str, u64)| setting(path) == Some(*value);
        Self::SETTINGS.iter().find(forbids).map_or(Self::Unknown, |found| found.0)
    }

    /// The remedy: a command that allows user namespaces, or the place to allow them in.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Clone => "sysctl kernel.unprivileged_userns_clone=1",
            Self::Limit => "sysctl user.max_user_namespaces=10000",
            Self::AppArmor => "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            Self::Unknown => "in a container, allow unshare(2) in its seccomp profile",
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clone => "kernel.unprivileged_userns_clone=0",
            Self::Limit => "user.max_user_namespaces=0",
            Self::AppArmor => "AppArmor's kernel.apparmor_restrict_unprivileged_userns=1",
            Self::Unknown => "by a container's seccomp filter or a limit, not by a sysctl",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_is_named_with_its_remedy() {
        let only = |path: &'static str, value| move |requested: &str| (requested == path).then_some(value);
        let apparmor = only("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1);
        assert_eq!(
            LabError::Forbidden(Forbidden::detect(apparmor)).to_string(),
            "user namespaces are forbidden here (AppArmor's kernel.apparmor_restrict_unprivileged_userns=1): \
             sysctl kernel.apparmor_restrict_unprivileged_userns=0; or run as root"
        );
        assert_eq!(Forbidden::detect(only("/proc/sys/user/max_user_namespaces", 0)), Forbidden::Limit);
        assert_eq!(Forbidden::detect(only("/proc/sys/kernel/unprivileged_userns_clone", 0)), Forbidden::Clone);
        assert_eq!(Forbidden::detect(only("/proc/sys/user/max_user_namespaces", 100)), Forbidden::Unknown);
    }
}
