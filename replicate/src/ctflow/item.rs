//! The items of a batch, and their parser.
//!
//! ```text
//! flow, expectation, their ends    type 1 | age varint | length 1 or 3 | body
//! bucket begin, bucket end         type 1 | bucket 2
//! digests                          type 1 | number 8 | first bucket 2 | count 2 | 8 each
//! ```

use ctflow_parser::uapi::{AF_INET, AF_INET6};

use crate::cursor::{Malformed, Reader};
use crate::model::entry;

/// The types of items.
pub(crate) mod kind {
    pub(crate) const FLOW_V4: u8 = 1;
    pub(crate) const FLOW_V6: u8 = 2;
    pub(crate) const FLOW_END_V4: u8 = 3;
    pub(crate) const FLOW_END_V6: u8 = 4;
    pub(crate) const EXPECT: u8 = 5;
    pub(crate) const EXPECT_END: u8 = 6;
    pub(crate) const BUCKET_BEGIN: u8 = 16;
    pub(crate) const BUCKET_END: u8 = 17;
    pub(crate) const DIGESTS: u8 = 18;
}

/// One item of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A flow's newest state.
    Flow {
        /// `AF_INET` or `AF_INET6`.
        family: u8,
        /// The flow, see [`crate::model::entry::decode_flow`].
        entry: &'a [u8],
        /// Its version: the time of its last change, in milliseconds since 1970.
        version_ms: u64,
    },
    /// The end of a flow.
    FlowEnd {
        /// `AF_INET` or `AF_INET6`.
        family: u8,
        /// The key and id of the flow, see [`crate::model::entry::decode_flow_end`].
        body: &'a [u8],
        /// The time of its end, in milliseconds since 1970.
        version_ms: u64,
    },
    /// An expectation.
    Expect {
        /// The expectation, see [`crate::model::entry::decode_expect`].
        entry: &'a [u8],
        /// The time of its last change, in milliseconds since 1970.
        version_ms: u64,
    },
    /// The end of the expectation of this id.
    ExpectEnd {
        /// The kernel's id on the source.
        id: u32,
        /// The time of its end, in milliseconds since 1970.
        version_ms: u64,
    },
    /// The begin of a bucket: all its entries follow.
    BucketBegin(u16),
    /// The end of a bucket: all its entries were sent since its begin.
    BucketEnd(u16),
    /// The digests of some buckets, as of this position in the stream.
    Digests(Digests<'a>),
}

/// The digests of consecutive buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests<'a> {
    /// The number of the verification that they were requested for; 0 if they are only to find buckets that are the
    /// same.
    pub number: u64,
    /// The first bucket of the digests.
    pub first: u16,
    values: &'a [u8],
}

impl Digests<'_> {
    /// Iterates over each bucket and its digest.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (self.first..).zip(self.values.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes)))
    }
}

/// The items of a batch, in order; the iterator ends after the first error.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    reader: Reader<'a>,
    /// The batch's HLC time, in milliseconds since 1970; the ages of its items count back from it.
    pub time_ms: u64,
}

impl<'a> Items<'a> {
    /// Starts to read the items of a decrypted batch body.
    ///
    /// # Errors
    /// A body without an HLC time.
    pub fn new(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let time_ms = reader.u64()?;
        Ok(Self { reader, time_ms })
    }

    /// Iterates over family and id of each flow and each end of a flow, up to the first item that does not parse.
    pub(crate) fn flow_ids(&self) -> impl Iterator<Item = (u8, u32)> + use<'a> {
        let id = |item| match item {
            Item::Flow { family, entry, .. } => Some((family, entry::flow_id(entry)?)),
            Item::FlowEnd { family, body, .. } => Some((family, entry::flow_end_id(body)?)),
            _ => None,
        };
        self.clone().map_while(Result::ok).filter_map(id)
    }

    /// Reads the next item.
    fn read_item(&mut self) -> Result<Item<'a>, Malformed> {
        let kind = self.reader.u8()?;
        match kind {
            kind::BUCKET_BEGIN => return self.reader.u16().map(Item::BucketBegin),
            kind::BUCKET_END => return self.reader.u16().map(Item::BucketEnd),
            kind::DIGESTS => {
                let (number, first, count) = (self.reader.u64()?, self.reader.u16()?, self.reader.u16()?);
                let values = self.reader.bytes(usize::from(count) * 8)?;
                return Ok(Item::Digests(Digests { number, first, values }));
            }
            _ => {}
        }
        let version_ms = self.time_ms.saturating_sub(self.reader.varint()?);
        let body = self.reader.long_bytes()?;
        Ok(match kind {
            kind::FLOW_V4 => Item::Flow { family: AF_INET, entry: body, version_ms },
            kind::FLOW_V6 => Item::Flow { family: AF_INET6, entry: body, version_ms },
            kind::FLOW_END_V4 => Item::FlowEnd { family: AF_INET, body, version_ms },
            kind::FLOW_END_V6 => Item::FlowEnd { family: AF_INET6, body, version_ms },
            kind::EXPECT => Item::Expect { entry: body, version_ms },
            kind::EXPECT_END => Item::ExpectEnd { id: Reader::new(body).u32()?, version_ms },
            _ => return Err(self.reader.malformed()),
        })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let item = self.read_item();
        if item.is_err() {
            self.reader.rest();
        }
        Some(item)
    }
}
