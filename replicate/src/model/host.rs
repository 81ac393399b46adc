//! The interface between the state machine and its caller, as traits. The engine implements them over sockets and
//! tables, the simulator over a map and a queue.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use thiserror::Error;

use crate::model::buckets::BucketSet;
use crate::model::note::Note;

/// The origin of a received datagram: the sender's address as a number of the caller's, and the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The caller's number of a peer's address.
    pub peer: u32,
    /// The caller's number of a link.
    pub link: u8,
}

/// The destination of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Every configured address or the group, over every link in use.
    All,
    /// One peer.
    Peer {
        /// The peer's node id.
        node: u64,
        /// The origin of the last message that was accepted from it.
        at: Address,
    },
    /// An address whose node is unknown, or not proven yet.
    Address(Address),
}

/// The class of a datagram, by which the caller chooses its links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramClass {
    /// It carries deltas: one link is enough.
    Delta,
    /// It is small and carries no deltas: it may also be sent over idle links, to show that they work.
    Control,
}

/// Whether a datagram's body is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// Not encrypted and not authenticated: anybody can read and forge it.
    Clear,
    /// Encrypted and authenticated with AES-256-GCM.
    Sealed,
}

/// The identity of a replica: that of stream `stream` of `node`, while the node has `streams` streams. A node that
/// restarts with another number of streams distributes its flows over them differently, so those are other replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId {
    /// The node id of the source.
    pub node: u64,
    /// The stream's number, below `streams`.
    pub stream: u16,
    /// The number of streams of the source, 1 to [`STREAMS_MAX`](crate::limits::STREAMS_MAX).
    pub streams: u16,
}

/// The node id of the node called `name`: XXH3-64 of the name.
#[must_use]
pub fn node_id(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes())
}

/// The caller's side of a node: it sends datagrams, stores replicas, and has shards send buckets and digests.
pub trait Host {
    /// The replica of one stream.
    type Replica: Replica;

    /// Sends a datagram, or drops it if it cannot be sent at once: the call must not wait.
    fn send(&mut self, to: Destination, class: DatagramClass, datagram: &[u8]);

    /// Returns the replica `id`; creates an empty one if it does not exist.
    fn replica(&mut self, id: ReplicaId) -> &mut Self::Replica;

    /// Drops the replica `id`, if it exists.
    fn drop_replica(&mut self, id: ReplicaId);

    /// Schedules these buckets of `stream`: its shard sends each as begin, entries, end, in order with its deltas. The
    /// node does not schedule a bucket again before its begin was sent.
    fn schedule_buckets(&mut self, stream: u16, buckets: &BucketSet);

    /// Schedules the digests of `stream`: its shard sends those of all buckets under `number`. The node does not
    /// schedule digests again before some of these were sent.
    fn schedule_digests(&mut self, stream: u16, number: u64);

    /// Reports an event for the operator's log.
    fn note(&mut self, note: Note);
}

/// The error of a replica that has no room for a new entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the replica is full")]
pub struct Full;

/// A flow or an expectation as its source sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its bucket.
    pub bucket: u16,
    /// Its canonical form.
    pub bytes: &'a [u8],
    /// The check of `bytes`; `spread(check)` is the entry's part of its bucket's digest.
    pub check: u32,
    /// The time of its last change at the source, in milliseconds since 1970.
    pub version_ms: u64,
}

/// The entries received of one stream, by buckets.
pub trait Replica {
    /// Prefetches the memory of the flows of these families and ids, which the next calls insert or remove. Without it
    /// each of those calls waits for memory by itself. The default does nothing.
    fn prefetch(&self, _flows: impl Iterator<Item = (u8, u32)>) {}

    /// Inserts a flow, or replaces its older state, which is found by id and key. The flow is confirmed: its mark is
    /// cleared.
    ///
    /// # Errors
    /// [`Full`] for a flow that is not in the replica, if there is no room for more; the replica is unchanged.
    fn insert_flow(&mut self, flow: &FlowView<'_>, entry: &Entry<'_>) -> Result<(), Full>;

    /// Inserts an expectation, or replaces its older state, which is found by id. Its mark is cleared.
    ///
    /// # Errors
    /// [`Full`] for an expectation that is not in the replica, if there is no room for more; the replica is unchanged.
    fn insert_expect(&mut self, expect: &ExpectView<'_>, entry: &Entry<'_>) -> Result<(), Full>;

    /// Removes the flow of this key and id, if it is in the replica.
    fn remove_flow(&mut self, bucket: u16, key: &FlowKey, id: u32);

    /// Removes the expectation of this id, if it is in the replica.
    fn remove_expect(&mut self, id: u32);

    /// Marks all entries of `bucket` as unconfirmed.
    fn mark_bucket(&mut self, bucket: u16);

    /// Purges the entries of `bucket` that are still marked; returns their number.
    fn purge_marked(&mut self, bucket: u16) -> u64;

    /// The digest of `bucket`: the sum of `spread(check)` over its entries.
    fn digest(&self, bucket: u16) -> u64;

    /// The number of entries.
    fn entries(&self) -> u64;

    /// Whether at least a tenth of the capacity is free.
    fn has_room(&self) -> bool;

    /// Removes all entries.
    fn clear(&mut self);
}
