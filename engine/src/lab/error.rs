//! What can go wrong while a private network is built, in the words of whoever has to put it right.

use std::fmt;
use std::io;

use ctflow_parser::write::Full;
use thiserror::Error;

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
    /// The kernel understood a netlink request and refused it; usually a part it was built without.
    #[error("kernel refused to {operation}: {refusal}")]
    Refused {
        /// What was asked.
        operation: String,
        /// The kernel's answer.
        refusal: Refusal,
    },
    /// The kernel's answer to a netlink request makes no sense.
    #[error("kernel's answer to \"{operation}\" is malformed")]
    Malformed {
        /// What was asked.
        operation: String,
    },
    /// More was asked of one request than its buffer holds.
    #[error("\"{operation}\" does not fit one netlink request: split it")]
    TooLarge {
        /// What was asked.
        operation: String,
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

    pub(super) fn full(operation: &str) -> impl FnOnce(Full) -> Self {
        move |Full| Self::TooLarge { operation: operation.to_owned() }
    }

    /// Why entering namespaces failed: the errno alone does not say, the machine's settings do.
    pub(super) fn entering(error: io::Error) -> Self {
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

/// The kernel's no: its errno, and from its extended acknowledgement the words and the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's own words, where it has any.
    pub text: Option<String>,
    /// Where in the request, in bytes from its netlink header, the offending attribute is.
    pub offset: Option<u32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        self.offset.map_or(Ok(()), |offset| write!(f, " (at byte {offset} of the request)"))
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

    #[test]
    fn a_refusal_reads_as_one_line() {
        let refusal =
            Refusal { errno: libc::EINVAL, text: Some("Nexthop has invalid gateway".into()), offset: Some(36) };
        assert_eq!(
            refusal.to_string(),
            "Invalid argument (os error 22): Nexthop has invalid gateway (at byte 36 of the request)"
        );
    }
}
