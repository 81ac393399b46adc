//! Entries of a cache as other threads and the control socket get them: a head with the entry's stream and times, then
//! the encoded entry. `CONTROL.md` specifies the form.
//!
//! ```text
//! family 1 │ 0 │ stream 2 │ reserved 4 │ since 8 │ changed 8 │ length 2 │ the entry as in PROTOCOL.md
//! ```

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_replicate::buckets::EXPECTATIONS;
use ctflow_replicate::entry;
use thiserror::Error;

use super::expectations::Expectations;
use super::stamp::Seconds;
use super::table::Table;

/// The length of an entry's head, in bytes, with the length field at its end.
const ENTRY_HEAD_BYTES: usize = 24 + 2;

/// An entry is longer than the bytes that are left, usually because the other side is another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an entry is cut short")]
pub struct CutShort;

/// The head of an entry in a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHead {
    /// `AF_INET`, `AF_INET6`, or 0 for an expectation.
    pub family: u8,
    /// The stream of the entry: the number of its worker, on its source.
    pub stream: u16,
    /// The time since when this node has the entry, in milliseconds since 1970.
    pub since_ms: u64,
    /// The time of its last change on its source, in milliseconds since 1970.
    pub changed_ms: u64,
}

impl EntryHead {
    /// Encodes the head of an entry of `entry_bytes` bytes.
    #[must_use]
    pub fn encode(&self, entry_bytes: u16) -> [u8; ENTRY_HEAD_BYTES] {
        let mut bytes = [0; ENTRY_HEAD_BYTES];
        let (head, length) = bytes.split_at_mut(ENTRY_HEAD_BYTES - 2);
        length.copy_from_slice(&entry_bytes.to_be_bytes());
        let [s0, s1] = self.stream.to_be_bytes();
        let start = [self.family, 0, s0, s1, 0, 0, 0, 0];
        let fields = [start, self.since_ms.to_be_bytes(), self.changed_ms.to_be_bytes()];
        head.iter_mut().zip(fields.iter().flatten()).for_each(|(out, byte)| *out = *byte);
        bytes
    }

    /// Decodes a head. Returns it and the length of the entry that follows.
    fn decode(bytes: &[u8; ENTRY_HEAD_BYTES]) -> (Self, usize) {
        let [family, _, s0, s1, _, _, _, _, times @ .., l0, l1] = *bytes;
        let time = |at: usize| times.iter().skip(at).take(8).fold(0, |time, byte| time << 8 | u64::from(*byte));
        let head = Self { family, stream: u16::from_be_bytes([s0, s1]), since_ms: time(0), changed_ms: time(8) };
        (head, u16::from_be_bytes([l0, l1]).into())
    }
}

/// An iterator over consecutive entries, each with its head. It ends after the first entry
/// that is cut short.
#[derive(Debug, Clone)]
pub struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    /// Iterates over `payload`.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    /// Splits the next entry off; `None` when it is cut short.
    fn split_next(&mut self) -> Option<(EntryHead, &'a [u8])> {
        let (head, rest) = self.0.split_first_chunk()?;
        let (head, length) = EntryHead::decode(head);
        let (entry, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((head, entry))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(EntryHead, &'a [u8]), CutShort>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.split_next();
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry.ok_or(CutShort))
    }
}

/// Splits entries into pieces of at most `piece_bytes` bytes.
pub(crate) fn split_entries(mut entries: &[u8], piece_bytes: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let mut walk = Entries::new(entries);
        let mut bytes = 0;
        while let Some(Ok((_, entry))) = walk.next() {
            let with = bytes + ENTRY_HEAD_BYTES + entry.len();
            if with > piece_bytes {
                break;
            }
            bytes = with;
        }
        let (piece, rest) = entries.split_at_checked(bytes).filter(|(piece, _)| !piece.is_empty())?;
        entries = rest;
        Some(piece)
    })
}

/// Appends entries to a buffer.
pub(super) struct EntryEncoder<'o> {
    /// The stream that the heads name.
    pub(super) stream: u16,
    /// The current time, in milliseconds since 1970.
    pub(super) now_ms: u64,
    /// The buffer.
    pub(super) out: &'o mut Vec<u8>,
}

impl EntryEncoder<'_> {
    /// Appends the entries of `bucket`: flows of both families, or the expectations.
    pub(super) fn encode_bucket(&mut self, bucket: u16, v4: &Table<V4>, v6: &Table<V6>, expectations: &Expectations) {
        if bucket == EXPECTATIONS {
            self.encode_expectations(expectations);
        } else {
            self.encode_flows(v4, bucket);
            self.encode_flows(v6, bucket);
        }
    }

    /// Appends the flows of one family in `bucket`.
    fn encode_flows<A: Address>(&mut self, table: &Table<A>, bucket: u16) {
        table.bucket_indices(bucket).for_each(|index| self.encode_flow(table, index));
    }

    /// Appends the flow at `index`, if the slot is in use and the flow can be encoded.
    pub(super) fn encode_flow<A: Address>(&mut self, table: &Table<A>, index: u32) {
        let Some((slot, view)) = table.slot(index).zip(table.view(index)) else { return };
        let start = self.start_entry(A::FAMILY, slot.since, slot.changed.time_ms(self.now_ms));
        let encoded = entry::encode_flow(&view, self.out);
        self.finish_entry(start, encoded.is_ok());
    }

    /// Appends all expectations.
    pub(super) fn encode_expectations(&mut self, expectations: &Expectations) {
        for (bytes, since, changed_ms) in expectations.iter() {
            let start = self.start_entry(0, since, changed_ms);
            self.out.extend_from_slice(bytes);
            self.finish_entry(start, true);
        }
    }

    /// Appends a head without its length; returns the head's position in the buffer.
    fn start_entry(&mut self, family: u8, since: Seconds, changed_ms: u64) -> usize {
        let start = self.out.len();
        let head = EntryHead { family, stream: self.stream, since_ms: since.time_ms(), changed_ms };
        self.out.extend_from_slice(&head.encode(0));
        start
    }

    /// Fills in the length of the entry whose head is at `start`; where the entry was not encoded or is too long,
    /// removes it from the buffer.
    fn finish_entry(&mut self, start: usize, encoded: bool) {
        let body = start + ENTRY_HEAD_BYTES;
        let length = u16::try_from(self.out.len().saturating_sub(body)).ok().filter(|_| encoded);
        match (length, self.out.get_mut(body - 2..body)) {
            (Some(length), Some(field)) => field.copy_from_slice(&length.to_be_bytes()),
            _ => self.out.truncate(start),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::PAYLOAD_BYTES_MAX;

    fn entries(lengths: &[u16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, length) in (0..).zip(lengths) {
            let head = EntryHead { family: 10, stream: number, since_ms: 1 << 40, changed_ms: u64::MAX - 1 };
            bytes.extend_from_slice(&head.encode(*length));
            bytes.resize(bytes.len() + usize::from(*length), 7);
        }
        bytes
    }

    proptest! {
        #[test]
        fn entries_round_trip_also_when_split(lengths in prop::collection::vec(0u16.., 0..80)) {
            let bytes = entries(&lengths);
            let mut read = Vec::new();
            for piece in split_entries(&bytes, PAYLOAD_BYTES_MAX) {
                prop_assert!(piece.len() <= PAYLOAD_BYTES_MAX);
                for entry in Entries::new(piece) {
                    let (head, entry) = entry.unwrap();
                    prop_assert_eq!((usize::from(head.stream), head.since_ms), (read.len(), 1 << 40));
                    prop_assert_eq!((head.family, head.changed_ms), (10, u64::MAX - 1));
                    read.push(u16::try_from(entry.len()).unwrap());
                }
            }
            prop_assert_eq!(read, lengths);
        }

        #[test]
        fn iteration_ends_for_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let walked: Vec<_> = Entries::new(&bytes).collect();
            prop_assert!(walked.iter().rev().skip(1).all(Result::is_ok));
            prop_assert!(split_entries(&bytes, PAYLOAD_BYTES_MAX).map(<[u8]>::len).sum::<usize>() <= bytes.len());
        }
    }
}
