//! The steps of PROTOCOL.md, each as a scripted test: which nodes send, and which datagrams are lost.

use super::*;
use crate::ctflow::batch::{BatchWriter, HEADROOM_BYTES};
use crate::ctflow::limits::{LOST_MS, RESPONSIVE_MS};
use crate::ctflow::wire::VERSION;
use crate::limits::NOTE_MS;
use crate::model::host::Address;
use crate::model::note::HeldBy;
use crate::model::status::{Reason, Status};
use crate::sim::host::SimHost;
use crate::sim::rng::Rng;
use crate::sim::shard::{Shard, flow};

/// Nodes with their shards and replicas; the address of a node is its index.
struct Bench {
    now: u64,
    nodes: Vec<(Node, SimHost, Vec<Shard>)>,
    rng: Rng,
}

const EVERYTHING: fn(usize, usize, &[u8]) -> bool = |_, _, _| true;

fn config(name: &str, streams: u16, began_ms: u64) -> Config {
    Config { key: Some(Key::new([1; 32])), ..Config::new(name, streams, Epoch::new(began_ms, 5)) }
}

fn is_batch(datagram: &[u8]) -> bool {
    Header::parse(datagram).unwrap().kind == Kind::Batch
}

impl Bench {
    fn new(configs: impl IntoIterator<Item = Config>) -> Self {
        let mut bench = Self { now: 0, nodes: Vec::new(), rng: Rng::new(3) };
        for config in configs {
            let started = bench.start(config);
            bench.nodes.push(started);
        }
        bench
    }

    /// Two nodes after their handshake.
    fn pair() -> Self {
        let mut bench = Self::new([config("a", 1, 10), config("b", 2, 20)]);
        bench.run(20, EVERYTHING);
        assert!(bench.peer_state(0) == PeerState::Live && bench.peer_state(1) == PeerState::Live);
        bench
    }

    fn start(&self, config: Config) -> (Node, SimHost, Vec<Shard>) {
        let shards = (0..config.streams).map(Shard::new).collect();
        (Node::new(config, self.time()), SimHost::new(usize::MAX), shards)
    }

    fn time(&self) -> Time {
        Time { wall_ms: 1_000_000 + self.now, mono_ms: self.now }
    }

    /// Runs all nodes for `ms` milliseconds; a datagram from one node to another is delivered if `passes` returns true.
    fn run(&mut self, ms: u64, mut passes: impl FnMut(usize, usize, &[u8]) -> bool) {
        for _ in 0..ms {
            for index in 0..self.nodes.len() {
                let time = self.time();
                let (node, host, shards) = &mut self.nodes[index];
                node.tick(time, host);
                for (stream, buckets) in std::mem::take(&mut host.buckets_scheduled) {
                    shards[usize::from(stream)].schedule_buckets(&buckets).unwrap();
                }
                for (stream, number) in std::mem::take(&mut host.digests_scheduled) {
                    shards[usize::from(stream)].schedule_digests(number).unwrap();
                }
                for shard in shards {
                    while node.is_window_open(time, shard.number())
                        && let Some(payload) = shard.next_batch(node.hlc_ms(time), &mut self.rng)
                    {
                        node.send_batch(time, payload, host);
                    }
                }
                self.deliver(index, &mut passes);
            }
            self.now += 1;
        }
    }

    /// Delivers the datagrams that node `from` has sent.
    fn deliver(&mut self, from: usize, passes: &mut impl FnMut(usize, usize, &[u8]) -> bool) {
        let time = self.time();
        let address = Address { peer: u32::try_from(from).unwrap(), link: 0 };
        for (to, class, datagram) in std::mem::take(&mut self.nodes[from].1.sent) {
            let is_batch = Header::parse(&datagram).unwrap().kind == Kind::Batch;
            assert_eq!(class == DatagramClass::Delta, is_batch, "the class is that of the header");
            let to = match to {
                Destination::All => None,
                Destination::Peer { at, .. } | Destination::Address(at) => Some(at.peer as usize),
            };
            for (index, (node, host, _)) in self.nodes.iter_mut().enumerate() {
                if to.is_none_or(|to| to == index) && passes(from, index, &datagram) {
                    node.receive(time, address, &mut datagram.clone(), host);
                }
            }
        }
    }

    /// Creates or changes `count` flows of node `of`.
    fn change_flows(&mut self, of: usize, count: u32) {
        for number in 0..count {
            let (entry_key, cached) = flow(number, 1_000_000, &mut self.rng);
            let shards = &mut self.nodes[of].2;
            let shard = crate::sim::shard::flow_id_of(number) as usize % shards.len();
            shards[shard].change_entry(entry_key, cached);
        }
    }

    /// Whether the replicas at node `at` hold exactly the flows of node `of`.
    fn agrees(&self, of: usize, at: usize) -> bool {
        let (node, _, shards) = &self.nodes[of];
        let count = u16::try_from(shards.len()).unwrap();
        (0..count).zip(shards).all(|(stream, shard)| {
            let mut expected: Vec<_> = shard.cache.values().map(|cached| cached.bytes.as_slice()).collect();
            expected.sort_unstable();
            let id = ReplicaId { node: node.id(), stream, streams: count };
            self.nodes[at].1.replicas.get(&id).is_some_and(|replica| replica.contents() == expected)
        })
    }

    fn status(&self, of: usize) -> Status {
        self.nodes[of].0.status(self.time())
    }

    /// The state of the first peer of a node.
    fn peer_state(&self, of: usize) -> PeerState {
        self.status(of).peers[0].state
    }

    fn notes(&mut self, of: usize) -> Vec<Note> {
        std::mem::take(&mut self.nodes[of].1.notes)
    }

    fn batches_sent(&self, of: usize) -> u64 {
        self.status(of).counters.batches_sent
    }
}

#[test]
fn a_node_is_send() {
    fn is_send<T: Send>() {}
    is_send::<Node>();
}

#[test]
fn two_nodes_connect_and_replicate_each_other() {
    let mut bench = Bench::pair();
    bench.change_flows(0, 50);
    bench.change_flows(1, 30);
    bench.run(200, EVERYTHING);
    assert!(bench.agrees(0, 1) && bench.agrees(1, 0));
    let notes = bench.notes(0);
    assert!(matches!(&notes[0], Note::Live { name, streams: 2, .. } if name == "b"));
    assert_eq!(bench.status(0).counters.batches_resent, 0);
    assert!(notes.contains(&Note::InSync { name: "b".into() }));
}

#[test]
fn a_recorded_hello_proves_nothing() {
    let mut bench = Bench::new([config("a", 1, 10), config("b", 1, 20)]);
    let mut recorded = Vec::new();
    bench.run(100, |from, _, datagram| {
        if from == 0 {
            recorded.push(datagram.to_vec());
        }
        true
    });
    bench.nodes[1] = bench.start(config("b", 1, 30)); // b restarts, a is gone
    let (time, from) = (bench.time(), Address { peer: 0, link: 0 });
    let (node, host, _) = &mut bench.nodes[1];
    for datagram in recorded {
        node.receive(time, from, &mut datagram.clone(), host);
    }
    let status = bench.status(1);
    assert_eq!((status.peers[0].state, status.peers[0].epoch), (PeerState::Unproven, None));
    assert!(bench.nodes[1].1.replicas.is_empty() && status.counters.refusals.unproven > 0);
}

#[test]
fn a_lost_batch_is_sent_again() {
    let mut bench = Bench::pair();
    bench.run(200, EVERYTHING);
    bench.change_flows(0, 100);
    let mut lost = 0;
    bench.run(1, |from, to, datagram| {
        let is_lost = (from, to) == (0, 1) && is_batch(datagram);
        lost += u32::from(is_lost);
        !is_lost
    });
    bench.run(150, EVERYTHING);
    assert!(lost > 0 && bench.agrees(0, 1));
    let status = bench.status(0);
    assert_eq!((status.counters.batches_resent, status.counters.skips_sent), (lost.into(), 0));
}

#[test]
fn batches_evicted_from_the_resend_queue_are_replaced_by_buckets() {
    let small = Config { resend_bytes: 0, ..config("a", 1, 10) };
    let mut bench = Bench::new([small, config("b", 1, 20)]);
    bench.change_flows(0, 300);
    bench.run(300, EVERYTHING);
    assert!(bench.agrees(0, 1));
    // b receives nothing, for longer than a waits for it.
    for _ in 0..20 {
        bench.change_flows(0, 100);
        bench.run(RESPONSIVE_MS / 10, |from, to, _| from != 0 || to != 1);
    }
    bench.run(1_000, EVERYTHING);
    assert!(bench.agrees(0, 1));
    assert!(bench.status(0).counters.skips_sent > 0 && bench.status(1).peers[0].received[0].counters.skips > 0);
}

#[test]
fn a_bucket_that_two_peers_want_is_sent_once() {
    let mut bench = Bench::new([config("a", 1, 10), config("b", 1, 20), config("c", 1, 30)]);
    bench.change_flows(0, 1);
    bench.run(500, EVERYTHING);
    assert!(bench.agrees(0, 1) && bench.agrees(0, 2));
    // 257 buckets with two marks of 3 bytes each, and one flow: two batches for one bulk send, and a few more that a
    // deadline ended.
    assert!(bench.batches_sent(0) < 40, "{}", bench.batches_sent(0));
}

#[test]
fn a_silent_peer_closes_the_window_for_a_second_at_most() {
    let small = Config { window_bytes: 2_000, ..config("a", 1, 10) };
    let mut bench = Bench::new([small, config("b", 1, 20)]);
    bench.run(300, EVERYTHING);
    bench.change_flows(0, 400);
    bench.run(5, |from, _, _| from == 0);
    assert!(!bench.nodes[0].0.is_window_open(bench.time(), 0));
    bench.run(RESPONSIVE_MS, |from, _, _| from == 0);
    assert!(bench.nodes[0].0.is_window_open(bench.time(), 0));
    bench.run(1_000, EVERYTHING);
    assert!(bench.agrees(0, 1));
}

#[test]
fn a_lost_peer_resumes_where_it_was_in_the_same_epoch() {
    let mut bench = Bench::pair();
    bench.change_flows(0, 50);
    bench.run(200, EVERYTHING);
    bench.run(LOST_MS + 10, |_, _, _| false);
    assert_eq!(bench.peer_state(1), PeerState::Lost);
    assert!(bench.agrees(0, 1), "the replica of a lost peer stays");
    let before = bench.batches_sent(0);
    bench.run(1_500, EVERYTHING);
    assert!(bench.notes(1).contains(&Note::Reconnected { name: "a".into() }));
    assert_eq!(bench.batches_sent(0), before, "nothing is sent again");
}

#[test]
fn a_lost_peer_receives_the_missed_batches_when_it_returns() {
    let mut bench = Bench::pair();
    bench.change_flows(0, 50);
    bench.run(200, EVERYTHING);
    bench.run(LOST_MS + 10, |_, _, _| false);
    let sent = bench.batches_sent(0);
    for _ in 0..20 {
        bench.change_flows(0, 20);
        bench.run(10, |_, _, _| false);
    }
    assert_eq!(bench.batches_sent(0), sent, "no peer is live");
    bench.run(1_500, EVERYTHING);
    assert!(bench.agrees(0, 1));
    let counters = bench.status(0).counters;
    assert!(counters.batches_resent >= 20 && counters.skips_sent == 0, "{counters:?}");
}

#[test]
fn batches_for_a_lost_peer_are_dropped_past_the_bound() {
    let small = |name, began_ms| Config { resend_bytes: 20_000, ..config(name, 1, began_ms) };
    let mut bench = Bench::new([small("a", 10), small("b", 20)]);
    bench.run(20, EVERYTHING);
    bench.change_flows(0, 50);
    bench.run(200, EVERYTHING);
    bench.run(LOST_MS + 10, |_, _, _| false);
    for _ in 0..100 {
        bench.change_flows(0, 20);
        bench.run(10, |_, _, _| false);
    }
    assert_eq!(bench.status(0).resend_bytes, 0, "it does not reach back to the lost peer, so it is dropped");
    bench.run(1_500, EVERYTHING);
    assert!(bench.agrees(0, 1));
    let counters = bench.status(0).counters;
    assert!(counters.batches_resent == 0 && counters.skips_sent > 0, "{counters:?}");
}

#[test]
fn a_restarted_node_with_the_same_flows_is_compared_first() {
    let mut bench = Bench::pair();
    bench.change_flows(0, 400);
    bench.run(300, EVERYTHING);
    let shard = bench.nodes[0].2.remove(0);
    bench.nodes[0] = bench.start(config("a", 1, 500));
    bench.nodes[0].2[0].cache = shard.cache;
    bench.run(1_500, EVERYTHING);
    assert!(bench.agrees(0, 1) && bench.peer_state(1) == PeerState::Live);
    assert!(bench.batches_sent(0) < 30, "two batches of digests, no flows: {}", bench.batches_sent(0));
    assert_eq!(bench.status(1).peers[0].received[0].counters.entries, 0);
}

#[test]
fn replicas_of_the_old_stream_count_stay_until_new_ones_are_complete() {
    let mut bench = Bench::pair();
    bench.change_flows(0, 100);
    bench.run(200, EVERYTHING);
    let old = ReplicaId { node: bench.nodes[0].0.id(), stream: 0, streams: 1 };
    bench.nodes[0] = bench.start(config("a", 3, 500));
    bench.change_flows(0, 100);
    bench.run(30, |_, _, datagram| !is_batch(datagram));
    assert_eq!(bench.peer_state(1), PeerState::Live);
    assert!(bench.nodes[1].1.replicas.contains_key(&old));
    bench.run(1_500, EVERYTHING);
    assert!(bench.agrees(0, 1) && !bench.nodes[1].1.replicas.contains_key(&old));
}

#[test]
fn a_node_whose_clock_went_back_raises_its_epoch() {
    let mut bench = Bench::pair();
    bench.change_flows(0, 10);
    bench.run(100, EVERYTHING);
    bench.nodes[0] = bench.start(config("a", 1, 5));
    bench.change_flows(0, 20);
    bench.run(2_500, EVERYTHING);
    assert!(bench.notes(0).iter().any(|note| matches!(note, Note::EpochRaised { .. })));
    assert!(bench.nodes[0].0.epoch() > Epoch::new(10, 5) && bench.agrees(0, 1) && bench.agrees(1, 0));
}

#[test]
fn verify_reports_differences_and_repairs_them() {
    let mut bench = Bench::pair();
    bench.change_flows(0, 100);
    bench.run(200, EVERYTHING);
    let id = ReplicaId { node: bench.nodes[0].0.id(), stream: 0, streams: 1 };
    let cleared = bench.nodes[1].1.replicas.get_mut(&id).unwrap();
    cleared.clear();
    bench.notes(0);
    for (number, differs) in [(7, true), (8, false)] {
        let time = bench.time();
        let (node, host, _) = &mut bench.nodes[0];
        node.verify(time, number, host);
        bench.run(300, EVERYTHING);
        let notes = bench.notes(0);
        let verdicts = notes.iter().filter_map(|note| match note {
            Note::Verdict { held_by: held, number, differing, .. } => Some((*held, *number, *differing > 0)),
            _ => None,
        });
        let mut verdicts: Vec<_> = verdicts.collect();
        verdicts.sort_by_key(|(held, ..)| *held == HeldBy::Peer);
        assert_eq!(
            verdicts,
            [(HeldBy::ThisNode, number, false), (HeldBy::ThisNode, number, false), (HeldBy::Peer, number, differs)]
        );
        assert!(bench.agrees(0, 1));
    }
}

#[test]
fn a_stopping_node_notifies_its_peers() {
    let mut bench = Bench::pair();
    let (node, host, _) = &mut bench.nodes[0];
    node.stop(host);
    bench.deliver(0, &mut |_, _, _: &[u8]| true);
    assert_eq!(bench.peer_state(1), PeerState::Stopped);
    assert_eq!(bench.notes(1).last(), Some(&Note::Stopped { name: "a".into() }));
}

#[test]
fn another_mode_is_refused_by_both_and_logged_once_a_minute() {
    let other = Config { mode: Mode::Notrack, ..config("b", 1, 20) };
    let mut bench = Bench::new([config("a", 1, 10), other]);
    bench.run(5_000, EVERYTHING);
    for of in 0..2 {
        let refused = |note: &&Note| matches!(note, Note::Refused { reason: Reason::Mode, .. });
        assert_eq!(bench.notes(of).iter().filter(refused).count(), 1);
        assert!(bench.nodes[of].1.replicas.is_empty());
    }
}

#[test]
fn another_key_is_logged_once_a_minute() {
    let other = Config { key: Some(Key::new([2; 32])), ..config("b", 1, 20) };
    let clear = Config { key: None, ..config("c", 1, 20) };
    let mut bench = Bench::new([config("a", 1, 10), other, clear]);
    bench.run(5_000, EVERYTHING);
    let count = |notes: &[Note], is: fn(&Note) -> bool| notes.iter().filter(|note| is(note)).count();
    let notes = bench.notes(0);
    assert_eq!(count(&notes, |note| matches!(note, Note::WrongKey { .. })), 1);
    assert_eq!(count(&notes, |note| matches!(note, Note::OtherCipher { .. })), 1);
    let refusals = bench.status(0).counters.refusals;
    assert!(refusals.not_authentic >= 5 && refusals.cipher >= 5 && bench.status(0).peers.is_empty());
    bench.run(NOTE_MS, EVERYTHING);
    assert_eq!(count(&bench.notes(0), |note| matches!(note, Note::WrongKey { .. })), 1);
}

#[test]
fn two_nodes_of_one_name_both_log_it() {
    let mut bench = Bench::new([config("a", 1, 10), config("a", 1, 20)]);
    bench.run(1_500, EVERYTHING);
    for of in 0..2 {
        let notes = bench.notes(of);
        assert!(matches!(&notes[..], [Note::NameTaken { name, .. }] if name == "a"), "{notes:?}");
    }
}

#[test]
fn a_second_node_of_a_live_name_is_refused() {
    let mut bench = Bench::new([config("a", 1, 10), config("b", 1, 20), config("b", 1, 15)]);
    // The two nodes of one name receive nothing from each other.
    bench.run(3_000, |from, to, _| from == 0 || to == 0);
    assert_eq!(bench.status(0).peers[0].epoch, Some(Epoch::new(20, 5)));
    assert!(bench.notes(2).iter().any(|note| matches!(note, Note::NameTaken { .. })));
    assert_eq!(bench.nodes[2].0.epoch(), Epoch::new(15, 5), "it does not raise its epoch above the other node's");
}

#[test]
fn other_versions_and_foreign_datagrams_are_counted() {
    let mut bench = Bench::pair();
    let (time, from) = (bench.time(), Address { peer: 9, link: 1 });
    let (node, host, _) = &mut bench.nodes[0];
    node.receive(time, from, &mut [0xc7, 0xf1, 9, 1, 0, 0, 0, 0], host);
    let mut other = [0; 64];
    other[..4].copy_from_slice(&[0xc7, 0xf1, 9, 1]);
    node.receive(time, from, &mut other, host);
    let refusals = bench.status(0).counters.refusals;
    assert_eq!((refusals.foreign, refusals.version), (1, 1));
    assert!(bench.notes(0).contains(&Note::OtherVersion { from, theirs: 9, ours: VERSION }));
}

#[test]
fn without_a_live_peer_no_batch_is_kept() {
    let mut bench = Bench::new([config("a", 1, 10)]);
    bench.change_flows(0, 500);
    bench.run(50, EVERYTHING);
    let status = bench.status(0);
    assert!(status.counters.batches_unsent > 0 && status.streams[0].newest > 0);
    assert_eq!((status.counters.batches_sent, status.resend_bytes), (0, 0));
}

#[test]
fn flushed_replicas_are_filled_again() {
    let mut bench = Bench::pair();
    bench.change_flows(0, 50);
    bench.run(200, EVERYTHING);
    let time = bench.time();
    let (node, host, _) = &mut bench.nodes[1];
    node.flush_external(time, host);
    assert!(!bench.agrees(0, 1));
    bench.run(300, EVERYTHING);
    assert!(bench.agrees(0, 1));
}

#[test]
fn in_notrack_mode_a_new_peer_requests_everything() {
    let notrack = |name, began_ms| Config { mode: Mode::Notrack, ..config(name, 1, began_ms) };
    let mut bench = Bench::new([notrack("a", 10), notrack("b", 20)]);
    bench.change_flows(0, 100);
    bench.run(2_000, EVERYTHING);
    assert!(bench.agrees(0, 1) && bench.status(0).resend_bytes == 0);
}

#[test]
fn in_alarm_mode_all_is_sent_each_refresh_and_unsent_flows_expire() {
    let alarm = |name, began_ms| Config {
        mode: Mode::Alarm,
        refresh_ms: 300,
        cache_timeout_ms: 1_000,
        ..config(name, 1, began_ms)
    };
    let mut bench = Bench::new([alarm("a", 10), alarm("b", 20)]);
    bench.change_flows(0, 100);
    bench.run(1_500, EVERYTHING);
    assert!(bench.agrees(0, 1));
    bench.run(2_500, |_, _, _| false);
    let left: u64 = bench.nodes[1].1.replicas.values().map(Replica::entries).sum();
    assert_eq!(left, 0);
}

#[test]
fn peers_past_the_bound_are_refused() {
    let configs = (0..crate::limits::PEERS_MAX + 3).map(|index| config(&format!("node {index}"), 1, 10));
    let mut bench = Bench::new(configs);
    // Only datagrams to and from the first node are delivered.
    bench.run(1_100, |from, to, _| from == 0 || to == 0);
    assert_eq!(bench.status(0).peers.len(), crate::limits::PEERS_MAX);
    assert!(bench.notes(0).iter().any(|note| matches!(note, Note::TooManyPeers { .. })));
}

#[test]
fn a_payload_that_is_too_short_or_of_no_stream_is_dropped() {
    let mut bench = Bench::pair();
    let time = bench.time();
    let (node, host, _) = &mut bench.nodes[0];
    let payload = BatchWriter::new(9, 0, 0).finish();
    assert_eq!(payload.bytes.len(), HEADROOM_BYTES);
    host.sent.clear();
    node.send_batch(time, payload.clone(), host);
    node.send_batch(time, Payload { stream: 0, bytes: vec![], ..payload }, host);
    assert!(host.sent.is_empty() && !node.is_window_open(time, 9));
}
