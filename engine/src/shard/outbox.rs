//! Batches on their way from a shard to the replication stage.
//!
//! Items are written to the open batch. A full batch is closed and waits until the stage receives it. The ledger checks
//! [`Outbox::has_room`] before it writes a change or a bucket, and it writes a bucket whole. So at most
//! [`OUTBOX_BATCHES`] batches wait, plus those of one bucket or of the expectations.

use std::collections::VecDeque;

use ctflow_parser::tuple::FlowKey;
use ctflow_replicate::{BatchWriter, Payload, WriteError};

use crate::limits::OUTBOX_BATCHES;

/// The batches of one stream that the replication stage has not received yet.
#[derive(Debug)]
pub struct Outbox {
    stream: u16,
    datagram_bytes: usize,
    /// The time for the next batches, in milliseconds since 1970.
    now_ms: u64,
    /// The batch that items are written to.
    open: Option<BatchWriter>,
    /// The batches that are complete.
    closed: VecDeque<Payload>,
    /// Items that fit no batch or could not be encoded, since they were last read.
    unencodable: u64,
}

impl Outbox {
    /// An empty outbox of `stream`, for datagrams of at most `datagram_bytes` bytes.
    #[must_use]
    pub fn new(stream: u16, datagram_bytes: usize) -> Self {
        Self { stream, datagram_bytes, now_ms: 0, open: None, closed: VecDeque::new(), unencodable: 0 }
    }

    /// Sets the time of the batches that are started from now on, in milliseconds since 1970.
    pub(crate) fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// The time of the batches that are started from now on, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Whether more items may be written now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.closed.len() < OUTBOX_BATCHES
    }

    /// Whether no batch waits, neither open nor closed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.open.is_none()
    }

    /// Closes the open batch, however few items it has.
    pub fn close(&mut self) {
        if let Some(writer) = self.open.take().filter(|writer| !writer.is_empty()) {
            self.closed.push_back(writer.finish());
        }
    }

    /// Removes and returns the oldest closed batch.
    pub fn pop(&mut self) -> Option<Payload> {
        self.closed.pop_front()
    }

    /// Inserts a batch at the front again that could not be passed on.
    pub(crate) fn push_front(&mut self, payload: Payload) {
        self.closed.push_front(payload);
    }

    /// The number of items that fit no batch or could not be encoded since the last call.
    pub(crate) fn take_unencodable(&mut self) -> u64 {
        std::mem::take(&mut self.unencodable)
    }

    /// Counts an item that could not be encoded and was therefore not written.
    pub(super) fn count_unencodable(&mut self) {
        self.unencodable += 1;
    }

    /// Writes an encoded flow that changed at `changed_ms`, in milliseconds since 1970.
    pub(super) fn write_flow(&mut self, family: u8, entry: &[u8], changed_ms: u64) {
        self.write_item(|batch| batch.push_flow(family, entry, changed_ms));
    }

    /// Writes the end of a flow, at `changed_ms`, in milliseconds since 1970.
    pub(super) fn write_flow_end(&mut self, key: &FlowKey, id: u32, changed_ms: u64) {
        self.write_item(|batch| batch.push_flow_end(key, id, changed_ms));
    }

    /// Writes an encoded expectation that changed at `changed_ms`, in milliseconds since 1970.
    pub(super) fn write_expect(&mut self, entry: &[u8], changed_ms: u64) {
        self.write_item(|batch| batch.push_expect(entry, changed_ms));
    }

    /// Writes the end of an expectation, at `changed_ms`, in milliseconds since 1970.
    pub(super) fn write_expect_end(&mut self, id: u32, changed_ms: u64) {
        self.write_item(|batch| batch.push_expect_end(id, changed_ms));
    }

    /// Writes the begin of a bucket that is sent whole: replicas mark its entries.
    pub(super) fn write_bucket_begin(&mut self, bucket: u16) {
        self.write_item(|batch| batch.push_bucket_begin(bucket));
    }

    /// Writes the end of a bucket that is sent whole: replicas purge the entries that are still marked.
    pub(super) fn write_bucket_end(&mut self, bucket: u16) {
        self.write_item(|batch| batch.push_bucket_end(bucket));
    }

    /// Writes all digests under `number`, in as many items as needed.
    pub(super) fn write_digests(&mut self, number: u64, digests: &[u64]) {
        let mut first = 0u16;
        while let Some(rest) = digests.get(usize::from(first)..).filter(|rest| !rest.is_empty()) {
            let mut written = 0;
            self.write_item(|batch| {
                written = batch.push_digests(number, first, rest)?;
                Ok(())
            });
            if written == 0 {
                return; // does not happen: an empty batch has room for one digest
            }
            first += written;
        }
    }

    /// Writes an item to the open batch; where that is full, closes it and writes the item to a new batch.
    fn write_item(&mut self, mut item: impl FnMut(&mut BatchWriter) -> Result<(), WriteError>) {
        for _ in 0..2 {
            let fresh = || BatchWriter::new(self.stream, self.now_ms, self.datagram_bytes);
            match item(self.open.get_or_insert_with(fresh)) {
                Ok(()) => return,
                Err(WriteError::NoRoom) => self.close(),
                Err(WriteError::NotEncodable(_)) => break,
            }
        }
        self.count_unencodable();
    }
}
