//! The expectations of a shard, or of a replica. They are few and short-lived.
//!
//! An expectation is identified by the kernel's id. It is kept in the encoded form in which it is sent, because its
//! fields are read only when it is printed or committed.

use ctflow_parser::expect::ExpectView;
use ctflow_parser::record::Event;
use ctflow_replicate::buckets::EXPECTATIONS;
use ctflow_replicate::entry;
use hashbrown::HashMap;

use super::digests::Digests;
use super::key::spread;
use super::outbox::Outbox;
use super::stamp::Seconds;
use super::table::EntryMeta;
use super::{Applied, Generation};
use crate::limits::EXPECTATIONS_MAX;

/// One expectation.
#[derive(Debug)]
struct Expectation {
    /// The encoded entry.
    bytes: Box<[u8]>,
    /// The check of `bytes`.
    check: u32,
    /// The number of the resync that confirmed it last.
    generation: Generation,
    /// When it was added.
    since: Seconds,
    /// When it last changed, in milliseconds since 1970.
    changed_ms: u64,
    /// Whether its current state is still to be sent to replicas.
    pending: bool,
    /// The check of the entry that was sent last; `None` where none was sent.
    sent_check: Option<u32>,
}

/// Expectations by their id.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    held: HashMap<u32, Expectation>,
    /// Expectations that replicas hold and that ended, by id, with the time in milliseconds since 1970.
    ended: HashMap<u32, u64>,
    /// The sum of the spread checks of those that ended, to subtract from the digest when their ends are sent.
    ended_digest: u64,
    /// Whether any change is still to be sent.
    pending: bool,
    /// Whether more expectations ended than `ended` may hold.
    overflowed: bool,
}

impl Expectations {
    /// The number of expectations held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Applies an event, or an expectation of a dump (as [`Event::New`]).
    pub(super) fn apply(
        &mut self,
        event: Event,
        view: &ExpectView<'_>,
        generation: Generation,
        now_ms: u64,
    ) -> Applied {
        let Some(id) = view.id else { return Applied::NotAFlow };
        if event == Event::Destroy {
            return self.destroy(id, now_ms);
        }
        let mut bytes = Vec::new();
        if entry::encode_expect(view, &mut bytes).is_err() {
            return Applied::NotAFlow;
        }
        let check = entry::entry_check(&bytes);
        if let Some(held) = self.held.get_mut(&id) {
            held.generation = generation;
            if held.check == check {
                return Applied::Unchanged;
            }
            (held.bytes, held.check, held.changed_ms, held.pending) = (bytes.into(), check, now_ms, true);
            self.pending = true;
            return Applied::Updated;
        }
        if self.held.len() >= EXPECTATIONS_MAX {
            return Applied::Full;
        }
        let new = Expectation {
            bytes: bytes.into(),
            check,
            generation,
            since: Seconds::of(now_ms),
            changed_ms: now_ms,
            pending: true,
            sent_check: None,
        };
        self.held.insert(id, new);
        self.pending = true;
        Applied::Created
    }

    /// Removes an expectation, and queues its end if replicas hold it.
    fn destroy(&mut self, id: u32, now_ms: u64) -> Applied {
        let Some(removed) = self.held.remove(&id) else { return Applied::Unknown };
        if let Some(check) = removed.sent_check {
            self.ended_digest = self.ended_digest.wrapping_add(spread(check));
            self.pending = true;
            if self.ended.len() < EXPECTATIONS_MAX {
                self.ended.insert(id, now_ms);
            } else {
                self.overflowed = true;
            }
        }
        Applied::Destroyed
    }

    /// Removes the expectations that were not confirmed in `generation`.
    pub(super) fn purge(&mut self, generation: Generation, now_ms: u64) {
        let unconfirmed = self.held.iter().filter(|(_, held)| held.generation != generation);
        let unconfirmed: Vec<_> = unconfirmed.map(|(id, _)| *id).collect();
        for id in unconfirmed {
            self.destroy(id, now_ms);
        }
    }

    /// Whether a change is still to be sent to replicas.
    pub(super) fn has_pending(&self) -> bool {
        self.pending
    }

    /// Whether an end was dropped since the last call, so that all expectations must be sent.
    pub(super) fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    /// Writes the changes since the last call to `outbox`, ends first, and updates the digest.
    pub(super) fn send_changed(&mut self, digests: &mut Digests, outbox: &mut Outbox) {
        if !std::mem::take(&mut self.pending) {
            return;
        }
        digests.subtract(EXPECTATIONS, std::mem::take(&mut self.ended_digest));
        for (id, changed_ms) in self.ended.drain() {
            outbox.write_expect_end(id, changed_ms);
        }
        for changed in self.held.values_mut().filter(|held| held.pending) {
            changed.send(digests, outbox);
        }
    }

    /// Writes all expectations to `outbox`.
    pub(super) fn send_all(&mut self, digests: &mut Digests, outbox: &mut Outbox) {
        self.held.values_mut().for_each(|held| held.send(digests, outbox));
    }

    /// In a replica: stores an expectation, in place of the state that was held of it; returns the check of that.
    ///
    /// # Errors
    /// [`Applied::Full`] where the expectation is new and the maximum is reached.
    pub(crate) fn replace(&mut self, id: u32, bytes: &[u8], meta: EntryMeta) -> Result<Option<u32>, Applied> {
        let EntryMeta { check, generation, now_ms, changed_ms } = meta;
        let before = self.held.get(&id).map(|held| (held.check, held.since));
        if before.is_none() && self.held.len() >= EXPECTATIONS_MAX {
            return Err(Applied::Full);
        }
        let since = before.map_or(Seconds::of(now_ms), |(_, since)| since);
        let new =
            Expectation { bytes: bytes.into(), check, generation, since, changed_ms, pending: false, sent_check: None };
        self.held.insert(id, new);
        Ok(before.map(|(check, _)| check))
    }

    /// In a replica: removes an expectation; returns its check.
    pub(crate) fn remove(&mut self, id: u32) -> Option<u32> {
        self.held.remove(&id).map(|removed| removed.check)
    }

    /// In a replica: removes the expectations that were not confirmed in `generation`, and calls `purged` with the
    /// check of each.
    pub(crate) fn purge_unconfirmed(&mut self, generation: Generation, mut purged: impl FnMut(u32)) {
        let unconfirmed = self.held.extract_if(|_, held| held.generation != generation);
        unconfirmed.for_each(|(_, removed)| purged(removed.check));
    }

    /// All expectations: the encoded entry, the time it was added, and the time it last changed in milliseconds since
    /// 1970.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Seconds, u64)> {
        self.held.values().map(|held| (&*held.bytes, held.since, held.changed_ms))
    }

    /// In a replica: removes all expectations.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Expectation {
    /// Writes the expectation to `outbox`, and updates the digest.
    fn send(&mut self, digests: &mut Digests, outbox: &mut Outbox) {
        digests.replace_check(EXPECTATIONS, self.sent_check, Some(self.check));
        (self.pending, self.sent_check) = (false, Some(self.check));
        outbox.write_expect(&self.bytes, self.changed_ms);
    }
}
