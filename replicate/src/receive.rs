//! The receiving half of a stream: what came of it, what is missing, and which buckets of its replica are sure.
//!
//! ```text
//!            next                 newest
//!  applied ──┤ gap │ held │ gap │ held ├──► not told yet
//! ```
//!
//! A bucket is *known* when it is neither *unknown* nor *refused*. It becomes known at its end, if nothing of it was
//! skipped since its begin (it is *under way* until then), or at a digest that is the same.

use crate::batch::HEADROOM_BYTES;
use crate::buckets::{BUCKETS_ALL, BucketSet, EXPECTATIONS, bucket_of};
use crate::control::{Gap, Verdict};
use crate::cursor::Malformed;
use crate::entry::{self, entry_check};
use crate::held_back::HeldBack;
use crate::host::{Entry, Replica, ReplicaId};
use crate::item::{Digests, Item, Items};
use crate::limits::{
    ACK_BATCHES, ACK_MS, GAP_REPEAT_MS, GAPS_PER_ACK, MALFORMED_PAUSE_MS, REORDER_WINDOW_MS, WANT_REPEAT_MS,
};
use crate::mode::Mode;

/// What was counted of one stream's replication here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiveCounters {
    /// Batches applied.
    pub batches: u64,
    /// Flows, expectations and ends applied.
    pub entries: u64,
    /// Bytes of batches applied.
    pub bytes: u64,
    /// Batches that came again.
    pub duplicates: u64,
    /// Times that a batch came before its turn; in the modes without resending, batches that never came.
    pub missed: u64,
    /// Times that the source went on past what it no longer keeps.
    pub skips: u64,
    /// Batches that did not parse.
    pub malformed: u64,
    /// Entries that there was no room for.
    pub refused: u64,
    /// Entries purged.
    pub purged: u64,
}

/// What came of some batches, for their peer to be told and for the log.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) verdicts: Vec<Verdict>,
    /// The seq of a batch that did not parse.
    pub(crate) malformed_seq: Option<u64>,
    pub(crate) replica_full: bool,
}

/// One stream of a peer in one epoch.
#[derive(Debug)]
pub(crate) struct ReceiveStream {
    pub(crate) id: ReplicaId,
    mode: Mode,
    /// The next seq to apply; 0 until the first heads.
    pub(crate) next: u64,
    /// The newest seq known of.
    pub(crate) newest: u64,
    held: HeldBack,
    /// Not sure of these.
    unknown: BucketSet,
    /// Of the unknown, those to be compared before they are wanted.
    compare_first: BucketSet,
    /// Begun and not ended.
    in_progress: BucketSet,
    /// Something of these had no room.
    refused: BucketSet,
    comparison: Option<Comparison>,
    /// Batches since the last acknowledgement.
    unacknowledged: u32,
    /// When the next acknowledgement is due, monotonic.
    pub(crate) ack_due: Option<u64>,
    /// Until when nothing is wanted.
    want_after_ms: u64,
    /// HLC time of the last batch applied.
    pub(crate) time_ms: u64,
    /// The last comparison that was asked for by an operator.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) counters: ReceiveCounters,
}

/// A comparison whose digests come in parts.
#[derive(Debug)]
struct Comparison {
    number: u64,
    next_bucket: u16,
    digest: u64,
    differing: BucketSet,
}

impl ReceiveStream {
    /// A stream of which nothing came yet. With `digests_first` its replica holds something that may still be right.
    pub(crate) fn new(id: ReplicaId, mode: Mode, held_back_bytes: usize, digests_first: bool) -> Self {
        let all = BucketSet::all_of(id.stream);
        Self {
            id,
            mode,
            next: 0,
            newest: 0,
            held: HeldBack::new(held_back_bytes),
            unknown: all,
            compare_first: if digests_first { all } else { BucketSet::EMPTY },
            in_progress: BucketSet::EMPTY,
            refused: BucketSet::EMPTY,
            comparison: None,
            unacknowledged: 0,
            ack_due: None,
            want_after_ms: 0,
            time_ms: 0,
            verdict: None,
            counters: ReceiveCounters::default(),
        }
    }

    /// Whether the batch `seq` is worth opening. One that is not may mean that an acknowledgement was lost.
    pub(crate) fn is_missing(&mut self, now_ms: u64, seq: u64) -> bool {
        let begun = self.next != 0 || !self.mode.acknowledges();
        if begun && seq >= self.next && !self.held.contains(seq) {
            return true;
        }
        if begun {
            self.counters.duplicates += 1;
            self.schedule_ack(now_ms, ACK_MS);
        }
        false
    }

    /// Takes a batch that was lacking, and what was held back behind it.
    pub(crate) fn accept_batch(
        &mut self,
        now_ms: u64,
        seq: u64,
        body: &[u8],
        replica: &mut impl Replica,
        found: &mut Outcome,
    ) {
        if !self.mode.acknowledges() {
            self.accept_newer(now_ms, seq, body, replica, found);
            return;
        }
        self.newest = self.newest.max(seq);
        self.unacknowledged += 1;
        if seq == self.next {
            self.apply_batch(now_ms, body, replica, found);
            self.apply_held_back(now_ms, replica, found);
        } else {
            self.counters.missed += u64::from(self.held.is_empty());
            self.held.insert(seq, body);
        }
        let within = if self.unacknowledged >= ACK_BATCHES {
            0
        } else if self.newest >= self.next {
            REORDER_WINDOW_MS
        } else {
            ACK_MS
        };
        self.schedule_ack(now_ms, within);
    }

    /// Without resending: a batch newer than the last is applied, whatever is missing before it.
    fn accept_newer(&mut self, now_ms: u64, seq: u64, body: &[u8], replica: &mut impl Replica, found: &mut Outcome) {
        if self.next != 0 && seq > self.next {
            self.counters.missed += seq - self.next;
            self.in_progress = BucketSet::EMPTY; // what was lost may have confirmed something: nothing is purged
            self.comparison = None;
        }
        self.next = seq;
        self.newest = seq;
        self.apply_batch(now_ms, body, replica, found);
    }

    /// Applies what was held back and is no longer behind a gap.
    fn apply_held_back(&mut self, now_ms: u64, replica: &mut impl Replica, found: &mut Outcome) {
        while let Some(body) = self.held.pop_seq(self.next) {
            self.apply_batch(now_ms, &body, replica, found);
        }
    }

    /// Applies the batch `next`.
    fn apply_batch(&mut self, now_ms: u64, body: &[u8], replica: &mut impl Replica, found: &mut Outcome) {
        let seq = self.next;
        self.next = self.next.saturating_add(1);
        self.counters.batches += 1;
        self.counters.bytes += (body.len() + HEADROOM_BYTES) as u64;
        if self.apply_items(seq, body, replica, found).is_err() {
            self.counters.malformed += 1;
            found.malformed_seq = Some(seq);
            self.unknown = BucketSet::all_of(self.id.stream);
            (self.in_progress, self.compare_first, self.comparison) = (BucketSet::EMPTY, BucketSet::EMPTY, None);
            self.want_after_ms = now_ms + MALFORMED_PAUSE_MS;
        }
        self.want_refused_if_room(replica);
    }

    fn apply_items(
        &mut self,
        seq: u64,
        body: &[u8],
        replica: &mut impl Replica,
        found: &mut Outcome,
    ) -> Result<(), Malformed> {
        let items = Items::new(body)?;
        self.time_ms = self.time_ms.max(items.time_ms);
        replica.prefetch(items.flow_ids());
        for item in items {
            match item? {
                Item::Flow { family, entry, version_ms } => {
                    let flow = entry::decode_flow(family, entry)?;
                    let bucket = bucket_of(flow.id.unwrap_or(0));
                    let entry = Entry { bucket, bytes: entry, check: entry_check(entry), version_ms };
                    let full = replica.insert_flow(&flow, &entry).is_err();
                    self.count_entry(bucket, full, found);
                }
                Item::FlowEnd { family, body, .. } => {
                    let (key, id) = entry::decode_flow_end(family, body)?;
                    replica.remove_flow(bucket_of(id), &key, id);
                    self.counters.entries += 1;
                }
                Item::Expect { entry, version_ms } => {
                    let expect = entry::decode_expect(entry)?;
                    let entry = Entry { bucket: EXPECTATIONS, bytes: entry, check: entry_check(entry), version_ms };
                    let full = replica.insert_expect(&expect, &entry).is_err();
                    self.count_entry(EXPECTATIONS, full, found);
                }
                Item::ExpectEnd { id, .. } => {
                    replica.remove_expect(id);
                    self.counters.entries += 1;
                }
                Item::BucketBegin(bucket) => self.start_bucket(bucket, replica),
                Item::BucketEnd(bucket) => self.finish_bucket(bucket, replica),
                Item::Digests(digests) => self.compare_digests(seq, &digests, replica, found),
            }
        }
        Ok(())
    }

    fn count_entry(&mut self, bucket: u16, full: bool, found: &mut Outcome) {
        self.counters.entries += 1;
        if full {
            self.counters.refused += 1;
            self.refused.insert(bucket);
            found.replica_full = true;
        }
    }

    fn start_bucket(&mut self, bucket: u16, replica: &mut impl Replica) {
        // Where things expire, marks belong to the sweeps that expire them.
        if self.mode.expires() || !BucketSet::all_of(self.id.stream).contains(bucket) {
            return;
        }
        replica.mark_bucket(bucket);
        self.in_progress.insert(bucket);
        self.refused.remove(bucket);
    }

    fn finish_bucket(&mut self, bucket: u16, replica: &mut impl Replica) {
        if !self.in_progress.contains(bucket) {
            return;
        }
        self.counters.purged += replica.purge_marked(bucket);
        self.in_progress.remove(bucket);
        self.mark_known(bucket);
    }

    fn mark_known(&mut self, bucket: u16) {
        self.unknown.remove(bucket);
        self.compare_first.remove(bucket);
    }

    /// Compares the replica with its source as of here in the stream.
    fn compare_digests(&mut self, seq: u64, digests: &Digests<'_>, replica: &mut impl Replica, found: &mut Outcome) {
        let (number, all) = (digests.number, BucketSet::all_of(self.id.stream));
        let begun = Comparison { number, next_bucket: 0, digest: 0, differing: BucketSet::EMPTY };
        let mut comparing = if digests.first == 0 { Some(begun) } else { self.comparison.take() }
            .filter(|comparing| (comparing.number, comparing.next_bucket) == (number, digests.first));
        for (bucket, digest) in digests.iter().filter(|(bucket, _)| all.contains(*bucket)) {
            let same = replica.digest(bucket) == digest;
            if same {
                self.mark_known(bucket);
                self.refused.remove(bucket);
            } else {
                self.unknown.insert(bucket);
                self.compare_first.remove(bucket);
            }
            if let Some(comparing) = &mut comparing {
                comparing.next_bucket = bucket + 1;
                comparing.digest = comparing.digest.wrapping_add(digest);
                if !same {
                    comparing.differing.insert(bucket);
                }
            }
        }
        if comparing.as_ref().is_some_and(|comparing| u32::from(comparing.next_bucket) < all.count()) {
            self.comparison = comparing;
        } else if let Some(Comparison { digest, differing, .. }) = comparing.filter(|_| number != 0) {
            let (stream, entries) = (self.id.stream, replica.entries());
            let verdict = Verdict { stream, number, seq, entries, digest, differing };
            self.verdict = Some(verdict);
            found.verdicts.push(verdict);
        }
    }

    /// Once there is room again, what had none is unknown. A bucket under way stays refused, or its end would make it
    /// known without what was refused since its begin.
    pub(crate) fn want_refused_if_room(&mut self, replica: &impl Replica) {
        if !self.refused.is_empty() && replica.has_room() {
            self.unknown = self.unknown.union(&self.refused.without(&self.in_progress));
            self.refused = self.refused.intersection(&self.in_progress);
        }
    }

    /// The source's newest seq. The first one says where the stream begins here.
    pub(crate) fn on_heads(&mut self, now_ms: u64, newest: u64) {
        if !self.mode.acknowledges() {
            return;
        }
        if self.next == 0 {
            self.next = newest.saturating_add(1);
        }
        self.newest = self.newest.max(newest);
        self.schedule_ack(now_ms, 0);
    }

    /// The source no longer keeps what is before `go_on`; what it touched in `buckets` is unknown.
    pub(crate) fn on_skip(
        &mut self,
        now_ms: u64,
        go_on: u64,
        buckets: &BucketSet,
        replica: &mut impl Replica,
        found: &mut Outcome,
    ) {
        if self.next == 0 || go_on <= self.next {
            return;
        }
        self.counters.skips += 1;
        self.next = go_on;
        self.newest = self.newest.max(go_on - 1);
        self.held.drop_before(go_on);
        let buckets = buckets.intersection(&BucketSet::all_of(self.id.stream));
        self.unknown = self.unknown.union(&buckets);
        self.in_progress = self.in_progress.without(&buckets);
        self.comparison = None;
        self.apply_held_back(now_ms, replica, found);
        self.schedule_ack(now_ms, 0);
    }

    /// Makes all of it unknown: it is asked for again.
    pub(crate) fn mark_all_unknown(&mut self, now_ms: u64) {
        self.unknown = BucketSet::all_of(self.id.stream);
        (self.in_progress, self.compare_first, self.refused) = (BucketSet::EMPTY, BucketSet::EMPTY, BucketSet::EMPTY);
        self.comparison = None;
        self.schedule_ack(now_ms, 0);
    }

    /// Purges what of `bucket` was not told since this was last called, and marks the rest; where things expire.
    pub(crate) fn sweep_bucket(&mut self, bucket: u16, replica: &mut impl Replica) {
        if BucketSet::all_of(self.id.stream).contains(bucket) {
            self.counters.purged += replica.purge_marked(bucket);
            replica.mark_bucket(bucket);
        }
    }

    fn schedule_ack(&mut self, now_ms: u64, within_ms: u64) {
        if self.next != 0 && self.mode.acknowledges() {
            let due = now_ms + within_ms;
            self.ack_due = Some(self.ack_due.map_or(due, |earlier| earlier.min(due)));
        }
    }

    /// Notes that an acknowledgement was sent, and when the next is due if nothing else happens.
    pub(crate) fn on_ack_sent(&mut self, now_ms: u64) {
        self.unacknowledged = 0;
        let gap = (self.newest >= self.next).then_some(GAP_REPEAT_MS);
        let want = (!self.unknown.is_empty()).then_some(WANT_REPEAT_MS);
        self.ack_due = gap.or(want).map(|wait_ms| now_ms + wait_ms);
    }

    /// The seqs that are missing, ascending, as many as an acknowledgement names.
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut from = self.next;
        for seq in self.held.seqs().chain([self.newest.saturating_add(1)]) {
            if seq > from && gaps.len() < GAPS_PER_ACK {
                gaps.push(Gap { from, to: seq - 1 });
            }
            from = from.max(seq.saturating_add(1));
        }
        gaps
    }

    /// The buckets to ask for, and whether their digests are to come first.
    pub(crate) fn wanted_buckets(&self, now_ms: u64) -> Option<(BucketSet, bool)> {
        if now_ms < self.want_after_ms {
            return None;
        }
        let waiting = self.in_progress.union(&self.refused);
        let (compare, unknown) = (self.compare_first.without(&waiting), self.unknown.without(&waiting));
        if !compare.is_empty() {
            return Some((compare, true));
        }
        (!unknown.is_empty()).then_some((unknown, false))
    }

    /// Buckets that are not known.
    pub(crate) fn unknown(&self) -> BucketSet {
        self.unknown.union(&self.refused)
    }

    /// Whether all is known that there is room for.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.unknown.without(&self.refused).is_empty()
    }

    /// Whether a bucket told whole has begun to come, or came.
    pub(crate) fn has_bulk_started(&self) -> bool {
        !self.in_progress.is_empty() || self.unknown != BucketSet::all_of(self.id.stream)
    }

    /// Bytes of batches held back.
    pub(crate) fn held_back_bytes(&self) -> usize {
        self.held.bytes()
    }
}

const _: () = assert!(BUCKETS_ALL == EXPECTATIONS as usize + 1);

#[cfg(test)]
mod tests;
