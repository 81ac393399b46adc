//! Batches on their way from a shard to the replication stage.
//!
//! Items are written to the batch that is open; a full one is closed and waits for the stage to take it. The bound is on
//! when to begin: [`Outbox::has_room`] is asked before a change or a bucket is told, and a bucket is told as one, so what
//! waits is at most the bound and one bucket, or the expectations.

use std::collections::VecDeque;

use ctflow_parser::tuple::FlowKey;
use ctflow_replicate::batch::{BatchWriter, Payload, WriteError};

use crate::limits::OUTBOX_BATCHES;

/// The batches of one stream that nobody has taken yet.
#[derive(Debug)]
pub struct Outbox {
    stream: u16,
    datagram_bytes: usize,
    now_ms: u64,
    open: Option<BatchWriter>,
    closed: VecDeque<Payload>,
    /// Items that no batch can hold.
    unencodable: u64,
}

impl Outbox {
    /// An empty one of `stream`, for datagrams of at most `datagram_bytes`.
    #[must_use]
    pub fn new(stream: u16, datagram_bytes: usize) -> Self {
        Self { stream, datagram_bytes, now_ms: 0, open: None, closed: VecDeque::new(), unencodable: 0 }
    }

    /// Batches that are begun from here on are as of `now_ms`, milliseconds since 1970.
    pub fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// The time that batches are as of.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Whether more may be told now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.closed.len() < OUTBOX_BATCHES
    }

    /// Whether nothing waits to be taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.open.is_none()
    }

    /// Closes the batch that is open, however little is in it.
    pub fn close(&mut self) {
        if let Some(writer) = self.open.take().filter(|writer| !writer.is_empty()) {
            self.closed.push_back(writer.finish());
        }
    }

    /// The next batch, in order.
    pub fn pop(&mut self) -> Option<Payload> {
        self.closed.pop_front()
    }

    /// Puts a batch back that could not be handed on.
    pub fn push_front(&mut self, payload: Payload) {
        self.closed.push_front(payload);
    }

    /// Items that no batch could hold since the last call.
    pub fn take_unencodable(&mut self) -> u64 {
        std::mem::take(&mut self.unencodable)
    }

    pub(super) fn write_flow(&mut self, family: u8, entry: &[u8], changed_ms: u64) {
        self.write_item(|batch| batch.push_flow(family, entry, changed_ms));
    }

    pub(super) fn write_flow_end(&mut self, key: &FlowKey, id: u32, changed_ms: u64) {
        self.write_item(|batch| batch.push_flow_end(key, id, changed_ms));
    }

    pub(super) fn write_expect(&mut self, entry: &[u8], changed_ms: u64) {
        self.write_item(|batch| batch.push_expect(entry, changed_ms));
    }

    pub(super) fn write_expect_end(&mut self, id: u32, changed_ms: u64) {
        self.write_item(|batch| batch.push_expect_end(id, changed_ms));
    }

    pub(super) fn write_bucket_begin(&mut self, bucket: u16) {
        self.write_item(|batch| batch.push_bucket_begin(bucket));
    }

    pub(super) fn write_bucket_end(&mut self, bucket: u16) {
        self.write_item(|batch| batch.push_bucket_end(bucket));
    }

    pub(super) fn write_digests(&mut self, number: u64, digests: &[u64]) {
        let mut first = 0u16;
        while let Some(rest) = digests.get(usize::from(first)..).filter(|rest| !rest.is_empty()) {
            let mut told = 0;
            self.write_item(|batch| {
                told = batch.push_digests(number, first, rest)?;
                Ok(())
            });
            if told == 0 {
                return; // an empty batch has room for one at least
            }
            first += told;
        }
    }

    /// Writes an item to the open batch, or to a new one where that is full.
    fn write_item(&mut self, mut item: impl FnMut(&mut BatchWriter) -> Result<(), WriteError>) {
        for _ in 0..2 {
            let fresh = || BatchWriter::new(self.stream, self.now_ms, self.datagram_bytes);
            match item(self.open.get_or_insert_with(fresh)) {
                Ok(()) => return,
                Err(WriteError::NoRoom) => self.close(),
                Err(WriteError::NotEncodable(_)) => break,
            }
        }
        self.unencodable += 1;
    }
}
