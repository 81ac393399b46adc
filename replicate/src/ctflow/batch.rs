//! The writer of a batch, which a shard fills with items.
//!
//! ```text
//! 0        32         40                       datagram bytes − tag
//! header   HLC time   items …                  room for the tag
//! ```
//!
//! The writer leaves room for the header and the tag. Sealing fills both in place, so the buffer that a worker writes
//! is the datagram that is sent.

use ctflow_parser::tuple::FlowKey;
use ctflow_parser::uapi::AF_INET;
use thiserror::Error;

use crate::ctflow::item::kind;
use crate::ctflow::limits::{DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN};
use crate::ctflow::seal::TAG_BYTES;
use crate::ctflow::wire::HEADER_BYTES;
use crate::cursor::Put;
use crate::model::buckets::{BucketSet, EXPECTATIONS, bucket_of};
use crate::model::entry::{self, NotEncodable};

/// The bytes before the first item: header and HLC time.
pub const HEADROOM_BYTES: usize = HEADER_BYTES + 8;

/// A finished batch, as a shard passes it to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The stream of the batch.
    pub stream: u16,
    /// Its HLC time in milliseconds since 1970; the ages of its items count back from it.
    pub time_ms: u64,
    /// The unsealed datagram: room for the header, the HLC time, the items.
    pub bytes: Vec<u8>,
    /// The buckets of its entries, begins and ends.
    pub buckets_touched: BucketSet,
    /// The buckets whose begin it holds.
    pub buckets_started: BucketSet,
    /// The number of its digests; `None` if it holds none.
    pub digests_number: Option<u64>,
    /// The number of flows, expectations and ends of either that it holds.
    pub entries: u32,
    /// The time of the oldest change in it, in milliseconds since 1970.
    pub changed_ms_oldest: u64,
}

/// Why an item was not written. The items written before it stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WriteError {
    /// The batch is full: finish it, and write the item to the next one.
    #[error("the batch is full")]
    NoRoom,
    /// The protocol cannot express the item, in this batch or any other.
    #[error(transparent)]
    NotEncodable(#[from] NotEncodable),
}

/// Writes items to a batch of bounded length.
#[derive(Debug)]
pub struct BatchWriter {
    payload: Payload,
    /// The length of `payload.bytes` at which the batch is full.
    bytes_max: usize,
    /// Holds the body of a flow's end while it is encoded.
    scratch: Vec<u8>,
}

impl BatchWriter {
    /// Starts a batch of `stream` at `time_ms` (HLC, milliseconds since 1970). Its sealed datagram has at most
    /// `datagram_bytes`, which are clamped to the protocol's bounds.
    #[must_use]
    pub fn new(stream: u16, time_ms: u64, datagram_bytes: usize) -> Self {
        let datagram_bytes = datagram_bytes.clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX);
        let mut bytes = Vec::with_capacity(datagram_bytes);
        bytes.resize(HEADER_BYTES, 0);
        bytes.put_u64(time_ms);
        let payload = Payload {
            stream,
            time_ms,
            bytes,
            buckets_touched: BucketSet::EMPTY,
            buckets_started: BucketSet::EMPTY,
            digests_number: None,
            entries: 0,
            changed_ms_oldest: time_ms,
        };
        Self { payload, bytes_max: datagram_bytes - TAG_BYTES, scratch: Vec::new() }
    }

    /// Whether no item was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload.bytes.len() == HEADROOM_BYTES
    }

    /// The bytes left for items.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.payload.bytes.len())
    }

    /// Appends a flow of `family` in its newest state, in canonical form ([`entry::encode_flow`]), changed at
    /// `changed_ms`.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`]; [`WriteError::NotEncodable`] if `flow` is too short for a flow.
    pub fn push_flow(&mut self, family: u8, flow: &[u8], changed_ms: u64) -> Result<(), WriteError> {
        let id = entry::flow_id(flow).ok_or(NotEncodable("no flow"))?;
        let kind = if family == AF_INET { kind::FLOW_V4 } else { kind::FLOW_V6 };
        self.push_entry(kind, bucket_of(id), flow, changed_ms)
    }

    /// Appends the end of the flow of this key and id, at `changed_ms`.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`]; [`WriteError::NotEncodable`] for a key that no flow can have.
    pub fn push_flow_end(&mut self, key: &FlowKey, id: u32, changed_ms: u64) -> Result<(), WriteError> {
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        let kind = if key.orig.src.is_ipv4() { kind::FLOW_END_V4 } else { kind::FLOW_END_V6 };
        let written = match entry::encode_flow_end(key, id, &mut body) {
            Ok(()) => self.push_entry(kind, bucket_of(id), &body, changed_ms),
            Err(error) => Err(error.into()),
        };
        self.scratch = body;
        written
    }

    /// Appends an expectation in canonical form ([`entry::encode_expect`]), changed at `changed_ms`.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`].
    pub fn push_expect(&mut self, expect: &[u8], changed_ms: u64) -> Result<(), WriteError> {
        self.push_entry(kind::EXPECT, EXPECTATIONS, expect, changed_ms)
    }

    /// Appends the end of the expectation of this id, at `changed_ms`.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`].
    pub fn push_expect_end(&mut self, id: u32, changed_ms: u64) -> Result<(), WriteError> {
        self.push_entry(kind::EXPECT_END, EXPECTATIONS, &id.to_be_bytes(), changed_ms)
    }

    /// Appends an item with an age: its kind, age, length and `body`.
    fn push_entry(&mut self, kind: u8, bucket: u16, body: &[u8], changed_ms: u64) -> Result<(), WriteError> {
        let Ok(length) = u16::try_from(body.len()) else { return Err(NotEncodable("longer than an item").into()) };
        let age = self.payload.time_ms.saturating_sub(changed_ms);
        let (age_bytes, length_bytes) = (varint_bytes(age), if length < 255 { 1 } else { 3 });
        self.check_room(1 + age_bytes + length_bytes + body.len())?;
        let bytes = &mut self.payload.bytes;
        bytes.put_u8(kind);
        bytes.put_varint(age);
        match u8::try_from(length) {
            Ok(u8::MAX) | Err(_) => {
                bytes.put_u8(u8::MAX);
                bytes.put_u16(length);
            }
            Ok(length) => bytes.put_u8(length),
        }
        bytes.put_slice(body);
        self.payload.buckets_touched.insert(bucket);
        self.payload.entries += 1;
        self.payload.changed_ms_oldest = self.payload.changed_ms_oldest.min(changed_ms);
        Ok(())
    }

    /// Appends the begin of a bucket: all its entries follow, then its end.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`].
    pub fn push_bucket_begin(&mut self, bucket: u16) -> Result<(), WriteError> {
        self.push_mark(kind::BUCKET_BEGIN, bucket)?;
        self.payload.buckets_started.insert(bucket);
        Ok(())
    }

    /// Appends the end of a bucket: all its entries were sent since its begin.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`].
    pub fn push_bucket_end(&mut self, bucket: u16) -> Result<(), WriteError> {
        self.push_mark(kind::BUCKET_END, bucket)
    }

    /// Appends the begin or the end of a bucket.
    fn push_mark(&mut self, kind: u8, bucket: u16) -> Result<(), WriteError> {
        self.check_room(3)?;
        self.payload.bytes.put_u8(kind);
        self.payload.bytes.put_u16(bucket);
        self.payload.buckets_touched.insert(bucket);
        Ok(())
    }

    /// Appends the digests of the buckets from `first` on, as of this position in the stream: as many of `values` as
    /// fit. Returns their number. The next batch takes the rest, from the bucket after the last one appended, with the
    /// values as of its own position.
    ///
    /// # Errors
    /// [`WriteError::NoRoom`] if not even one fits.
    pub fn push_digests(&mut self, number: u64, first: u16, values: &[u64]) -> Result<u16, WriteError> {
        let fitting = self.room().saturating_sub(1 + 8 + 2 + 2) / 8;
        let count = u16::try_from(values.len().min(fitting)).unwrap_or(u16::MAX);
        if count == 0 {
            return Err(WriteError::NoRoom);
        }
        let bytes = &mut self.payload.bytes;
        bytes.put_u8(kind::DIGESTS);
        bytes.put_u64(number);
        bytes.put_u16(first);
        bytes.put_u16(count);
        values.iter().take(count.into()).for_each(|value| bytes.put_u64(*value));
        self.payload.digests_number = Some(number);
        Ok(count)
    }

    /// Fails if fewer than `count` bytes are left.
    fn check_room(&self, count: usize) -> Result<(), WriteError> {
        if count <= self.room() { Ok(()) } else { Err(WriteError::NoRoom) }
    }

    /// Returns the finished batch.
    #[must_use]
    pub fn finish(self) -> Payload {
        self.payload
    }
}

/// The length of `number` as a varint (LEB128), in bytes.
fn varint_bytes(number: u64) -> usize {
    (64 - (number | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctflow::item::{Item, Items};

    fn items(payload: &Payload) -> Items<'_> {
        Items::new(&payload.bytes[HEADER_BYTES..]).unwrap()
    }

    #[test]
    fn items_read_back_in_the_order_written() {
        let mut writer = BatchWriter::new(2, 1_000, 1_400);
        assert!(writer.is_empty());
        let (short, long) = ([7; 20], [9; 400]);
        writer.push_flow(AF_INET, &short, 400).unwrap();
        writer.push_bucket_begin(5).unwrap();
        writer.push_flow(10, &long, 1_000).unwrap();
        writer.push_bucket_end(5).unwrap();
        writer.push_expect(&[1; 255], 2_000).unwrap();
        writer.push_expect_end(77, 900).unwrap();
        assert_eq!(writer.push_digests(3, 250, &[11, 12]), Ok(2));
        let payload = writer.finish();
        let read: Vec<_> = items(&payload).map(Result::unwrap).collect();
        assert_eq!(read[0], Item::Flow { family: 2, entry: &short, version_ms: 400 });
        assert_eq!(read[1], Item::BucketBegin(5));
        assert_eq!(read[2], Item::Flow { family: 10, entry: &long, version_ms: 1_000 });
        assert_eq!(read[3], Item::BucketEnd(5));
        assert_eq!(
            read[4],
            Item::Expect { entry: &[1; 255], version_ms: 1_000 },
            "a change is never later than its batch"
        );
        assert_eq!(read[5], Item::ExpectEnd { id: 77, version_ms: 900 });
        let Item::Digests(digests) = read[6] else { panic!("{:?}", read[6]) };
        assert_eq!((digests.number, digests.iter().collect::<Vec<_>>()), (3, vec![(250, 11), (251, 12)]));
        let flow_bucket = |bytes| bucket_of(entry::flow_id(bytes).unwrap());
        let touched = [5, EXPECTATIONS, flow_bucket(&short), flow_bucket(&long)];
        assert_eq!(payload.buckets_touched, touched.into_iter().collect());
        assert_eq!((payload.buckets_started, payload.entries), ([5].into_iter().collect(), 4));
        assert_eq!((payload.digests_number, payload.changed_ms_oldest), (Some(3), 400));
    }

    #[test]
    fn a_full_batch_refuses_an_item_and_keeps_the_earlier_ones() {
        let mut writer = BatchWriter::new(0, 0, 0);
        let mut count = 0;
        while writer.push_flow(AF_INET, &[1; 100], 0).is_ok() {
            count += 1;
        }
        let payload = writer.finish();
        assert_eq!(count, (DATAGRAM_BYTES_MIN - HEADROOM_BYTES - TAG_BYTES) / 103);
        assert_eq!(items(&payload).filter(Result::is_ok).count(), count);
        assert!(payload.bytes.len() + TAG_BYTES <= payload.bytes.capacity(), "sealing needs no reallocation");
    }

    #[test]
    fn digests_that_do_not_fit_go_into_the_next_batch() {
        let values = [1; 257];
        let (mut first, mut parts) = (0, 0);
        while usize::from(first) < values.len() {
            let mut writer = BatchWriter::new(0, 0, DATAGRAM_BYTES_MIN);
            first += writer.push_digests(1, first, &values[first.into()..]).unwrap();
            parts += 1;
        }
        assert_eq!((first, parts), (257, 2));
    }

    #[test]
    fn an_unknown_item_ends_the_batch_with_an_error() {
        let mut writer = BatchWriter::new(0, 0, 1_400);
        writer.push_bucket_begin(1).unwrap();
        let mut payload = writer.finish();
        payload.bytes.extend([99, 0, 0, 16, 0, 1]);
        let read: Vec<_> = items(&payload).collect();
        assert!(read[0].is_ok() && read[1].is_err() && read.len() == 2);
    }

    #[test]
    fn varint_bytes_is_the_encoded_length() {
        for (number, bytes) in [(0, 1), (127, 1), (128, 2), (u64::MAX, 10)] {
            assert_eq!(varint_bytes(number), bytes);
        }
    }
}
