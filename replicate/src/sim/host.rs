//! The host of a simulated node: replicas in maps, and lists of what the node sent, scheduled and noted.

use std::collections::BTreeMap;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;

use crate::model::buckets::{BucketSet, EXPECTATIONS, spread};
use crate::model::host::{DatagramClass, Destination, Entry, Full, Host, Replica, ReplicaId};
use crate::model::note::Note;

/// One entry of a replica.
#[derive(Debug)]
struct StoredEntry {
    key: Option<FlowKey>,
    bytes: Vec<u8>,
    check: u32,
    is_marked: bool,
}

/// A replica: entries by bucket and id. Several flows may have the same id.
#[derive(Debug, Default)]
pub(crate) struct SimReplica {
    entries: BTreeMap<(u16, u32), Vec<StoredEntry>>,
    room: usize,
}

impl SimReplica {
    fn insert(&mut self, id: u32, key: Option<FlowKey>, entry: &Entry<'_>) -> Result<(), Full> {
        let is_full = self.entries.values().map(Vec::len).sum::<usize>() >= self.room;
        let held = StoredEntry { key, bytes: entry.bytes.to_vec(), check: entry.check, is_marked: false };
        let entries = self.entries.entry((entry.bucket, id)).or_default();
        match entries.iter_mut().find(|held| held.key == key) {
            Some(slot) => *slot = held,
            None if is_full => return Err(Full),
            None => entries.push(held),
        }
        Ok(())
    }

    /// Iterates over the entries of a bucket.
    fn bucket(&self, bucket: u16) -> impl Iterator<Item = &StoredEntry> {
        self.entries.range((bucket, 0)..=(bucket, u32::MAX)).flat_map(|(_, held)| held)
    }

    /// The bytes of all entries, sorted.
    pub(crate) fn contents(&self) -> Vec<&[u8]> {
        let mut contents: Vec<_> = self.entries.values().flatten().map(|held| held.bytes.as_slice()).collect();
        contents.sort_unstable();
        contents
    }
}

impl Replica for SimReplica {
    fn insert_flow(&mut self, flow: &FlowView<'_>, entry: &Entry<'_>) -> Result<(), Full> {
        self.insert(flow.id.unwrap_or(0), flow.key(), entry)
    }

    fn insert_expect(&mut self, expect: &ExpectView<'_>, entry: &Entry<'_>) -> Result<(), Full> {
        self.insert(expect.id.unwrap_or(0), None, entry)
    }

    fn remove_flow(&mut self, bucket: u16, key: &FlowKey, id: u32) {
        if let Some(entries) = self.entries.get_mut(&(bucket, id)) {
            entries.retain(|held| held.key != Some(*key));
        }
    }

    fn remove_expect(&mut self, id: u32) {
        self.entries.remove(&(EXPECTATIONS, id));
    }

    fn mark_bucket(&mut self, bucket: u16) {
        let entries = self.entries.range_mut((bucket, 0)..=(bucket, u32::MAX));
        entries.flat_map(|(_, held)| held).for_each(|held| held.is_marked = true);
    }

    fn purge_marked(&mut self, bucket: u16) -> u64 {
        let before = self.bucket(bucket).count();
        for (_, entries) in self.entries.range_mut((bucket, 0)..=(bucket, u32::MAX)) {
            entries.retain(|held| !held.is_marked);
        }
        (before - self.bucket(bucket).count()) as u64
    }

    fn digest(&self, bucket: u16) -> u64 {
        self.bucket(bucket).fold(0, |digest, held| digest.wrapping_add(spread(held.check)))
    }

    fn entries(&self) -> u64 {
        self.entries.values().map(Vec::len).sum::<usize>() as u64
    }

    fn has_room(&self) -> bool {
        self.entries() < (self.room - self.room / 10) as u64
    }

    fn clear(&mut self) {
        self.entries.clear();
    }
}

/// The host of a simulated node. The lists hold what the node sent, scheduled and noted since the simulator emptied
/// them.
#[derive(Debug, Default)]
pub(crate) struct SimHost {
    pub(crate) sent: Vec<(Destination, DatagramClass, Vec<u8>)>,
    pub(crate) replicas: BTreeMap<ReplicaId, SimReplica>,
    pub(crate) buckets_scheduled: Vec<(u16, BucketSet)>,
    pub(crate) digests_scheduled: Vec<(u16, u64)>,
    pub(crate) notes: Vec<Note>,
    pub(crate) room: usize,
}

impl SimHost {
    pub(crate) fn new(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// Sets the capacity of all replicas, in entries.
    pub(crate) fn set_room(&mut self, room: usize) {
        self.room = room;
        self.replicas.values_mut().for_each(|replica| replica.room = room);
    }
}

impl Host for SimHost {
    type Replica = SimReplica;

    fn send(&mut self, to: Destination, class: DatagramClass, datagram: &[u8]) {
        self.sent.push((to, class, datagram.to_vec()));
    }

    fn replica(&mut self, id: ReplicaId) -> &mut SimReplica {
        let room = self.room;
        self.replicas.entry(id).or_insert_with(|| SimReplica { room, ..SimReplica::default() })
    }

    fn drop_replica(&mut self, id: ReplicaId) {
        self.replicas.remove(&id);
    }

    fn schedule_buckets(&mut self, stream: u16, buckets: &BucketSet) {
        self.buckets_scheduled.push((stream, *buckets));
    }

    fn schedule_digests(&mut self, stream: u16, number: u64) {
        self.digests_scheduled.push((stream, number));
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }
}
