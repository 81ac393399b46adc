//! Parsers of the files in `/proc` with the costs of a process. proc(5) describes their formats.

use ctflow_parser::uapi::{NFNLGRP_CONNTRACK_DESTROY, NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE};

/// The nanoseconds of one tick in `/proc/PID/stat`. The kernel reports 100 ticks a second to user space on all
/// architectures.
const TICK_NS: u64 = 10_000_000;
/// The value of the column `Eth` in `/proc/net/netlink` for `NETLINK_NETFILTER`.
const NETFILTER: &str = "12";
/// The groups of all flow events, as bits of the column `Groups` in `/proc/net/netlink`.
const FLOW_GROUPS: u32 =
    group_bit(NFNLGRP_CONNTRACK_NEW) | group_bit(NFNLGRP_CONNTRACK_UPDATE) | group_bit(NFNLGRP_CONNTRACK_DESTROY);

const fn group_bit(group: u32) -> u32 {
    1 << (group - 1)
}

/// A thread's CPU time in nanoseconds, from `/proc/PID/task/TID/schedstat`.
pub(crate) fn schedstat_cpu_ns(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// The user and system time of all threads, including ended ones, in nanoseconds with the resolution of a tick, from
/// `/proc/PID/stat`.
pub(crate) fn stat_cpu_ns(text: &str) -> Option<u64> {
    // The process's name may contain blanks and parentheses. After it, `state` is field 3, `utime` 14 and `stime` 15.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) * TICK_NS)
}

/// The peak of resident memory in bytes, from `/proc/PID/status`; `None` for a process that has ended.
pub(crate) fn status_peak_bytes(text: &str) -> Option<u64> {
    status_kib(text, "VmHWM:")
}

/// The memory resident now, in bytes, from `/proc/PID/status`.
pub(crate) fn status_resident_bytes(text: &str) -> Option<u64> {
    status_kib(text, "VmRSS:")
}

/// The value of a line of `/proc/PID/status` in kB, converted to bytes.
fn status_kib(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1024)
}

/// The bytes that a link received and sent, including link headers, from `/proc/net/dev`.
pub(crate) fn link_bytes(text: &str, link: &str) -> Option<(u64, u64)> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(link)?.strip_prefix(':'))?;
    let mut columns = line.split_ascii_whitespace();
    // Received: bytes packets errs drop fifo frame compressed multicast. Sent: bytes and so on.
    Some((columns.next()?.parse().ok()?, columns.nth(7)?.parse().ok()?))
}

/// Whether a socket has joined the groups of all flow events, from `/proc/PID/net/netlink`, which lists the sockets of
/// the process's network namespace.
pub(crate) fn netlink_has_listener(text: &str) -> bool {
    // Columns: sk Eth Pid Groups ... The column `Pid` is the socket's netlink address, which need not be a process id.
    let listens = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let protocol = columns.next();
        let groups = columns.nth(1).and_then(|groups| u32::from_str_radix(groups, 16).ok());
        protocol == Some(NETFILTER) && groups.is_some_and(|groups| groups & FLOW_GROUPS == FLOW_GROUPS)
    };
    text.lines().any(listens)
}

/// The processor's name, from `/proc/cpuinfo`; `None` on architectures without one.
pub(crate) fn cpuinfo_model(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        assert_eq!(schedstat_cpu_ns("1234567890 42 7\n"), Some(1_234_567_890));
        assert_eq!(schedstat_cpu_ns(""), None);
        let stat = "18655 (a) b (c) S 1 18655 18655 0 -1 4194304 95 0 0 0 12 34 0 0 20 0 1 0 36 0 0";
        assert_eq!(stat_cpu_ns(stat), Some(460_000_000));
        assert_eq!(stat_cpu_ns("18655 (cut) S 1"), None);
    }

    #[test]
    fn peak_memory_is_known_while_the_process_lives() {
        let status = "Name:\tcat\nVmPeak:\t    5000 kB\nVmHWM:\t    1696 kB\nVmRSS:\t 1600 kB\n";
        assert_eq!(status_peak_bytes(status), Some(1696 * 1024));
        assert_eq!(status_resident_bytes(status), Some(1600 * 1024));
        assert_eq!(status_peak_bytes("Name:\tcat\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_listener_has_joined_all_three_groups() {
        let sockets = |groups| {
            format!(
                "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
                 00000000c5f17ec4 12  0          00000000 0        0        0     2        0        679364\n\
                 00000000c5f17ec5 9   1          00000007 0        0        0     2        0        679365\n\
                 000000006d7bed74 12  2911504540 {groups} 0        0        0     2        0        680035\n"
            )
        };
        assert!(!netlink_has_listener(&sockets("00000000")));
        assert!(!netlink_has_listener(&sockets("00000003")), "it is still joining");
        assert!(netlink_has_listener(&sockets("00000007")));
        assert!(netlink_has_listener(&sockets("0000001f")));
    }

    #[test]
    fn a_links_bytes_are_found_by_its_name() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo \
                    colls carrier compressed\n    lo:       0       0    0    0    0     0          0         0        \
                    0       0    0    0    0     0       0          0\n sync0: 1526      17    0    0    0     0          \
                    0         0     2042      19    0    0    0     0       0          0\n";
        assert_eq!(link_bytes(text, "sync0"), Some((1526, 2042)));
        assert_eq!(link_bytes(text, "sync"), None);
    }

    #[test]
    fn the_processor_has_a_name() {
        assert_eq!(cpuinfo_model("processor\t: 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(cpuinfo_model("processor\t: 0\n"), None);
    }
}
