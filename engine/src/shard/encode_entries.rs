//! A bucket as those who watch get it: each entry with a head that says where it is from and since when.

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_replicate::buckets::EXPECTATIONS;
use ctflow_replicate::entry;

use super::expectations::Expectations;
use super::stamp::Seconds;
use super::table::Table;
use crate::server::frame::{ENTRY_HEAD_BYTES, EntryHead};

/// Writes the entries of a bucket.
pub(super) struct EntryEncoder<'o> {
    pub(super) stream: u16,
    pub(super) now_ms: u64,
    pub(super) out: &'o mut Vec<u8>,
}

impl EntryEncoder<'_> {
    pub(super) fn encode_bucket(&mut self, bucket: u16, v4: &Table<V4>, v6: &Table<V6>, expectations: &Expectations) {
        if bucket == EXPECTATIONS {
            self.encode_expectations(expectations);
        } else {
            self.encode_flows(v4, bucket);
            self.encode_flows(v6, bucket);
        }
    }

    fn encode_flows<A: Address>(&mut self, table: &Table<A>, bucket: u16) {
        table.bucket_indices(bucket).for_each(|index| self.encode_flow(table, index));
    }

    /// Writes the flow at a place, if there is one.
    pub(super) fn encode_flow<A: Address>(&mut self, table: &Table<A>, index: u32) {
        let Some((slot, view)) = table.slot(index).zip(table.view(index)) else { return };
        let start = self.start_entry(A::FAMILY, slot.since, slot.changed.time_ms(self.now_ms));
        let written = entry::encode_flow(&view, self.out);
        self.finish_entry(start, written.is_ok());
    }

    pub(super) fn encode_expectations(&mut self, expectations: &Expectations) {
        for (bytes, since, changed_ms) in expectations.iter() {
            let start = self.start_entry(0, since, changed_ms);
            self.out.extend_from_slice(bytes);
            self.finish_entry(start, true);
        }
    }

    /// Writes a head with no length yet; gives where it begins.
    fn start_entry(&mut self, family: u8, since: Seconds, changed_ms: u64) -> usize {
        let start = self.out.len();
        let head = EntryHead { family, stream: self.stream, since_ms: since.time_ms(), changed_ms };
        self.out.extend_from_slice(&head.encode(0));
        start
    }

    /// Fills in the length, or takes back what cannot be told.
    fn finish_entry(&mut self, start: usize, written: bool) {
        let body = start + ENTRY_HEAD_BYTES;
        let length = u16::try_from(self.out.len().saturating_sub(body)).ok().filter(|_| written);
        match (length, self.out.get_mut(body - 2..body)) {
            (Some(length), Some(place)) => place.copy_from_slice(&length.to_be_bytes()),
            _ => self.out.truncate(start),
        }
    }
}
