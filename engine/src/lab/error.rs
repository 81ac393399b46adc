//! What can go wrong while a private network is built, in the words of whoever has to put it right.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::netlink::NetlinkError;

/// A private network could not be made or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LabError {
    /// The machine's owner or a container forbids user namespaces, and the caller is not privileged without one.
    #[error("user namespaces are forbidden here ({0}): {remedy}; or run as root", remedy = .0.remedy())]
    Forbidden(Forbidden),
    /// An unprivileged process gets its user namespace only while it has one thread: enter the lab first.
    #[error("no user namespace for a process with several threads: enter the lab before starting any")]
    SeveralThreads,
    /// A system call failed; usually a missing `/proc`, or a limit on descriptors or threads.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was being done, to what.
        operation: String,
        /// The system's answer.
        source: io::Error,
    },
    /// What was asked of the kernel by netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A link that was switched on carries nothing.
    #[error("link {link} has no carrier after {longest:?}: switch its other end on")]
    NoCarrier {
        /// Its name.
        link: String,
        /// How long it was waited for.
        longest: Duration,
    },
    /// More flows were asked of a flood than its addresses and ports can tell apart.
    #[error("a flood has {most} flows at most, {asked} were asked: start another")]
    FloodTooLarge {
        /// The flows asked, those already sent included.
        asked: u64,
        /// The most there can be.
        most: u32,
    },
}

impl LabError {
    pub(super) fn system(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { operation: operation.into(), source: source.into() }
    }

    /// Why entering namespaces failed: the errno alone does not say, the machine's settings do.
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

/// Which setting keeps an unprivileged process from a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden {
    /// Debian's and Ubuntu's switch.
    Clone,
    /// The limit is zero.
    Limit,
    /// Ubuntu's AppArmor takes the new namespace's rights away.
    AppArmor,
    /// None of the known settings: a container's seccomp filter, a chroot, or the limit is used up.
    Unknown,
}

impl Forbidden {
    const SETTINGS: [(Self, &str, u64); 3] = [
        (Self::Clone, "/proc/sys/kernel/unprivileged_userns_clone", 0),
        (Self::Limit, "/proc/sys/user/max_user_namespaces", 0),
        (Self::AppArmor, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1),
    ];

    fn detect(setting: impl Fn(&str) -> Option<u64>) -> Self {
        let forbids = |(_, path, value): &&(Self, &str, u64)| setting(path) == Some(*value);
        Self::SETTINGS.iter().find(forbids).map_or(Self::Unknown, |found| found.0)
    }

    /// What allows them: a command, or where to look.
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
        let only = |path: &'static str, value| move |asked: &str| (asked == path).then_some(value);
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
