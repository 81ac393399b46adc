//! The receiving half of a stream: which batches were applied, which are missing, and which buckets of the replica are
//! known.
//!
//! ```text
//!            next                 newest
//!  applied ──┤ gap │ held │ gap │ held ├──► not sent yet
//! ```
//!
//! A bucket is *known*, that is, the same as at the source, when it is neither *unknown* nor *refused*. It becomes
//! known at its end, if none of its changes were skipped since its begin (until then it is *in progress*), or at an
//! equal digest.

use crate::ctflow::control::{Gap, Verdict};
use crate::ctflow::held_back::HeldBack;
use crate::ctflow::item::{Digests, Item, Items};
use crate::ctflow::limits::{
    ACK_BATCHES, ACK_MS, GAP_REPEAT_MS, GAPS_PER_ACK, MALFORMED_PAUSE_MS, REORDER_WINDOW_MS, WANT_REPEAT_MS,
};
use crate::cursor::Malformed;
use crate::model::buckets::{BUCKETS_ALL, BucketSet, EXPECTATIONS, bucket_of};
use crate::model::entry::{self, entry_check};
use crate::model::host::{Entry, Replica, ReplicaId};
use crate::model::mode::Mode;
use crate::model::status::ReceiveCounters;

/// The results of applied batches that the peer or the log is to receive.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The verdicts on finished comparisons.
    pub(crate) verdicts: Vec<Verdict>,
    /// The seq of a batch that did not parse.
    pub(crate) malformed_seq: Option<u64>,
    /// Whether the replica had no room for an entry.
    pub(crate) replica_full: bool,
}

/// One stream of a peer in one epoch.
#[derive(Debug)]
pub(crate) struct ReceiveStream {
    pub(crate) id: ReplicaId,
    mode: Mode,
    /// The next seq to apply; 0 before the first heads.
    pub(crate) next: u64,
    /// The newest seq that the source is known to have sent.
    pub(crate) newest: u64,
    held: HeldBack,
    /// The buckets that may differ from the source.
    unknown: BucketSet,
    /// The unknown buckets that are to be compared by their digests before they are wanted.
    compare_first: BucketSet,
    /// The buckets whose begin was applied and whose end was not.
    in_progress: BucketSet,
    /// The buckets of which the replica had no room for an entry.
    refused: BucketSet,
    /// The comparison whose digests were received in part.
    comparison: Option<Comparison>,
    /// Batches since the last acknowledgement.
    unacknowledged: u32,
    /// The time when the next acknowledgement is due, monotonic.
    pub(crate) ack_due: Option<u64>,
    /// The time before which no bucket is wanted, monotonic.
    want_after_ms: u64,
    /// The latest HLC time of the batches applied, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// The verdict on the last comparison that an operator requested.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) counters: ReceiveCounters,
}

/// A comparison whose digests arrive in several items.
#[derive(Debug)]
struct Comparison {
    number: u64,
    /// The bucket after the last one compared.
    next_bucket: u16,
    /// The sum of the source's digests so far, modulo 2^64.
    digest: u64,
    differing: BucketSet,
}

impl ReceiveStream {
    /// Creates a stream of which nothing was received. `digests_first` is set if its replica holds entries that may
    /// still be correct.
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

    /// Whether the batch `seq` is missing, so that it is worth decrypting. A duplicate is counted and acknowledged
    /// again: the source may have resent it because an acknowledgement was lost.
    pub(crate) fn is_missing(&mut self, now_ms: u64, seq: u64) -> bool {
        // Before the first heads the position of the stream is not known, and no batch can be accepted.
        let started = self.next != 0 || !self.mode.acknowledges();
        if started && seq >= self.next && !self.held.contains(seq) {
            return true;
        }
        if started {
            self.counters.duplicates += 1;
            self.schedule_ack(now_ms, ACK_MS);
        }
        false
    }

    /// Accepts a missing batch. The next one in order is applied, with those held back behind it; a later one is held
    /// back.
    pub(crate) fn accept_batch(
        &mut self,
        now_ms: u64,
        seq: u64,
        body: &[u8],
        replica: &mut impl Replica,
        outcome: &mut Outcome,
    ) {
        if !self.mode.acknowledges() {
            self.accept_newer(now_ms, seq, body, replica, outcome);
            return;
        }
        self.newest = self.newest.max(seq);
        self.unacknowledged += 1;
        if seq == self.next {
            self.apply_batch(now_ms, body, replica, outcome);
            self.apply_held_back(now_ms, replica, outcome);
        } else {
            self.counters.missed += u64::from(self.held.is_empty());
            self.held.insert(seq, body);
        }
        let within = if self.unacknowledged >= ACK_BATCHES {
            0
        } else if self.newest >= self.next {
            REORDER_WINDOW_MS // the missing batch may be on its way, behind this one
        } else {
            ACK_MS
        };
        self.schedule_ack(now_ms, within);
    }

    /// Applies a batch that is newer than the last one, in the modes without resending: batches missing before it are
    /// only counted.
    fn accept_newer(&mut self, now_ms: u64, seq: u64, body: &[u8], replica: &mut impl Replica, outcome: &mut Outcome) {
        if self.next != 0 && seq > self.next {
            self.counters.missed += seq - self.next;
            // A lost batch may have confirmed entries, so the ends of the buckets in progress must purge nothing.
            self.in_progress = BucketSet::EMPTY;
            self.comparison = None;
        }
        self.next = seq;
        self.newest = seq;
        self.apply_batch(now_ms, body, replica, outcome);
    }

    /// Applies the batches that were held back and are next in order now.
    fn apply_held_back(&mut self, now_ms: u64, replica: &mut impl Replica, outcome: &mut Outcome) {
        while let Some(body) = self.held.pop_seq(self.next) {
            self.apply_batch(now_ms, &body, replica, outcome);
        }
    }

    /// Applies the batch `next`. After a malformed one all buckets are unknown.
    fn apply_batch(&mut self, now_ms: u64, body: &[u8], replica: &mut impl Replica, outcome: &mut Outcome) {
        let seq = self.next;
        self.next = self.next.saturating_add(1);
        if self.apply_items(seq, body, replica, outcome).is_err() {
            self.counters.malformed += 1;
            outcome.malformed_seq = Some(seq);
            self.unknown = BucketSet::all_of(self.id.stream);
            (self.in_progress, self.compare_first, self.comparison) = (BucketSet::EMPTY, BucketSet::EMPTY, None);
            self.want_after_ms = now_ms + MALFORMED_PAUSE_MS;
        }
        self.want_refused_if_room(replica);
    }

    /// Applies the items of a batch up to the first one that does not parse.
    fn apply_items(
        &mut self,
        seq: u64,
        body: &[u8],
        replica: &mut impl Replica,
        outcome: &mut Outcome,
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
                    self.count_entry(bucket, full, outcome);
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
                    self.count_entry(EXPECTATIONS, full, outcome);
                }
                Item::ExpectEnd { id, .. } => {
                    replica.remove_expect(id);
                    self.counters.entries += 1;
                }
                Item::BucketBegin(bucket) => self.start_bucket(bucket, replica),
                Item::BucketEnd(bucket) => self.finish_bucket(bucket, replica),
                Item::Digests(digests) => self.compare_digests(seq, &digests, replica, outcome),
            }
        }
        Ok(())
    }

    /// Counts an entry, and records that the replica had no room for it if it is `full`.
    fn count_entry(&mut self, bucket: u16, full: bool, outcome: &mut Outcome) {
        self.counters.entries += 1;
        if full {
            self.counters.refused += 1;
            self.refused.insert(bucket);
            outcome.replica_full = true;
        }
    }

    /// Applies the begin of a bucket: its entries are marked until they are sent again.
    fn start_bucket(&mut self, bucket: u16, replica: &mut impl Replica) {
        // In alarm mode only the sweeps may mark entries: they purge what stays marked for a cache timeout.
        if self.mode.expires() || !BucketSet::all_of(self.id.stream).contains(bucket) {
            return;
        }
        replica.mark_bucket(bucket);
        self.in_progress.insert(bucket);
        self.refused.remove(bucket);
    }

    /// Applies the end of a bucket: entries still marked are purged, and the bucket is known. Without its begin, or
    /// with a gap or a skip since then, the end is ignored: entries may be marked although the source sent them.
    fn finish_bucket(&mut self, bucket: u16, replica: &mut impl Replica) {
        if !self.in_progress.contains(bucket) {
            return;
        }
        self.counters.purged += replica.purge_marked(bucket);
        self.in_progress.remove(bucket);
        self.mark_known(bucket);
    }

    /// Marks a bucket as the same as at the source.
    fn mark_known(&mut self, bucket: u16) {
        self.unknown.remove(bucket);
        self.compare_first.remove(bucket);
    }

    /// Compares the replica with the digests of its source, both as of this position in the stream. A verdict results
    /// once all buckets were compared under a number other than 0.
    fn compare_digests(&mut self, seq: u64, digests: &Digests<'_>, replica: &mut impl Replica, outcome: &mut Outcome) {
        let (number, all) = (digests.number, BucketSet::all_of(self.id.stream));
        let started = Comparison { number, next_bucket: 0, digest: 0, differing: BucketSet::EMPTY };
        let mut comparison = if digests.first == 0 { Some(started) } else { self.comparison.take() }
            .filter(|comparison| (comparison.number, comparison.next_bucket) == (number, digests.first));
        for (bucket, digest) in digests.iter().filter(|(bucket, _)| all.contains(*bucket)) {
            let same = replica.digest(bucket) == digest;
            if same {
                self.mark_known(bucket);
                self.refused.remove(bucket);
            } else {
                self.unknown.insert(bucket);
                self.compare_first.remove(bucket);
            }
            if let Some(comparison) = &mut comparison {
                comparison.next_bucket = bucket + 1;
                comparison.digest = comparison.digest.wrapping_add(digest);
                if !same {
                    comparison.differing.insert(bucket);
                }
            }
        }
        if comparison.as_ref().is_some_and(|comparison| u32::from(comparison.next_bucket) < all.count()) {
            self.comparison = comparison;
        } else if let Some(Comparison { digest, differing, .. }) = comparison.filter(|_| number != 0) {
            let (stream, entries) = (self.id.stream, replica.entries());
            let verdict = Verdict { stream, number, seq, entries, digest, differing };
            self.verdict = Some(verdict);
            outcome.verdicts.push(verdict);
        }
    }

    /// Makes refused buckets unknown once the replica has room again. A bucket in progress stays refused: otherwise its
    /// end would make it known without the entries refused since its begin.
    pub(crate) fn want_refused_if_room(&mut self, replica: &impl Replica) {
        if !self.refused.is_empty() && replica.has_room() {
            self.unknown = self.unknown.union(&self.refused.without(&self.in_progress));
            self.refused = self.refused.intersection(&self.in_progress);
        }
    }

    /// Handles the newest seq of the source. The first one is the position after which the stream starts here.
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

    /// Handles a skip: the source no longer keeps the batches before `resume_at`. The stream continues there, and the
    /// buckets touched by those batches, `buckets`, are unknown.
    pub(crate) fn on_skip(
        &mut self,
        now_ms: u64,
        resume_at: u64,
        buckets: &BucketSet,
        replica: &mut impl Replica,
        outcome: &mut Outcome,
    ) {
        if self.next == 0 || resume_at <= self.next {
            return;
        }
        self.counters.skips += 1;
        self.next = resume_at;
        self.newest = self.newest.max(resume_at - 1);
        self.held.drop_before(resume_at);
        let buckets = buckets.intersection(&BucketSet::all_of(self.id.stream));
        self.unknown = self.unknown.union(&buckets);
        self.in_progress = self.in_progress.without(&buckets);
        self.comparison = None;
        self.apply_held_back(now_ms, replica, outcome);
        self.schedule_ack(now_ms, 0);
    }

    /// Makes all buckets unknown, so that they are wanted again.
    pub(crate) fn mark_all_unknown(&mut self, now_ms: u64) {
        self.unknown = BucketSet::all_of(self.id.stream);
        (self.in_progress, self.compare_first, self.refused) = (BucketSet::EMPTY, BucketSet::EMPTY, BucketSet::EMPTY);
        self.comparison = None;
        self.schedule_ack(now_ms, 0);
    }

    /// Purges the entries of `bucket` that were not sent since the last sweep, and marks the rest. For alarm mode.
    pub(crate) fn sweep_bucket(&mut self, bucket: u16, replica: &mut impl Replica) {
        if BucketSet::all_of(self.id.stream).contains(bucket) {
            self.counters.purged += replica.purge_marked(bucket);
            replica.mark_bucket(bucket);
        }
    }

    /// Makes an acknowledgement due in `within_ms` milliseconds, if none is due earlier.
    fn schedule_ack(&mut self, now_ms: u64, within_ms: u64) {
        if self.next != 0 && self.mode.acknowledges() {
            let due = now_ms + within_ms;
            self.ack_due = Some(self.ack_due.map_or(due, |earlier| earlier.min(due)));
        }
    }

    /// Records that an acknowledgement was sent. It is repeated after a while if a gap is open or a bucket is unknown.
    pub(crate) fn on_ack_sent(&mut self, now_ms: u64) {
        self.unacknowledged = 0;
        let gap = (self.newest >= self.next).then_some(GAP_REPEAT_MS);
        let want = (!self.unknown.is_empty()).then_some(WANT_REPEAT_MS);
        self.ack_due = gap.or(want).map(|wait_ms| now_ms + wait_ms);
    }

    /// Returns the gaps in ascending order, at most [`GAPS_PER_ACK`].
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

    /// Returns the buckets to want now, and whether the source is to send its digests first; `None` if there are none
    /// to want, or shortly after a malformed batch.
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

    /// The buckets that are not known.
    pub(crate) fn unknown(&self) -> BucketSet {
        self.unknown.union(&self.refused)
    }

    /// Whether all buckets are known, except those that the replica has no room for.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.unknown.without(&self.refused).is_empty()
    }

    /// Whether a bucket is in progress, or at least one is known.
    pub(crate) fn has_bulk_started(&self) -> bool {
        !self.in_progress.is_empty() || self.unknown != BucketSet::all_of(self.id.stream)
    }

    /// The bytes of the batches held back.
    pub(crate) fn held_back_bytes(&self) -> usize {
        self.held.bytes()
    }
}

const _: () = assert!(BUCKETS_ALL == EXPECTATIONS as usize + 1);

#[cfg(test)]
mod tests;
