//! Collects the facts about the machine, mostly by doing what the other commands do. Nothing is changed, except that a
//! kernel with modules loads those of netfilter at the first request to them.

use std::fs;
use std::process::{Command, Stdio};

use ctflow_engine::capture::receive::{self, BackendKind, Interrupts};
use ctflow_engine::capture::socket::{EventMask, EventSocket, Options};
use ctflow_engine::capture::steer::{Filter, Program, Share};
use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::request::Requester;
use ctflow_engine::limits::{FILTER_PORT_IDS, FILTER_PROTOCOLS, SOCKET_BUFFER_BYTES};
use ctflow_engine::sys::netlink::{NetlinkSocket, Protocol};
use ctflow_lab::{self, LabError};
use ctflow_parser::filter::Masked;
use ctflow_parser::request;

use super::facts::{Buffers, Build, Facts, NetworkRefusal, Refusal, Settings, Table};

/// Collects all facts.
pub(super) fn examine() -> Facts {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let opened = NetlinkSocket::open(Protocol::Netfilter).map_err(|error| Refusal::of(&error));
    let stats = read_table().map_err(|error| Refusal::of(&error));
    Facts {
        build: read_build(&release),
        socket: with_socket(&opened, measure_buffers),
        listening: join_groups(),
        filter: with_socket(&opened, attach_longest),
        ring: with_socket(&opened, open_ring),
        network: probe_network(),
        settings: read_settings(), // after the requests, because the settings exist once the modules are loaded
        seccomp: has_seccomp(),
        release,
        stats,
    }
}

/// Calls `attempt` with the socket, or returns why it could not be opened.
fn with_socket<T>(
    opened: &Result<NetlinkSocket, Refusal>,
    attempt: impl FnOnce(&NetlinkSocket) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    opened.as_ref().map_err(Clone::clone).and_then(attempt)
}

/// Requests the default buffer size with and without force, and returns the sizes that result.
fn measure_buffers(socket: &NetlinkSocket) -> Result<Buffers, Refusal> {
    let measure = || socket.memory_info().map(|info| info.buffer_bytes as usize);
    let unforced = socket.set_receive_buffer(SOCKET_BUFFER_BYTES).and_then(|()| measure());
    let forced = socket.force_receive_buffer(SOCKET_BUFFER_BYTES).and_then(|()| measure());
    Ok(Buffers { unforced: unforced.map_err(|error| Refusal::of(&error))?, forced: forced.ok() })
}

/// Queries the kernel for the conntrack table's size.
fn read_table() -> Result<Table, KernelError> {
    let mut table = Table::default();
    Requester::open()?.request("query the table's size", request::global_stats, |record| {
        let stats = record.global_stats().unwrap_or_default(); // a malformed answer counts as unknown
        table = Table { count: stats.entries.map(u64::from), max: stats.max_entries.map(u64::from) };
    })?;
    Ok(table)
}

/// Joins the groups of all conntrack events.
fn join_groups() -> Result<(), Refusal> {
    let options = Options { events: EventMask::ALL, ..Options::default() };
    EventSocket::open(&options).map(drop).map_err(|error| Refusal::of(&error))
}

/// Attaches the longest filter program, with every condition and each list at its limit. Returns its instructions.
fn attach_longest(socket: &NetlinkSocket) -> Result<usize, Refusal> {
    let filter = Filter {
        family: Some(0),
        protocols: (0..).take(FILTER_PROTOCOLS).collect(),
        mark: Some(Masked { value: 0, mask: 0 }),
        ignored_port_ids: (1..).take(FILTER_PORT_IDS).collect(),
    };
    let program = Program::compile(Share { worker: 1, workers: 2 }, &filter).map_err(|error| Refusal::of(&error))?;
    let Some(program) = program else { return Ok(0) };
    socket.attach_filter(&program).map_err(|error| Refusal::of(&error))?;
    Ok(program.instructions().len())
}

/// Sets up the io_uring back end.
fn open_ring(socket: &NetlinkSocket) -> Result<(), Refusal> {
    receive::open(BackendKind::IoUring, socket, Interrupts::new()).map(drop).map_err(|error| Refusal::of(&error))
}

/// Enters a private network in a child process.
fn probe_network() -> Result<(), NetworkRefusal> {
    ctflow_lab::probe().map_err(|error| match error {
        LabError::Forbidden(by) => NetworkRefusal::Forbidden(by),
        other => NetworkRefusal::Failed(other.to_string()),
    })
}

/// Reads all settings.
fn read_settings() -> Settings {
    let netfilter = |name: &str| read_setting(&format!("net/netfilter/nf_conntrack_{name}"));
    Settings {
        events: netfilter("events"),
        accounting: netfilter("acct"),
        timestamps: netfilter("timestamp"),
        table: Table { count: netfilter("count"), max: netfilter("max") },
        buckets: netfilter("buckets"),
        rmem_max: read_setting("net/core/rmem_max"),
        optmem_max: read_setting("net/core/optmem_max"),
        io_uring_disabled: read_setting("kernel/io_uring_disabled"),
    }
}

/// Reads the setting at this path under `/proc/sys`.
fn read_setting(name: &str) -> Option<u64> {
    ctflow_lab::sysctl::read(name).ok()
}

/// Reads the options that the running kernel was built with, from `/boot/config-RELEASE` or `/proc/config.gz`. `/boot`
/// is first because it needs no other program.
fn read_build(release: &str) -> Option<Build> {
    let text = fs::read_to_string(format!("/boot/config-{release}")).ok().or_else(unpack_config)?;
    Some(Build::parse(&text))
}

/// Unpacks `/proc/config.gz`, which some kernels have, by gzip(1). A built-in decompressor for this one file is not
/// worth its cost.
fn unpack_config() -> Option<String> {
    let config = fs::File::open("/proc/config.gz").ok()?;
    let output = Command::new("gzip").arg("-dc").stdin(config).stderr(Stdio::null()).output().ok()?;
    if output.status.success() { String::from_utf8(output.stdout).ok() } else { None }
}

/// Returns whether a seccomp filter applies to this process.
fn has_seccomp() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examining_never_fails_and_knows_at_least_the_kernel() {
        assert!(!examine().release.is_empty());
    }

    #[test]
    fn a_missing_setting_is_unknown() {
        assert_eq!(read_setting("net/netfilter/no_such_setting"), None);
    }
}
