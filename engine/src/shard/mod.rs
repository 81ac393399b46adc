//! The flows that one worker owns: found by kernel id, merged from events, reconciled with dumps, sent to replicas.
//!
//! One thread uses a shard, so a shard has no lock.
//!
//! | module | content |
//! |---|---|
//! | `key` | which shard owns a flow |
//! | `table`, `slab`, `extra` | the flows of one family: index, records, rare attributes |
//! | `expectations` | the expectations, which are few |
//! | `prefetch` | loads the flows of a batch of events into the processor's cache |
//! | `resync` | the state of a resync with the kernel, and which dumped flows to ignore |
//! | `ledger`, `digests` | which changes are still to be sent to replicas, and the digest of what was sent |
//! | `outbox` | the batches that carry them to the replication stage |
//! | [`replica`] | what this node holds of a peer's shard |
//! | `handover` | which flows of a replica are still to be injected into this kernel (hot mode) |
//! | `conflict` | whether this node or a peer saw the newer change of a flow |
//! | [`entries`] | entries in the form of the control socket |
//! | `stamp` | times in four bytes |

mod conflict;
mod digests;
pub mod entries;
mod expectations;
mod extra;
pub(crate) mod handover;
mod key;
mod ledger;
mod outbox;
mod prefetch;
pub mod replica;
mod resync;
mod slab;
mod stamp;
mod table;

use std::sync::Arc;

use ctflow_parser::compact::{Address, Key, V4, V6};
use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{FlowKey, Tuple};
use ctflow_parser::uapi;
use ctflow_replicate::buckets::BucketSet;
use ctflow_replicate::delta::Change;

pub(crate) use conflict::{Newer, PeerVersion};
use entries::EntryEncoder;
use expectations::Expectations;
pub use key::{shard_of, spread};
use ledger::Ledger;
pub use outbox::Outbox;
use resync::Resync;
use table::{ApplyContext, Table};

use crate::replication::filter::ReplicationFilter;

/// The number of a resync. It wraps: two resyncs never run at once, so only consecutive ones have to differ.
type Generation = u8;

/// Where a description of a flow comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// An event of the kernel.
    Event,
    /// The dump that a resync reads.
    Dump,
}

/// The result of applying an event or a dumped flow to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// The shard did not hold the flow and holds it now.
    Created,
    /// The shard held the flow, and at least one field changed.
    Updated,
    /// The shard held the flow, and no field changed.
    Unchanged,
    /// The shard held the flow and removed it.
    Destroyed,
    /// Nothing changed: the shard does not hold the flow that ended, or the dumped flow has ended meanwhile.
    Unknown,
    /// Nothing changed: the shard already holds its maximum of flows or expectations.
    Full,
    /// Nothing changed: the message has no complete tuples or no id, so it names no flow.
    NotAFlow,
}

impl Applied {
    /// The change to send to replicas; `None` where nothing changed.
    #[must_use]
    pub fn change(self) -> Option<Change> {
        match self {
            Self::Created => Some(Change::Created),
            Self::Updated => Some(Change::Updated),
            Self::Destroyed => Some(Change::Destroyed),
            Self::Unchanged | Self::Unknown | Self::Full | Self::NotAFlow => None,
        }
    }
}

/// The result of one [`Shard::sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// More slots are left to sweep.
    More,
    /// The resync is complete: the shard agrees with the kernel.
    Done,
    /// The sweep is complete, but more flows ended during the dump than were recorded: another resync must follow.
    RepeatResync,
}

/// The flows of one worker.
#[derive(Debug)]
pub struct Shard {
    v4: Table<V4>,
    v6: Table<V6>,
    expectations: Expectations,
    generation: Generation,
    resync: Resync,
    /// Milliseconds since 1970.
    now_ms: u64,
    /// What is still to be sent to replicas; `None` without replication.
    ledger: Option<Ledger>,
}

impl Shard {
    /// An empty shard that holds at most `flows_max` flows of each family.
    #[must_use]
    pub fn new(flows_max: u32) -> Self {
        Self {
            v4: Table::new(flows_max),
            v6: Table::new(flows_max),
            expectations: Expectations::default(),
            generation: 0,
            resync: Resync::Idle,
            now_ms: 0,
            ledger: None,
        }
    }

    /// An empty shard of at most `flows_max` flows of each family, whose changes [`Shard::drain`] sends to replicas as
    /// far as `filter` selects the flows.
    #[must_use]
    pub fn replicated(flows_max: u32, filter: Arc<ReplicationFilter>) -> Self {
        let ledger = Some(Ledger::new(filter));
        Self { ledger, ..Self::new(flows_max) }
    }

    /// Sets the time of all changes applied from now on, in milliseconds since 1970.
    pub(crate) fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// The number of flows held, of both families.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.v4.len() + self.v6.len()
    }

    /// Whether the shard holds no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a tenth of the maximum is free in both families. A shard that was full is resynchronised only then.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.v4.has_room() && self.v6.has_room()
    }

    /// Loads the flows that the next events are about, given as (family, id), into the processor's cache.
    #[inline]
    pub fn prefetch(&self, flows: impl Iterator<Item = (u8, u32)>) {
        prefetch::prefetch_flows(&self.v4, &self.v6, flows);
    }

    /// Applies one event of a flow.
    #[inline]
    pub fn apply(&mut self, event: Event, view: &FlowView<'_>) -> Applied {
        let Some((id, family)) = view.id.zip(family_of(view)) else { return Applied::NotAFlow };
        match event {
            Event::New | Event::Update => self.upsert(family, id, view, Origin::Event),
            Event::Destroy => self.destroy(family, id, view),
        }
    }

    /// Applies one event of an expectation.
    pub(crate) fn apply_expectation(&mut self, event: Event, view: &ExpectView<'_>) -> Applied {
        if let (Event::Destroy, Some(id)) = (event, view.id) {
            self.resync.note_expectation_destroyed(id);
        }
        self.expectations.apply(event, view, self.generation, self.now_ms)
    }

    /// Applies one expectation of the dump that a resync reads. It is ignored if its DESTROY arrived since the resync
    /// started.
    pub(crate) fn apply_dumped_expectation(&mut self, view: &ExpectView<'_>) -> Applied {
        if view.id.is_some_and(|id| self.resync.was_expectation_destroyed(id)) {
            return Applied::Unknown;
        }
        self.expectations.apply(Event::New, view, self.generation, self.now_ms)
    }

    /// Creates the flow in its family's table, or merges the view into it, and notes the change in the ledger.
    #[inline]
    fn upsert(&mut self, family: u8, id: u32, view: &FlowView<'_>, origin: Origin) -> Applied {
        let context = ApplyContext { generation: self.generation, origin, now_ms: self.now_ms };
        match family {
            uapi::AF_INET => upsert_in(&mut self.v4, id, view, context, self.ledger.as_mut()),
            _ => upsert_in(&mut self.v6, id, view, context, self.ledger.as_mut()),
        }
    }

    /// Removes the flow from its family's table and notes its end in the ledger. During a dump the resync records the
    /// end, too, even of a flow that the shard does not hold: the dump may still contain it.
    fn destroy(&mut self, family: u8, id: u32, view: &FlowView<'_>) -> Applied {
        self.resync.note_destroyed(view, id);
        let removed = match family {
            uapi::AF_INET => destroy_in(&mut self.v4, id, view, self.now_ms, self.ledger.as_mut()),
            _ => destroy_in(&mut self.v6, id, view, self.now_ms, self.ledger.as_mut()),
        };
        if removed { Applied::Destroyed } else { Applied::Unknown }
    }

    /// Makes the next [`Shard::drain`]s send each of these buckets as a whole. Without replication this does nothing.
    pub(crate) fn queue_buckets(&mut self, buckets: &BucketSet) {
        self.ledger.iter_mut().for_each(|ledger| ledger.queue_buckets(buckets));
    }

    /// Makes [`Shard::drain`] send all digests under `number`, after every change that is pending by then. Without
    /// replication this does nothing.
    pub(crate) fn queue_digests(&mut self, number: u64) {
        self.ledger.iter_mut().for_each(|ledger| ledger.queue_digests(number));
    }

    /// Replaces the replication filter. All buckets are sent once more, so that replicas receive the flows that are
    /// newly selected, and the ends of those that are not selected any more.
    pub fn set_filter(&mut self, filter: Arc<ReplicationFilter>) {
        if let Some(ledger) = &mut self.ledger {
            ledger.set_filter(filter);
        }
    }

    /// Whether [`Shard::drain`] has something to send now.
    #[must_use]
    pub(crate) fn has_pending(&self) -> bool {
        self.pending_in_ms() == Some(0)
    }

    /// In how many milliseconds [`Shard::drain`] has something to send; `None` where it has nothing to send until the
    /// next event or request arrives.
    #[must_use]
    pub(crate) fn pending_in_ms(&self) -> Option<u64> {
        if self.expectations.has_pending() {
            return Some(0);
        }
        self.ledger.as_ref()?.pending_in_ms(self.now_ms)
    }

    /// Ends the current batch delay: changes are due at once. Young flows still wait for their least age.
    pub(crate) fn cancel_batch_delay(&mut self) {
        self.ledger.iter_mut().for_each(Ledger::cancel_batch_delay);
    }

    /// Writes the pending changes to `outbox`. Changes for which the outbox has no room stay pending for a later call.
    pub fn drain(&mut self, outbox: &mut Outbox) {
        let Some(ledger) = &mut self.ledger else { return };
        ledger.drain(&mut self.v4, &mut self.v6, &mut self.expectations, self.now_ms, outbox);
    }

    /// The flow with this key and kernel id; `None` where the shard does not hold it.
    #[must_use]
    pub fn get(&self, key: &FlowKey, id: u32) -> Option<FlowView<'_>> {
        match key.orig.family() {
            uapi::AF_INET => self.v4.get(key, id),
            _ => self.v6.get(key, id),
        }
    }

    /// Appends the entries of `bucket` to `out` in the form of the control socket, as entries of `stream`.
    pub(crate) fn encode_bucket(&self, bucket: u16, stream: u16, out: &mut Vec<u8>) {
        EntryEncoder { stream, now_ms: self.now_ms, out }.encode_bucket(bucket, &self.v4, &self.v6, &self.expectations);
    }

    /// Bytes of memory that the flows of both families take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.v4.bytes() + self.v6.bytes()) as u64
    }

    /// Changes that were not sent to replicas: those of flows that the filter does not select, and those that a later
    /// change of the same flow replaced (conflated).
    #[must_use]
    pub fn suppressed(&self) -> (u64, u64) {
        self.ledger.as_ref().map_or((0, 0), |ledger| (ledger.filtered, ledger.conflated))
    }

    /// The number of expectations held.
    #[must_use]
    pub fn expectation_count(&self) -> usize {
        self.expectations.len()
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = FlowView<'_>> {
        self.v4.iter().chain(self.v6.iter())
    }

    /// Starts a resync: from now on events and [`Shard::apply_dumped`] mark flows as confirmed. A resync that is
    /// already running starts over.
    pub(crate) fn start_resync(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.resync = Resync::marking();
    }

    /// Applies one flow of the dump that a resync reads. It is ignored if its DESTROY arrived since the resync
    /// started.
    pub(crate) fn apply_dumped(&mut self, view: &FlowView<'_>) -> Applied {
        let Some((key, id)) = view.key().zip(view.id) else { return Applied::NotAFlow };
        if self.resync.was_destroyed(&key, id) {
            return Applied::Unknown;
        }
        self.upsert(key.orig.family(), id, view, Origin::Dump)
    }

    /// Ends the marking phase, after the whole dump was applied: [`Shard::sweep`] may start.
    pub(crate) fn finish_dump(&mut self) {
        self.resync.start_sweep();
    }

    /// Ends the resync without a sweep, because the dump broke off: a flow that was not confirmed may still exist in
    /// the kernel.
    pub(crate) fn abandon_resync(&mut self) {
        self.resync = Resync::Idle;
    }

    /// Whether the dump was read and unconfirmed flows are still to be purged.
    #[must_use]
    pub(crate) fn is_sweeping(&self) -> bool {
        matches!(self.resync, Resync::Sweeping { .. })
    }

    /// Purges the unconfirmed flows among the next `slice` slots, and calls `purged` with each of them. The last call
    /// of a resync purges the unconfirmed expectations, too.
    pub fn sweep(&mut self, slice: u32, mut purged: impl FnMut(FlowView<'_>)) -> Swept {
        let Resync::Sweeping { v4_from, v6_from, repeat_needed } = &mut self.resync else { return Swept::Done };
        let (ledger, now_ms) = (&mut self.ledger, self.now_ms);
        if let Some(from) = *v4_from {
            *v4_from = self.v4.sweep(from, slice, self.generation, |slot| {
                purged(slot.flow.view());
                ledger.iter_mut().for_each(|ledger| ledger.on_flow_ended(slot, now_ms));
            });
        } else if let Some(from) = *v6_from {
            *v6_from = self.v6.sweep(from, slice, self.generation, |slot| {
                purged(slot.flow.view());
                ledger.iter_mut().for_each(|ledger| ledger.on_flow_ended(slot, now_ms));
            });
        }
        if v4_from.or(*v6_from).is_some() {
            return Swept::More;
        }
        let done = if *repeat_needed { Swept::RepeatResync } else { Swept::Done };
        self.expectations.purge(self.generation, now_ms);
        self.resync = Resync::Idle;
        done
    }
}

/// The family of the flow in `view`; `None` where the original tuple is missing.
#[inline]
fn family_of(view: &FlowView<'_>) -> Option<u8> {
    view.orig.as_ref().map(Tuple::family)
}

/// Creates or updates one flow in the table of its family, and notes the change in the ledger.
#[inline]
fn upsert_in<A: Address>(
    table: &mut Table<A>,
    id: u32,
    view: &FlowView<'_>,
    context: ApplyContext,
    ledger: Option<&mut Ledger>,
) -> Applied {
    let Some(key) = Key::of_view(view) else { return Applied::NotAFlow };
    let (applied, index) = table.upsert(&key, id, view, context);
    if let (Some(ledger), Some(index), Applied::Created | Applied::Updated) = (ledger, index, applied) {
        ledger.on_flow_changed(table, index, context.now_ms);
    }
    applied
}

/// Removes one flow from the table of its family, and notes its end in the ledger; returns whether the table held it.
#[inline]
fn destroy_in<A: Address>(
    table: &mut Table<A>,
    id: u32,
    view: &FlowView<'_>,
    now_ms: u64,
    ledger: Option<&mut Ledger>,
) -> bool {
    let Some(slot) = Key::of_view(view).and_then(|key| table.remove(&key, id)) else { return false };
    ledger.into_iter().for_each(|ledger| ledger.on_flow_ended(&slot, now_ms));
    true
}

#[cfg(test)]
mod tests;
