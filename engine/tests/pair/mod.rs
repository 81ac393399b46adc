//! Two nodes, each with its own kernel tables, connected by a cable.
#![allow(dead_code)] // each test file uses a part of it

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ctflow_engine::capture::socket::{EventMask, Options};
use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_engine::kernel::request::Requester;
use ctflow_engine::replication::filter::ReplicationFilter;
use ctflow_engine::replication::link::{LinkSettings, Transport};
use ctflow_engine::replication::{ReplicationSettings, ReplicationStatus};
use ctflow_engine::takeover;
use ctflow_lab::{Host, Lab, link};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::record::Record;
use ctflow_parser::request::{self, FlowChange, IfExists, Table};
use ctflow_parser::uapi::{IPS_ASSURED, IPS_DST_NAT, IPS_SEEN_REPLY, IPS_SRC_NAT};
use ctflow_parser::write::Writer;
use ctflow_replicate::{Config, Epoch, Key};

/// The address of each node's end of the cable.
pub(crate) const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// The longest wait in these tests: ten times what any of them needs.
pub(crate) const LONGEST: Duration = Duration::from_secs(20);

/// The replication address of a node.
pub(crate) fn address(end: usize) -> SocketAddr {
    SocketAddr::new(ADDRESSES[end].parse().unwrap(), 3780)
}

/// The settings of node `end` (0 or 1), whose peer is the other node.
pub(crate) fn settings(end: usize, workers: u32, transport: Transport) -> Settings {
    let interface = (transport == Transport::Multicast).then(|| "sync".to_owned());
    let peers = match transport {
        Transport::Multicast => vec!["239.1.2.3:3780".parse().unwrap()],
        _ => vec![address(1 - end)],
    };
    let local = match transport {
        Transport::Multicast => "0.0.0.0:3780".parse().unwrap(),
        _ => address(end),
    };
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let epoch = Epoch::new(u64::try_from(started).unwrap(), u32::try_from(end).unwrap());
    let node = Config { key: Some(Key::new([7; 32])), ..Config::new(["one", "other"][end], 1, epoch) };
    Settings {
        workers,
        pin: false,
        socket: Options { events: EventMask::ALL, ..Options::default() },
        replication: Some(ReplicationSettings {
            node,
            links: vec![LinkSettings { transport, local, peers, interface }],
            filter: ReplicationFilter::default(),
            replica_flows_max: 1_000_000,
            takeover: takeover::Settings::default(),
            isolation: None,
            role_file: None,
        }),
        ..Settings::default()
    }
}

/// Creates the second node's host and connects it to the calling thread's namespace, which is the first node's.
pub(crate) fn cable(lab: &Lab) -> Host {
    let host = lab.start_host("other").unwrap();
    let links = link::Links::open().unwrap();
    links.create_veth("sync", "sync", host.namespace()).unwrap();
    links.up("sync").unwrap();
    links.add_address("sync", ADDRESSES[0].parse().unwrap(), 24).unwrap();
    host.run(|| {
        let links = link::Links::open().unwrap();
        links.up("sync").unwrap();
        links.add_address("sync", ADDRESSES[1].parse().unwrap(), 24).unwrap();
    });
    links.await_carrier("sync").unwrap();
    host
}

/// The status of the engine's replication stage.
pub(crate) fn status(engine: &Engine) -> ReplicationStatus {
    engine.replication().unwrap().status().unwrap()
}

/// The number of flows in the replicas of `engine`.
pub(crate) fn held_flows(engine: &Engine) -> u64 {
    status(engine).replicas.iter().map(|replica| replica.flows).sum()
}

/// Waits until the condition is met. Fails with `what` and the status of `engines` after [`LONGEST`].
pub(crate) fn until(what: &str, engines: &[&Engine], mut satisfied: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONGEST;
    while !satisfied() {
        assert!(
            Instant::now() < deadline,
            "never: {what}: {:#?}",
            engines.iter().map(|e| status(e)).collect::<Vec<_>>()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs the comparison `number` and returns whether every replica equals its source.
pub(crate) fn replicas_agree(engine: &Engine, number: u64) -> bool {
    engine.replication().unwrap().verify(number).unwrap();
    let deadline = Instant::now() + LONGEST;
    loop {
        let status = status(engine);
        let peer = &status.node.peers[0];
        let verdicts = peer.verdicts.iter().chain(peer.received.iter().map(|stream| &stream.verdict));
        let verdicts: Vec<_> = verdicts.map(|verdict| verdict.filter(|verdict| verdict.number == number)).collect();
        if verdicts.iter().all(Option::is_some) {
            return verdicts.iter().flatten().all(|verdict| verdict.differing.is_empty());
        }
        assert!(Instant::now() < deadline, "no verdict: {status:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The flows of the calling thread's kernel as text, with the attributes that a commit must preserve.
pub(crate) fn tracked_flows() -> BTreeSet<String> {
    let mut flows = BTreeSet::new();
    let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false).unwrap();
    let translated = IPS_SRC_NAT | IPS_DST_NAT | IPS_SEEN_REPLY | IPS_ASSURED;
    let mut on_record = |record: &Record<'_>| {
        let flow = record.flow().unwrap();
        let (status, state) = (flow.status.unwrap() & translated, flow.proto.and_then(|proto| proto.state()));
        flows.insert(format!("{:?} {:?} {status:x} {:?} {state:?} {:?}", flow.orig, flow.reply, flow.mark, flow.zone));
    };
    while dump.read(&mut on_record).unwrap() != Progress::Done {}
    flows
}

/// Creates one flow.
pub(crate) fn create_flow(change: &FlowChange<'_>) {
    let write = |writer: &mut Writer<'_>, seq| request::create(writer, seq, change, IfExists::Refuse);
    Requester::open().unwrap().request("create a flow", write, |_| {}).unwrap();
}
