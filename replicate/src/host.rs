//! What the state machine needs of its surroundings, as traits: the engine implements them over sockets and tables, the
//! simulator over a map and a queue.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use thiserror::Error;

use crate::buckets::BucketSet;
use crate::note::Note;

/// Where a datagram came from: a number that its caller can turn into an address, and the link it came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The caller's number of a peer's address.
    pub peer: u32,
    /// The caller's number of a link.
    pub link: u8,
}

/// Where a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To every configured address or the group, over every link in use.
    All,
    /// To a peer.
    Peer {
        /// Its node id.
        node: u64,
        /// Where it was heard last.
        at: Address,
    },
    /// To an address whose node is not known, or not trusted yet.
    Address(Address),
}

/// Which replica: of stream `stream` of `node` while that has `of` streams. A node that comes back with another number of
/// streams spreads its flows over them another way, so these are other replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId {
    /// The node that tells it.
    pub node: u64,
    /// The stream.
    pub stream: u16,
    /// How many streams the node has.
    pub streams: u16,
}

/// What a node drives.
pub trait Host {
    /// What holds a stream's entries.
    type Replica: Replica;

    /// Sends a datagram, or drops it: nothing waits here.
    fn send(&mut self, to: Destination, datagram: &[u8]);

    /// The replica `id`, made empty if it is not there.
    fn replica(&mut self, id: ReplicaId) -> &mut Self::Replica;

    /// Gives up the replica `id`, if it is there.
    fn drop_replica(&mut self, id: ReplicaId);

    /// Has the shard tell all of these buckets of `stream`, each as begin, entries, end, among its deltas. Asked once;
    /// a bucket is not asked for again before its begin was told.
    fn schedule_buckets(&mut self, stream: u16, buckets: &BucketSet);

    /// Has the shard tell the digests of all buckets of `stream` under `number`. Not asked for again before some were told.
    fn schedule_digests(&mut self, stream: u16, number: u64);

    /// Has something to say to the operator.
    fn note(&mut self, note: Note);
}

/// A replica without room for a new entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the replica is full")]
pub struct Full;

/// One entry as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The bucket it is in.
    pub bucket: u16,
    /// Its canonical form.
    pub bytes: &'a [u8],
    /// The check of `bytes`: what it adds to its bucket's digest.
    pub check: u32,
    /// When it changed, in milliseconds since 1970.
    pub version_ms: u64,
}

/// Holds what was told of one stream, by buckets.
pub trait Replica {
    /// Flows of these families and ids are about to be put in or taken out: a chance to have what is held of them at hand.
    /// One after the other, each would wait for memory by itself.
    fn prefetch(&self, _flows: impl Iterator<Item = (u8, u32)>) {}

    /// Puts in a flow, or its newer state in place of the older one, which is known by id and key. It is confirmed:
    /// whatever mark it had is gone.
    ///
    /// # Errors
    /// [`Full`] for a flow that is not held, where there is no room for more; nothing changed.
    fn insert_flow(&mut self, flow: &FlowView<'_>, entry: &Entry<'_>) -> Result<(), Full>;

    /// Likewise an expectation, known by its id.
    ///
    /// # Errors
    /// As of a flow.
    fn insert_expect(&mut self, expect: &ExpectView<'_>, entry: &Entry<'_>) -> Result<(), Full>;

    /// Takes out the flow of this key and id, if it is held.
    fn remove_flow(&mut self, bucket: u16, key: &FlowKey, id: u32);

    /// Takes out the expectation of this id, if it is held.
    fn remove_expect(&mut self, id: u32);

    /// Marks all entries of `bucket`.
    fn mark_bucket(&mut self, bucket: u16);

    /// Purges the entries of `bucket` that are still marked; returns how many.
    fn purge_marked(&mut self, bucket: u16) -> u64;

    /// The digest of `bucket`: the sum of `spread(check)` over its entries.
    fn digest(&self, bucket: u16) -> u64;

    /// Entries held.
    fn entries(&self) -> u64;

    /// Whether a tenth of the room is free.
    fn has_room(&self) -> bool;

    /// Takes out everything.
    fn clear(&mut self);
}
