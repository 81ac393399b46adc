//! The sending half of a stream: the seqs of what was sent, and what the stream's shard is scheduled to send.
//!
//! The source keeps no plan for any peer. A peer's acknowledgement names its position and what it is missing. From
//! these and from the seqs recorded here the source derives what to send; what is already in flight is not sent again.

use crate::ctflow::batch::Payload;
use crate::model::buckets::{BUCKETS_ALL, BucketSet};

/// One stream of this node.
#[derive(Debug)]
pub(crate) struct SourceStream {
    number: u16,
    /// The seq of the newest batch; 0 before the first.
    pub(crate) newest: u64,
    /// The bytes that all sealed batches so far were charged in the resend queue.
    pub(crate) charged_bytes: u64,
    /// The number of flows, expectations and ends sent so far.
    pub(crate) entries: u64,
    /// The last seq that touched each bucket.
    touched: [u64; BUCKETS_ALL],
    /// The last seq that holds the begin of each bucket.
    started: [u64; BUCKETS_ALL],
    /// The last seq with digests.
    digests: u64,
    /// The buckets that the shard is scheduled to send and whose begin was not sent yet.
    scheduled: BucketSet,
    /// The number under which the shard is scheduled to send digests, while none of them were sent.
    digests_scheduled: Option<u64>,
}

impl SourceStream {
    /// Creates stream `number`, in which nothing was sent.
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

    /// Starts again at seq 1, for a raised epoch. What the shard is scheduled to send stays scheduled.
    pub(crate) fn restart(&mut self) {
        let (scheduled, digests_scheduled) = (self.scheduled, self.digests_scheduled);
        *self = Self { scheduled, digests_scheduled, ..Self::new(self.number) };
    }

    /// Assigns the next seq to a batch, records what the batch holds, and returns the seq.
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

    /// The number of buckets that the shard is scheduled to send and whose begin was not sent yet.
    pub(crate) fn scheduled(&self) -> u32 {
        self.scheduled.count()
    }

    /// Returns all buckets touched by the batch `seq` or a later one.
    pub(crate) fn touched_since(&self, seq: u64) -> BucketSet {
        (0..).zip(self.touched).filter(|(_, touched)| *touched >= seq).map(|(bucket, _)| bucket).collect()
    }

    /// Returns which of `buckets`, wanted by a peer whose next seq is `next`, are to be scheduled now: those that are
    /// neither scheduled already nor begun in a batch that the peer has not applied yet. They count as scheduled.
    pub(crate) fn schedule_wanted(&mut self, buckets: &BucketSet, next: u64) -> BucketSet {
        let in_flight =
            (0..).zip(self.started).filter(|(_, started)| *started >= next).map(|(bucket, _)| bucket).collect();
        let added = buckets.intersection(&BucketSet::all_of(self.number)).without(&self.scheduled).without(&in_flight);
        self.scheduled = self.scheduled.union(&added);
        added
    }

    /// Whether digests are to be scheduled now, for a peer that wants them first and whose next seq is `next`: none are
    /// in flight to it or scheduled. If so, they count as scheduled.
    pub(crate) fn schedule_digests_for(&mut self, next: u64) -> bool {
        self.digests < next && self.schedule_digests(0)
    }

    /// Whether digests are to be scheduled now under `number`: not before some of the earlier ones were sent. If so,
    /// they count as scheduled.
    pub(crate) fn schedule_digests(&mut self, number: u64) -> bool {
        let free = self.digests_scheduled.is_none();
        if free {
            self.digests_scheduled = Some(number);
        }
        free
    }
}

/// Records `seq` for `bucket`. A number past the array is no bucket of any stream and is ignored.
fn record_seq(seqs: &mut [u64; BUCKETS_ALL], bucket: u16, seq: u64) {
    if let Some(slot) = seqs.get_mut(usize::from(bucket)) {
        *slot = seq;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctflow::batch::BatchWriter;

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
        assert_eq!(stream.schedule_wanted(&set(&[1, 2]), 1), set(&[]), "its begin is in flight to the peer");
        assert_eq!(
            stream.schedule_wanted(&set(&[1, 2]), 2),
            set(&[1]),
            "the peer applied its begin and still wants it"
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
        assert!(!stream.schedule_digests_for(1), "they are in flight to that peer");
        assert!(stream.schedule_digests_for(2) && !stream.schedule_digests_for(2));
    }
}
