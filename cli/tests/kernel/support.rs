//! Helpers of the kernel tests: running the program in the test's private network, and creating flows there.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ctflow_engine::kernel::request::Requester;
use ctflow_parser::flow::FlowView;
use ctflow_parser::proto::{ProtoInfo, SctpInfo, TcpInfo};
use ctflow_parser::request::{self, FlowChange, IfExists};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ctflow");
/// The longest wait. Nothing here takes a tenth of it.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Exit code, standard output, standard error.
pub(crate) type Ran = (i32, String, String);

pub(crate) fn run(program: &str, args: &[&str]) -> Ran {
    ran(Command::new(program).args(args).output().unwrap())
}

pub(crate) fn ran(Output { status, stdout, stderr }: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Returns a flow of `proto` between two addresses, with all that the kernel needs to create it.
pub(crate) fn flow(src: &str, dst: &str, proto: u8, l4: L4) -> FlowView<'static> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let back = match l4 {
        L4::None => L4::None,
        L4::Ports { src, dst } => L4::Ports { src: dst, dst: src },
        L4::Icmp { kind: 128, code, id } => L4::Icmp { kind: 129, code, id },
        L4::Icmp { code, id, .. } => L4::Icmp { kind: 0, code, id },
    };
    let tuple = |src, dst, l4| Tuple { src, dst, proto, l4, zone: None };
    let proto = match proto {
        uapi::IPPROTO_TCP => Some(ProtoInfo::Tcp(TcpInfo { state: Some(3), ..TcpInfo::default() })),
        uapi::IPPROTO_SCTP => {
            Some(ProtoInfo::Sctp(SctpInfo { state: Some(4), vtag_orig: Some(1), vtag_reply: Some(2) }))
        }
        _ => None,
    };
    FlowView {
        family: if src.is_ipv4() { uapi::AF_INET } else { uapi::AF_INET6 },
        orig: Some(tuple(src, dst, l4)),
        reply: Some(tuple(dst, src, back)),
        timeout: Some(3_000),
        proto,
        ..FlowView::default()
    }
}

pub(crate) fn ports(src: u16, dst: u16) -> L4 {
    L4::Ports { src, dst }
}

pub(crate) fn create(flow: FlowView<'_>) {
    create_as(&FlowChange { flow, ..FlowChange::default() });
}

/// Creates a flow, with the parts that only requests have: NAT and masks.
pub(crate) fn create_as(change: &FlowChange<'_>) {
    let write =
        |writer: &mut ctflow_parser::write::Writer<'_>, seq| request::create(writer, seq, change, IfExists::Refuse);
    if let Err(error) = Requester::open().unwrap().request("create a flow", write, |_| {}) {
        panic!("{error}: {change:?}");
    }
}

pub(crate) fn flush() {
    let write = |writer: &mut ctflow_parser::write::Writer<'_>, seq| request::flush(writer, seq, 0);
    Requester::open().unwrap().request("empty the table", write, |_| {}).unwrap();
}

/// A running program that follows events and has joined its groups.
pub(crate) struct Follower {
    child: Child,
}

impl Follower {
    pub(crate) fn start(program: &str, args: &[&str]) -> Self {
        Self::start_with_stdout(program, args, Stdio::piped())
    }

    /// Starts the program with this standard output, and waits until it has joined its groups.
    pub(crate) fn start_with_stdout(program: &str, args: &[&str], stdout: Stdio) -> Self {
        let before = listening_sockets();
        let mut command = Command::new(program);
        let child = command.arg("-E").args(args).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let follower = Self { child };
        until("it listens", || !listening_sockets().is_subset(&before));
        follower
    }

    /// Reads the next line of its standard output, which must be a pipe.
    pub(crate) fn line(&mut self) -> String {
        let mut byte_by_byte = BufReader::with_capacity(1, self.child.stdout.as_mut().unwrap());
        let mut line = String::new();
        byte_by_byte.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn close_stdout(&mut self) {
        self.child.stdout = None;
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the program's end.
    pub(crate) fn wait_for_exit(mut self) -> Ran {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let (mut stdout, mut stderr) = (String::new(), String::new());
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_string(&mut stdout).unwrap();
        }
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (status.unwrap().code().unwrap(), stdout, stderr)
    }

    /// Interrupts it and waits for its end.
    pub(crate) fn interrupt(self) -> Ran {
        self.signal(rustix::process::Signal::INT);
        self.wait_for_exit()
    }
}

/// Returns the inodes of the netfilter sockets in this network that have joined a group. They may still include those
/// of programs that have just ended.
fn listening_sockets() -> HashSet<String> {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        match fields[..] {
            [_, "12", _, groups, .., inode] if groups != "00000000" => Some(inode.to_owned()),
            _ => None,
        }
    };
    sockets.lines().filter_map(inode).collect()
}

/// Returns the bytes that wait in the netfilter sockets of this network to be read.
pub(crate) fn queued_bytes() -> u64 {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let queued = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        if fields.get(1) == Some(&"12") { fields.get(4)?.parse::<u64>().ok() } else { None }
    };
    sockets.lines().filter_map(queued).sum()
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has usually ended
        let _ = self.child.wait();
    }
}

/// Waits until a condition is satisfied; panics with `what` if it never is.
pub(crate) fn until(what: &str, mut satisfied: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !satisfied() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
