//! A model of a source's shard: its entries, its pending deltas, and the buckets and digests that it is scheduled to
//! send.
//!
//! It keeps the same contract as the engine's shards: a bucket is sent as begin, the newest state of all its entries,
//! end, in order with the deltas; digests are those of what was sent before them in the stream.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{FlowView, RareAttributes};
use ctflow_parser::tuple::{FlowKey, L4, Tuple};
use ctflow_parser::uapi::{AF_INET, AF_INET6, IPPROTO_TCP};

use super::rng::Rng;
use crate::ctflow::batch::{BatchWriter, Payload, WriteError};
use crate::model::buckets::{BucketSet, EXPECTATIONS, bucket_of, spread};
use crate::model::entry::{encode_expect, encode_flow, entry_check};

/// The key of a flow or an expectation: its bucket and number. The number of a flow is not its id: some flows share an
/// id.
pub(crate) type EntryKey = (u16, u32);

/// One entry of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cached {
    pub(crate) bytes: Vec<u8>,
    family: u8,
    id: u32,
    key: Option<FlowKey>,
    changed_ms: u64,
}

/// The id of flow `number`; every eighth flow has the same id as the one before it.
pub(crate) fn flow_id_of(number: u32) -> u32 {
    let number = if number % 8 == 7 { number - 1 } else { number };
    number.wrapping_mul(0x85eb_ca6b) ^ 0x1234_5678
}

/// The original tuple of flow `number`.
fn orig(number: u32) -> Tuple {
    let [_, a, b, c] = number.to_be_bytes();
    let src = if number.is_multiple_of(3) {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(a), u16::from_be_bytes([b, c])])
    } else {
        IpAddr::from([10, a, b, c])
    };
    let dst =
        if src.is_ipv4() { IpAddr::from([192, 0, 2, 1]) } else { IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]) };
    Tuple { src, dst, proto: IPPROTO_TCP, l4: L4::Ports { src: 1_024, dst: 443 }, zone: None }
}

/// Flow `number` in a random state.
pub(crate) fn flow(number: u32, changed_ms: u64, rng: &mut Rng) -> (EntryKey, Cached) {
    let orig = orig(number);
    let reply = Tuple { src: orig.dst, dst: orig.src, l4: L4::Ports { src: 443, dst: 1_024 }, ..orig };
    let (family, id) = (if orig.src.is_ipv4() { AF_INET } else { AF_INET6 }, flow_id_of(number));
    let status = u32::try_from(rng.below(1 << 17)).ok();
    let text = "x".repeat(usize::from(rng.pick(&[0u8, 0, 0, 100])));
    let secctx = (!text.is_empty()).then_some(text.as_str());
    let view = FlowView {
        family,
        orig: Some(orig),
        reply: Some(reply),
        status,
        timeout: Some(60),
        id: Some(id),
        rare: RareAttributes { secctx, ..RareAttributes::default() },
        ..FlowView::default()
    };
    let mut bytes = Vec::new();
    let encoded = encode_flow(&view, &mut bytes);
    debug_assert!(encoded.is_ok());
    ((bucket_of(id), number), Cached { bytes, family, id, key: view.key(), changed_ms })
}

/// Expectation `number` in a random state.
pub(crate) fn expect(number: u32, changed_ms: u64, rng: &mut Rng) -> (EntryKey, Cached) {
    let tuple = Some(orig(1));
    let view = ExpectView {
        family: AF_INET,
        tuple,
        mask: tuple,
        master: tuple,
        id: Some(number),
        timeout: u32::try_from(rng.below(300)).ok(),
        helper: Some("ftp"),
        ..ExpectView::default()
    };
    let mut bytes = Vec::new();
    let encoded = encode_expect(&view, &mut bytes);
    debug_assert!(encoded.is_ok());
    ((EXPECTATIONS, number), Cached { bytes, family: AF_INET, id: number, key: None, changed_ms })
}

/// A pending delta; an entry has at most one.
#[derive(Debug)]
enum Delta {
    Changed,
    Ended(Cached),
}

/// A model shard.
#[derive(Debug)]
pub(crate) struct Shard {
    number: u16,
    pub(crate) cache: BTreeMap<EntryKey, Cached>,
    deltas: BTreeMap<EntryKey, Delta>,
    scheduled: VecDeque<u16>,
    /// The bucket that is being sent, and the number of its last entry that was sent.
    sending: Option<(u16, Option<u32>)>,
    /// The digests that are being sent: their number, and the first bucket that was not sent yet.
    digests: Option<(u64, u16)>,
}

impl Shard {
    pub(crate) fn new(number: u16) -> Self {
        let (cache, deltas) = (BTreeMap::new(), BTreeMap::new());
        Self { number, cache, deltas, scheduled: VecDeque::new(), sending: None, digests: None }
    }

    /// Creates or changes an entry.
    pub(crate) fn change_entry(&mut self, entry_key: EntryKey, cached: Cached) {
        self.cache.insert(entry_key, cached);
        self.deltas.insert(entry_key, Delta::Changed);
    }

    /// Ends an entry.
    pub(crate) fn end_entry(&mut self, entry_key: EntryKey) {
        if let Some(cached) = self.cache.remove(&entry_key) {
            self.deltas.insert(entry_key, Delta::Ended(cached));
        }
    }

    /// Schedules buckets; an error if one of them is scheduled already.
    pub(crate) fn schedule_buckets(&mut self, buckets: &BucketSet) -> Result<(), String> {
        for bucket in buckets.iter() {
            if self.scheduled.contains(&bucket) || !BucketSet::all_of(self.number).contains(bucket) {
                return Err(format!(
                    "bucket {bucket} of stream {} is scheduled already or does not exist",
                    self.number
                ));
            }
            self.scheduled.push_back(bucket);
        }
        Ok(())
    }

    /// Schedules digests; an error if earlier ones are scheduled of which none were sent.
    pub(crate) fn schedule_digests(&mut self, number: u64) -> Result<(), String> {
        if let Some((before, 0)) = self.digests {
            return Err(format!("digests {number} scheduled before any of {before} were sent"));
        }
        self.digests = Some((number, 0));
        Ok(())
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_idle(&self) -> bool {
        self.deltas.is_empty() && self.scheduled.is_empty() && self.sending.is_none() && self.digests.is_none()
    }

    /// Writes the next batch; `None` if there is nothing to send.
    pub(crate) fn next_batch(&mut self, time_ms: u64, rng: &mut Rng) -> Option<Payload> {
        if self.is_idle() {
            return None;
        }
        let mut writer = BatchWriter::new(self.number, time_ms, 0);
        let full = loop {
            if self.is_idle() || rng.one_in(60) {
                break Ok(()); // a deadline ends a batch that is not full
            }
            let is_sending = self.sending.is_some() || !self.scheduled.is_empty();
            let written = if is_sending && (self.deltas.is_empty() && self.digests.is_none() || rng.one_in(2)) {
                self.write_bucket_step(&mut writer)
            } else if !self.deltas.is_empty() {
                self.write_delta(&mut writer)
            } else {
                self.write_digests(&mut writer)
            };
            if written.is_err() {
                break written;
            }
        };
        debug_assert!(matches!(full, Ok(()) | Err(WriteError::NoRoom)));
        (!writer.is_empty()).then(|| writer.finish())
    }

    /// Writes one pending delta.
    fn write_delta(&mut self, writer: &mut BatchWriter) -> Result<(), WriteError> {
        // Ends first: a new flow may have the tuple of one that ended.
        let is_end = |delta: &&Delta| matches!(delta, Delta::Ended(_));
        let end = self.deltas.iter().find(|(_, delta)| is_end(delta));
        let Some((entry_key, delta)) = end.or_else(|| self.deltas.iter().next()) else { return Ok(()) };
        let entry_key = *entry_key;
        match delta {
            Delta::Changed => write_entry(&self.cache, entry_key, writer)?,
            Delta::Ended(Cached { key: Some(key), id, changed_ms, .. }) => {
                writer.push_flow_end(key, *id, *changed_ms)?;
            }
            Delta::Ended(Cached { id, changed_ms, .. }) => writer.push_expect_end(*id, *changed_ms)?,
        }
        self.deltas.remove(&entry_key);
        Ok(())
    }

    /// Writes the next item of the bucket that is being sent: its begin, one entry, or its end.
    fn write_bucket_step(&mut self, writer: &mut BatchWriter) -> Result<(), WriteError> {
        let Some((bucket, last)) = self.sending else {
            let Some(bucket) = self.scheduled.front() else { return Ok(()) };
            writer.push_bucket_begin(*bucket)?;
            self.sending = Some((*bucket, None));
            self.scheduled.pop_front();
            return Ok(());
        };
        let from = last.map_or(0, |last| last + 1);
        match self.cache.range((bucket, from)..=(bucket, u32::MAX)).next() {
            Some((entry_key, _)) => {
                write_entry(&self.cache, *entry_key, writer)?;
                self.sending = Some((bucket, Some(entry_key.1)));
            }
            None => {
                writer.push_bucket_end(bucket)?;
                self.sending = None;
            }
        }
        Ok(())
    }

    /// Writes as many digests as fit the batch.
    fn write_digests(&mut self, writer: &mut BatchWriter) -> Result<(), WriteError> {
        let Some((number, first)) = self.digests else { return Ok(()) };
        let buckets = u16::try_from(BucketSet::all_of(self.number).count()).unwrap_or(0);
        let values: Vec<_> = (first..buckets).map(|bucket| self.digest(bucket)).collect();
        let next = first + writer.push_digests(number, first, &values)?;
        self.digests = (next < buckets).then_some((number, next));
        Ok(())
    }

    fn digest(&self, bucket: u16) -> u64 {
        let entries = self.cache.range((bucket, 0)..=(bucket, u32::MAX));
        entries.fold(0, |digest, (_, cached)| digest.wrapping_add(spread(entry_check(&cached.bytes))))
    }
}

/// Writes the state of an entry.
fn write_entry(
    cache: &BTreeMap<EntryKey, Cached>,
    entry_key: EntryKey,
    writer: &mut BatchWriter,
) -> Result<(), WriteError> {
    match cache.get(&entry_key) {
        Some(cached) if entry_key.0 == EXPECTATIONS => writer.push_expect(&cached.bytes, cached.changed_ms),
        Some(cached) => writer.push_flow(cached.family, &cached.bytes, cached.changed_ms),
        None => Ok(()),
    }
}
