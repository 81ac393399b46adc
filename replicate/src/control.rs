//! Control messages: an addressee, and blocks of which each is passed over by those who do not know it.
//!
//! ```text
//! to node 8 | to epoch 8 | HLC time 8 | block: type 1, flags 1, length 2, body | block …
//! ```

use crate::buckets::BucketSet;
use crate::cursor::{Malformed, Put, Reader};
use crate::limits::{GAPS_PER_ACK, NAME_BYTES_MAX};
use crate::mode::Role;
use crate::seal::TAG_BYTES;
use crate::time::Epoch;
use crate::wire::HEADER_BYTES;

/// The flag of a block that must not be passed over.
const MUST_KNOW: u8 = 1;

/// Flags of want, skip and verdict.
const FLAG_EXPECTATIONS: u16 = 1;
/// Flag of want.
const FLAG_DIGESTS_FIRST: u16 = 2;

/// Types of blocks.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const HEADS: u8 = 2;
    pub(super) const ACK: u8 = 3;
    pub(super) const WANT: u8 = 4;
    pub(super) const SKIP: u8 = 5;
    pub(super) const VERIFY: u8 = 6;
    pub(super) const VERDICT: u8 = 7;
    pub(super) const REQUEST: u8 = 8;
    pub(super) const BYE: u8 = 9;
}

/// Who a control message is for, and the sender's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addressee {
    /// 0: every peer.
    pub(crate) node: u64,
    /// The addressee's epoch as the sender knows it.
    pub(crate) epoch: Epoch,
    /// HLC time in milliseconds since 1970.
    pub(crate) time_ms: u64,
}

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello<'a> {
    pub(crate) version_lowest: u8,
    pub(crate) version_highest: u8,
    /// As on the wire: an unknown mode is refused, not malformed.
    pub(crate) mode: u8,
    pub(crate) role: Role,
    pub(crate) streams: u16,
    pub(crate) features: u32,
    /// The newest epoch known of the addressee.
    pub(crate) newest: Epoch,
    pub(crate) name: &'a str,
}

/// A run of seqs that did not come, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Why a node takes its leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It was stopped.
    Stopped,
    /// No version in common.
    Version,
    /// The addressee's name is another's.
    NameTaken,
    /// Another mode.
    Mode,
    /// A later version's reason.
    Other(u8),
}

impl Reason {
    fn number(self) -> u8 {
        match self {
            Self::Stopped => 1,
            Self::Version => 2,
            Self::NameTaken => 3,
            Self::Mode => 4,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Stopped,
            2 => Self::Version,
            3 => Self::NameTaken,
            4 => Self::Mode,
            number => Self::Other(number),
        }
    }
}

/// Bodies of blocks, and what can be said with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block<'a> {
    Hello(Hello<'a>),
    Heads(Heads<'a>),
    Ack {
        stream: u16,
        next: u64,
        gaps: Gaps<'a>,
    },
    Want {
        stream: u16,
        digests_first: bool,
        buckets: BucketSet,
    },
    Skip {
        stream: u16,
        resume_at: u64,
        buckets: BucketSet,
    },
    Verify {
        number: u64,
    },
    Verdict(Verdict),
    /// Send everything again.
    Request,
    Bye(Reason),
}

/// What a replica found at a stream's digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) stream: u16,
    pub(crate) number: u64,
    pub(crate) seq: u64,
    pub(crate) entries: u64,
    /// The sum of all buckets' digests.
    pub(crate) digest: u64,
    pub(crate) differing: BucketSet,
}

/// Stream, oldest seq kept, newest seq told; 20 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads<'a>(&'a [[u8; 20]]);

impl Heads<'_> {
    /// Stream, oldest, newest.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, u64, u64)> + '_ {
        self.0.iter().filter_map(|head| {
            let mut reader = Reader::new(head);
            let (stream, _) = (reader.u16().ok()?, reader.u16().ok()?);
            Some((stream, reader.u64().ok()?, reader.u64().ok()?))
        })
    }
}

/// The gaps of an acknowledgement, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gaps<'a>(&'a [[u8; 16]]);

impl Gaps<'_> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Gap> + '_ {
        self.0.iter().filter_map(|gap| {
            let mut reader = Reader::new(gap);
            Some(Gap { from: reader.u64().ok()?, to: reader.u64().ok()? })
        })
    }
}

/// Why a control message was not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlError {
    Malformed,
    /// A block of this type, which its sender wants nobody to pass over.
    MustKnow(u8),
}

impl From<Malformed> for ControlError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Reads a control message's body: whom it is for, and its blocks.
pub(crate) fn parse(body: &[u8]) -> Result<(Addressee, Blocks<'_>), Malformed> {
    let mut reader = Reader::new(body);
    let addressee = Addressee { node: reader.u64()?, epoch: Epoch(reader.u64()?), time_ms: reader.u64()? };
    Ok((addressee, Blocks { reader }))
}

/// The blocks of a control message, those of unknown types passed over; ends with the first error.
#[derive(Debug, Clone)]
pub(crate) struct Blocks<'a> {
    reader: Reader<'a>,
}

impl<'a> Blocks<'a> {
    fn read_block(&mut self) -> Result<Option<Block<'a>>, ControlError> {
        let [kind, flags] = self.reader.array()?;
        let length = self.reader.u16()?;
        let mut body = Reader::new(self.reader.bytes(length.into())?);
        let block = match kind {
            kind::HELLO => Block::Hello(read_hello(&mut body)?),
            kind::HEADS => Block::Heads(Heads(exact_chunks(body.rest())?)),
            kind::ACK => {
                let (stream, _, next) = (body.u16()?, body.u16()?, body.u64()?);
                Block::Ack { stream, next, gaps: Gaps(exact_chunks(body.rest())?) }
            }
            kind::WANT => {
                let (stream, flags) = (body.u16()?, body.u16()?);
                let digests_first = flags & FLAG_DIGESTS_FIRST != 0;
                Block::Want { stream, digests_first, buckets: read_buckets(flags, &mut body)? }
            }
            kind::SKIP => {
                let (stream, flags, go_on) = (body.u16()?, body.u16()?, body.u64()?);
                Block::Skip { stream, resume_at: go_on, buckets: read_buckets(flags, &mut body)? }
            }
            kind::VERIFY => Block::Verify { number: body.u64()? },
            kind::VERDICT => {
                let (stream, flags) = (body.u16()?, body.u16()?);
                let (number, seq, entries, digest) = (body.u64()?, body.u64()?, body.u64()?, body.u64()?);
                let differing = read_buckets(flags, &mut body)?;
                Block::Verdict(Verdict { stream, number, seq, entries, digest, differing })
            }
            kind::REQUEST => match body.u8()? {
                1 => Block::Request,
                _ => return Ok(None),
            },
            kind::BYE => Block::Bye(Reason::from_number(body.u8()?)),
            kind if flags & MUST_KNOW != 0 => return Err(ControlError::MustKnow(kind)),
            _ => return Ok(None),
        };
        Ok(Some(block))
    }
}

fn exact_chunks<const N: usize>(bytes: &[u8]) -> Result<&[[u8; N]], ControlError> {
    let (records, rest) = bytes.as_chunks();
    if rest.is_empty() { Ok(records) } else { Err(ControlError::Malformed) }
}

fn read_buckets(flags: u16, body: &mut Reader<'_>) -> Result<BucketSet, Malformed> {
    Ok(BucketSet::from_wire(body.array()?, flags & FLAG_EXPECTATIONS != 0))
}

fn read_hello<'a>(body: &mut Reader<'a>) -> Result<Hello<'a>, Malformed> {
    let [version_lowest, version_highest, mode, role] = body.array()?;
    let (streams, _, features, newest) = (body.u16()?, body.u16()?, body.u32()?, Epoch(body.u64()?));
    let name = str::from_utf8(body.rest()).map_err(|_| body.malformed())?;
    if name.len() > NAME_BYTES_MAX {
        return Err(body.malformed());
    }
    let role = Role::from_number(role);
    Ok(Hello { version_lowest, version_highest, mode, role, streams, features, newest, name })
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<Block<'a>, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.reader.is_empty() {
            match self.read_block() {
                Ok(None) => {}
                Ok(Some(block)) => return Some(Ok(block)),
                Err(error) => {
                    self.reader.rest();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// A control message while it is written, into a buffer that is used again.
pub(crate) struct ControlWriter {
    pub(crate) bytes: Vec<u8>,
    bytes_max: usize,
}

impl ControlWriter {
    /// Begins a message of at most `datagram_bytes`.
    pub(crate) fn new(mut bytes: Vec<u8>, addressee: Addressee, datagram_bytes: usize) -> Self {
        bytes.clear();
        bytes.resize(HEADER_BYTES, 0);
        bytes.put_u64(addressee.node);
        bytes.put_u64(addressee.epoch.0);
        bytes.put_u64(addressee.time_ms);
        Self { bytes, bytes_max: datagram_bytes - TAG_BYTES }
    }

    /// Whether no block was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER_BYTES + 24
    }

    /// Whether blocks with bodies of `count` bytes in `blocks` blocks still fit.
    pub(crate) fn has_room(&self, blocks: usize, count: usize) -> bool {
        self.bytes.len() + 4 * blocks + count <= self.bytes_max
    }

    fn start_block(&mut self, kind: u8, length: usize) -> &mut Vec<u8> {
        self.bytes.put_slice(&[kind, 0]);
        self.bytes.put_u16(u16::try_from(length).unwrap_or(u16::MAX)); // a datagram's bound is below it
        &mut self.bytes
    }

    pub(crate) fn push_hello(&mut self, hello: &Hello<'_>) {
        let body = self.start_block(kind::HELLO, 20 + hello.name.len());
        body.put_slice(&[hello.version_lowest, hello.version_highest, hello.mode, hello.role.number()]);
        body.put_u16(hello.streams);
        body.put_u16(0);
        body.put_u32(hello.features);
        body.put_u64(hello.newest.0);
        body.put_slice(hello.name.as_bytes());
    }

    /// As many of `heads` as there is room for, from the front; returns how many.
    pub(crate) fn push_heads(&mut self, heads: &[(u16, u64, u64)]) -> usize {
        let fitting = self.bytes_max.saturating_sub(self.bytes.len() + 4) / 20;
        let count = heads.len().min(fitting);
        if count > 0 {
            let body = self.start_block(kind::HEADS, 20 * count);
            for (stream, oldest, newest) in heads.iter().take(count) {
                body.put_u16(*stream);
                body.put_u16(0);
                body.put_u64(*oldest);
                body.put_u64(*newest);
            }
        }
        count
    }

    /// At most [`GAPS_PER_ACK`] of the gaps are told.
    pub(crate) fn push_ack(&mut self, stream: u16, next: u64, gaps: &[Gap]) {
        let gaps = gaps.iter().take(GAPS_PER_ACK);
        let body = self.start_block(kind::ACK, 12 + 16 * gaps.len());
        body.put_u16(stream);
        body.put_u16(0);
        body.put_u64(next);
        for gap in gaps {
            body.put_u64(gap.from);
            body.put_u64(gap.to);
        }
    }

    pub(crate) fn push_want(&mut self, stream: u16, digests_first: bool, buckets: &BucketSet) {
        let first = if digests_first { FLAG_DIGESTS_FIRST } else { 0 };
        let body = self.start_block(kind::WANT, 36);
        body.put_u16(stream);
        body.put_u16(first | expectations_flag(buckets));
        body.put_slice(&buckets.to_wire());
    }

    pub(crate) fn push_skip(&mut self, stream: u16, go_on: u64, buckets: &BucketSet) {
        let body = self.start_block(kind::SKIP, 44);
        body.put_u16(stream);
        body.put_u16(expectations_flag(buckets));
        body.put_u64(go_on);
        body.put_slice(&buckets.to_wire());
    }

    pub(crate) fn push_verify(&mut self, number: u64) {
        self.start_block(kind::VERIFY, 8).put_u64(number);
    }

    pub(crate) fn push_verdict(&mut self, verdict: &Verdict) {
        let body = self.start_block(kind::VERDICT, 68);
        body.put_u16(verdict.stream);
        body.put_u16(expectations_flag(&verdict.differing));
        for number in [verdict.number, verdict.seq, verdict.entries, verdict.digest] {
            body.put_u64(number);
        }
        body.put_slice(&verdict.differing.to_wire());
    }

    pub(crate) fn push_request(&mut self) {
        self.start_block(kind::REQUEST, 4).put_slice(&[1, 0, 0, 0]);
    }

    pub(crate) fn push_bye(&mut self, reason: Reason) {
        self.start_block(kind::BYE, 4).put_slice(&[reason.number(), 0, 0, 0]);
    }
}

fn expectations_flag(buckets: &BucketSet) -> u16 {
    if buckets.has_expectations() { FLAG_EXPECTATIONS } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TO: Addressee = Addressee { node: 1, epoch: Epoch(2), time_ms: 3 };

    fn message() -> ControlWriter {
        ControlWriter::new(Vec::new(), TO, 1_400)
    }

    fn blocks(message: &ControlWriter) -> Vec<Result<Block<'_>, ControlError>> {
        let (to, blocks) = parse(&message.bytes[HEADER_BYTES..]).unwrap();
        assert_eq!(to, TO);
        blocks.collect()
    }

    #[test]
    fn every_block_reads_back_as_written() {
        let hello = Hello {
            version_lowest: 1,
            version_highest: 2,
            mode: 1,
            role: Role::Backup,
            streams: 4,
            features: 1,
            newest: Epoch(9),
            name: "fw-b",
        };
        let buckets: BucketSet = [3, 256].into_iter().collect();
        let verdict = Verdict { stream: 1, number: 2, seq: 3, entries: 4, digest: 5, differing: buckets };
        let mut message = message();
        assert!(message.is_empty());
        message.push_hello(&hello);
        assert_eq!(message.push_heads(&[(0, 1, 2), (7, 8, 9)]), 2);
        message.push_ack(3, 10, &[Gap { from: 10, to: 11 }, Gap { from: 13, to: 13 }]);
        message.push_want(3, true, &buckets);
        message.push_skip(2, 77, &buckets);
        message.push_verify(8);
        message.push_verdict(&verdict);
        message.push_request();
        message.push_bye(Reason::Mode);
        let blocks: Vec<_> = blocks(&message).into_iter().map(Result::unwrap).collect();
        assert_eq!(blocks[0], Block::Hello(hello));
        let Block::Heads(heads) = blocks[1] else { panic!() };
        assert_eq!(heads.iter().collect::<Vec<_>>(), [(0, 1, 2), (7, 8, 9)]);
        let Block::Ack { stream: 3, next: 10, gaps } = blocks[2] else { panic!() };
        assert_eq!(gaps.iter().map(|gap| (gap.from, gap.to)).collect::<Vec<_>>(), [(10, 11), (13, 13)]);
        assert_eq!(blocks[3], Block::Want { stream: 3, digests_first: true, buckets });
        assert_eq!(blocks[4], Block::Skip { stream: 2, resume_at: 77, buckets });
        assert_eq!(
            blocks[5..],
            [Block::Verify { number: 8 }, Block::Verdict(verdict), Block::Request, Block::Bye(Reason::Mode)]
        );
    }

    #[test]
    fn an_unknown_block_is_skipped_unless_it_must_be_known() {
        let mut message = message();
        message.bytes.put_slice(&[200, 0, 0, 1, 7]);
        message.push_verify(8);
        message.bytes.put_slice(&[201, MUST_KNOW, 0, 0]);
        assert_eq!(blocks(&message), [Ok(Block::Verify { number: 8 }), Err(ControlError::MustKnow(201))]);
    }

    #[test]
    fn heads_are_written_as_far_as_they_fit() {
        let heads = vec![(1, 2, 3); 100];
        let mut message = message();
        let told = message.push_heads(&heads);
        assert!(told == 66 && message.bytes.len() <= 1_400 - TAG_BYTES && message.push_heads(&heads) == 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((_, blocks)) = parse(&bytes) {
                for block in blocks.flatten() {
                    drop(format!("{block:?}"));
                }
            }
        }
    }
}
