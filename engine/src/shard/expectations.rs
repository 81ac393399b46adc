//! The expectations of a shard, or of a replica: few, short-lived, and kept as they are told.
//!
//! An expectation is known by the kernel's id. It is kept in its encoded form: nobody looks into it until it is shown
//! or committed.

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

#[derive(Debug)]
struct Expectation {
    bytes: Box<[u8]>,
    check: u32,
    generation: Generation,
    since: Seconds,
    changed_ms: u64,
    /// Replicas have not been told of it as it is.
    pending: bool,
    /// Replicas know it.
    sent_check: Option<u32>,
}

/// Expectations by their id.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    held: HashMap<u32, Expectation>,
    /// Those that are gone and that replicas hold.
    ended: HashMap<u32, u64>,
    /// The digest of those that are gone and that replicas hold.
    ended_digest: u64,
    /// Anything is to be told.
    pending: bool,
    /// More ended than is kept in mind.
    overflowed: bool,
}

impl Expectations {
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Takes in an event, or an expectation that a dump shows.
    pub(super) fn apply(&mut self, event: Event, view: &ExpectView<'_>, mark: Generation, now_ms: u64) -> Applied {
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
            held.generation = mark;
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
            generation: mark,
            since: Seconds::of(now_ms),
            changed_ms: now_ms,
            pending: true,
            sent_check: None,
        };
        self.held.insert(id, new);
        self.pending = true;
        Applied::Created
    }

    fn destroy(&mut self, id: u32, now_ms: u64) -> Applied {
        let Some(gone) = self.held.remove(&id) else { return Applied::Unknown };
        if let Some(told) = gone.sent_check {
            self.ended_digest = self.ended_digest.wrapping_add(spread(told));
            self.pending = true;
            if self.ended.len() < EXPECTATIONS_MAX {
                self.ended.insert(id, now_ms);
            } else {
                self.overflowed = true;
            }
        }
        Applied::Destroyed
    }

    /// Removes what `mark` does not confirm.
    pub(super) fn purge(&mut self, mark: Generation, now_ms: u64) {
        let gone: Vec<_> = self.held.iter().filter(|(_, one)| one.generation != mark).map(|(id, _)| *id).collect();
        for id in gone {
            self.destroy(id, now_ms);
        }
    }

    /// Whether replicas are to be told anything.
    pub(super) fn has_pending(&self) -> bool {
        self.pending
    }

    /// Whether more ended than was kept in mind, so that all have to be told; says so once.
    pub(super) fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    /// Tells what has changed since the last time, and brings their digest up to it.
    pub(super) fn send_changed(&mut self, digests: &mut Digests, outbox: &mut Outbox) {
        if !std::mem::take(&mut self.pending) {
            return;
        }
        digests.subtract(EXPECTATIONS, std::mem::take(&mut self.ended_digest));
        for (id, changed_ms) in self.ended.drain() {
            outbox.write_expect_end(id, changed_ms);
        }
        for one in self.held.values_mut().filter(|one| one.pending) {
            one.send(digests, outbox);
        }
    }

    /// Tells all of them.
    pub(super) fn send_all(&mut self, digests: &mut Digests, outbox: &mut Outbox) {
        self.held.values_mut().for_each(|one| one.send(digests, outbox));
    }

    /// In a replica: puts an expectation in, in place of what was here of it; gives the check of that.
    ///
    /// # Errors
    /// [`Applied::Full`].
    pub(crate) fn replace(&mut self, id: u32, bytes: &[u8], told: EntryMeta) -> Result<Option<u32>, Applied> {
        let EntryMeta { check, generation: mark, now_ms, changed_ms } = told;
        let before = self.held.get(&id).map(|one| (one.check, one.since));
        if before.is_none() && self.held.len() >= EXPECTATIONS_MAX {
            return Err(Applied::Full);
        }
        let since = before.map_or(Seconds::of(now_ms), |(_, since)| since);
        let new = Expectation {
            bytes: bytes.into(),
            check,
            generation: mark,
            since,
            changed_ms,
            pending: false,
            sent_check: None,
        };
        self.held.insert(id, new);
        Ok(before.map(|(check, _)| check))
    }

    /// In a replica: removes an expectation; gives its check.
    pub(crate) fn remove(&mut self, id: u32) -> Option<u32> {
        self.held.remove(&id).map(|one| one.check)
    }

    /// In a replica: removes those that `mark` does not confirm; each one's check goes to `purged`.
    pub(crate) fn purge_unconfirmed(&mut self, mark: Generation, mut purged: impl FnMut(u32)) {
        self.held.extract_if(|_, one| one.generation != mark).for_each(|(_, one)| purged(one.check));
    }

    /// All of them, encoded, with the time since which each is here, and when it changed.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Seconds, u64)> {
        self.held.values().map(|one| (&*one.bytes, one.since, one.changed_ms))
    }

    /// Forgets all of them, and tells nobody.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Expectation {
    fn send(&mut self, digests: &mut Digests, outbox: &mut Outbox) {
        digests.replace_check(EXPECTATIONS, self.sent_check, Some(self.check));
        (self.pending, self.sent_check) = (false, Some(self.check));
        outbox.write_expect(&self.bytes, self.changed_ms);
    }
}
