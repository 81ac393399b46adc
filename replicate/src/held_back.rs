//! Batches that came before their turn.

use std::collections::BTreeMap;

use crate::limits::BATCH_OVERHEAD_BYTES;

/// Opened bodies by seq, bounded in bytes. When it is full the one farthest ahead leaves: it is asked for again last.
#[derive(Debug)]
pub(crate) struct HeldBack {
    bodies: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
    bound: usize,
}

impl HeldBack {
    pub(crate) fn new(bound: usize) -> Self {
        Self { bodies: BTreeMap::new(), bytes: 0, bound }
    }

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

    /// The batch `seq`, if it is the first one here.
    pub(crate) fn pop_seq(&mut self, seq: u64) -> Option<Box<[u8]>> {
        let first = self.bodies.first_entry().filter(|first| *first.key() == seq)?;
        let body = first.remove();
        self.bytes -= charged_bytes(&body);
        Some(body)
    }

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

    /// The seqs held, ascending.
    pub(crate) fn seqs(&self) -> impl Iterator<Item = u64> + '_ {
        self.bodies.keys().copied()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

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
