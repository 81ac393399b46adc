//! A replica: what this node holds of one stream of a peer. It keeps the flows of the peer's shard in the same tables
//! as a shard does.

use std::ops::AddAssign;
use std::time::Duration;

use ctflow_parser::compact::{Address, Key, V4, V6};
use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::FlowKey;
use ctflow_parser::uapi;
use ctflow_replicate::buckets::{BUCKETS, BucketSet, EXPECTATIONS, spread};
use ctflow_replicate::host::{Entry, Full};

use super::Generation;
use super::digests::Digests;
use super::entries::EntryEncoder;
use super::expectations::Expectations;
use super::handover::{Handover, Pending};
use super::prefetch::prefetch_flows;
use super::table::{EntryMeta, Table};
use crate::replication::lag::Lag;

/// Microseconds in a millisecond.
const US_PER_MS: u64 = 1_000;

/// The flows and expectations of one stream of a peer.
#[derive(Debug)]
pub struct Replica {
    v4: Table<V4>,
    v6: Table<V6>,
    expectations: Expectations,
    /// By bucket: the number of the bucket's last resync. An entry with another number was not received since.
    generations: Box<[Generation]>,
    /// The buckets whose begin was received, and not yet their end.
    resyncing: BucketSet,
    digests: Digests,
    /// Microseconds since 1970.
    now_us: u64,
    lag: Lag,
    changes: Changes,
    /// What is to be injected into the kernel; `None` where received flows wait for a commit.
    handover: Option<Handover>,
}

/// Counts of what happened to the flows of a replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Flows that were received and not held before.
    pub created: u64,
    /// Flows that were received and held before.
    pub updated: u64,
    /// Flows that were removed because their source reported their end.
    pub destroyed: u64,
    /// Flows that were refused because the replica was full.
    pub refused: u64,
    /// Flows that were removed because a resync did not confirm them.
    pub purged: u64,
}

impl AddAssign for Changes {
    fn add_assign(&mut self, other: Self) {
        self.created += other.created;
        self.updated += other.updated;
        self.destroyed += other.destroyed;
        self.refused += other.refused;
        self.purged += other.purged;
    }
}

impl Replica {
    /// An empty replica that holds at most `flows_max` flows of each family.
    #[must_use]
    pub fn new(flows_max: u32) -> Self {
        Self {
            v4: Table::new(flows_max),
            v6: Table::new(flows_max),
            expectations: Expectations::default(),
            generations: vec![0; usize::from(BUCKETS) + 1].into_boxed_slice(),
            resyncing: BucketSet::EMPTY,
            digests: Digests::new(),
            now_us: 0,
            lag: Lag::default(),
            changes: Changes::default(),
            handover: None,
        }
    }

    /// An empty replica for hot mode, whose flows are queued to be injected into the kernel. It holds at most
    /// `flows_max` flows of each family.
    #[must_use]
    pub fn hot(flows_max: u32) -> Self {
        Self { handover: Some(Handover::new()), ..Self::new(flows_max) }
    }

    /// Moves queued changes to `pending`, until it has `limit` ends and about `limit` flows. The entries are labelled
    /// as those of `stream`. Outside hot mode this does nothing.
    pub(crate) fn drain_pending(&mut self, stream: u16, limit: usize, pending: &mut Pending) {
        if let Some(handover) = &mut self.handover {
            let as_of = (stream, self.now_us / US_PER_MS);
            handover.drain_pending(&mut self.v4, &mut self.v6, &self.expectations, as_of, limit, pending);
        }
    }

    /// Whether no change is queued for the kernel.
    pub(crate) fn is_drained(&self) -> bool {
        self.handover.as_ref().is_none_or(Handover::is_empty)
    }

    /// Queues everything for the kernel once more.
    pub(crate) fn requeue_all(&mut self) {
        self.handover.iter_mut().for_each(Handover::requeue_all);
    }

    /// Whether the end of a flow was dropped since the last call, because the queue for the kernel was full.
    pub(crate) fn take_ends_lost(&mut self) -> bool {
        self.handover.as_mut().is_some_and(Handover::take_ends_lost)
    }

    /// Sets the time at which the next entries are received, in microseconds since 1970.
    pub(crate) fn set_time(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// The time from a change at its source until it was received here, without the entries of a resync.
    #[must_use]
    pub fn lag(&self) -> &Lag {
        &self.lag
    }

    /// Counts of what happened to the flows so far.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.changes
    }

    /// Whether the table of at least one family is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.v4.len() >= self.v4.flows_max() || self.v6.len() >= self.v6.flows_max()
    }

    /// Bytes of memory that the flows of both families take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.v4.bytes() + self.v6.bytes()) as u64
    }

    /// The number of flows held, and of expectations.
    #[must_use]
    pub fn count(&self) -> (u32, usize) {
        (self.v4.len() + self.v6.len(), self.expectations.len())
    }

    /// Appends the entries of `bucket` to `out` in the form of the control socket, as entries of `stream`.
    pub(crate) fn encode_bucket(&self, bucket: u16, stream: u16, out: &mut Vec<u8>) {
        EntryEncoder { stream, now_ms: self.now_us / US_PER_MS, out }.encode_bucket(
            bucket,
            &self.v4,
            &self.v6,
            &self.expectations,
        );
    }

    /// What is stored with a received entry.
    fn entry_meta(&self, entry: &Entry<'_>) -> EntryMeta {
        let generation = self.generations.get(usize::from(entry.bucket)).copied().unwrap_or_default();
        EntryMeta { check: entry.check, generation, now_ms: self.now_us / US_PER_MS, changed_ms: entry.version_ms }
    }
}

impl ctflow_replicate::host::Replica for Replica {
    fn prefetch(&self, flows: impl Iterator<Item = (u8, u32)>) {
        prefetch_flows(&self.v4, &self.v6, flows);
    }

    fn insert_flow(&mut self, flow: &FlowView<'_>, entry: &Entry<'_>) -> Result<(), Full> {
        let meta = self.entry_meta(entry);
        let replaced = match flow.family {
            uapi::AF_INET => self.v4.replace(flow, meta),
            _ => self.v6.replace(flow, meta),
        };
        match &replaced {
            Ok((_, None)) => self.changes.created += 1,
            Ok((_, Some(_))) => self.changes.updated += 1,
            Err(_) => self.changes.refused += 1,
        }
        let (index, before) = replaced.map_err(|_| Full)?;
        self.digests.replace_check(entry.bucket, before, Some(entry.check));
        if let Some(handover) = &mut self.handover {
            match flow.family {
                uapi::AF_INET => handover.on_flow_changed(&mut self.v4, index),
                _ => handover.on_flow_changed(&mut self.v6, index),
            }
        }
        // A bucket that is sent whole contains entries that changed long ago: their age is no lag.
        if !self.resyncing.contains(entry.bucket) {
            let changed_us = entry.version_ms.saturating_mul(US_PER_MS);
            self.lag.add(Duration::from_micros(self.now_us.saturating_sub(changed_us)));
        }
        Ok(())
    }

    fn insert_expect(&mut self, expect: &ExpectView<'_>, entry: &Entry<'_>) -> Result<(), Full> {
        let meta = self.entry_meta(entry);
        let before = self.expectations.replace(expect.id.ok_or(Full)?, entry.bytes, meta).map_err(|_| Full)?;
        self.digests.replace_check(entry.bucket, before, Some(entry.check));
        self.handover.iter_mut().for_each(Handover::on_expectation_changed);
        Ok(())
    }

    fn remove_flow(&mut self, bucket: u16, key: &FlowKey, id: u32) {
        let check = match key.orig.family() {
            uapi::AF_INET => remove(&mut self.v4, key, id, self.handover.as_mut()),
            _ => remove(&mut self.v6, key, id, self.handover.as_mut()),
        };
        self.changes.destroyed += u64::from(check.is_some());
        self.digests.replace_check(bucket, check, None);
    }

    fn remove_expect(&mut self, id: u32) {
        let check = self.expectations.remove(id);
        self.digests.replace_check(EXPECTATIONS, check, None);
    }

    fn mark_bucket(&mut self, bucket: u16) {
        // With the new number all entries of the bucket are unconfirmed at once, and none of them is touched.
        if let Some(generation) = self.generations.get_mut(usize::from(bucket)) {
            *generation = generation.wrapping_add(1);
        }
        self.resyncing.insert(bucket);
    }

    fn purge_marked(&mut self, bucket: u16) -> u64 {
        self.resyncing.remove(bucket);
        let generation = self.generations.get(usize::from(bucket)).copied().unwrap_or_default();
        let (mut purged, mut checks) = (0, 0u64);
        let mut count = |check| {
            purged += 1;
            checks = checks.wrapping_add(spread(check));
        };
        if bucket == EXPECTATIONS {
            self.expectations.purge_unconfirmed(generation, count);
        } else {
            let handover = &mut self.handover;
            self.v4.purge_bucket(bucket, generation, |slot| {
                count(slot.check);
                handover.iter_mut().for_each(|handover| handover.on_flow_ended(slot));
            });
            self.v6.purge_bucket(bucket, generation, |slot| {
                count(slot.check);
                handover.iter_mut().for_each(|handover| handover.on_flow_ended(slot));
            });
            self.changes.purged += purged;
        }
        self.digests.subtract(bucket, checks);
        purged
    }

    fn digest(&self, bucket: u16) -> u64 {
        self.digests.get(bucket)
    }

    fn entries(&self) -> u64 {
        u64::from(self.v4.len()) + u64::from(self.v6.len()) + self.expectations.len() as u64
    }

    fn has_room(&self) -> bool {
        self.v4.has_room() && self.v6.has_room()
    }

    fn clear(&mut self) {
        let flows_max = self.v4.flows_max();
        (self.v4, self.v6) = (Table::new(flows_max), Table::new(flows_max));
        self.expectations.clear();
        self.digests.clear();
        // Its flows stay in the kernel. They are injected again when they are received again; the others remain
        // unconfirmed, and a sweep purges them.
        self.handover = self.handover.take().map(|_| Handover::new());
    }
}

/// Removes a flow, and queues its end for the kernel; returns its check.
fn remove<A: Address>(table: &mut Table<A>, key: &FlowKey, id: u32, handover: Option<&mut Handover>) -> Option<u32> {
    let slot = table.remove(&Key::of(key)?, id)?;
    handover.into_iter().for_each(|handover| handover.on_flow_ended(&slot));
    Some(slot.check)
}
