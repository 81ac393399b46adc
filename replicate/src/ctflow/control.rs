//! Control messages: an addressee, and blocks. A receiver skips the blocks whose type it does not know.
//!
//! ```text
//! to node 8 | to epoch 8 | HLC time 8 | block: type 1, flags 1, length 2, body | block …
//! ```

use crate::ctflow::limits::{GAPS_PER_ACK, NAME_BYTES_MAX};
use crate::ctflow::seal::TAG_BYTES;
use crate::ctflow::wire::HEADER_BYTES;
use crate::cursor::{Malformed, Put, Reader};
use crate::model::buckets::BucketSet;
use crate::model::mode::{Mode, Role};
use crate::model::status::Reason;
use crate::model::time::Epoch;

/// The flag of a block that a receiver must not skip.
const MUST_KNOW: u8 = 1;

/// A flag of want, skip and verdict: their buckets include the expectations.
const FLAG_EXPECTATIONS: u16 = 1;
/// A flag of want: the source sends its digests first.
const FLAG_DIGESTS_FIRST: u16 = 2;

/// The types of blocks.
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

/// The addressee of a control message, and the sender's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addressee {
    /// The addressee's node id; 0 for every peer.
    pub(crate) node: u64,
    /// The addressee's epoch as the sender knows it; [`Epoch::NONE`] if it does not.
    pub(crate) epoch: Epoch,
    /// The sender's HLC time, in milliseconds since 1970.
    pub(crate) time_ms: u64,
}

/// A node's description of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello<'a> {
    pub(crate) version_lowest: u8,
    pub(crate) version_highest: u8,
    /// As on the wire: an unknown mode is refused, not malformed.
    pub(crate) mode: u8,
    pub(crate) role: Role,
    pub(crate) streams: u16,
    pub(crate) features: u32,
    /// The newest epoch of the addressee that the sender knows.
    pub(crate) newest: Epoch,
    pub(crate) name: &'a str,
}

/// A range of seqs that were not received, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Reason {
    /// The reason's number on the wire.
    fn number(self) -> u8 {
        match self {
            Self::Stopped => 1,
            Self::Version => 2,
            Self::NameTaken => 3,
            Self::Mode => 4,
            Self::Other(number) => number,
        }
    }

    /// The reason of this number on the wire.
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

impl Mode {
    /// Its number on the wire.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ftfw => 1,
            Self::Alarm => 2,
            Self::Notrack => 3,
        }
    }

    /// The mode of this number on the wire; `None` for one that this version does not know.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Ftfw, Self::Alarm, Self::Notrack].into_iter().find(|mode| mode.number() == number)
    }
}

impl Role {
    /// Its number on the wire.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Primary => 1,
            Self::Backup => 2,
            Self::Fault => 3,
        }
    }

    /// The role of this number on the wire; [`Role::None`] for one that this version does not know.
    pub(crate) fn from_number(number: u8) -> Self {
        Self::SETTABLE.into_iter().find(|role| role.number() == number).unwrap_or_default()
    }
}

/// A block of a control message.
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
    /// The request to send everything again.
    Request,
    Bye(Reason),
}

/// The result of a replica's comparison with its stream's digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) stream: u16,
    pub(crate) number: u64,
    pub(crate) seq: u64,
    pub(crate) entries: u64,
    /// The sum of the digests of all the source's buckets, modulo 2^64.
    pub(crate) digest: u64,
    pub(crate) differing: BucketSet,
}

/// The positions of a source's streams: stream, oldest seq kept, newest seq; 20 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads<'a>(&'a [[u8; 20]]);

impl Heads<'_> {
    /// Iterates over stream, oldest seq kept and newest seq.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, u64, u64)> + '_ {
        self.0.iter().filter_map(|head| {
            let mut reader = Reader::new(head);
            let (stream, _) = (reader.u16().ok()?, reader.u16().ok()?);
            Some((stream, reader.u64().ok()?, reader.u64().ok()?))
        })
    }
}

/// The gaps of an acknowledgement, in ascending order.
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

/// Why a control message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlError {
    Malformed,
    /// A block of this type is unknown here and must not be skipped.
    MustKnow(u8),
}

impl From<Malformed> for ControlError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Parses the body of a control message: its addressee and its blocks.
pub(crate) fn parse(body: &[u8]) -> Result<(Addressee, Blocks<'_>), Malformed> {
    let mut reader = Reader::new(body);
    let addressee = Addressee { node: reader.u64()?, epoch: Epoch(reader.u64()?), time_ms: reader.u64()? };
    Ok((addressee, Blocks { reader }))
}

/// The blocks of a control message, without those of unknown types; the iterator ends after the first error.
#[derive(Debug, Clone)]
pub(crate) struct Blocks<'a> {
    reader: Reader<'a>,
}

impl<'a> Blocks<'a> {
    /// Reads the next block; `None` for one of an unknown type.
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
                let (stream, flags, resume_at) = (body.u16()?, body.u16()?, body.u64()?);
                Block::Skip { stream, resume_at, buckets: read_buckets(flags, &mut body)? }
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

/// The bytes as records of `N` bytes each; an error if some bytes are left over.
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

/// The writer of a control message, into a buffer that is reused.
pub(crate) struct ControlWriter {
    pub(crate) bytes: Vec<u8>,
    bytes_max: usize,
}

impl ControlWriter {
    /// Starts a message whose sealed datagram has at most `datagram_bytes`; `bytes` is cleared and reused.
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

    /// Whether `blocks` more blocks fit, with bodies of `count` bytes in all.
    pub(crate) fn has_room(&self, blocks: usize, count: usize) -> bool {
        self.bytes.len() + 4 * blocks + count <= self.bytes_max
    }

    /// Appends the head of a block with a body of `length` bytes, and returns the buffer for the body.
    fn start_block(&mut self, kind: u8, length: usize) -> &mut Vec<u8> {
        self.bytes.put_slice(&[kind, 0]);
        self.bytes.put_u16(u16::try_from(length).unwrap_or(u16::MAX)); // the bound of a datagram is lower
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

    /// Appends as many of `heads` as fit, from the front; returns their number.
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

    /// Appends an acknowledgement with at most [`GAPS_PER_ACK`] of the gaps.
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

    pub(crate) fn push_skip(&mut self, stream: u16, resume_at: u64, buckets: &BucketSet) {
        let body = self.start_block(kind::SKIP, 44);
        body.put_u16(stream);
        body.put_u16(expectations_flag(buckets));
        body.put_u64(resume_at);
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

/// The flag that says whether `buckets` include the expectations.
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
        let count = message.push_heads(&heads);
        assert!(count == 66 && message.bytes.len() <= 1_400 - TAG_BYTES && message.push_heads(&heads) == 0);
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
