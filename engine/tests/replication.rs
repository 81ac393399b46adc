//! Two engines with real kernels, connected by a cable: what one kernel tracks, the other's replica holds.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by it, here in its helpers too

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::isolated;
use ctflow_engine::kernel::batch::Batch;
use ctflow_engine::lab::{Host, Lab, link};
use ctflow_engine::link::{LinkSettings, Transport};
use ctflow_engine::publish::Choice;
use ctflow_engine::replication::{ReplicationSettings, ReplicationStatus};
use ctflow_parser::flow::FlowView;
use ctflow_parser::request::{self, FlowChange, IfExists, Selector};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::{AF_INET, IPPROTO_UDP};
use ctflow_replicate::{Config, Epoch, Key};

const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// Nothing that is waited for here takes a tenth of this.
const LONGEST: Duration = Duration::from_secs(20);

fn address(end: usize) -> SocketAddr {
    SocketAddr::new(ADDRESSES[end].parse().unwrap(), 3780)
}

fn settings(end: usize, workers: u32, transport: Transport) -> Settings {
    let interface = (transport == Transport::Multicast).then(|| "sync".to_owned());
    let peers = match transport {
        Transport::Multicast => vec!["239.1.2.3:3780".parse().unwrap()],
        _ => vec![address(1 - end)],
    };
    let local = match transport {
        Transport::Multicast => "0.0.0.0:3780".parse().unwrap(),
        _ => address(end),
    };
    let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let epoch = Epoch::new(u64::try_from(began).unwrap(), u32::try_from(end).unwrap());
    let node = Config { key: Some(Key::new([7; 32])), ..Config::new(["one", "other"][end], 1, epoch) };
    Settings {
        workers,
        pin: false,
        replication: Some(ReplicationSettings {
            node,
            links: vec![LinkSettings { transport, local, peers, interface }],
            choice: Choice::default(),
            replica_flows_max: 1_000_000,
        }),
        ..Settings::default()
    }
}

/// The second node's host, connected to the calling thread's namespace, which is the first's.
fn cable(lab: &Lab) -> Host {
    let host = lab.host("other").unwrap();
    let links = link::Links::open().unwrap();
    links.veth("sync", "sync", host.namespace()).unwrap();
    links.up("sync").unwrap();
    links.address("sync", ADDRESSES[0].parse().unwrap(), 24).unwrap();
    host.run(|| {
        let links = link::Links::open().unwrap();
        links.up("sync").unwrap();
        links.address("sync", ADDRESSES[1].parse().unwrap(), 24).unwrap();
    });
    host
}

fn tuple(n: u32) -> Tuple {
    let [_, high, middle, low] = n.to_be_bytes();
    let l4 = L4::Ports { src: 1000, dst: 53 };
    let address = |first| std::net::Ipv4Addr::new(first, high, middle, low).into();
    Tuple { src: address(10), dst: address(11), proto: IPPROTO_UDP, l4, zone: None }
}

fn create(numbers: impl Iterator<Item = u32>) {
    let mut batch = Batch::open("create flows").unwrap();
    let refused = &mut |refused| panic!("{refused:?}");
    for n in numbers {
        let orig = tuple(n);
        let reply = Tuple { src: orig.dst, dst: orig.src, l4: L4::Ports { src: 53, dst: 1000 }, ..orig };
        let (orig, reply) = (Some(orig), Some(reply));
        let flow = FlowView { family: AF_INET, orig, reply, timeout: Some(600), mark: Some(n), ..FlowView::default() };
        let change = FlowChange { flow, ..FlowChange::default() };
        batch.add(n.into(), |writer, seq| request::create(writer, seq, &change, IfExists::Refuse), refused).unwrap();
    }
    batch.finish(refused).unwrap();
}

fn delete(numbers: impl Iterator<Item = u32>) {
    let mut batch = Batch::open("delete flows").unwrap();
    let refused = &mut |refused| panic!("{refused:?}");
    for n in numbers {
        let which = Selector::Orig(tuple(n));
        batch.add(n.into(), |writer, seq| request::delete(writer, seq, &which, None, None), refused).unwrap();
    }
    batch.finish(refused).unwrap();
}

fn status(engine: &Engine) -> ReplicationStatus {
    engine.replication().unwrap().status().unwrap()
}

/// Flows that `engine` holds of its peer.
fn held(engine: &Engine) -> u64 {
    status(engine).replicas.iter().map(|replica| replica.flows).sum()
}

fn until(what: &str, engines: &[&Engine], mut satisfied: impl FnMut() -> bool) {
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

/// Compares every replica with its source, and says whether all are the same.
fn agree(engine: &Engine, number: u64) -> bool {
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

#[test]
fn a_replica_follows_its_source_over_every_transport() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        for (round, transport) in [Transport::Udp, Transport::Multicast, Transport::Tcp].into_iter().enumerate() {
            let base = u32::try_from(round).unwrap() * 100_000;
            let before = u64::from(base / 100);
            create(base..base + 500); // before anything listens
            let other = host.run(move || Engine::start(&settings(1, 2, transport)).unwrap());
            let one = Engine::start(&settings(0, 3, transport)).unwrap();
            let both = [&one, &other];
            until("what was there is replicated", &both, || held(&other) == before + 500);
            create(base + 500..base + 5_000);
            until("what came is replicated", &both, || held(&other) == before + 5_000);
            delete(base + 1_000..base + 5_000); // of those before, this kernel would not tell the end
            until("what went is gone", &both, || held(&other) == before + 1_000);
            host.run(move || create(base..base + 300));
            until("the other way round, too", &both, || held(&one) == 300);
            assert!(agree(&one, 7) && agree(&other, 8), "{transport:?}");
            let lag = status(&other).replicas.iter().map(|replica| replica.lag.p50_ms).max().unwrap();
            assert!(lag < 1_000, "{transport:?}: {lag} ms");
            host.run(move || delete(base..base + 300));
            one.stop().unwrap();
            other.stop().unwrap();
        }
    });
}

#[test]
fn a_node_that_restarts_is_told_what_it_lacks_and_one_that_was_cut_off_catches_up() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let start = || Engine::start(&settings(1, 1, Transport::Udp)).unwrap();
        let other = host.run(start);
        let one = Engine::start(&settings(0, 2, Transport::Udp)).unwrap();
        create(0..3_000);
        until("they met", &[&one, &other], || held(&other) == 3_000);
        // The backup restarts while the primary goes on.
        other.stop().unwrap();
        delete(0..1_000);
        create(10_000..12_000);
        let other = host.run(start);
        until("the restarted one has all", &[&one, &other], || held(&other) == 4_000);
        assert!(agree(&one, 3));
        // The primary restarts with another number of workers.
        one.stop().unwrap();
        delete(1_000..2_000);
        let one = Engine::start(&settings(0, 1, Transport::Udp)).unwrap();
        until("the replica is the restarted one's", &[&one, &other], || {
            held(&other) == 3_000 && status(&other).replicas.len() == 1
        });
        assert!(agree(&one, 4) && agree(&other, 5));
    });
}
