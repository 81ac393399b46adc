//! The nodes of a simulated cluster, and what must hold of them.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::host::SimHost;
use super::network::Network;
use super::plan::Plan;
use super::rng::Rng;
use super::shard::{self, Cached, EntryKey, Shard};
use crate::buckets::EXPECTATIONS;
use crate::host::{Address, Destination, ReplicaId};
use crate::node::{Config, Node, VerdictStatus};
use crate::peer::PeerState;
use crate::seal::Key;
use crate::time::{Epoch, Time};

/// How long after the faults end everything must agree, in milliseconds.
const AGREE_MS: u64 = 10_000;

/// How long flows still change after the faults ended, in milliseconds.
const CHANGE_ON_MS: u64 = 500;

/// The wall clock's time at the beginning, in milliseconds.
const WALL_MS: u64 = 1_700_000_000_000;

/// What happened in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Nodes in the cluster.
    pub nodes: usize,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Runs of nodes beyond the first one of each.
    pub restarts: u64,
    /// Batches that were sent again.
    pub resent: u64,
    /// Skips that were sent.
    pub skips: u64,
    /// Milliseconds from the end of faults to agreement.
    pub agreed_ms: u64,
}

/// One machine: its kernel's flows outlive its daemon.
struct Machine {
    kernel: BTreeMap<EntryKey, Cached>,
    clock_ahead_ms: u64,
    /// The daemon, while it runs; else when it starts again.
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

/// Runs the cluster that `seed` means, through its faults and until it is quiet.
///
/// # Errors
/// What did not hold.
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
                    Some(what) if self.now > healed + AGREE_MS => return Err(what),
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
                self.machines[index].clock_ahead_ms = self.rng.below(10_000); // perhaps back
            }
        }
    }

    /// Adds up what a daemon counted, before it is gone.
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
        for (place, cached) in &self.machines[index].kernel {
            shards[shard_of(*place, streams)].change_entry(*place, cached.clone());
        }
        let small = index.is_multiple_of(2);
        let host = SimHost::new(if small { self.plan.room } else { usize::MAX });
        self.restarts += u64::from(time.mono_ms > 100);
        self.machines[index].daemon = Ok(Daemon { node: Node::new(config, time), host, shards });
    }

    /// One millisecond of everybody.
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
                    return Err(format!("node {index} is never done"));
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

    /// A flow or an expectation comes, changes or ends.
    fn change_entry(&mut self, index: usize) {
        let time_ms = self.time(index).wall_ms;
        let number = u32::try_from(self.rng.below(self.plan.flows)).unwrap_or(0);
        let (place, cached) = if self.rng.one_in(20) {
            shard::expect(number % 20, time_ms, &mut self.rng)
        } else {
            shard::flow(number, time_ms, &mut self.rng)
        };
        let ends = self.rng.one_in(3);
        let machine = &mut self.machines[index];
        let shard = match &mut machine.daemon {
            Ok(daemon) => {
                let streams = u16::try_from(daemon.shards.len()).unwrap_or(1);
                daemon.shards.get_mut(shard_of(place, streams))
            }
            Err(_) => None,
        };
        if ends {
            machine.kernel.remove(&place);
            shard.into_iter().for_each(|shard| shard.end_entry(place));
        } else {
            machine.kernel.insert(place, cached.clone());
            shard.into_iter().for_each(|shard| shard.change_entry(place, cached.clone()));
        }
    }

    /// Hands what a node sent to the network.
    fn deliver(&mut self, from: usize) {
        let Ok(daemon) = &mut self.machines[from].daemon else { return };
        for (to, datagram) in std::mem::take(&mut daemon.host.sent) {
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

    /// The first thing found that does not agree.
    fn first_difference(&self) -> Option<String> {
        let daemons =
            || (0..).zip(&self.machines).filter_map(|(index, machine)| Some((index, machine.daemon.as_ref().ok()?)));
        for (of, source) in daemons() {
            if let Some(shard) = source.shards.iter().find(|shard| !shard.is_idle()) {
                return Some(format!("node {of} has more to tell: {shard:?}"));
            }
            for (at, replica) in daemons().filter(|(at, _)| *at != of) {
                if let Some(what) = self.replica_difference(source, at, replica) {
                    return Some(format!("node {at} of node {of}: {what}"));
                }
            }
        }
        None
    }

    fn replica_difference(&self, source: &Daemon, at: usize, replica: &Daemon) -> Option<String> {
        let status = replica.node.status(self.time(at));
        let node = source.node.id();
        let Some(peer) = status.peers.iter().find(|peer| peer.node == node) else { return Some("not met".into()) };
        if peer.state != PeerState::Live || peer.epoch != source.node.epoch() {
            return Some(format!("{:?} in epoch {}, not {}", peer.state, peer.epoch, source.node.epoch()));
        }
        let of = u16::try_from(source.shards.len()).unwrap_or(0);
        let kept = replica.host.replicas.keys().filter(|id| id.node == node).count();
        if kept != usize::from(of) {
            return Some(format!("{kept} replicas of {of} streams"));
        }
        for (stream, shard) in (0..of).zip(&source.shards) {
            let received = peer.received.get(usize::from(stream))?;
            let mut told: Vec<_> = shard.cache.values().map(|cached| cached.bytes.as_slice()).collect();
            told.sort_unstable();
            let held =
                replica.host.replicas.get(&ReplicaId { node, stream, streams: of }).map(|replica| replica.contents());
            if received.unknown > 0 || received.behind > 0 || held.as_ref() != Some(&told) {
                let mut what = format!("stream {stream}: {} told, {:?} held", told.len(), held.map(|held| held.len()));
                let _ = write!(what, "\n{received:?}\n{:?}", source.node.status(self.time(at)));
                return Some(what);
            }
        }
        None
    }

    /// Every node's operator asks; within three seconds every verdict must be that nothing differs.
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

    fn missing_verdict(&self, index: usize, number: u64) -> Option<String> {
        let daemon = self.machines[index].daemon.as_ref().ok()?;
        let status = daemon.node.status(self.time(index));
        status.peers.iter().find_map(|peer| {
            let here = peer.received.iter().map(|stream| stream.verdict);
            let mut verdicts = here.chain(peer.verdicts.iter().copied());
            let is_well = |verdict: VerdictStatus| verdict.number == number && verdict.differing.is_empty();
            let other = verdicts.find(|verdict| !verdict.is_some_and(is_well))?;
            Some(format!("{} says {other:?}", peer.name))
        })
    }

    /// Once everybody agrees, only hello and heads with their acknowledgements go on.
    fn check_quiet(&mut self) -> Result<(), String> {
        let before = self.network.sent;
        for _ in 0..2_000 {
            self.step(0)?;
        }
        let (sent, pairs) = (self.network.sent - before, (self.plan.nodes * self.plan.nodes) as u64);
        // In two seconds, a pair: 3 hellos to all, 3 to the peer, 3 heads, 3 acknowledgements.
        if sent <= 12 * pairs { Ok(()) } else { Err(format!("{sent} datagrams while nothing happens")) }
    }
}

impl Daemon {
    /// Passes on to the shards what the node asks of them.
    fn schedule_requested(&mut self) -> Result<(), String> {
        for (stream, buckets) in std::mem::take(&mut self.host.buckets_scheduled) {
            self.shards[usize::from(stream)].schedule_buckets(&buckets)?;
        }
        for (stream, number) in std::mem::take(&mut self.host.digests_scheduled) {
            self.shards[usize::from(stream)].schedule_digests(number)?;
        }
        Ok(())
    }

    /// Has the shards tell while their windows are open: 20 batches a millisecond at most.
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

fn shard_of((bucket, number): EntryKey, streams: u16) -> usize {
    if bucket == EXPECTATIONS { 0 } else { shard::flow_id_of(number) as usize % usize::from(streams) }
}
