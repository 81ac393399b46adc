//! Entries in the form of the control socket: a head with the entry's stream and times, then the encoded entry.

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_replicate::buckets::EXPECTATIONS;
use ctflow_replicate::entry;

use super::expectations::Expectations;
use super::stamp::Seconds;
use super::table::Table;
use crate::server::frame::{ENTRY_HEAD_BYTES, EntryHead};

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
