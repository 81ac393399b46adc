//! A bucket as those who watch get it: each entry with a head that says where it is from and since when.

use ctflow_parser::compact::{Address, V4, V6};
use ctflow_replicate::buckets::EXPECTATIONS;
use ctflow_replicate::entry;

use super::expectations::Expectations;
use super::stamp::Seconds;
use super::table::Table;
use crate::server::frame::{ENTRY_HEAD_BYTES, EntryHead};

/// Writes the entries of a bucket.
pub(super) struct Show<'o> {
    pub(super) stream: u16,
    pub(super) now_ms: u64,
    pub(super) out: &'o mut Vec<u8>,
}

impl Show<'_> {
    pub(super) fn bucket(&mut self, bucket: u16, v4: &Table<V4>, v6: &Table<V6>, expectations: &Expectations) {
        if bucket == EXPECTATIONS {
            self.expectations(expectations);
        } else {
            self.flows(v4, bucket);
            self.flows(v6, bucket);
        }
    }

    fn flows<A: Address>(&mut self, table: &Table<A>, bucket: u16) {
        table.bucket(bucket).for_each(|index| self.flow(table, index));
    }

    /// Writes the flow at a place, if there is one.
    pub(super) fn flow<A: Address>(&mut self, table: &Table<A>, index: u32) {
        let Some((slot, view)) = table.slot(index).zip(table.view(index)) else { return };
        let start = self.head(A::FAMILY, slot.since, slot.changed.time_ms(self.now_ms));
        let written = entry::encode_flow(&view, self.out);
        self.close(start, written.is_ok());
    }

    pub(super) fn expectations(&mut self, expectations: &Expectations) {
        for (bytes, since, changed_ms) in expectations.iter() {
            let start = self.head(0, since, changed_ms);
            self.out.extend_from_slice(bytes);
            self.close(start, true);
        }
    }

    /// Writes a head with no length yet; gives where it begins.
    fn head(&mut self, family: u8, since: Seconds, changed_ms: u64) -> usize {
        let start = self.out.len();
        let head = EntryHead { family, stream: self.stream, since_ms: since.time_ms(), changed_ms };
        self.out.extend_from_slice(&head.encode(0));
        start
    }

    /// Fills in the length, or takes back what cannot be told.
    fn close(&mut self, start: usize, written: bool) {
        let body = start + ENTRY_HEAD_BYTES;
        let length = u16::try_from(self.out.len().saturating_sub(body)).ok().filter(|_| written);
        match (length, self.out.get_mut(body - 2..body)) {
            (Some(length), Some(place)) => place.copy_from_slice(&length.to_be_bytes()),
            _ => self.out.truncate(start),
        }
    }
}
