//! The sending half of a stream: what was told in it, and what its shard was asked to tell.
//!
//! No plan for any peer is kept. A peer's acknowledgement says where it is and what it lacks; from that, and from the seqs
//! noted here, follows what there is to do: nothing that is already on its way is told again.

use crate::batch::Payload;
use crate::buckets::{BUCKETS_ALL, BucketSet};

/// One stream of this node.
#[derive(Debug)]
pub(crate) struct SourceStream {
    number: u16,
    /// The last seq told; 0 before the first.
    pub(crate) newest: u64,
    /// What the sealed batches told so far were charged in the resend queue.
    pub(crate) charged_bytes: u64,
    /// Flows, expectations and ends told so far.
    pub(crate) entries: u64,
    /// The last seq that touched each bucket.
    touched: [u64; BUCKETS_ALL],
    /// The last seq in which each bucket began.
    started: [u64; BUCKETS_ALL],
    /// The last seq with digests.
    digests: u64,
    /// Buckets asked of the shard whose begin was not told yet.
    scheduled: BucketSet,
    /// Digests asked of the shard under this number, none of which were told yet.
    digests_scheduled: Option<u64>,
}

impl SourceStream {
    pub(crate) fn new(number: u16) -> Self {
        Self {
            number,
            newest: 0,
            charged_bytes: 0,
            entries: 0,
            touched: [0; BUCKETS_ALL],
            started: [0; BUCKETS_ALL],
            digests: 0,
            scheduled: BucketSet::EMPTY,
            digests_scheduled: None,
        }
    }

    /// Begins anew under another epoch. What was asked of the shard is still to come.
    pub(crate) fn restart(&mut self) {
        let (asked, digests_asked) = (self.scheduled, self.digests_scheduled);
        *self = Self { scheduled: asked, digests_scheduled: digests_asked, ..Self::new(self.number) };
    }

    /// Notes what the next batch holds; returns its seq.
    pub(crate) fn append_batch(&mut self, payload: &Payload) -> u64 {
        self.newest += 1;
        self.entries += u64::from(payload.entries);
        for bucket in payload.buckets_touched.iter() {
            record_seq(&mut self.touched, bucket, self.newest);
        }
        for bucket in payload.buckets_started.iter() {
            record_seq(&mut self.started, bucket, self.newest);
        }
        self.scheduled = self.scheduled.without(&payload.buckets_started);
        if payload.digests_number.is_some() {
            self.digests = self.newest;
            self.digests_scheduled = None;
        }
        self.newest
    }

    /// Buckets asked of the shard whose begin was not told yet.
    pub(crate) fn scheduled(&self) -> u32 {
        self.scheduled.count()
    }

    /// All buckets touched by the batch `seq` or a later one.
    pub(crate) fn touched_since(&self, seq: u64) -> BucketSet {
        (0..).zip(self.touched).filter(|(_, touched)| *touched >= seq).map(|(bucket, _)| bucket).collect()
    }

    /// Of the buckets that a peer wants whose next seq is `next`, those to ask of the shard now: neither asked for
    /// already nor begun in a batch that the peer has not come to. They count as asked.
    pub(crate) fn schedule_wanted(&mut self, buckets: &BucketSet, next: u64) -> BucketSet {
        let under_way = (0..).zip(self.started).filter(|(_, begun)| *begun >= next).map(|(bucket, _)| bucket).collect();
        let ask = buckets.intersection(&BucketSet::all_of(self.number)).without(&self.scheduled).without(&under_way);
        self.scheduled = self.scheduled.union(&ask);
        ask
    }

    /// Whether to ask the shard for its digests, for a peer that wants them first and whose next seq is `next`. They then
    /// count as asked.
    pub(crate) fn schedule_digests_for(&mut self, next: u64) -> bool {
        self.digests < next && self.schedule_digests(0)
    }

    /// Whether to ask the shard for its digests under `number`: not before those asked for earlier were told.
    pub(crate) fn schedule_digests(&mut self, number: u64) -> bool {
        let free = self.digests_scheduled.is_none();
        if free {
            self.digests_scheduled = Some(number);
        }
        free
    }
}

/// A bucket's number is below the array's length; one that is not would belong to no stream.
fn record_seq(seqs: &mut [u64; BUCKETS_ALL], bucket: u16, seq: u64) {
    if let Some(place) = seqs.get_mut(usize::from(bucket)) {
        *place = seq;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchWriter;

    fn batch(write: impl FnOnce(&mut BatchWriter)) -> Payload {
        let mut writer = BatchWriter::new(0, 0, 0);
        write(&mut writer);
        writer.finish()
    }

    fn set(buckets: &[u16]) -> BucketSet {
        buckets.iter().copied().collect()
    }

    #[test]
    fn a_bucket_is_scheduled_once_and_not_while_in_flight() {
        let mut stream = SourceStream::new(0);
        assert_eq!(stream.schedule_wanted(&set(&[1, 2]), 1), set(&[1, 2]));
        assert_eq!(stream.schedule_wanted(&set(&[1, 2, 256]), 1), set(&[256]));
        stream.append_batch(&batch(|writer| writer.push_bucket_begin(1).unwrap()));
        assert_eq!(stream.schedule_wanted(&set(&[1, 2]), 1), set(&[]), "its begin is still before the peer");
        assert_eq!(
            stream.schedule_wanted(&set(&[1, 2]), 2),
            set(&[1]),
            "the peer came past its begin and lacks it still"
        );
    }

    #[test]
    fn only_stream_0_has_expectations() {
        assert_eq!(SourceStream::new(1).schedule_wanted(&set(&[5, 256]), 1), set(&[5]));
    }

    #[test]
    fn touched_since_returns_the_buckets_of_later_batches() {
        let mut stream = SourceStream::new(0);
        for bucket in [3, 4, 5] {
            stream.append_batch(&batch(|writer| writer.push_bucket_end(bucket).unwrap()));
        }
        assert_eq!(stream.touched_since(2), set(&[4, 5]));
        stream.restart();
        assert_eq!((stream.newest, stream.touched_since(1)), (0, set(&[])));
    }

    #[test]
    fn digests_in_flight_serve_every_peer_before_them() {
        let mut stream = SourceStream::new(0);
        assert!(stream.schedule_digests_for(1) && !stream.schedule_digests_for(1) && !stream.schedule_digests(7));
        stream.append_batch(&batch(|writer| {
            writer.push_digests(0, 0, &[0; 2]).unwrap();
        }));
        assert!(!stream.schedule_digests_for(1), "they are on their way to that one");
        assert!(stream.schedule_digests_for(2) && !stream.schedule_digests_for(2));
    }
}
