//! Event sockets and receive back ends against a real kernel, each test in its own network namespace.
//!
//! The tests create the flows over ctnetlink themselves, so that the number and order of the events are known.

#![allow(clippy::unwrap_used)] // a test fails by it, here in its helpers too
#![allow(clippy::cast_possible_truncation)] // flow numbers and bursts, all below 100,000

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::capture::pace::Pace;
use ctflow_engine::capture::receive::{BackendKind, Interest, Interrupts, Receive, Received, Sink, Wait, open};
use ctflow_engine::capture::socket::{BufferPlan, EventMask, EventSocket, Options};
use ctflow_engine::capture::steer::{Filter, Share};
use ctflow_engine::limits::{DATAGRAM_BYTES, DATAGRAMS_PER_RECEIVE};
use ctflow_engine::sys::netlink::{NetlinkSocket, Protocol};
use ctflow_parser::filter::Masked;
use ctflow_parser::uapi;
use ctflow_parser::write::{Full, Writer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

macro_rules! isolated_tests {
    ($($name:ident => $body:ident;)*) => {
        $(#[test] fn $name() { ctflow_lab::isolated!({ $body() }); })*
    };
}

isolated_tests! {
    every_back_end_delivers_every_event_once_and_in_order => all_in_order;
    steered_sockets_split_the_events => steering;
    the_losses_of_a_small_buffer_are_counted_exactly => loss;
    a_receive_returns_after_a_bounded_number_of_datagrams => bounded;
    an_interrupt_wakes_a_blocked_receive => interrupts;
    a_reader_that_hangs_up_wakes_a_blocked_receive => hang_up;
    a_wait_ends_in_time_without_events => timed_waits;
    the_kernel_filters_by_family_protocol_and_mark => filters;
    own_changes_are_dropped_in_the_kernel => own_changes;
    a_buffer_under_pressure_grows_to_its_ceiling => growth;
    a_datagram_larger_than_a_buffer_is_counted_and_dropped => truncation;
    the_error_of_a_refused_back_end_names_the_remedy => refusal;
    auto_falls_back_to_a_permitted_back_end => fallback;
    expectations_belong_to_the_first_worker => expectations;
}

const BACKENDS: [BackendKind; 3] = [BackendKind::IoUring, BackendKind::Recvmmsg, BackendKind::Recv];

/// A flow to create. Its tuple follows from its number.
#[derive(Clone, Copy)]
struct Flow {
    number: u32,
    protocol: u8,
    mark: u32,
    family: u8,
}

impl Flow {
    fn udp(number: u32) -> Self {
        Self { number, protocol: uapi::IPPROTO_UDP, mark: 0, family: uapi::AF_INET }
    }

    fn write(&self, message: &mut Writer<'_>) -> Result<(), Full> {
        let status = uapi::IPS_CONFIRMED | uapi::IPS_SEEN_REPLY | uapi::IPS_ASSURED;
        let (source, destination) = (0x0a00_0000 + self.number, u32::from(Ipv4Addr::new(192, 0, 2, 1)));
        message.nest(uapi::CTA_TUPLE_ORIG, |tuple| self.tuple(tuple, source, destination, 1_024, 53))?;
        message.nest(uapi::CTA_TUPLE_REPLY, |tuple| self.tuple(tuple, destination, source, 53, 1_024))?;
        message.be32(uapi::CTA_STATUS, status)?;
        message.be32(uapi::CTA_TIMEOUT, 600)?;
        if self.mark == 0 { Ok(()) } else { message.be32(uapi::CTA_MARK, self.mark) }
    }

    fn tuple(&self, tuple: &mut Writer<'_>, from: u32, to: u32, from_port: u16, to_port: u16) -> Result<(), Full> {
        tuple.nest(uapi::CTA_TUPLE_IP, |ip| match self.family {
            uapi::AF_INET => {
                ip.be32(uapi::CTA_IP_V4_SRC, from)?;
                ip.be32(uapi::CTA_IP_V4_DST, to)
            }
            _ => {
                ip.attr(uapi::CTA_IP_V6_SRC, &Ipv4Addr::from(from).to_ipv6_mapped().octets())?;
                ip.attr(uapi::CTA_IP_V6_DST, &Ipv4Addr::from(to).to_ipv6_mapped().octets())
            }
        })?;
        tuple.nest(uapi::CTA_TUPLE_PROTO, |proto| {
            proto.u8(uapi::CTA_PROTO_NUM, self.protocol)?;
            proto.be16(uapi::CTA_PROTO_SRC_PORT, from_port)?;
            proto.be16(uapi::CTA_PROTO_DST_PORT, to_port)
        })
    }
}

/// Changes the namespace's connection tracking table.
struct Table {
    socket: NetlinkSocket,
}

impl Table {
    const BATCH: usize = 32;

    fn open() -> Self {
        Self { socket: NetlinkSocket::open(Protocol::Netfilter).unwrap() }
    }

    fn create(&self, flows: &[Flow]) {
        for batch in flows.chunks(Self::BATCH) {
            self.acknowledged(batch.len(), |writer, index, flags| {
                let (subsystem, flow) = (uapi::NFNL_SUBSYS_CTNETLINK, batch[index]);
                let flags = flags | uapi::NLM_F_CREATE | uapi::NLM_F_EXCL;
                writer.netfilter(subsystem, uapi::IPCTNL_MSG_CT_NEW, flags, 1, flow.family, 0, |m| flow.write(m))
            });
        }
    }

    fn create_udp(&self, numbers: Range<u32>) {
        self.create(&numbers.map(Flow::udp).collect::<Vec<_>>());
    }

    fn flush(&self) {
        self.acknowledged(1, |writer, _, flags| {
            writer.netfilter(uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_DELETE, flags, 1, 0, 0, |_| Ok(()))
        });
    }

    /// Sends `count` requests together and requests an acknowledgement of the last. Panics if the kernel refuses one.
    fn acknowledged(&self, count: usize, write: impl Fn(&mut Writer<'_>, usize, u16) -> Result<(), Full>) {
        assert_eq!(self.try_acknowledged(count, write), 0);
    }

    /// Sends `count` requests together. Returns the errno of the answer, 0 for an acknowledgement.
    fn try_acknowledged(&self, count: usize, write: impl Fn(&mut Writer<'_>, usize, u16) -> Result<(), Full>) -> i32 {
        let mut buffer = [0; 16 * 1_024];
        let mut writer = Writer::new(&mut buffer);
        for index in 0..count {
            let acknowledge = if index + 1 == count { uapi::NLM_F_ACK } else { 0 };
            write(&mut writer, index, uapi::NLM_F_REQUEST | acknowledge).unwrap();
        }
        self.socket.send(writer.bytes()).unwrap();
        let mut answer = [0; 1_024];
        self.socket.receive(&mut answer).unwrap();
        -i32::from_ne_bytes(answer[16..20].try_into().unwrap())
    }
}

/// The number of the flow that an IPv4 event is about. The original source address comes first in the event.
fn number(event: &[u8]) -> u32 {
    u32::from_be_bytes(event[32..36].try_into().unwrap()) - 0x0a00_0000
}

/// The value of a top-level attribute of 32 bits.
fn attribute(event: &[u8], wanted: u16) -> Option<u32> {
    let mut rest = &event[20..];
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if u16::from_ne_bytes([rest[2], rest[3]]) & uapi::NLA_TYPE_MASK == wanted {
            return Some(u32::from_be_bytes(rest[4..8].try_into().unwrap()));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn small(bytes: usize) -> Options {
    Options { events: EventMask::NEW, buffer: BufferPlan::Fixed(bytes), ..Options::default() }
}

fn only(filter: Filter) -> Options {
    Options { filter, ..small(128 * 1_024) }
}

fn open_both(kind: BackendKind, options: &Options) -> (EventSocket, Box<dyn Receive>) {
    let socket = EventSocket::open(options).unwrap();
    let receive = open(kind, socket.netlink(), Interrupts::new()).unwrap();
    (socket, receive)
}

/// Receives every queued event.
fn drain(receive: &mut dyn Receive, sink: &mut dyn Sink) -> Received {
    let mut sum = Received::default();
    while !sum.drained {
        let taken = receive.receive(Wait::None, sink).unwrap();
        sum = Received {
            datagrams: sum.datagrams + taken.datagrams,
            truncated: sum.truncated + taken.truncated,
            ..taken
        };
    }
    sum
}

fn drain_numbers(receive: &mut dyn Receive) -> Vec<u32> {
    let mut numbers = Vec::new();
    drain(receive, &mut |event: &[u8]| numbers.push(number(event)));
    numbers
}

fn all_in_order() {
    /// More than the ring's 16-bit tail can count, so that the tail wraps.
    const FLOWS: u32 = 70_000;
    for kind in BACKENDS {
        let (mut socket, mut receive) = open_both(kind, &Options { events: EventMask::NEW, ..Options::default() });
        let received = AtomicU32::new(0);
        let mut numbers = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| create_no_faster_than_read(FLOWS, socket.capacity(), &received));
            let (pace, mut wait, mut last) = (Pace::new(socket.capacity()), Wait::UntilAny, Instant::now());
            while numbers.len() < FLOWS as usize {
                let taken = receive.receive(wait, &mut |event: &[u8]| numbers.push(number(event))).unwrap();
                received.store(numbers.len() as u32, Ordering::Relaxed);
                wait = pace.next_wait(&taken, last.elapsed());
                last = Instant::now();
            }
        });
        assert!(numbers.into_iter().eq(0..FLOWS), "{kind}");
        assert_eq!(socket.check_loss().unwrap(), 0, "{kind}");
        assert_eq!(drain(&mut *receive, &mut |_: &[u8]| ()).datagrams, 0, "{kind}");
        Table::open().flush();
    }
}

/// Creates flows in bursts of a quarter of the reader's socket buffer, so that the buffer is never more than half full.
fn create_no_faster_than_read(flows: u32, capacity: usize, received: &AtomicU32) {
    let table = Table::open();
    let burst = (capacity / 4).clamp(1, 2_000);
    for start in (0..flows).step_by(burst) {
        while start - received.load(Ordering::Relaxed) > burst as u32 {
            thread::sleep(Duration::from_micros(100));
        }
        table.create_udp(start..flows.min(start + burst as u32));
    }
}

fn steering() {
    for workers in [2, 3] {
        let options = |worker| Options { share: Share { worker, workers }, ..small(128 * 1_024) };
        let mut readers: Vec<_> =
            (0..workers).map(|worker| open_both(BackendKind::Recvmmsg, &options(worker))).collect();
        let table = Table::open();
        let mut seen = BTreeMap::new();
        let mut shares = vec![0; workers as usize];
        for start in (0..6_000).step_by(100) {
            table.create_udp(start..start + 100);
            for (worker, (_, receive)) in (0..).zip(&mut readers) {
                drain(&mut **receive, &mut |event: &[u8]| {
                    assert_eq!(attribute(event, uapi::CTA_ID).unwrap() % workers, worker);
                    assert_eq!(seen.insert(number(event), worker), None, "an event came twice");
                    shares[worker as usize] += 1;
                });
            }
        }
        assert!(seen.into_keys().eq(0..6_000));
        assert!(shares.iter().all(|share| share * workers > 4_800), "uneven shares: {shares:?}");
        assert!(readers.iter_mut().all(|(socket, _)| socket.check_loss().unwrap() == 0));
        table.flush();
    }
}

fn loss() {
    for kind in BACKENDS {
        let (mut socket, mut receive) = open_both(kind, &small(64 * 1_024));
        let table = Table::open();
        table.create_udp(0..1_000);
        let received = drain_numbers(&mut *receive);
        let lost = socket.check_loss().unwrap();
        assert!(lost > 0, "{kind}");
        assert_eq!(received.len() as u64 + lost, 1_000, "{kind}");
        assert!(received.len().abs_diff(socket.capacity()) <= 1, "{kind}: {} of {}", received.len(), socket.capacity());
        table.create_udp(1_000..1_010);
        assert_eq!(drain_numbers(&mut *receive), (1_000..1_010).collect::<Vec<_>>(), "{kind}");
        assert_eq!(socket.check_loss().unwrap(), 0, "{kind}: counted once");
        table.flush();
    }
}

/// Needs a buffer with room for more datagrams than one receive returns. Only root may have it, unless
/// `net.core.rmem_max` is large.
fn bounded() {
    const LEFT: u32 = 500;
    let most = u32::try_from(DATAGRAMS_PER_RECEIVE).unwrap();
    for kind in BACKENDS {
        let (socket, mut receive) = open_both(kind, &small(8 * 1_024 * 1_024));
        if socket.capacity() < DATAGRAMS_PER_RECEIVE + LEFT as usize {
            return ctflow_lab::isolated::skip(&format_args!(
                "the kernel permits too small a buffer: {}",
                socket.buffer()
            ));
        }
        Table::open().create_udp(0..most + LEFT);
        let taken = receive.receive(Wait::UntilAny, &mut |_: &[u8]| ()).unwrap();
        assert!(taken.datagrams == DATAGRAMS_PER_RECEIVE && !taken.drained, "{kind}: {taken:?}");
        assert_eq!(drain_numbers(&mut *receive), (most..most + LEFT).collect::<Vec<_>>(), "{kind}");
        Table::open().flush();
    }
}

fn interrupts() {
    for kind in BACKENDS {
        let socket = EventSocket::open(&small(64 * 1_024)).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut watched = Interrupts::new();
        watched.watch(&File::open("/proc/self/exe").unwrap(), Interest::HangUp).unwrap(); // never ready
        watched.watch(&reader, Interest::Readable).unwrap();
        let mut receive = open(kind, socket.netlink(), watched).unwrap();
        let start = Instant::now();
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            writer.write_all(b"!").unwrap();
            writer
        });
        let taken = receive.receive(Wait::UntilAny, &mut |_: &[u8]| ()).unwrap();
        assert!(taken.interrupted && taken.datagrams == 0, "{kind}: {taken:?}");
        assert!((50..1_000).contains(&start.elapsed().as_millis()), "{kind}: {:?}", start.elapsed());
        for wait in [Wait::UntilAny, Wait::AtMost(Duration::from_millis(1)), Wait::None] {
            assert!(receive.receive(wait, &mut |_: &[u8]| ()).unwrap().interrupted, "{kind}: still ready");
        }
        let _writer = late.join().unwrap();
        (&reader).read_one();
        assert!(drain(&mut *receive, &mut |_: &[u8]| ()).datagrams == 0);
        let quiet = receive.receive(Wait::AnyWithin(Duration::from_millis(5)), &mut |_: &[u8]| ()).unwrap();
        assert!(!quiet.interrupted, "{kind}: the interrupt was handled");
    }
}

fn hang_up() {
    for kind in BACKENDS {
        let socket = EventSocket::open(&small(64 * 1_024)).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut watched = Interrupts::new();
        watched.watch(&writer, Interest::HangUp).unwrap();
        let mut receive = open(kind, socket.netlink(), watched).unwrap();
        assert!(!receive.receive(Wait::None, &mut |_: &[u8]| ()).unwrap().interrupted);
        let gone = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(reader);
        });
        assert!(receive.receive(Wait::UntilAny, &mut |_: &[u8]| ()).unwrap().interrupted, "{kind}");
        gone.join().unwrap();
    }
}

fn timed_waits() {
    for kind in BACKENDS {
        let (_socket, mut receive) = open_both(kind, &small(64 * 1_024));
        let time = Duration::from_millis(20);
        let start = Instant::now();
        assert!(receive.receive(Wait::AtMost(time), &mut |_: &[u8]| ()).unwrap().drained);
        assert!(receive.receive(Wait::AnyWithin(time), &mut |_: &[u8]| ()).unwrap().drained);
        assert!((40..1_000).contains(&start.elapsed().as_millis()), "{kind}: {:?}", start.elapsed());
        Table::open().create_udp(0..10);
        let start = Instant::now();
        let taken = receive.receive(Wait::AnyWithin(Duration::from_secs(60)), &mut |_: &[u8]| ()).unwrap();
        assert!(taken.datagrams == 10 && start.elapsed() < Duration::from_secs(10), "{kind}: {taken:?}");
        Table::open().create_udp(10..20);
        let taken = receive.receive(Wait::AtMost(time), &mut |_: &[u8]| ()).unwrap();
        assert_eq!(taken.datagrams, 10, "{kind}");
        Table::open().flush();
    }
}

/// Creates four kinds of flow and returns the numbers of those that pass the filter.
fn passing(filter: Filter) -> Vec<u32> {
    let (mut socket, mut receive) = open_both(BackendKind::Recv, &only(filter));
    let table = Table::open();
    let udp = Flow::udp(1);
    let tcp = Flow { protocol: uapi::IPPROTO_TCP, mark: 0x12, ..Flow::udp(2) };
    let sctp = Flow { protocol: uapi::IPPROTO_SCTP, mark: 0xff, ..Flow::udp(3) };
    let v6 = Flow { family: uapi::AF_INET6, mark: 0x7000_0012, ..Flow::udp(4) };
    table.create(&[udp, tcp, sctp, v6]);
    let mut passed = Vec::new();
    drain(&mut *receive, &mut |event: &[u8]| {
        let v6 = event[16] == uapi::AF_INET6;
        passed.push(if v6 { 4 } else { number(event) });
    });
    assert_eq!(socket.check_loss().unwrap(), 0, "a filtered event is not a loss");
    table.flush();
    passed
}

fn filters() {
    let protocols = |list: &[u8]| Filter { protocols: list.to_vec(), ..Filter::default() };
    let mark = |value, mask| Filter { mark: Some(Masked { value, mask }), ..Filter::default() };
    assert_eq!(passing(Filter::default()), [1, 2, 3, 4]);
    assert_eq!(passing(Filter { family: Some(uapi::AF_INET6), ..Filter::default() }), [4]);
    assert_eq!(passing(Filter { family: Some(uapi::AF_INET), ..Filter::default() }), [1, 2, 3]);
    assert_eq!(passing(protocols(&[uapi::IPPROTO_TCP])), [2]);
    assert_eq!(passing(protocols(&[uapi::IPPROTO_SCTP, uapi::IPPROTO_UDP])), [1, 3, 4]);
    assert!(passing(protocols(&[uapi::IPPROTO_GRE])).is_empty());
    assert_eq!(passing(mark(0x12, u32::MAX)), [2]);
    assert_eq!(passing(mark(0x12, 0xff)), [2, 4]);
    assert_eq!(passing(mark(0, u32::MAX)), [1], "a flow without a mark has the mark 0");
    let both = Filter { protocols: vec![uapi::IPPROTO_UDP], ..mark(0x12, 0xff) };
    assert_eq!(passing(Filter { family: Some(uapi::AF_INET6), ..both }), [4]);
}

fn own_changes() {
    let (own, other) = (Table::open(), Table::open());
    let ignored_port_ids = vec![1, own.socket.port_id()];
    let (_socket, mut receive) = open_both(BackendKind::Recv, &only(Filter { ignored_port_ids, ..Filter::default() }));
    own.create_udp(0..10);
    other.create_udp(10..20);
    assert_eq!(drain_numbers(&mut *receive), (10..20).collect::<Vec<_>>());
}

fn growth() {
    let buffer = BufferPlan::Growing { start: 32 * 1_024, ceiling: 100 * 1_024 };
    let (mut socket, mut receive) = open_both(BackendKind::Recvmmsg, &Options { buffer, ..small(0) });
    let table = Table::open();
    let mut created = 0;
    let mut sizes = Vec::new();
    for _ in 0..5 {
        let burst = u32::try_from(socket.capacity()).unwrap() * 3 / 4;
        table.create_udp(created..created + burst);
        created += burst;
        let taken = drain(&mut *receive, &mut |_: &[u8]| ());
        assert_eq!(taken.datagrams, burst as usize);
        sizes.extend(socket.grow(&taken).unwrap().map(|buffer| buffer.requested / 1_024));
    }
    assert_eq!(sizes, [64, 100]);
    let fixed = Received { datagrams: 1_000_000, drained: true, ..Received::default() };
    assert_eq!(EventSocket::open(&small(32 * 1_024)).unwrap().grow(&fixed).unwrap(), None);
    assert_eq!(socket.check_loss().unwrap(), 0);
}

/// The kernel returns a refused request whole, so that the answer can have any size.
fn truncation() {
    for kind in BACKENDS {
        let socket = NetlinkSocket::open(Protocol::Netfilter).unwrap();
        let mut receive = open(kind, &socket, Interrupts::new()).unwrap();
        for bytes in [100, DATAGRAM_BYTES, 200] {
            let mut buffer = vec![0; bytes + 64];
            let mut writer = Writer::new(&mut buffer);
            writer.message(0x7f00, uapi::NLM_F_REQUEST | uapi::NLM_F_ACK, 1, |m| m.raw(&vec![0; bytes])).unwrap();
            socket.send(writer.bytes()).unwrap();
        }
        let mut lengths = Vec::new();
        let taken = drain(&mut *receive, &mut |datagram: &[u8]| lengths.push(datagram.len()));
        assert_eq!((taken.datagrams, taken.truncated), (2, 1), "{kind}");
        assert_eq!(lengths, [100 + 36, 200 + 36], "{kind}");
    }
}

/// Leaves one descriptor free: enough to read the socket, too few for a ring.
fn refusal() {
    let socket = EventSocket::open(&small(64 * 1_024)).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: limit.maximum }).unwrap();
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    files.pop().unwrap();
    let refused = open(BackendKind::IoUring, socket.netlink(), Interrupts::new()).err().unwrap().to_string();
    assert!(refused.contains("io_uring") && refused.contains("RLIMIT_NOFILE"), "{refused}");
    assert_eq!(open(BackendKind::Auto, socket.netlink(), Interrupts::new()).unwrap().name(), "recvmmsg");
}

/// Leaves too little address space for the buffers of a batch or a ring, and enough for one buffer.
fn fallback() {
    let (socket, table) = (EventSocket::open(&small(64 * 1_024)).unwrap(), Table::open());
    let limit = getrlimit(Resource::As);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let used_kib = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")).unwrap();
    let most = (used_kib.parse::<u64>().unwrap() + 256) * 1_024;
    setrlimit(Resource::As, Rlimit { current: Some(most), maximum: limit.maximum }).unwrap();
    for kind in [BackendKind::Recvmmsg, BackendKind::IoUring] {
        let refused = open(kind, socket.netlink(), Interrupts::new()).err().unwrap().to_string();
        assert!(refused.contains(kind.name()) && refused.contains("memory"), "{refused}");
    }
    let mut receive = open(BackendKind::Auto, socket.netlink(), Interrupts::new()).unwrap();
    assert_eq!(receive.name(), "recv");
    table.create_udp(0..10);
    assert_eq!(drain_numbers(&mut *receive).len(), 10);
}

/// Creates a flow with the FTP helper and an expectation of it.
fn expectations() {
    let table = Table::open();
    let master = Flow { protocol: uapi::IPPROTO_TCP, ..Flow::udp(1) };
    let expected = Flow { number: 2, ..master };
    let options = |worker, protocols: &[u8]| Options {
        events: EventMask::EXPECTATIONS,
        share: Share { worker, workers: 2 },
        filter: Filter { protocols: protocols.to_vec(), ..Filter::default() },
        ..small(64 * 1_024)
    };
    let mut first = open_both(BackendKind::Recv, &options(0, &[uapi::IPPROTO_TCP])).1;
    let mut udp_only = open_both(BackendKind::Recv, &options(0, &[uapi::IPPROTO_UDP])).1;
    let mut second = open_both(BackendKind::Recv, &options(1, &[])).1;
    ctflow_lab::or_skip!(create_expectation(&table, master, expected));
    assert_eq!(
        drain(&mut *first, &mut |event: &[u8]| assert_eq!(event[5], uapi::NFNL_SUBSYS_CTNETLINK_EXP)).datagrams,
        1
    );
    assert_eq!(drain(&mut *udp_only, &mut |_: &[u8]| ()).datagrams, 0);
    assert_eq!(drain(&mut *second, &mut |_: &[u8]| ()).datagrams, 0);
}

/// Creates `master` with the FTP helper, and an expectation of it. Returns why the kernel cannot.
fn create_expectation(table: &Table, master: Flow, expected: Flow) -> Result<(), &'static str> {
    let create = uapi::NLM_F_CREATE | uapi::NLM_F_EXCL;
    let refused = table.try_acknowledged(1, |writer, _, flags| {
        let (subsystem, kind) = (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW);
        writer.netfilter(subsystem, kind, flags | create, 1, master.family, 0, |message| {
            master.write(message)?;
            message.nest(uapi::CTA_HELP, |help| help.text(uapi::CTA_HELP_NAME, "ftp"))
        })
    });
    if refused != 0 {
        return Err("this kernel has no FTP helper");
    }
    table.acknowledged(1, |writer, _, flags| {
        let (subsystem, kind) = (uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_NEW);
        writer.netfilter(subsystem, kind, flags | create, 1, master.family, 0, |message| {
            let (from, to) = (0x0a00_0001, u32::from(Ipv4Addr::new(192, 0, 2, 1)));
            message.nest(uapi::CTA_EXPECT_MASTER, |tuple| master.tuple(tuple, from, to, 1_024, 53))?;
            message.nest(uapi::CTA_EXPECT_TUPLE, |tuple| expected.tuple(tuple, from, to, 2_000, 2_001))?;
            message.nest(uapi::CTA_EXPECT_MASK, |tuple| expected.tuple(tuple, u32::MAX, u32::MAX, 0, u16::MAX))?;
            message.be32(uapi::CTA_EXPECT_TIMEOUT, 60)
        })
    });
    Ok(())
}

/// Reads the one byte that was written to a pipe.
trait ReadOne {
    fn read_one(self);
}

impl<R: std::io::Read> ReadOne for R {
    fn read_one(mut self) {
        self.read_exact(&mut [0]).unwrap();
    }
}
