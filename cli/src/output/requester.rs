//! The program that a netlink port id belongs to.
//!
//! The kernel assigns the process's id as port id to a process's first netlink socket, and an arbitrary number to any
//! further one. So the port id is first tried as a process id; if that process does not have the socket, the socket's
//! owner is searched for:
//!
//! ```text
//! port id ──► /proc/thread-self/net/netlink ──► inode ──► /proc/*/fd/*: socket:[inode] ──► /proc/PID/comm
//! ```
//!
//! The search reads one link per open file of the machine. Its result is therefore cached for a second, even if it is
//! empty, and at most [`WALKS_PER_SECOND`] searches run per second. When many new sockets cause events, most events are
//! printed without the program's name; no events are dropped.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How long a result is cached. Port ids are reused, so this is not much longer than a program needs for its requests.
const CACHED_NS: u64 = 1_000_000_000;
/// The greatest number of searches through the open files of all processes, per second.
const WALKS_PER_SECOND: u64 = 20;
/// Cached results. A port id's lowest bits select the slot; a newer result replaces an older one.
const SLOTS: usize = 64;
/// `TASK_COMM_LEN` of the kernel. It counts the terminating NUL, so names have at most 15 bytes.
const NAME_BYTES: usize = 16;
/// `NETLINK_NETFILTER`, as the column `Eth` of /proc/net/netlink has it.
const NETLINK_NETFILTER: &str = "12";

/// Finds the names of programs by netlink port id, and caches them for a second.
#[derive(Debug)]
pub(crate) struct Requesters {
    proc: PathBuf,
    slots: [Option<CachedAnswer>; SLOTS],
    /// The earliest time of the next search through all processes, in nanoseconds.
    next_walk_ns: u64,
}

/// The result of a search. `name` is `None` if no program was found.
#[derive(Debug, Clone, Copy)]
struct CachedAnswer {
    port_id: u32,
    found_ns: u64,
    name: Option<ProgramName>,
}

/// A program's name, stored without allocation.
#[derive(Debug, Clone, Copy)]
struct ProgramName {
    bytes: [u8; NAME_BYTES],
    length: usize,
}

impl Default for Requesters {
    fn default() -> Self {
        Self::new(PathBuf::from("/proc"))
    }
}

impl Requesters {
    /// Reads the proc file system that is mounted at `proc`.
    pub(crate) fn new(proc: PathBuf) -> Self {
        Self { proc, slots: [None; SLOTS], next_walk_ns: 0 }
    }

    /// The name of the program that has the socket with `port_id` at `now_ns`. `None` if it has exited, if its files
    /// are not readable for this user, or if too many searches ran in this second.
    pub(crate) fn program(&mut self, port_id: u32, now_ns: u64) -> Option<&str> {
        let slot = usize::try_from(port_id).unwrap_or(0) % SLOTS;
        if !self.slots[slot].is_some_and(|answer| answer.is_valid_for(port_id, now_ns)) {
            let name = self.find_program(port_id, now_ns);
            self.slots[slot] = Some(CachedAnswer { port_id, found_ns: now_ns, name });
        }
        self.slots[slot].as_ref()?.name.as_ref()?.text()
    }

    /// Finds the program without the cache.
    fn find_program(&mut self, port_id: u32, now_ns: u64) -> Option<ProgramName> {
        let inode = self.socket_inode(port_id)?;
        // The first socket of a process has the process's id as port id. But a process of that id may also be in
        // another pid namespace, or the id may have been reused, so the process must have this very socket open.
        let process = self.proc.join(port_id.to_string());
        if has_open_file(&process, format!("socket:[{inode}]").as_ref()) {
            return ProgramName::read(&process);
        }
        // If the clock was set back, the next search may run at once; otherwise none would run until the clock has
        // caught up.
        let may_search = now_ns >= self.next_walk_ns || self.next_walk_ns - now_ns > CACHED_NS;
        if !may_search {
            return None;
        }
        self.next_walk_ns = now_ns.saturating_add(CACHED_NS / WALKS_PER_SECOND);
        ProgramName::read(&self.find_owner(&inode)?)
    }

    /// The inode of the netfilter socket with this port id in this thread's network namespace.
    fn socket_inode(&self, port_id: u32) -> Option<String> {
        let table = fs::read_to_string(self.proc.join("thread-self/net/netlink")).ok()?;
        let port_id = port_id.to_string();
        table.lines().find_map(|line| {
            let mut columns = line.split_ascii_whitespace().skip(1); // the socket's address in the kernel
            let ours = columns.next() == Some(NETLINK_NETFILTER) && columns.next() == Some(port_id.as_str());
            columns.last().filter(|_| ours).map(str::to_owned)
        })
    }

    /// The proc directory of the process that has the socket open.
    fn find_owner(&self, inode: &str) -> Option<PathBuf> {
        let link = format!("socket:[{inode}]");
        let mut processes = fs::read_dir(&self.proc).ok()?.flatten().filter(|entry| is_number(&entry.file_name()));
        processes.find(|process| has_open_file(&process.path(), link.as_ref())).map(|process| process.path())
    }
}

impl CachedAnswer {
    /// Whether this is the result for `port_id` and still current at `now_ns`.
    fn is_valid_for(&self, port_id: u32, now_ns: u64) -> bool {
        self.port_id == port_id && (self.found_ns..self.found_ns.saturating_add(CACHED_NS)).contains(&now_ns)
    }
}

impl ProgramName {
    /// Reads the process's `comm`. A process may set any name, so bytes other than printable ASCII become `?`.
    fn read(process: &Path) -> Option<Self> {
        let comm = fs::read(process.join("comm")).ok()?;
        let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
        let mut name = Self { bytes: [0; NAME_BYTES], length: comm.len().min(NAME_BYTES) };
        for (kept, byte) in name.bytes.iter_mut().zip(comm) {
            *kept = if byte.is_ascii_graphic() || *byte == b' ' { *byte } else { b'?' };
        }
        Some(name)
    }

    fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.bytes.get(..self.length)?).ok()
    }
}

fn is_number(name: &OsStr) -> bool {
    name.as_bytes().iter().all(u8::is_ascii_digit)
}

/// Whether `process`, a proc directory, has a file descriptor that links to `link`.
fn has_open_file(process: &Path, link: &OsStr) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::netlink::{self, SocketAddrNetlink};
    use rustix::net::{self, AddressFamily, SocketType};
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::symlink;

    const SECOND: u64 = CACHED_NS;
    /// The head line of the kernel's table.
    const HEADER: &str = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";

    /// An artificial proc file system in a temporary directory, which is removed on drop.
    struct Proc(PathBuf);

    impl Proc {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ctflow-{test}-{}", std::process::id()));
            fs::create_dir_all(path.join("thread-self/net")).unwrap();
            Self(path)
        }

        fn process(&self, pid: u32, comm: &str, inode: u32) {
            let process = self.0.join(pid.to_string());
            fs::create_dir_all(process.join("fd")).unwrap();
            fs::write(process.join("comm"), format!("{comm}\n")).unwrap();
            symlink("/dev/null", process.join("fd/0")).unwrap();
            symlink(format!("socket:[{inode}]"), process.join("fd/3")).unwrap();
        }

        fn sockets(&self, rows: &[(u8, u32, u32)]) {
            let row = |(protocol, port_id, inode): &(u8, u32, u32)| {
                format!("00000000c9693f48 {protocol:<3} {port_id:<10} 00000000 0 0 0 2 0 {inode}\n")
            };
            let table = rows.iter().map(row).collect::<String>();
            fs::write(self.0.join("thread-self/net/netlink"), format!("{HEADER}{table}")).unwrap();
        }

        fn requesters(&self) -> Requesters {
            Requesters::new(self.0.clone())
        }
    }

    impl Drop for Proc {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_port_id_leads_to_its_process_by_id_or_by_socket() {
        let proc = Proc::new("found");
        proc.process(41, "conntrack", 1001);
        proc.process(42, "ct\u{1b}[sync d", 1002);
        proc.sockets(&[(0, 3_026_142_343, 7), (12, 41, 1001), (12, 3_026_142_343, 1002), (12, 99, 1003)]);
        let mut requesters = proc.requesters();
        assert_eq!(requesters.program(41, SECOND), Some("conntrack"));
        assert_eq!(requesters.program(3_026_142_343, SECOND), Some("ct?[sync d"));
        assert_eq!(requesters.program(99, 2 * SECOND), None, "a socket that no process has open");
        assert_eq!(requesters.program(5, 3 * SECOND), None, "no socket");
    }

    /// The process with the port id's number does not have the socket: the socket belongs to a process of another pid
    /// namespace, or was opened by a process that has exited and whose id was reused.
    #[test]
    fn a_process_whose_id_equals_the_port_id_by_chance_is_not_named() {
        let proc = Proc::new("number");
        proc.process(41, "innocent", 1001);
        proc.process(77, "conntrack", 1002);
        proc.sockets(&[(12, 41, 1002)]);
        assert_eq!(proc.requesters().program(41, SECOND), Some("conntrack"));
    }

    #[test]
    fn answers_are_cached_for_a_second_even_if_no_program_was_found() {
        let proc = Proc::new("remembered");
        proc.process(41, "before", 1001);
        proc.sockets(&[(12, 41, 1001), (12, 43, 1002)]);
        let mut requesters = proc.requesters();
        assert_eq!(requesters.program(41, SECOND), Some("before"));
        assert_eq!(requesters.program(43, SECOND), None);
        fs::write(proc.0.join("41/comm"), "after\n").unwrap();
        proc.process(43, "late", 1002);
        assert_eq!(requesters.program(41, 2 * SECOND - 1), Some("before"));
        assert_eq!(requesters.program(43, 2 * SECOND - 1), None);
        assert_eq!(requesters.program(41, 2 * SECOND), Some("after"));
        assert_eq!(requesters.program(43, 2 * SECOND), Some("late"));
        assert_eq!(requesters.program(41, SECOND), Some("after"), "a clock set back");
    }

    #[test]
    fn a_flood_of_new_sockets_walks_proc_at_a_bounded_rate() {
        let proc = Proc::new("flood");
        proc.process(41, "many", 1001);
        let sockets: Vec<_> = (0..100).map(|number| (12, 3_000_000_000 + number, 1001)).collect();
        proc.sockets(&sockets);
        let mut requesters = proc.requesters();
        let mut found = |&(_, port_id, _): &(u8, u32, u32)| requesters.program(port_id, 5 * SECOND).is_some();
        assert_eq!(sockets.iter().filter(|socket| found(socket)).count(), 1);
        assert_eq!(requesters.program(3_000_000_000, 7 * SECOND), Some("many"));
    }

    /// Two sockets of this process with their port ids: the process id and an arbitrary number. They close on drop.
    fn two_sockets() -> rustix::io::Result<[(OwnedFd, u32); 2]> {
        let open = || {
            let socket = net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
            net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            let port_id = SocketAddrNetlink::try_from(net::getsockname(&socket)?)?.pid();
            Ok((socket, port_id))
        };
        Ok([open()?, open()?])
    }

    #[test]
    fn the_real_proc_file_system_names_this_process() {
        let sockets = ctflow_lab::or_skip!(two_sockets()); // a kernel may have no nfnetlink
        let us = fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap();
        let mut requesters = Requesters::default();
        assert_ne!(sockets[0].1, sockets[1].1);
        for (_, port_id) in &sockets {
            assert_eq!(requesters.program(*port_id, SECOND), Some(us.trim_end()), "{port_id}");
        }
    }

    #[test]
    fn without_proc_no_program_has_a_name() {
        assert_eq!(Requesters::new(PathBuf::from("/nonexistent")).program(1, SECOND), None);
    }
}
