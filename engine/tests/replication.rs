//! Two engines with real kernels, connected by a cable: the replica of one holds the flows that the other's kernel
//! tracks.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by it, here in its helpers too

mod flows;
mod pair;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::kernel::commit::{CommitRules, Lifetime};
use ctflow_engine::replication::ReplicationSettings;
use ctflow_engine::replication::link::{LinkSettings, Transport};
use ctflow_engine::takeover::CommitScope;
use ctflow_lab::Lab;
use ctflow_lab::isolated;
use ctflow_parser::flow::{FlowView, RareAttributes};
use ctflow_parser::proto::{ProtoInfo, TcpInfo};
use ctflow_parser::request::{FlowChange, NatRange};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::*;
use ctflow_replicate::{Config, Key, Mode};
use flows::{create, delete};
use pair::{cable, create_flow, held_flows, replicas_agree, settings, status, tracked_flows, until};

/// The settings of one of two nodes on the same machine. `local` and `peer` are ports.
fn loopback_settings(name: &str, local: u16, peer: u16, key: Option<[u8; 32]>) -> Settings {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let settings = settings(usize::from(name == "other"), 1, Transport::Udp);
    let replication = settings.replication.map(|replication| ReplicationSettings {
        node: Config { name: name.into(), key: key.map(Key::new), ..replication.node },
        links: vec![LinkSettings {
            transport: Transport::Udp,
            local: at(local),
            peers: vec![at(peer)],
            interface: None,
        }],
        ..replication
    });
    Settings { replication, ..settings }
}

/// Creates flows with every attribute that a takeover must preserve.
fn create_every_kind() {
    let ends = |src: &str, dst: &str, ports: (u16, u16), proto| Tuple {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        proto,
        l4: L4::Ports { src: ports.0, dst: ports.1 },
        zone: None,
    };
    let flow = |src: &str, dst: &str, proto| {
        let (orig, reply) = (ends(src, dst, (1_000, 80), proto), ends(dst, src, (80, 1_000), proto));
        let tcp = (proto == 6).then_some(ProtoInfo::Tcp(TcpInfo { state: Some(3), ..TcpInfo::default() }));
        let status = Some(IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED);
        let family = if orig.src.is_ipv4() { AF_INET } else { AF_INET6 };
        FlowView {
            family,
            orig: Some(orig),
            reply: Some(reply),
            status,
            proto: tcp,
            timeout: Some(600),
            ..FlowView::default()
        }
    };
    let to = |address: &str, port| Some(NatRange { address: address.parse().unwrap(), port });
    let plain = |flow| FlowChange { flow, ..FlowChange::default() };
    create_flow(&plain(flow("10.0.0.1", "192.0.2.9", 6)));
    create_flow(&plain(FlowView { mark: Some(7), ..flow("10.0.0.2", "192.0.2.9", 6) }));
    create_flow(&plain(FlowView { zone: Some(3), ..flow("10.0.0.1", "192.0.2.9", 6) }));
    create_flow(&plain(flow("2001:db8::1", "2001:db8::9", 17)));
    create_flow(&FlowChange { nat_src: to("198.51.100.1", None), ..plain(flow("10.0.0.3", "192.0.2.9", 6)) });
    create_flow(&FlowChange { nat_src: to("198.51.100.1", Some(5_000)), ..plain(flow("10.0.0.4", "192.0.2.9", 17)) });
    create_flow(&FlowChange { nat_dst: to("10.9.9.9", Some(8_080)), ..plain(flow("10.0.0.5", "192.0.2.9", 6)) });
    let both = plain(flow("10.0.0.6", "192.0.2.9", 6));
    create_flow(&FlowChange { nat_src: to("198.51.100.1", None), nat_dst: to("10.9.9.9", None), ..both });
    create_flow(&FlowChange { nat_src: to("2001:db8:1::1", None), ..plain(flow("2001:db8::2", "2001:db8::9", 6)) });
    let rare = RareAttributes { master: flow("10.0.0.1", "192.0.2.9", 6).orig, ..RareAttributes::default() };
    let related = FlowView { rare, ..flow("10.0.0.7", "192.0.2.9", 17) };
    create_flow(&plain(related));
}

#[test]
fn a_commit_creates_the_replicas_flows_and_sends_no_event() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let other = host.run(|| Engine::start(&settings(1, 2, Transport::Udp)).unwrap());
        let one = Engine::start(&settings(0, 2, Transport::Udp)).unwrap();
        create_every_kind();
        create(0..2_000);
        until("all are replicated", &[&one, &other], || held_flows(&other) == 2_010);
        let everything = CommitScope { flows: true, expectations: true };
        let committed = other.commit(everything, CommitRules::default()).unwrap().tally;
        assert_eq!((committed.created, committed.updated, committed.failed()), (2_010, 0, 0), "{committed:?}");
        let there = host.run(tracked_flows);
        assert_eq!(there, tracked_flows());
        assert_eq!(other.totals().events(), 0, "a node receives no events of its own commit");
        assert_eq!(held_flows(&one), 0);
        // A second commit creates no flow twice, and updates the flows that changed.
        delete(0..500);
        until("their end is replicated", &[&one, &other], || held_flows(&other) == 1_510);
        let rules = CommitRules { lifetime: Lifetime::Seconds(77), ..CommitRules::default() };
        let committed = other.commit(everything, rules).unwrap().tally;
        assert_eq!((committed.created, committed.updated, committed.failed()), (0, 1_510, 0), "{committed:?}");
        assert_eq!(host.run(|| ctflow_lab::sysctl::flow_count().unwrap()), 2_010);
    });
}

#[test]
fn a_replica_follows_its_source_over_every_transport() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        for (round, transport) in [Transport::Udp, Transport::Multicast, Transport::Tcp].into_iter().enumerate() {
            let base = u32::try_from(round).unwrap() * 100_000;
            let before = u64::from(base / 100);
            create(base..base + 500); // before an engine runs
            let other = host.run(move || Engine::start(&settings(1, 2, transport)).unwrap());
            let one = Engine::start(&settings(0, 3, transport)).unwrap();
            let both = [&one, &other];
            until("the flows from before the start are replicated", &both, || held_flows(&other) == before + 500);
            create(base + 500..base + 5_000);
            until("new flows are replicated", &both, || held_flows(&other) == before + 5_000);
            delete(base + 1_000..base + 5_000); // the kernel sends no event of the end of the older ones
            until("ended flows leave the replica", &both, || held_flows(&other) == before + 1_000);
            host.run(move || create(base..base + 300));
            until("replication works in the other direction, too", &both, || held_flows(&one) == 300);
            assert!(replicas_agree(&one, 7) && replicas_agree(&other, 8), "{transport:?}");
            let lag = status(&other).replicas.iter().map(|replica| replica.lag.p50).max().unwrap();
            assert!(lag < Duration::from_secs(1), "{transport:?}: {lag:?}");
            host.run(move || delete(base..base + 300));
            one.stop().unwrap();
            other.stop().unwrap();
        }
    });
}

#[test]
fn a_restarted_node_receives_every_flow_again() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = cable(&lab);
        let start = || Engine::start(&settings(1, 1, Transport::Udp)).unwrap();
        let other = host.run(start);
        let one = Engine::start(&settings(0, 2, Transport::Udp)).unwrap();
        create(0..3_000);
        until("the backup has all flows", &[&one, &other], || held_flows(&other) == 3_000);
        // The backup restarts while the primary goes on.
        other.stop().unwrap();
        delete(0..1_000);
        create(10_000..12_000);
        let other = host.run(start);
        until("the restarted backup has all flows", &[&one, &other], || held_flows(&other) == 4_000);
        assert!(replicas_agree(&one, 3));
        // The primary restarts with another number of workers.
        one.stop().unwrap();
        delete(1_000..2_000);
        let one = Engine::start(&settings(0, 1, Transport::Udp)).unwrap();
        until("the replica is that of the restarted primary", &[&one, &other], || {
            held_flows(&other) == 3_000 && status(&other).replicas.len() == 1
        });
        assert!(replicas_agree(&one, 4) && replicas_agree(&other, 5));
    });
}

/// A relay between two nodes that damages their datagrams.
struct Relay {
    harm: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Forwards every datagram.
const PASS: u32 = 0;
/// Drops one datagram in ten, and adds to each other one a truncated, a changed, an old and a random one.
const DAMAGE: u32 = 1;
/// Drops every datagram.
const CUT: u32 = 2;

impl Relay {
    /// Starts a relay between the node at port 4000, whose peer is port 5000, and the node at port 4001, whose peer is
    /// port 5001.
    fn start() -> Self {
        let socket = |port: u16| {
            let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let sockets = [socket(5000), socket(5001)];
        let (harm, stop) = (Arc::new(AtomicU32::new(PASS)), Arc::<AtomicBool>::default());
        let (harm_seen, stop_seen) = (harm.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut rng = 1u64;
            let mut random = move || {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                usize::try_from(rng >> 33).unwrap()
            };
            let mut old: Vec<Vec<u8>> = Vec::new();
            let mut buffer = [0; 65_536];
            while !stop_seen.load(Ordering::Relaxed) {
                let mut idle = true;
                for end in 0..2 {
                    let Ok((bytes, _)) = sockets[end].recv_from(&mut buffer) else { continue };
                    idle = false;
                    let to = ("127.0.0.1", [4001, 4000][end]);
                    let from = &sockets[1 - end];
                    let datagram = buffer[..bytes].to_vec();
                    let harm = harm_seen.load(Ordering::Relaxed);
                    if harm == CUT || harm == DAMAGE && random() % 10 == 0 {
                        continue;
                    }
                    from.send_to(&datagram, to).unwrap();
                    if harm == DAMAGE {
                        from.send_to(&datagram[..random() % bytes], to).unwrap();
                        let mut changed = datagram.clone();
                        changed[random() % bytes] ^= 1 << (random() % 8);
                        from.send_to(&changed, to).unwrap();
                        from.send_to(&vec![0xc7; random() % 100], to).unwrap();
                        if let Some(old) = old.get(random() % old.len().max(1)) {
                            from.send_to(old, to).unwrap();
                        }
                        old.push(datagram);
                    }
                }
                if idle {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Self { harm, stop, thread: Some(thread) }
    }

    /// Sets what the relay does from now on.
    fn set_harm(&self, harm: u32) {
        self.harm.store(harm, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Starts two nodes on this kernel with a relay between them, and waits until they are connected.
fn start_relayed_pair() -> (Engine, Engine, Relay) {
    let relay = Relay::start();
    let one = Engine::start(&loopback_settings("one", 4000, 5000, Some([7; 32]))).unwrap();
    let other = Engine::start(&loopback_settings("other", 4001, 5001, Some([7; 32]))).unwrap();
    until("both nodes are connected", &[&one, &other], || {
        [&one, &other].iter().all(|engine| !status(engine).replicas.is_empty())
    });
    (one, other, relay)
}

#[test]
fn damaged_repeated_and_forged_datagrams_change_nothing() {
    isolated!({
        Lab::enter().unwrap();
        let (one, other, relay) = start_relayed_pair();
        relay.set_harm(DAMAGE);
        for round in 0..20 {
            create(round * 500..(round + 1) * 500);
            delete(round * 500..round * 500 + 250);
            std::thread::sleep(Duration::from_millis(20));
        }
        until("both replicas hold all flows", &[&one, &other], || {
            held_flows(&one) == 5_000 && held_flows(&other) == 5_000
        });
        relay.set_harm(PASS);
        assert!(replicas_agree(&one, 1) && replicas_agree(&other, 2));
        let refusals = status(&other).node.counters.refusals;
        assert!(refusals.foreign > 0 && refusals.not_authentic > 0 && refusals.replayed > 0, "{refusals:?}");
    });
}

#[test]
fn a_replica_catches_up_when_a_cut_link_is_back() {
    isolated!({
        Lab::enter().unwrap();
        let (one, other, relay) = start_relayed_pair();
        create(0..2_000);
        until("both replicas hold all flows", &[&one, &other], || {
            held_flows(&one) == 2_000 && held_flows(&other) == 2_000
        });
        relay.set_harm(CUT);
        for round in 4..40 {
            create(round * 500..(round + 1) * 500);
            std::thread::sleep(Duration::from_millis(100));
        }
        delete(0..1_000);
        assert!(held_flows(&other) <= 2_000 && one.is_running());
        relay.set_harm(PASS);
        let back = Instant::now();
        until("both replicas hold all flows again", &[&one, &other], || {
            held_flows(&one) == 19_000 && held_flows(&other) == 19_000
        });
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
        assert!(replicas_agree(&one, 1) && replicas_agree(&other, 2));
    });
}

#[test]
fn another_key_or_none_is_refused_on_both_sides() {
    isolated!({
        Lab::enter().unwrap();
        for (key, is_key) in [(Some([8; 32]), true), (None, false)] {
            let one = Engine::start(&loopback_settings("one", 4000, 4001, Some([7; 32]))).unwrap();
            let other = Engine::start(&loopback_settings("other", 4001, 4000, key)).unwrap();
            let both = [&one, &other];
            until("each refuses the other", &both, || {
                let refused = both.map(|engine| status(engine).node.counters.refusals);
                refused.iter().all(|refused| if is_key { refused.not_authentic > 1 } else { refused.cipher > 1 })
            });
            create(0..100);
            for engine in both {
                let status = status(engine);
                assert!(status.replicas.is_empty() && !status.links[0].healthy, "{status:#?}");
            }
            delete(0..100);
        }
    });
}

#[test]
fn a_full_replica_is_completed_when_it_has_room() {
    isolated!({
        Lab::enter().unwrap();
        let one = Engine::start(&loopback_settings("one", 4000, 4001, None)).unwrap();
        let mut small = loopback_settings("other", 4001, 4000, None);
        if let Some(replication) = &mut small.replication {
            replication.replica_flows_max = 1_000;
        }
        let other = Engine::start(&small).unwrap();
        let both = [&one, &other];
        until("both nodes are connected", &both, || both.iter().all(|engine| !status(engine).replicas.is_empty()));
        create(0..1_500);
        let refused =
            || status(&other).node.peers[0].received.iter().map(|stream| stream.counters.refused).sum::<u64>();
        until("the replica is full", &both, || {
            held_flows(&other) == 1_000 && refused() >= 500 && held_flows(&one) == 1_500
        });
        delete(0..1_000);
        until("the replica is complete", &both, || held_flows(&other) == 500 && held_flows(&one) == 500);
        create(2_000..2_100);
        until("the replica receives new flows", &both, || held_flows(&other) == 600);
        assert!(replicas_agree(&one, 1));
    });
}

#[test]
fn protocols_the_kernel_filters_are_ignored_in_dumps_too() {
    isolated!({
        Lab::enter().unwrap();
        create(0..10);
        let mut settings = loopback_settings("one", 4000, 4001, None);
        settings.socket.filter.protocols = vec![6];
        let engine = Engine::start(&settings).unwrap();
        until("the first resync is complete", &[&engine], || engine.totals().resyncs > 0);
        create(20..30);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!((engine.totals().flows, engine.totals().events()), (0, 0));
    });
}

/// Starts two nodes on this kernel in `mode`, and waits until they are connected. They refresh each second; a flow that
/// is not repeated expires after three.
fn start_pair_in_mode(mode: Mode) -> (Engine, Engine) {
    let of = |name: &str, local, peer| {
        let settings = loopback_settings(name, local, peer, None);
        let replication = settings.replication.map(|replication| ReplicationSettings {
            node: Config { mode, refresh_ms: 1_000, cache_timeout_ms: 3_000, ..replication.node },
            ..replication
        });
        Engine::start(&Settings { replication, ..settings }).unwrap()
    };
    let (one, other) = (of("one", 4000, 4001), of("other", 4001, 4000));
    until("both nodes are connected", &[&one, &other], || {
        [&one, &other].iter().all(|engine| !status(engine).replicas.is_empty())
    });
    (one, other)
}

#[test]
fn in_alarm_mode_flows_that_are_not_resent_expire() {
    isolated!({
        Lab::enter().unwrap();
        let (one, other) = start_pair_in_mode(Mode::Alarm);
        create(0..1_000);
        let both = [&one, &other];
        until("both replicas hold all flows", &both, || held_flows(&one) == 1_000 && held_flows(&other) == 1_000);
        std::thread::sleep(Duration::from_secs(4));
        assert_eq!(held_flows(&other), 1_000, "the flows are sent again");
        one.stop().unwrap();
        until("the flows expire", &[&other], || held_flows(&other) == 0);
    });
}

#[test]
fn in_notrack_mode_a_peer_sends_every_flow_on_request() {
    isolated!({
        Lab::enter().unwrap();
        let (one, other) = start_pair_in_mode(Mode::Notrack);
        create(0..1_000);
        let both = [&one, &other];
        until("both replicas hold all flows", &both, || held_flows(&one) == 1_000 && held_flows(&other) == 1_000);
        other.replication().unwrap().flush_external().unwrap();
        until("the flows are sent again", &both, || held_flows(&other) == 1_000);
        assert!(status(&one).node.counters.batches_resent == 0);
    });
}
