//! The facts about the machine that the checks evaluate. Each may be unknown or refused.

use std::error::Error;
use std::io;
use std::iter::successors;

use ctflow_engine::os_error::os_error_text;
use ctflow_lab::Forbidden;
use rustix::io::Errno;

/// All facts about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// `uname -r`.
    pub(super) release: String,
    /// The options that the kernel was built with; `None` if its configuration cannot be read.
    pub(super) build: Option<Build>,
    /// The buffers of a netfilter netlink socket, or why it cannot be opened.
    pub(super) socket: Result<Buffers, Refusal>,
    /// The conntrack table's size by netlink.
    pub(super) stats: Result<Table, Refusal>,
    /// Whether the groups of conntrack events can be joined.
    pub(super) listening: Result<(), Refusal>,
    /// The number of instructions of the longest filter program, if the kernel accepts it.
    pub(super) filter: Result<usize, Refusal>,
    /// Whether io_uring with provided buffers can be set up.
    pub(super) ring: Result<(), Refusal>,
    /// Whether a private network can be entered.
    pub(super) network: Result<(), NetworkRefusal>,
    /// Settings under `/proc/sys`.
    pub(super) settings: Settings,
    /// Whether a seccomp filter (a container's, a unit's) applies to this process.
    pub(super) seccomp: bool,
}

/// Settings under `/proc/sys`; `None` for a setting that does not exist here.
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
    /// `kernel.io_uring_disabled`: 0 permits io_uring to all, 1 to privileged processes only, 2 to none.
    pub(super) io_uring_disabled: Option<u64>,
}

/// The conntrack table's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// The number of flows.
    pub(super) count: Option<u64>,
    /// The most flows; 0 for no limit.
    pub(super) max: Option<u64>,
}

impl Table {
    /// Returns these values, and those of `other` for the unknown ones.
    pub(super) fn or(self, other: Self) -> Self {
        Self { count: self.count.or(other.count), max: self.max.or(other.max) }
    }
}

/// The socket buffer that results when the default size is requested, in bytes that the kernel accounts for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buffers {
    /// By `SO_RCVBUF`, which needs no rights.
    pub(super) unforced: usize,
    /// By `SO_RCVBUFFORCE`, which exceeds `net.core.rmem_max`; `None` if that is refused.
    pub(super) forced: Option<usize>,
}

/// Why the system refused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The error number, if a system call failed.
    pub(super) errno: Option<Errno>,
    /// The whole error message.
    pub(super) message: String,
}

impl Refusal {
    /// Creates a refusal from an error, with the error number of the first system error among its sources.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let io_error = successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref());
        Self { errno: io_error.and_then(|error: &io::Error| Errno::from_io_error(error)), message: error.to_string() }
    }

    /// Returns the error number as text, or the whole message if there is none.
    pub(super) fn reason(&self) -> String {
        self.errno.map_or_else(|| self.message.clone(), |errno| os_error_text(&errno.into()))
    }

    /// Returns whether no descriptor was left. The feature itself was not tried then.
    pub(super) fn is_descriptor_limit(&self) -> bool {
        matches!(self.errno, Some(Errno::MFILE | Errno::NFILE))
    }

    /// Returns whether rights were missing.
    pub(super) fn is_permission(&self) -> bool {
        matches!(self.errno, Some(Errno::PERM | Errno::ACCESS))
    }
}

/// Why no private network can be entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NetworkRefusal {
    /// A setting or a policy forbids it.
    Forbidden(Forbidden),
    /// It failed for another reason.
    Failed(String),
}

/// The options that the kernel was built with, without `CONFIG_`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Build(Vec<String>);

impl Build {
    /// Parses a kernel's `.config`: lines such as `CONFIG_NF_NAT=m`, and comments for options that are not set.
    pub(super) fn parse(config: &str) -> Self {
        let option = |line: &str| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            matches!(value, "y" | "m").then(|| name.to_owned())
        };
        Self(config.lines().filter_map(option).collect())
    }

    /// Returns whether the kernel has an option, built in or as a module. `name` is without `CONFIG_`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|option| option == name)
    }
}

#[cfg(test)]
impl Facts {
    /// Returns the facts of a machine without limits, for tests to change.
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
    /// Returns a refusal with this error number.
    pub(super) fn with(errno: Errno) -> Self {
        Self { errno: Some(errno), message: format!("cannot do it: {errno}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctflow_engine::capture::socket::SocketError;

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
