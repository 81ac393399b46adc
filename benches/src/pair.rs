//! Two nodes in one thread, without a network: the datagrams of one are kept until the other receives them.

use ctflow_engine::shard::replica::Replica;
use ctflow_replicate::buckets::BucketSet;
use ctflow_replicate::{
    Address, Config, DatagramClass, Destination, Epoch, Host, Key, Note, Payload, Protocol, ReplicaId, Time,
};

/// The capacity of the replica, in flows.
const FLOWS_MAX: u32 = 1_000_000;
/// The wall clock at the start, in milliseconds since 1970: a day in 2026.
const WALL_MS: u64 = 1_790_000_000_000;
/// More rounds than the handshake of two nodes takes.
const HANDSHAKE_ROUNDS: u64 = 100;

/// The host of a node: the datagrams that it sent, and one replica.
struct BenchHost {
    sent: Vec<Vec<u8>>,
    replica: Replica,
}

impl Host for BenchHost {
    type Replica = Replica;

    fn send(&mut self, _: Destination, _: DatagramClass, datagram: &[u8]) {
        self.sent.push(datagram.to_vec());
    }

    fn replica(&mut self, _: ReplicaId) -> &mut Replica {
        &mut self.replica
    }

    fn drop_replica(&mut self, _: ReplicaId) {}

    fn schedule_buckets(&mut self, _: u16, _: &BucketSet) {}

    fn schedule_digests(&mut self, _: u16, _: u64) {}

    fn note(&mut self, _: Note) {}
}

/// A node, its host, and its number, by which the other node addresses it.
struct Side {
    protocol: Protocol,
    host: BenchHost,
    number: u32,
}

impl Side {
    fn new(name: &str, number: u32) -> Self {
        let config = Config { key: Some(Key::new([7; 32])), ..Config::new(name, 1, Epoch::new(1, number)) };
        let protocol = Protocol::new(config, Time { wall_ms: WALL_MS, mono_ms: 0 });
        Self { protocol, host: BenchHost { sent: Vec::new(), replica: Replica::new(FLOWS_MAX) }, number }
    }

    fn receive(&mut self, now: Time, from: u32, datagrams: Vec<Vec<u8>>) {
        for mut datagram in datagrams {
            self.protocol.receive(now, Address { peer: from, link: 0 }, &mut datagram, &mut self.host);
        }
    }
}

/// A primary and a backup after their handshake, with encryption.
pub struct Pair {
    primary: Side,
    backup: Side,
    mono_ms: u64,
}

impl Pair {
    /// Creates both nodes and runs their handshake.
    #[must_use]
    pub fn new() -> Self {
        let mut pair = Self { primary: Side::new("primary", 1), backup: Side::new("backup", 2), mono_ms: 0 };
        for _ in 0..HANDSHAKE_ROUNDS {
            pair.mono_ms += 100;
            let now = pair.now();
            pair.primary.protocol.tick(now, &mut pair.primary.host);
            pair.backup.protocol.tick(now, &mut pair.backup.host);
            let (from_primary, from_backup) =
                (std::mem::take(&mut pair.primary.host.sent), std::mem::take(&mut pair.backup.host.sent));
            pair.backup.receive(now, pair.primary.number, from_primary);
            pair.primary.receive(now, pair.backup.number, from_backup);
        }
        pair
    }

    /// Makes the primary number, seal and send these batches; returns the datagrams.
    #[must_use]
    pub fn seal(&mut self, batches: Vec<Payload>) -> Vec<Vec<u8>> {
        let now = self.now();
        for batch in batches {
            self.primary.protocol.send_batch(now, batch, &mut self.primary.host);
        }
        std::mem::take(&mut self.primary.host.sent)
    }

    /// Makes the backup open and apply datagrams of the primary.
    pub fn apply(&mut self, datagrams: Vec<Vec<u8>>) {
        let now = self.now();
        self.backup.receive(now, self.primary.number, datagrams);
    }

    /// The number of flows in the replica.
    #[must_use]
    pub fn replicated(&self) -> u32 {
        self.backup.host.replica.count().0
    }

    fn now(&self) -> Time {
        Time { wall_ms: WALL_MS + self.mono_ms, mono_ms: self.mono_ms }
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}
