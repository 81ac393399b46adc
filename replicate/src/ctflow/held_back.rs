//! Batches that arrived ahead of a gap in their stream.

use std::collections::BTreeMap;

use crate::ctflow::limits::BATCH_OVERHEAD_BYTES;

/// Opened bodies by seq, bounded in bytes. When it is full, the body of the greatest seq is dropped: that batch is
/// requested again last.
#[derive(Debug)]
pub(crate) struct HeldBack {
    bodies: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
    bound: usize,
}

impl HeldBack {
    /// Creates an empty set that holds at most `bound` bytes.
    pub(crate) fn new(bound: usize) -> Self {
        Self { bodies: BTreeMap::new(), bytes: 0, bound }
    }

    /// Inserts the body of batch `seq`; drops the greatest seqs while the bound is exceeded.
    pub(crate) fn insert(&mut self, seq: u64, body: &[u8]) {
        self.bytes += charged_bytes(body);
        if let Some(before) = self.bodies.insert(seq, body.into()) {
            self.bytes -= charged_bytes(&before);
        }
        while self.bytes > self.bound
            && let Some((_, body)) = self.bodies.pop_last()
        {
            self.bytes -= charged_bytes(&body);
        }
    }

    /// Removes and returns the body of batch `seq`, if that is the lowest seq held.
    pub(crate) fn pop_seq(&mut self, seq: u64) -> Option<Box<[u8]>> {
        let first = self.bodies.first_entry().filter(|first| *first.key() == seq)?;
        let body = first.remove();
        self.bytes -= charged_bytes(&body);
        Some(body)
    }

    /// Drops all bodies of seqs below `seq`.
    pub(crate) fn drop_before(&mut self, seq: u64) {
        while let Some(first) = self.bodies.first_entry().filter(|first| *first.key() < seq) {
            self.bytes -= charged_bytes(&first.remove());
        }
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.bodies.contains_key(&seq)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    /// The seqs held, in ascending order.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> + '_ {
        self.bodies.keys().copied()
    }

    /// The bytes charged for all bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The bytes that a body is charged: its own, and the overhead of keeping it.
fn charged_bytes(body: &[u8]) -> usize {
    body.len() + BATCH_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_the_seq_farthest_ahead() {
        let mut held = HeldBack::new(2 * charged_bytes(&[0; 10]));
        for seq in [5, 9, 7] {
            held.insert(seq, &[0; 10]);
        }
        assert_eq!(held.seqs().collect::<Vec<_>>(), [5, 7]);
        assert!(held.pop_seq(7).is_none() && held.pop_seq(5).is_some());
        held.drop_before(8);
        assert!(held.is_empty() && held.bytes() == 0);
    }
}
