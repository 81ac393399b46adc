//! The nodes of a simulated cluster, and the checks on them.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::host::SimHost;
use super::network::Network;
use super::plan::Plan;
use super::rng::Rng;
use super::shard::{self, Cached, EntryKey, Shard};
use crate::ctflow::node::{Config, Node};
use crate::ctflow::seal::Key;
use crate::model::buckets::EXPECTATIONS;
use crate::model::host::{Address, Destination, ReplicaId};
use crate::model::status::{PeerState, VerdictStatus};
use crate::model::time::{Epoch, Time};

/// The time after the end of the faults in which all replicas must become the same as their sources, in milliseconds.
const AGREE_MS: u64 = 10_000;

/// The time after the end of the faults in which flows still change, in milliseconds.
const CHANGE_ON_MS: u64 = 500;

/// The wall clock at the start, in milliseconds since 1970.
const WALL_MS: u64 = 1_700_000_000_000;

/// The report on a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The number of nodes in the cluster.
    pub nodes: usize,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Restarts of nodes.
    pub restarts: u64,
    /// Batches resent.
    pub resent: u64,
    /// Skips sent.
    pub skips: u64,
    /// The milliseconds from the end of the faults until all replicas were the same as their sources.
    pub agreed_ms: u64,
}

/// One machine: its kernel's flows outlive its daemon.
struct Machine {
    kernel: BTreeMap<EntryKey, Cached>,
    clock_ahead_ms: u64,
    /// The daemon while it runs; else the time of its next start.
    daemon: Result<Daemon, u64>,
}

struct Daemon {
    node: Node,
    host: SimHost,
    shards: Vec<Shard>,
}

struct Cluster {
    plan: Plan,
    rng: Rng,
    now: u64,
    machines: Vec<Machine>,
    network: Network,
    restarts: u64,
    resent: u64,
    skips: u64,
}

/// Runs the cluster of `seed` through its faults and until it is quiet.
///
/// # Errors
/// A description of the check that failed.
pub fn run(seed: u64) -> Result<Report, String> {
    let mut rng = Rng::new(seed);
    let plan = Plan::new(&mut rng);
    let mut cluster = Cluster::new(plan, rng);
    cluster.run().map_err(|failure| format!("{failure}\nat {} ms of {:#?}", cluster.now, cluster.plan))
}

impl Cluster {
    fn new(plan: Plan, mut rng: Rng) -> Self {
        let machine = |rng: &mut Rng| Machine {
            kernel: BTreeMap::new(),
            clock_ahead_ms: rng.below(10_000),
            daemon: Err(rng.below(100)),
        };
        let machines = (0..plan.nodes).map(|_| machine(&mut rng)).collect();
        let network = Network::new(plan.nodes);
        Self { plan, rng, now: 0, machines, network, restarts: 0, resent: 0, skips: 0 }
    }

    fn run(&mut self) -> Result<Report, String> {
        while self.now < self.plan.faulty_ms {
            self.network.inject_faults(self.now, &self.plan, &mut self.rng);
            self.crash_some();
            self.step(self.plan.churn)?;
        }
        self.heal();
        let healed = self.now;
        loop {
            let changes = self.now < healed + CHANGE_ON_MS;
            self.step(if changes { self.plan.churn } else { 0 })?;
            if !changes && self.now.is_multiple_of(50) {
                match self.first_difference() {
                    None => break,
                    Some(difference) if self.now > healed + AGREE_MS => return Err(difference),
                    Some(_) => {}
                }
            }
        }
        let agreed_ms = self.now - healed;
        self.verify()?;
        self.check_quiet()?;
        for index in 0..self.machines.len() {
            self.add_counters(index);
        }
        let (restarts, resent, skips) = (self.restarts, self.resent, self.skips);
        Ok(Report { nodes: self.plan.nodes, datagrams: self.network.sent, restarts, resent, skips, agreed_ms })
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.network.heal();
        for machine in &mut self.machines {
            match &mut machine.daemon {
                Ok(daemon) => daemon.host.set_room(usize::MAX),
                Err(starts) => *starts = self.now,
            }
        }
        self.plan.room = usize::MAX;
    }

    /// Stops or crashes nodes at random; they start again later.
    fn crash_some(&mut self) {
        for index in 0..self.machines.len() {
            if !self.rng.one_in(self.plan.crash * self.machines.len() as u64) {
                continue;
            }
            self.add_counters(index);
            let starts = self.now + self.rng.below(4_000);
            let machine = &mut self.machines[index];
            if let Ok(daemon) = &mut machine.daemon
                && self.rng.one_in(2)
            {
                daemon.node.stop(&mut daemon.host);
                self.deliver(index);
            }
            self.machines[index].daemon = Err(starts);
            if self.rng.one_in(4) {
                self.machines[index].clock_ahead_ms = self.rng.below(10_000); // the clock may go back
            }
        }
    }

    /// Adds a daemon's counters to the report, before the daemon is dropped.
    fn add_counters(&mut self, index: usize) {
        let time = self.time(index);
        if let Ok(daemon) = &self.machines[index].daemon {
            let counters = daemon.node.status(time).counters;
            self.resent += counters.batches_resent;
            self.skips += counters.skips_sent;
        }
    }

    fn time(&self, index: usize) -> Time {
        Time { wall_ms: WALL_MS + self.machines[index].clock_ahead_ms + self.now, mono_ms: self.now }
    }

    /// Starts the daemon of a machine, which sends all flows of the kernel as changes.
    fn start(&mut self, index: usize) {
        let time = self.time(index);
        let streams = u16::try_from(1 + self.rng.below(4)).unwrap_or(1);
        let random = u32::try_from(self.rng.below(1 << 20)).unwrap_or(0);
        let config = Config {
            key: self.plan.sealed.then(|| Key::new([7; 32])),
            resend_bytes: self.plan.resend_bytes,
            window_bytes: self.plan.window_bytes,
            held_back_bytes: self.plan.held_back_bytes,
            ..Config::new(&format!("node {index}"), streams, Epoch::new(time.wall_ms, random))
        };
        let mut shards: Vec<_> = (0..streams).map(Shard::new).collect();
        for (entry_key, cached) in &self.machines[index].kernel {
            shards[shard_of(*entry_key, streams)].change_entry(*entry_key, cached.clone());
        }
        let small = index.is_multiple_of(2);
        let host = SimHost::new(if small { self.plan.room } else { usize::MAX });
        self.restarts += u64::from(time.mono_ms > 100);
        self.machines[index].daemon = Ok(Daemon { node: Node::new(config, time), host, shards });
    }

    /// Runs all machines for one millisecond.
    fn step(&mut self, churn: u64) -> Result<(), String> {
        for index in 0..self.machines.len() {
            let arrivals = self.network.receive_arrivals(self.now, index, &self.plan);
            if matches!(self.machines[index].daemon, Err(starts) if starts <= self.now) {
                self.start(index);
            }
            for _ in 0..self.rng.below(churn + 1) {
                self.change_entry(index);
            }
            let time = self.time(index);
            let Ok(daemon) = &mut self.machines[index].daemon else { continue };
            for (from, link, mut datagram) in arrivals {
                let from = Address { peer: u32::try_from(from).unwrap_or(0), link };
                daemon.node.receive(time, from, &mut datagram, &mut daemon.host);
            }
            daemon.schedule_requested()?;
            daemon.send_batches(time, &mut self.rng);
            if daemon.node.deadline() <= self.now {
                daemon.node.tick(time, &mut daemon.host);
                if daemon.node.deadline() <= self.now {
                    return Err(format!("node {index} is due again right after a tick"));
                }
            }
            daemon.schedule_requested()?;
            self.deliver(index);
            if self.now.is_multiple_of(100) {
                self.check_bounds(index)?;
            }
        }
        self.now += 1;
        Ok(())
    }

    /// Creates, changes or ends a random flow or expectation.
    fn change_entry(&mut self, index: usize) {
        let time_ms = self.time(index).wall_ms;
        let number = u32::try_from(self.rng.below(self.plan.flows)).unwrap_or(0);
        let (entry_key, cached) = if self.rng.one_in(20) {
            shard::expect(number % 20, time_ms, &mut self.rng)
        } else {
            shard::flow(number, time_ms, &mut self.rng)
        };
        let ends = self.rng.one_in(3);
        let machine = &mut self.machines[index];
        let shard = match &mut machine.daemon {
            Ok(daemon) => {
                let streams = u16::try_from(daemon.shards.len()).unwrap_or(1);
                daemon.shards.get_mut(shard_of(entry_key, streams))
            }
            Err(_) => None,
        };
        if ends {
            machine.kernel.remove(&entry_key);
            shard.into_iter().for_each(|shard| shard.end_entry(entry_key));
        } else {
            machine.kernel.insert(entry_key, cached.clone());
            shard.into_iter().for_each(|shard| shard.change_entry(entry_key, cached.clone()));
        }
    }

    /// Passes the datagrams that a node sent to the network.
    fn deliver(&mut self, from: usize) {
        let Ok(daemon) = &mut self.machines[from].daemon else { return };
        for (to, _, datagram) in std::mem::take(&mut daemon.host.sent) {
            let all = 0..self.plan.nodes;
            match to {
                Destination::All => {
                    for to in all.filter(|to| *to != from || self.plan.group) {
                        self.network.send(self.now, from, to, &datagram, &self.plan, &mut self.rng);
                    }
                }
                Destination::Peer { at, .. } | Destination::Address(at) => {
                    let to = usize::try_from(at.peer).unwrap_or(0);
                    self.network.send(self.now, from, to, &datagram, &self.plan, &mut self.rng);
                }
            }
        }
    }

    /// Checks that a node keeps to its bounds.
    fn check_bounds(&mut self, index: usize) -> Result<(), String> {
        let time = self.time(index);
        let nodes = self.plan.nodes;
        let Ok(daemon) = &mut self.machines[index].daemon else { return Ok(()) };
        let status = daemon.node.status(time);
        let held = status.peers.iter().flat_map(|peer| &peer.received).map(|stream| stream.held_back_bytes).max();
        let replicas = daemon.host.replicas.len();
        let notes = std::mem::take(&mut daemon.host.notes).len();
        let holds = status.resend_bytes <= self.plan.resend_bytes.max(2 * 4 * 1_600)
            && held.unwrap_or(0) <= self.plan.held_back_bytes
            && status.peers.len() < nodes
            && replicas <= 8 * nodes
            && notes <= 200;
        if holds { Ok(()) } else { Err(format!("out of bounds: {replicas} replicas, {notes} notes, {status:#?}")) }
    }

    /// Describes the first difference found between a replica and its source.
    fn first_difference(&self) -> Option<String> {
        let daemons =
            || (0..).zip(&self.machines).filter_map(|(index, machine)| Some((index, machine.daemon.as_ref().ok()?)));
        for (of, source) in daemons() {
            if let Some(shard) = source.shards.iter().find(|shard| !shard.is_idle()) {
                return Some(format!("node {of} has pending changes: {shard:?}"));
            }
            for (at, replica) in daemons().filter(|(at, _)| *at != of) {
                if let Some(difference) = self.replica_difference(source, at, replica) {
                    return Some(format!("the replica at node {at} of node {of}: {difference}"));
                }
            }
        }
        None
    }

    /// Describes how the replicas at node `at` of `source` differ from it, if they do.
    fn replica_difference(&self, source: &Daemon, at: usize, replica: &Daemon) -> Option<String> {
        let status = replica.node.status(self.time(at));
        let node = source.node.id();
        let Some(peer) = status.peers.iter().find(|peer| peer.node == node) else {
            return Some("no handshake yet".into());
        };
        if peer.state != PeerState::Live || peer.epoch != Some(source.node.epoch()) {
            return Some(format!("{:?} in epoch {:?}, not {}", peer.state, peer.epoch, source.node.epoch()));
        }
        let of = u16::try_from(source.shards.len()).unwrap_or(0);
        let kept = replica.host.replicas.keys().filter(|id| id.node == node).count();
        if kept != usize::from(of) {
            return Some(format!("{kept} replicas of {of} streams"));
        }
        for (stream, shard) in (0..of).zip(&source.shards) {
            let received = peer.received.get(usize::from(stream))?;
            let mut expected: Vec<_> = shard.cache.values().map(|cached| cached.bytes.as_slice()).collect();
            expected.sort_unstable();
            let held =
                replica.host.replicas.get(&ReplicaId { node, stream, streams: of }).map(|replica| replica.contents());
            if received.unknown != Some(0) || received.behind > 0 || held.as_ref() != Some(&expected) {
                let mut difference =
                    format!("stream {stream}: {} sent, {:?} held", expected.len(), held.map(|held| held.len()));
                let _ = write!(difference, "\n{received:?}\n{:?}", source.node.status(self.time(at)));
                return Some(difference);
            }
        }
        None
    }

    /// Requests a verification at each node; within three seconds no verdict may be missing or show a difference.
    fn verify(&mut self) -> Result<(), String> {
        for (number, index) in (1_000..).zip(0..self.machines.len()) {
            let time = self.time(index);
            if let Ok(daemon) = &mut self.machines[index].daemon {
                daemon.node.verify(time, number, &mut daemon.host);
            }
            let until = self.now + 3_000;
            while let Some(missing) = self.missing_verdict(index, number) {
                if self.now > until {
                    return Err(format!("verify by node {index}: {missing}"));
                }
                self.step(0)?;
            }
        }
        Ok(())
    }

    /// Describes a verdict that is missing or shows a difference.
    fn missing_verdict(&self, index: usize, number: u64) -> Option<String> {
        let daemon = self.machines[index].daemon.as_ref().ok()?;
        let status = daemon.node.status(self.time(index));
        status.peers.iter().find_map(|peer| {
            let here = peer.received.iter().map(|stream| stream.verdict);
            let mut verdicts = here.chain(peer.verdicts.iter().copied());
            let is_well = |verdict: VerdictStatus| verdict.number == number && verdict.differing.is_empty();
            let other = verdicts.find(|verdict| !verdict.is_some_and(is_well))?;
            Some(format!("{} reported {other:?}", peer.name))
        })
    }

    /// Checks that only hellos, heads and acknowledgements of these are sent once all replicas are the same as their
    /// sources.
    fn check_quiet(&mut self) -> Result<(), String> {
        let before = self.network.sent;
        for _ in 0..2_000 {
            self.step(0)?;
        }
        let (sent, pairs) = (self.network.sent - before, (self.plan.nodes * self.plan.nodes) as u64);
        // For each pair in two seconds: 3 hellos to all, 3 to the peer, 3 heads, 3 acknowledgements.
        if sent <= 12 * pairs { Ok(()) } else { Err(format!("{sent} datagrams while nothing happens")) }
    }
}

impl Daemon {
    /// Passes the buckets and digests that the node scheduled to the shards.
    fn schedule_requested(&mut self) -> Result<(), String> {
        for (stream, buckets) in std::mem::take(&mut self.host.buckets_scheduled) {
            self.shards[usize::from(stream)].schedule_buckets(&buckets)?;
        }
        for (stream, number) in std::mem::take(&mut self.host.digests_scheduled) {
            self.shards[usize::from(stream)].schedule_digests(number)?;
        }
        Ok(())
    }

    /// Sends the batches of all shards while their windows are open, at most 20 batches a shard and millisecond.
    fn send_batches(&mut self, time: Time, rng: &mut Rng) {
        for shard in &mut self.shards {
            for _ in 0..20 {
                let stream = shard.number();
                if !self.node.is_window_open(time, stream) {
                    break;
                }
                let Some(payload) = shard.next_batch(self.node.hlc_ms(time), rng) else { break };
                self.node.send_batch(time, payload, &mut self.host);
            }
        }
    }
}

/// The index of the shard that has the entry of this key.
fn shard_of((bucket, number): EntryKey, streams: u16) -> usize {
    if bucket == EXPECTATIONS { 0 } else { shard::flow_id_of(number) as usize % usize::from(streams) }
}
