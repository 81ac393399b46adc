//! What was read of the machine, before anybody judges it. Each part may be unknown or refused.

use std::error::Error;
use std::io;
use std::iter::successors;

use ctflow_engine::lab::Forbidden;
use rustix::io::Errno;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// `uname -r`.
    pub(super) release: String,
    /// What the kernel was built with, where it says.
    pub(super) build: Option<Build>,
    /// A netfilter netlink socket, and the buffers it got.
    pub(super) socket: Result<Buffers, Refusal>,
    /// The conntrack table's size, asked of its netlink part.
    pub(super) stats: Result<Table, Refusal>,
    /// Joining the groups of conntrack events.
    pub(super) listening: Result<(), Refusal>,
    /// Attaching the longest filter program; its instructions.
    pub(super) filter: Result<usize, Refusal>,
    /// Setting up io_uring with provided buffers.
    pub(super) ring: Result<(), Refusal>,
    /// Entering a private network.
    pub(super) network: Result<(), NetworkRefusal>,
    /// Numbers under `/proc/sys`.
    pub(super) settings: Settings,
    /// Whether a seccomp filter (a container's, a unit's) decides over our system calls.
    pub(super) seccomp: bool,
}

/// Numbers under `/proc/sys`, none where there is no such setting here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// `net.netfilter.nf_conntrack_events`.
    pub(super) events: Option<u64>,
    /// `net.netfilter.nf_conntrack_acct`.
    pub(super) accounting: Option<u64>,
    /// `net.netfilter.nf_conntrack_timestamp`.
    pub(super) timestamps: Option<u64>,
    /// `net.netfilter.nf_conntrack_count`, `…_max`.
    pub(super) table: Table,
    /// `net.netfilter.nf_conntrack_buckets`.
    pub(super) buckets: Option<u64>,
    /// `net.core.rmem_max`.
    pub(super) rmem_max: Option<u64>,
    /// `net.core.optmem_max`.
    pub(super) optmem_max: Option<u64>,
    /// `kernel.io_uring_disabled`: 0 for nobody, 1 for the unprivileged, 2 for all.
    pub(super) io_uring_disabled: Option<u64>,
}

/// The conntrack table's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Flows now.
    pub(super) count: Option<u64>,
    /// Flows at most; 0 for no limit.
    pub(super) max: Option<u64>,
}

impl Table {
    /// What is known here, or else there.
    pub(super) fn or(self, other: Self) -> Self {
        Self { count: self.count.or(other.count), max: self.max.or(other.max) }
    }
}

/// What the socket buffer came to when the default was asked for, in bytes that messages may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buffers {
    /// With what everybody may do (`SO_RCVBUF`).
    pub(super) unforced: usize,
    /// Past `net.core.rmem_max` (`SO_RCVBUFFORCE`); none where that is refused.
    pub(super) forced: Option<usize>,
}

/// The system's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The error number, where it was a system call that failed.
    pub(super) errno: Option<Errno>,
    /// The whole story.
    pub(super) message: String,
}

impl Refusal {
    /// Of an error that has a system error among its sources.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let io_error = successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref());
        Self { errno: io_error.and_then(|error: &io::Error| Errno::from_io_error(error)), message: error.to_string() }
    }

    /// The error number in words, or else the whole story.
    pub(super) fn reason(&self) -> String {
        self.errno.map_or_else(|| self.message.clone(), |errno| errno.to_string())
    }

    /// Whether no descriptor was left, which says nothing of what was asked for.
    pub(super) fn is_descriptor_limit(&self) -> bool {
        matches!(self.errno, Some(Errno::MFILE | Errno::NFILE))
    }

    /// Whether it was for want of rights.
    pub(super) fn is_permission(&self) -> bool {
        matches!(self.errno, Some(Errno::PERM | Errno::ACCESS))
    }
}

/// Why there is no private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NetworkRefusal {
    /// Somebody forbade it.
    Forbidden(Forbidden),
    /// Something else went wrong.
    Failed(String),
}

/// The options the kernel was built with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Build(Vec<String>);

impl Build {
    /// Reads a kernel's `.config`: `CONFIG_NF_NAT=m`, and comments for what is not there.
    pub(super) fn parse(config: &str) -> Self {
        let option = |line: &str| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            matches!(value, "y" | "m").then(|| name.to_owned())
        };
        Self(config.lines().filter_map(option).collect())
    }

    /// Whether the kernel has it, built in or as a module. `name` is without `CONFIG_`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|option| option == name)
    }
}

#[cfg(test)]
impl Facts {
    /// A machine with nothing left to mend, for tests to break.
    pub(super) fn healthy() -> Self {
        let table = Table { count: Some(12_345), max: Some(262_144) };
        let config: String = super::checks::OPTIONS.map(|option| format!("CONFIG_{}=y\n", option.name)).concat();
        Self {
            release: "6.18.44".into(),
            build: Some(Build::parse(&config)),
            socket: Ok(Buffers { unforced: 8_388_608, forced: Some(16_777_216) }),
            stats: Ok(table),
            listening: Ok(()),
            filter: Ok(220),
            ring: Ok(()),
            network: Ok(()),
            settings: Settings {
                events: Some(1),
                accounting: Some(1),
                timestamps: Some(1),
                table,
                buckets: Some(262_144),
                rmem_max: Some(4_194_304),
                optmem_max: Some(131_072),
                io_uring_disabled: Some(0),
            },
            seccomp: false,
        }
    }
}

#[cfg(test)]
impl Refusal {
    /// One with this error number.
    pub(super) fn with(errno: Errno) -> Self {
        Self { errno: Some(errno), message: format!("cannot do it: {errno}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_engine::socket::SocketError;

    #[test]
    fn a_config_has_what_is_built_in_or_a_module() {
        let build = Build::parse("CONFIG_NF_NAT=m\n# CONFIG_NF_CONNTRACK_ZONES is not set\nCONFIG_HZ=100\n");
        assert!(build.has("NF_NAT"));
        assert!(!build.has("NF_CONNTRACK_ZONES") && !build.has("HZ") && !build.has("NF"));
    }

    #[test]
    fn a_refusal_has_the_errno_of_its_source() {
        let error = SocketError::Join { group: 1, source: Errno::PERM.into() };
        let refusal = Refusal::of(&error);
        assert!(refusal.is_permission() && refusal.message == error.to_string(), "{refusal:?}");
    }
}
