//! The flows one worker alone owns: looked up by the kernel's id, merged from events, reconciled with dumps, told to
//! replicas; and what a replica is told.
//!
//! A shard is used by one thread and has no lock. `approach` fetches the flows of a batch of events, `table` holds those of one
//! family, `expectations` the few there are of these, `resync` says which dumped flows to believe, `key` which shard a flow
//! belongs to. `ledger` knows what replicas are still to be told, `outbox` puts it into batches; [`replica`] is the other end.

mod conflict;
mod digests;
mod encode_entries;
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
use encode_entries::EntryEncoder;
use expectations::Expectations;
pub use key::{shard_of, spread};
use ledger::Ledger;
pub use outbox::Outbox;
use resync::Resync;
use table::{ApplyContext, Table};

use crate::filter::ReplicationFilter;

/// A resync's number, wrapping: two are never under way at once, so neighbours are all that must differ.
type Generation = u8;

/// Where a description of a flow comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Event,
    Dump,
}

/// What became of an event or a dumped flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applied {
    /// The flow is new here.
    Created,
    /// It was here and is different now.
    Updated,
    /// It was here, just so.
    Unchanged,
    /// It was here and is gone.
    Destroyed,
    /// It was not here; nothing to destroy.
    Unknown,
    /// Nothing was done: the shard holds as many flows as it may.
    Full,
    /// Nothing was done: the message has no tuple or no id, so it names no flow.
    NotAFlow,
}

impl Applied {
    /// The change to tell a replica, if there is any.
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

/// How a slice of sweeping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// There is more to look at.
    More,
    /// The resync is complete: the shard agrees with the kernel.
    Done,
    /// More flows ended during the dump than were kept in mind; another resync has to follow.
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
    now_ms: u64,
    /// Where there are replicas.
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

    /// An empty shard that tells replicas what `choice` selects, by [`Shard::drain`].
    #[must_use]
    pub fn replicated(flows_max: u32, choice: Arc<ReplicationFilter>) -> Self {
        let ledger = Some(Ledger::new(choice));
        Self { ledger, ..Self::new(flows_max) }
    }

    /// What is taken in from here on happened at `now_ms`, milliseconds since 1970.
    pub fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Flows held.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.v4.len() + self.v6.len()
    }

    /// Whether none are held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a tenth of either family's bound is free again: what a full shard waits for before it is resynchronised.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.v4.has_room() && self.v6.has_room()
    }

    /// Says which flows, by family and id, the next events are of, so that they are in the cache by then.
    #[inline]
    pub fn prefetch(&self, flows: impl Iterator<Item = (u8, u32)>) {
        prefetch::prefetch_flows(&self.v4, &self.v6, flows);
    }

    /// Takes in one event.
    #[inline]
    pub fn apply(&mut self, event: Event, view: &FlowView<'_>) -> Applied {
        let Some((id, family)) = view.id.zip(family_of(view)) else { return Applied::NotAFlow };
        match event {
            Event::New | Event::Update => self.upsert(family, id, view, Origin::Event),
            Event::Destroy => self.destroy(family, id, view),
        }
    }

    /// Takes in one event of an expectation.
    pub fn apply_expectation(&mut self, event: Event, view: &ExpectView<'_>) -> Applied {
        if let (Event::Destroy, Some(id)) = (event, view.id) {
            self.resync.note_expectation_destroyed(id);
        }
        self.expectations.apply(event, view, self.generation, self.now_ms)
    }

    /// Takes in one expectation of the dump that a resync reads.
    pub fn apply_dumped_expectation(&mut self, view: &ExpectView<'_>) -> Applied {
        if view.id.is_some_and(|id| self.resync.was_expectation_destroyed(id)) {
            return Applied::Unknown;
        }
        self.expectations.apply(Event::New, view, self.generation, self.now_ms)
    }

    #[inline]
    fn upsert(&mut self, family: u8, id: u32, view: &FlowView<'_>, origin: Origin) -> Applied {
        let heard = ApplyContext { generation: self.generation, origin, now_ms: self.now_ms };
        match family {
            uapi::AF_INET => upsert_in(&mut self.v4, id, view, heard, self.ledger.as_mut()),
            _ => upsert_in(&mut self.v6, id, view, heard, self.ledger.as_mut()),
        }
    }

    fn destroy(&mut self, family: u8, id: u32, view: &FlowView<'_>) -> Applied {
        self.resync.note_destroyed(view, id);
        let removed = match family {
            uapi::AF_INET => destroy_in(&mut self.v4, id, view, self.now_ms, self.ledger.as_mut()),
            _ => destroy_in(&mut self.v6, id, view, self.now_ms, self.ledger.as_mut()),
        };
        if removed { Applied::Destroyed } else { Applied::Unknown }
    }

    /// Has these buckets told whole by the next [`Shard::drain`]s.
    pub fn queue_buckets(&mut self, buckets: &BucketSet) {
        self.ledger.iter_mut().for_each(|ledger| ledger.queue_buckets(buckets));
    }

    /// Has all digests told under `number`, behind everything that is to be told now.
    pub fn queue_digests(&mut self, number: u64) {
        self.ledger.iter_mut().for_each(|ledger| ledger.queue_digests(number));
    }

    /// Tells what `choice` selects from here on, and takes back what it does not: all buckets are told once.
    pub fn set_filter(&mut self, choice: Arc<ReplicationFilter>) {
        if let Some(ledger) = &mut self.ledger {
            ledger.set_filter(choice);
        }
    }

    /// Whether it is time for [`Shard::drain`].
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.pending_in_ms() == Some(0)
    }

    /// How long until it is time for [`Shard::drain`], in milliseconds; `None` where there will be nothing to tell unless
    /// something happens.
    #[must_use]
    pub fn pending_in_ms(&self) -> Option<u64> {
        if self.expectations.has_pending() {
            return Some(0);
        }
        self.ledger.as_ref()?.pending_in_ms(self.now_ms)
    }

    /// Has [`Shard::drain`] wait for nothing but flows' ages.
    pub fn cancel_pause(&mut self) {
        self.ledger.iter_mut().for_each(Ledger::cancel_pause);
    }

    /// Tells what replicas do not know yet. What the outbox has no room for is told by a later call.
    pub fn drain(&mut self, outbox: &mut Outbox) {
        let Some(ledger) = &mut self.ledger else { return };
        ledger.drain(&mut self.v4, &mut self.v6, &mut self.expectations, self.now_ms, outbox);
    }

    /// The flow that `key` and the kernel's `id` name.
    #[must_use]
    pub fn get(&self, key: &FlowKey, id: u32) -> Option<FlowView<'_>> {
        match key.orig.family() {
            uapi::AF_INET => self.v4.get(key, id),
            _ => self.v6.get(key, id),
        }
    }

    /// Writes the entries of `bucket`, which are told in `stream`, in the form of the control socket.
    pub fn encode_bucket(&self, bucket: u16, stream: u16, out: &mut Vec<u8>) {
        EntryEncoder { stream, now_ms: self.now_ms, out }.encode_bucket(bucket, &self.v4, &self.v6, &self.expectations);
    }

    /// Bytes of memory that hold flows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.v4.bytes() + self.v6.bytes()) as u64
    }

    /// Changes that replicas were not told: those of flows that are not to be replicated, and those that a later change
    /// of the same flow replaced.
    #[must_use]
    pub fn suppressed(&self) -> (u64, u64) {
        self.ledger.as_ref().map_or((0, 0), |ledger| (ledger.filtered, ledger.conflated))
    }

    /// Expectations held.
    #[must_use]
    pub fn expectation_count(&self) -> usize {
        self.expectations.len()
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = FlowView<'_>> {
        self.v4.iter().chain(self.v6.iter())
    }

    /// Begins a resync: from here on flows are marked as confirmed, by events and by [`Shard::apply_dumped`]. One that
    /// is under way begins anew.
    pub fn start_resync(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.resync = Resync::marking();
    }

    /// Takes in one flow of the dump that a resync reads.
    pub fn apply_dumped(&mut self, view: &FlowView<'_>) -> Applied {
        let Some((key, id)) = view.key().zip(view.id) else { return Applied::NotAFlow };
        if self.resync.was_destroyed(&key, id) {
            return Applied::Unknown;
        }
        self.upsert(key.orig.family(), id, view, Origin::Dump)
    }

    /// The dump has been read to its end: [`Shard::sweep`] may begin.
    pub fn finish_dump(&mut self) {
        self.resync.start_sweep();
    }

    /// The dump broke off: the marks mean nothing, so nothing is purged.
    pub fn abandon_resync(&mut self) {
        self.resync = Resync::Idle;
    }

    /// Whether a dump has been read and unconfirmed flows are still to be purged.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        matches!(self.resync, Resync::Sweeping { .. })
    }

    /// Purges unconfirmed flows among the next `slice` places, each told to `purged`; with the last of them the
    /// expectations.
    pub fn sweep(&mut self, slice: u32, mut purged: impl FnMut(FlowView<'_>)) -> Swept {
        let Resync::Sweeping { v4_from, v6_from, repeat_needed: again } = &mut self.resync else { return Swept::Done };
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
        let done = if *again { Swept::RepeatResync } else { Swept::Done };
        self.expectations.purge(self.generation, now_ms);
        self.resync = Resync::Idle;
        done
    }
}

/// The family of the flow that a view is of; `None` where it lacks the original tuple.
#[inline]
fn family_of(view: &FlowView<'_>) -> Option<u8> {
    view.orig.as_ref().map(Tuple::family)
}

#[inline]
fn upsert_in<A: Address>(
    table: &mut Table<A>,
    id: u32,
    view: &FlowView<'_>,
    heard: ApplyContext,
    ledger: Option<&mut Ledger>,
) -> Applied {
    let Some(key) = Key::of_view(view) else { return Applied::NotAFlow };
    let (applied, index) = table.upsert(&key, id, view, heard);
    if let (Some(ledger), Some(index), Applied::Created | Applied::Updated) = (ledger, index, applied) {
        ledger.on_flow_changed(table, index, heard.now_ms);
    }
    applied
}

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
mod ledger_tests;
#[cfg(test)]
mod tests;
