//! Batches that came before their turn.

use std::collections::BTreeMap;

use crate::limits::BATCH_OVERHEAD_BYTES;

/// Opened bodies by seq, bounded in bytes. When it is full the one farthest ahead leaves: it is asked for again last.
#[derive(Debug)]
pub(crate) struct Held {
    bodies: BTreeMap<u64, Box<[u8]>>,
    bytes: usize,
    bound: usize,
}

impl Held {
    pub(crate) fn new(bound: usize) -> Self {
        Self { bodies: BTreeMap::new(), bytes: 0, bound }
    }

    pub(crate) fn put(&mut self, seq: u64, body: &[u8]) {
        self.bytes += charge(body);
        if let Some(before) = self.bodies.insert(seq, body.into()) {
            self.bytes -= charge(&before);
        }
        while self.bytes > self.bound
            && let Some((_, body)) = self.bodies.pop_last()
        {
            self.bytes -= charge(&body);
        }
    }

    /// The batch `seq`, if it is the first one here.
    pub(crate) fn take(&mut self, seq: u64) -> Option<Box<[u8]>> {
        let first = self.bodies.first_entry().filter(|first| *first.key() == seq)?;
        let body = first.remove();
        self.bytes -= charge(&body);
        Some(body)
    }

    pub(crate) fn drop_before(&mut self, seq: u64) {
        while let Some(first) = self.bodies.first_entry().filter(|first| *first.key() < seq) {
            self.bytes -= charge(&first.remove());
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

fn charge(body: &[u8]) -> usize {
    body.len() + BATCH_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_ahead_leaves_when_it_is_full() {
        let mut held = Held::new(2 * charge(&[0; 10]));
        for seq in [5, 9, 7] {
            held.put(seq, &[0; 10]);
        }
        assert_eq!(held.seqs().collect::<Vec<_>>(), [5, 7]);
        assert!(held.take(7).is_none() && held.take(5).is_some());
        held.drop_before(8);
        assert!(held.is_empty() && held.bytes() == 0);
    }
}
