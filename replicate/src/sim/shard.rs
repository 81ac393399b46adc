//! A model of a source's shard: what it holds, what of it changed, and what it was asked to tell.
//!
//! It keeps the contract that the engine's shards keep: a bucket is told as begin, the newest state of all its entries,
//! end, in order with the deltas; digests are those of what was told before them in the stream.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::FlowView;
use ctflow_parser::tuple::{FlowKey, L4, Tuple};
use ctflow_parser::uapi::{AF_INET, AF_INET6, IPPROTO_TCP};

use super::rng::Rng;
use crate::batch::{BatchWriter, Payload, WriteError};
use crate::buckets::{BucketSet, EXPECTATIONS, bucket_of, spread};
use crate::entry::{encode_expect, encode_flow, entry_check};

/// A flow or an expectation by its bucket and number. The number of a flow is not its id: some share one.
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

/// The id of flow `number`; every eighth shares its with the one before.
pub(crate) fn flow_id_of(number: u32) -> u32 {
    let number = if number % 8 == 7 { number - 1 } else { number };
    number.wrapping_mul(0x85eb_ca6b) ^ 0x1234_5678
}

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

/// Flow `number` in some state.
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
        secctx,
        ..FlowView::default()
    };
    let mut bytes = Vec::new();
    let encoded = encode_flow(&view, &mut bytes);
    debug_assert!(encoded.is_ok());
    ((bucket_of(id), number), Cached { bytes, family, id, key: view.key(), changed_ms })
}

/// Expectation `number` in some state.
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

/// A delta that was not told yet: at most one an entry.
#[derive(Debug)]
enum Delta {
    Changed,
    Ended(Cached),
}

/// One shard.
#[derive(Debug)]
pub(crate) struct Shard {
    number: u16,
    pub(crate) cache: BTreeMap<EntryKey, Cached>,
    deltas: BTreeMap<EntryKey, Delta>,
    scheduled: VecDeque<u16>,
    /// The bucket being told, and the last of its entries that was.
    sending: Option<(u16, Option<u32>)>,
    /// The digests being told: number and first bucket.
    digests: Option<(u64, u16)>,
}

impl Shard {
    pub(crate) fn new(number: u16) -> Self {
        let (cache, deltas) = (BTreeMap::new(), BTreeMap::new());
        Self { number, cache, deltas, scheduled: VecDeque::new(), sending: None, digests: None }
    }

    pub(crate) fn change_entry(&mut self, place: EntryKey, cached: Cached) {
        self.cache.insert(place, cached);
        self.deltas.insert(place, Delta::Changed);
    }

    pub(crate) fn end_entry(&mut self, place: EntryKey) {
        if let Some(cached) = self.cache.remove(&place) {
            self.deltas.insert(place, Delta::Ended(cached));
        }
    }

    /// Asked to tell buckets; says so if one of them was asked for already.
    pub(crate) fn schedule_buckets(&mut self, buckets: &BucketSet) -> Result<(), String> {
        for bucket in buckets.iter() {
            if self.scheduled.contains(&bucket) || !BucketSet::all_of(self.number).contains(bucket) {
                return Err(format!("bucket {bucket} of stream {} is asked for once too often", self.number));
            }
            self.scheduled.push_back(bucket);
        }
        Ok(())
    }

    /// Asked to tell digests; says so if none of those asked for before were told.
    pub(crate) fn schedule_digests(&mut self, number: u64) -> Result<(), String> {
        if let Some((before, 0)) = self.digests {
            return Err(format!("digests {number} asked for before {before} were told"));
        }
        self.digests = Some((number, 0));
        Ok(())
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.deltas.is_empty() && self.scheduled.is_empty() && self.sending.is_none() && self.digests.is_none()
    }

    /// Entries told in the next batch; `None` where there is nothing to tell.
    pub(crate) fn next_batch(&mut self, time_ms: u64, rng: &mut Rng) -> Option<Payload> {
        if self.is_idle() {
            return None;
        }
        let mut writer = BatchWriter::new(self.number, time_ms, 0);
        let full = loop {
            if self.is_idle() || rng.one_in(60) {
                break Ok(()); // a deadline ends a batch that is not full
            }
            let is_telling = self.sending.is_some() || !self.scheduled.is_empty();
            let written = if is_telling && (self.deltas.is_empty() && self.digests.is_none() || rng.one_in(2)) {
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

    fn write_delta(&mut self, writer: &mut BatchWriter) -> Result<(), WriteError> {
        // Ends first: a new flow may have the tuple of one that ended.
        let is_end = |delta: &&Delta| matches!(delta, Delta::Ended(_));
        let end = self.deltas.iter().find(|(_, delta)| is_end(delta));
        let Some((place, delta)) = end.or_else(|| self.deltas.iter().next()) else { return Ok(()) };
        let place = *place;
        match delta {
            Delta::Changed => write_entry(&self.cache, place, writer)?,
            Delta::Ended(Cached { key: Some(key), id, changed_ms, .. }) => {
                writer.push_flow_end(key, *id, *changed_ms)?;
            }
            Delta::Ended(Cached { id, changed_ms, .. }) => writer.push_expect_end(*id, *changed_ms)?,
        }
        self.deltas.remove(&place);
        Ok(())
    }

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
            Some((place, _)) => {
                write_entry(&self.cache, *place, writer)?;
                self.sending = Some((bucket, Some(place.1)));
            }
            None => {
                writer.push_bucket_end(bucket)?;
                self.sending = None;
            }
        }
        Ok(())
    }

    fn write_digests(&mut self, writer: &mut BatchWriter) -> Result<(), WriteError> {
        let Some((number, first)) = self.digests else { return Ok(()) };
        let buckets = u16::try_from(BucketSet::all_of(self.number).count()).unwrap_or(0);
        let values: Vec<_> = (first..buckets).map(|bucket| self.digest(bucket)).collect();
        let told = first + writer.push_digests(number, first, &values)?;
        self.digests = (told < buckets).then_some((number, told));
        Ok(())
    }

    fn digest(&self, bucket: u16) -> u64 {
        let entries = self.cache.range((bucket, 0)..=(bucket, u32::MAX));
        entries.fold(0, |digest, (_, cached)| digest.wrapping_add(spread(entry_check(&cached.bytes))))
    }
}

fn write_entry(
    cache: &BTreeMap<EntryKey, Cached>,
    place: EntryKey,
    writer: &mut BatchWriter,
) -> Result<(), WriteError> {
    match cache.get(&place) {
        Some(cached) if place.0 == EXPECTATIONS => writer.push_expect(&cached.bytes, cached.changed_ms),
        Some(cached) => writer.push_flow(cached.family, &cached.bytes, cached.changed_ms),
        None => Ok(()),
    }
}
