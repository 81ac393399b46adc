//! Links between two nodes: each transport and address family, health, fail-over and fail-back. Time is an argument, so
//! the tests need not wait for it.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by it, here in its helpers too

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ctflow_engine::limits::{LINK_ACCEPTED_MAX, LINK_ACCEPTED_SILENCE_MAX, LINK_RECOVERY_MIN, LINK_SILENCE_MAX};
use ctflow_engine::replication::link::{LinkSettings, Links, Origin, Transport};
use ctflow_lab::isolated;
use ctflow_lab::{Lab, link};
use ctflow_replicate::DatagramClass::{Control, Delta};
use mio::{Events, Poll};

/// A node's links, and the datagrams received over them.
struct End {
    poll: Poll,
    links: Links,
    received: Vec<(Origin, Vec<u8>)>,
}

const FIRST_TOKEN: usize = 10;

impl End {
    fn open(settings: &[LinkSettings]) -> Self {
        let poll = Poll::new().unwrap();
        let links = Links::open(settings, poll.registry(), FIRST_TOKEN).unwrap();
        Self { poll, links, received: Vec::new() }
    }

    /// Receives datagrams for a few milliseconds. Those over the links of `deaf` do not count as genuine.
    fn poll_once(&mut self, now: Instant, deaf: &[u8]) {
        self.links.tick(self.poll.registry(), now);
        self.links.flush();
        let mut events = Events::with_capacity(64);
        self.poll.poll(&mut events, Some(Duration::from_millis(5))).unwrap();
        for event in &events {
            assert!(self.links.is_token(event.token()));
            let mut buffer = [0; 2_000];
            let registry = self.poll.registry();
            while let Some((origin, bytes)) = self.links.receive(event.token(), registry, now, &mut buffer) {
                self.received.push((origin, buffer[..bytes].to_vec()));
                if !deaf.contains(&origin.link) {
                    self.links.note_genuine(origin, now);
                }
            }
        }
        self.links.flush();
    }
}

fn settings(transport: Transport, local: SocketAddr, peer: SocketAddr) -> LinkSettings {
    LinkSettings { transport, local, peers: vec![peer], interface: None }
}

/// The settings of two ends on one address, at ports `port` and `port + 1`.
fn pair(transport: Transport, address: IpAddr, port: u16) -> [LinkSettings; 2] {
    let (one, other) = (SocketAddr::new(address, port), SocketAddr::new(address, port + 1));
    [settings(transport, one, other), settings(transport, other, one)]
}

/// Polls both ends until `done` returns true.
fn poll_until(ends: &mut [End; 2], now: Instant, mut done: impl FnMut(&mut [End; 2]) -> bool) {
    for _ in 0..400 {
        if done(ends) {
            return;
        }
        ends.iter_mut().for_each(|end| end.poll_once(now, &[]));
    }
    panic!("the condition was never met");
}

#[test]
fn every_transport_and_family_carries_datagrams_both_ways() {
    isolated!({
        Lab::enter().unwrap();
        let addresses: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        for (transport, address) in [Transport::Udp, Transport::Tcp]
            .into_iter()
            .flat_map(|transport| addresses.map(|address| (transport, address)))
        {
            let now = Instant::now();
            let mut ends = pair(transport, address, 4000).map(|settings| End::open(&[settings]));
            let long = "x".repeat(1_204).into_bytes();
            assert!(ends[0].links.datagram_bytes() >= 1_204, "{transport:?}");
            // Over TCP a datagram sent before the connection is open is dropped, as on a broken cable.
            poll_until(&mut ends, now, |ends| {
                ends[0].links.send_to_all(Delta, &long, now);
                ends[1].received.iter().any(|(_, datagram)| *datagram == long)
            });
            let origin = ends[1].received[0].0;
            poll_until(&mut ends, now, |ends| {
                ends[1].links.send_to(origin, b"answer");
                ends[0].received.iter().any(|(_, datagram)| *datagram == b"answer")
            });
            let report = &ends[1].links.report(now)[0];
            assert!(report.healthy && report.active && report.traffic.received >= 1, "{report:?}");
        }
    });
}

/// Opens a multicast link.
fn open(group: &str, local: &str) -> End {
    End::open(&[LinkSettings {
        transport: Transport::Multicast,
        local: local.parse().unwrap(),
        peers: vec![group.parse().unwrap()],
        interface: Some("sync".to_owned()),
    }])
}

#[test]
fn a_multicast_group_receives_each_other_and_no_one_itself() {
    isolated!({
        let lab = Lab::enter().unwrap();
        let host = lab.start_host("peer").unwrap();
        let links = link::Links::open().unwrap();
        links.create_veth("sync", "sync", host.namespace()).unwrap();
        links.up("sync").unwrap();
        links.add_address("sync", "192.0.2.1".parse().unwrap(), 24).unwrap();
        host.run(|| {
            let links = link::Links::open().unwrap();
            links.up("sync").unwrap();
            links.add_address("sync", "192.0.2.2".parse().unwrap(), 24).unwrap();
        });
        links.await_carrier("sync").unwrap();
        for (group, local) in [("239.1.2.3:3780", "0.0.0.0:3780"), ("[ff02::c7]:3780", "[::]:3780")] {
            let mut ends = [open(group, local), host.run(move || open(group, local))];
            let now = Instant::now();
            poll_until(&mut ends, now, |ends| {
                ends[0].links.send_to_all(Control, b"to all", now);
                ends[1].received.iter().any(|(_, datagram)| *datagram == b"to all")
            });
            assert!(ends[0].received.is_empty(), "{group}");
            let origin = ends[1].received[0].0;
            assert!(
                ends[1].links.address(origin).unwrap().ip()
                    != ends[1].links.address(Origin { link: 0, address: 0 }).unwrap().ip()
            );
        }
    });
}

#[test]
fn a_silent_link_fails_over_and_returns_after_its_trial() {
    isolated!({
        Lab::enter().unwrap();
        let address = "127.0.0.1".parse().unwrap();
        let [first, second] = [pair(Transport::Udp, address, 4000), pair(Transport::Udp, address, 4010)];
        let mut ends = [0, 1].map(|end: usize| End::open(&[first[end].clone(), second[end].clone()]));
        let start = Instant::now();
        let active = |end: &End, now| end.links.report(now).iter().position(|link| link.active).unwrap();
        // Control messages go over both links and prove their health; deltas go over the first one only.
        for end in &mut ends {
            end.links.send_to_all(Control, b"hello", start);
            end.links.send_to_all(Delta, b"delta", start);
        }
        poll_until(&mut ends, start, |ends| ends.iter().all(|end| end.received.len() >= 3));
        for end in &ends {
            assert!(end.links.report(start).iter().all(|link| link.healthy));
            let deltas = end.received.iter().filter(|(_, datagram)| *datagram == b"delta");
            assert_eq!(deltas.map(|(origin, _)| origin.link).collect::<Vec<_>>(), [0]);
        }
        // From here on the first node receives nothing genuine over the first link.
        let mut now = start;
        let mut run = |ends: &mut [End; 2], time: Duration, deaf: &[u8]| {
            let until = now + time;
            while now < until {
                now += Duration::from_millis(500);
                ends.iter_mut().for_each(|end| end.links.send_to_all(Control, b"hello", now));
                ends[1].poll_once(now, &[]);
                ends[0].poll_once(now, deaf);
            }
            now
        };
        let later = run(&mut ends, LINK_SILENCE_MAX + Duration::from_secs(1), &[0]);
        assert_eq!((active(&ends[0], later), active(&ends[1], later)), (1, 0));
        let later = run(&mut ends, LINK_RECOVERY_MIN / 2, &[]);
        assert_eq!(active(&ends[0], later), 1, "the first link is still on trial");
        let later = run(&mut ends, LINK_RECOVERY_MIN, &[]);
        assert_eq!(active(&ends[0], later), 0);
    });
}

#[test]
fn a_restarted_peer_is_redialled_despite_idle_connections() {
    isolated!({
        Lab::enter().unwrap();
        let [one, other] = pair(Transport::Tcp, "127.0.0.1".parse().unwrap(), 4000);
        let mut ends = [End::open(&[one]), End::open(std::slice::from_ref(&other))];
        let mut now = Instant::now();
        // Idle connections of unproven senders use every slot.
        let mut idle = Vec::new();
        for _ in 0..LINK_ACCEPTED_MAX {
            idle.push(std::net::TcpStream::connect(other.local).unwrap());
            ends[1].poll_once(now, &[]);
        }
        assert_eq!(ends[1].links.report(now)[0].connections.unwrap().1, LINK_ACCEPTED_MAX);
        for _ in 0..2 {
            poll_until(&mut ends, now, |ends| {
                ends[0].links.send_to_all(Delta, b"x", now);
                now += Duration::from_millis(200);
                ends[1].received.iter().any(|(_, datagram)| *datagram == b"x")
            });
            let [first, second] = ends;
            drop(second);
            ends = [first, End::open(std::slice::from_ref(&other))];
        }
    });
}

#[test]
fn a_connection_of_a_vanished_peer_is_closed() {
    isolated!({
        Lab::enter().unwrap();
        let settings = pair(Transport::Tcp, "127.0.0.1".parse().unwrap(), 4000);
        let mut ends = settings.map(|one| End::open(&[one]));
        let now = Instant::now();
        poll_until(&mut ends, now, |ends| {
            ends[0].links.send_to_all(Delta, b"x", now);
            !ends[1].received.is_empty()
        });
        let accepted = |end: &mut End, now| {
            end.poll_once(now, &[]);
            end.links.report(now)[0].connections.unwrap().1
        };
        assert_eq!(accepted(&mut ends[1], now + LINK_ACCEPTED_SILENCE_MAX / 2), 1);
        assert_eq!(accepted(&mut ends[1], now + LINK_ACCEPTED_SILENCE_MAX), 0);
    });
}

#[test]
fn invalid_settings_fail_with_what_is_valid() {
    isolated!({
        Lab::enter().unwrap();
        let poll = Poll::new().unwrap();
        let local = "127.0.0.1:4000".parse().unwrap();
        let problem =
            |settings: LinkSettings| Links::open(&[settings], poll.registry(), FIRST_TOKEN).unwrap_err().to_string();
        let udp = settings(Transport::Udp, local, "[::1]:4000".parse().unwrap());
        assert_eq!(problem(udp.clone()), "link 1 (127.0.0.1:4000): it mixes IPv4 and IPv6 addresses: use one family");
        assert!(problem(LinkSettings { peers: Vec::new(), ..udp.clone() }).contains("set `peers`"));
        let group = LinkSettings { transport: Transport::Multicast, peers: vec![local], ..udp.clone() };
        assert!(problem(group.clone()).contains("use 224.0.0.0/4"));
        let group = LinkSettings { peers: vec!["239.0.0.1:1".parse().unwrap()], ..group };
        assert!(problem(group).contains("needs its `interface`"));
        let nowhere = LinkSettings { interface: Some("nosuch0".into()), ..settings(Transport::Udp, local, local) };
        assert!(problem(nowhere).contains("cannot bind to its interface: No such device"));
        let taken = std::net::UdpSocket::bind(local).unwrap();
        assert!(problem(settings(Transport::Udp, local, local)).contains("cannot bind: Address already in use"));
        drop(taken);
    });
}
