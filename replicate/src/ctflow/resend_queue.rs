//! Sealed batches that a peer may still request. One bound in bytes holds for all streams of the node; when it is
//! exceeded, the oldest batches of any stream are evicted first.
//!
//! In each stream the kept batches are consecutive and end with the newest one, or none is kept.

use std::collections::VecDeque;

use crate::ctflow::limits::BATCH_OVERHEAD_BYTES;

/// One sealed batch in the resend queue.
#[derive(Debug)]
pub(crate) struct KeptBatch {
    seq: u64,
    /// The position among the batches of all streams; an older batch has a lower one.
    order: u64,
    /// The bytes that the stream's sealed batches before it were charged.
    pub(crate) bytes_before: u64,
    /// The time when it was sent first, monotonic; when it was queued if no peer was live.
    pub(crate) queued_ms: u64,
    /// The sealed datagram.
    pub(crate) datagram: Vec<u8>,
}

impl KeptBatch {
    /// The bytes that it counts against the bound: its buffer, and the overhead of keeping it.
    fn charged_bytes(&self) -> usize {
        self.datagram.capacity() + BATCH_OVERHEAD_BYTES
    }
}

/// The resend queue.
#[derive(Debug)]
pub(crate) struct ResendQueue {
    streams: Vec<VecDeque<KeptBatch>>,
    bytes: usize,
    bound: usize,
    order: u64,
    /// The number of batches evicted to stay within the bound.
    pub(crate) evicted: u64,
}

impl ResendQueue {
    /// Creates a queue for `streams` streams that holds at most `bound` bytes.
    pub(crate) fn new(streams: u16, bound: usize) -> Self {
        let streams = (0..streams).map(|_| VecDeque::new()).collect();
        Self { streams, bytes: 0, bound, order: 0, evicted: 0 }
    }

    /// Appends the newest batch of `stream`, and returns the bytes that it is charged. A batch larger than the bound is
    /// not kept.
    pub(crate) fn push(
        &mut self,
        stream: u16,
        seq: u64,
        bytes_before: u64,
        queued_ms: u64,
        mut datagram: Vec<u8>,
    ) -> usize {
        // Workers write into buffers of a whole datagram; at a low rate of changes most of each buffer would be kept
        // empty.
        if datagram.len() < datagram.capacity() / 2 {
            datagram.shrink_to_fit();
        }
        let kept = KeptBatch { seq, order: self.order, bytes_before, queued_ms, datagram };
        self.order += 1;
        let charge = kept.charged_bytes();
        self.bytes += charge;
        if let Some(queue) = self.streams.get_mut(usize::from(stream)) {
            queue.push_back(kept);
        }
        while self.bytes > self.bound && self.evict() {}
        charge
    }

    /// Drops the oldest batch of all streams; returns whether there was one.
    fn evict(&mut self) -> bool {
        let order = |queue: &VecDeque<KeptBatch>| queue.front().map_or(u64::MAX, |kept| kept.order);
        let oldest = self.streams.iter_mut().min_by_key(|queue| order(queue));
        let Some(kept) = oldest.and_then(VecDeque::pop_front) else { return false };
        self.bytes -= kept.charged_bytes();
        self.evicted += 1;
        true
    }

    /// Drops the batches of `stream` before `next`.
    pub(crate) fn drop_before(&mut self, stream: u16, next: u64) {
        let Some(queue) = self.streams.get_mut(usize::from(stream)) else { return };
        while let Some(kept) = queue.pop_front_if(|kept| kept.seq < next) {
            self.bytes -= kept.charged_bytes();
        }
    }

    /// Drops all batches of `stream`.
    pub(crate) fn clear(&mut self, stream: u16) {
        self.drop_before(stream, u64::MAX);
    }

    /// The oldest seq kept of `stream`; `None` if none is.
    pub(crate) fn oldest(&self, stream: u16) -> Option<u64> {
        self.queue(stream)?.front().map(|kept| kept.seq)
    }

    /// The batch `seq` of `stream`, if it is kept.
    pub(crate) fn get(&self, stream: u16, seq: u64) -> Option<&KeptBatch> {
        let queue = self.queue(stream)?;
        let index = seq.checked_sub(queue.front()?.seq)?;
        queue.get(usize::try_from(index).ok()?)
    }

    fn queue(&self, stream: u16) -> Option<&VecDeque<KeptBatch>> {
        self.streams.get(usize::from(stream))
    }

    /// The bytes charged for all kept batches.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 100 + BATCH_OVERHEAD_BYTES;

    fn push(resend: &mut ResendQueue, stream: u16, seq: u64) {
        resend.push(stream, seq, (seq - 1) * 100, 0, vec![0; 100]);
    }

    #[test]
    fn the_oldest_batch_of_any_stream_is_evicted_first() {
        let mut resend = ResendQueue::new(2, 4 * BYTES);
        for (stream, seq) in [(0, 1), (1, 1), (0, 2), (0, 3), (1, 2), (0, 4)] {
            push(&mut resend, stream, seq);
            assert!(resend.bytes() <= 4 * BYTES);
        }
        assert_eq!((resend.oldest(0), resend.oldest(1), resend.evicted), (Some(2), Some(2), 2));
        assert!(resend.get(0, 1).is_none() && resend.get(0, 4).is_some() && resend.get(0, 5).is_none());
    }

    #[test]
    fn dropping_acknowledged_batches_frees_their_bytes() {
        let mut resend = ResendQueue::new(1, 10 * BYTES);
        (1..=5).for_each(|seq| push(&mut resend, 0, seq));
        resend.drop_before(0, 4);
        assert_eq!((resend.oldest(0), resend.bytes()), (Some(4), 2 * BYTES));
        resend.clear(0);
        assert_eq!((resend.oldest(0), resend.bytes()), (None, 0));
    }

    #[test]
    fn a_batch_over_the_bound_is_not_kept() {
        let mut resend = ResendQueue::new(1, 50);
        push(&mut resend, 0, 1);
        assert_eq!((resend.oldest(0), resend.bytes()), (None, 0));
    }
}
