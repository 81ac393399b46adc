//! One flow, parsed in one walk over its attributes.
//!
//! A [`FlowView`] holds numbers by value and borrows text and blobs from the received frame. A field that the kernel
//! did not send is `None`: a listing has nearly all fields, a NEW event little more than the tuples, an UPDATE event
//! the fields that changed.

use zerocopy::byteorder::{BigEndian, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::attr::{Attr, Attrs, header};
use crate::error::{ParseError, Reason};
use crate::proto::ProtoInfo;
use crate::tuple::{self, FlowKey, Tuple};
use crate::uapi;
use crate::write::{Full, Writer};

/// The fields of one flow that the kernel sent, or that a request sends.
///
/// Code that keeps, replicates, commits or prints flows destructures the view without `..`. So where an attribute is
/// added here or to [`RareAttributes`], the compiler names every place that has to handle it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowView<'a> {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// The original direction, which is that of the first packet.
    pub orig: Option<Tuple>,
    /// The reply direction. With NAT it differs from the mirrored `orig`.
    pub reply: Option<Tuple>,
    /// `IPS_*`.
    pub status: Option<u32>,
    /// Seconds until the flow expires.
    pub timeout: Option<u32>,
    /// The connection mark.
    pub mark: Option<u32>,
    /// The kernel's id of the flow: a keyed hash, which is constant for the flow's life.
    pub id: Option<u32>,
    /// The number of references in the kernel; in listings only.
    pub use_count: Option<u32>,
    /// The zone of both directions.
    pub zone: Option<u16>,
    /// The security mark; current kernels send `secctx` instead.
    pub secmark: Option<u32>,
    /// The state of the protocol's tracker.
    pub proto: Option<ProtoInfo>,
    /// Traffic of the original direction, with `nf_conntrack_acct=1`.
    pub counters_orig: Option<Counters>,
    /// Traffic of the reply direction.
    pub counters_reply: Option<Counters>,
    /// When the flow started, in nanoseconds since 1970, with `nf_conntrack_timestamp=1`.
    pub start_ns: Option<u64>,
    /// When the flow ended, in nanoseconds since 1970; in destroy events.
    pub stop_ns: Option<u64>,
    /// When the event happened, in nanoseconds since 1970; Linux 6.14 and later.
    pub event_ns: Option<u64>,
    /// The attributes that few flows have.
    pub rare: RareAttributes<'a>,
}

// A copy of a view whose fields were just written stalls the processor: ARCHITECTURE.md, "Nothing large is moved".
const _: () = assert!(size_of::<FlowView<'_>>() <= 448);

/// The attributes that few flows have. A cache keeps them apart from its compact flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RareAttributes<'a> {
    /// The helper that inspects the flow's payload.
    pub helper: Option<Helper<'a>>,
    /// The security context of the first packet.
    pub secctx: Option<&'a str>,
    /// The flow's labels.
    pub labels: Option<Labels>,
    /// The sequence adjustment of the original direction, which NAT helpers cause when they change a packet's length.
    pub seqadj_orig: Option<SeqAdj>,
    /// The sequence adjustment of the reply direction.
    pub seqadj_reply: Option<SeqAdj>,
    /// The state that the SYN proxy needs to translate sequence numbers and time stamps.
    pub synproxy: Option<Synproxy>,
    /// The original direction of the flow whose expectation this flow fulfilled.
    pub master: Option<Tuple>,
}

/// Traffic of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, network headers included.
    pub bytes: u64,
}

/// The helper of a flow (CTA_HELP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Helper<'a> {
    /// The helper's name, at most 15 bytes.
    pub name: &'a str,
    /// The helper's private data; the SIP and PPTP helpers have some.
    pub info: &'a [u8],
}

/// A flow's 128 labels, one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(Rust, packed(8))] // a u128 is aligned to 16 bytes, whose padding would make a view longer than 448 bytes
pub struct Labels(pub u128);

impl Labels {
    /// Parses the kernel's 32-bit words, of which the first is the lowest.
    fn parse(attr: &Attr<'_>) -> Result<Self, ParseError> {
        let refuse = || attr.error(Reason::Labels(u16::try_from(attr.payload.len()).unwrap_or(u16::MAX)));
        let (words, rest) = attr.payload.as_chunks::<4>();
        if !rest.is_empty() || words.len() > 4 {
            return Err(refuse());
        }
        let bits = words.iter().rev().fold(0, |bits, word| bits << 32 | u128::from(u32::from_ne_bytes(*word)));
        Ok(Self(bits))
    }

    /// Writes the kernel's four 32-bit words, with the attribute type `kind` (CTA_LABELS, CTA_LABELS_MASK).
    pub(crate) fn write(self, writer: &mut Writer<'_>, kind: u16) -> Result<(), Full> {
        let mut bytes = [0; 16];
        let mut bits = self.0;
        for word in bytes.as_chunks_mut::<4>().0 {
            *word = low_word(bits).to_ne_bytes();
            bits >>= 32;
        }
        writer.attr(kind, &bytes)
    }

    /// The numbers of the labels that are set, from 0 to 127, ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..128).filter(move |bit| self.0 >> bit & 1 == 1)
    }
}

/// The low 32 bits.
#[allow(clippy::cast_possible_truncation)] // the truncation is intended
fn low_word(bits: u128) -> u32 {
    bits as u32
}

/// The sequence adjustment of one direction (`struct nf_ct_seqadj`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeqAdj {
    /// The sequence number from which `offset_after` applies.
    pub correction_pos: u32,
    /// The bytes added before `correction_pos`, in two's complement.
    pub offset_before: u32,
    /// The bytes added from `correction_pos` on, in two's complement.
    pub offset_after: u32,
}

/// The state of the SYN proxy for a flow (CTA_SYNPROXY).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synproxy {
    /// The initial sequence number sent to the client.
    pub isn: u32,
    /// The initial time stamp sent to the client.
    pub its: u32,
    /// The difference between the time stamps of the two sides.
    pub tsoff: u32,
}

impl<'a> FlowView<'a> {
    /// Parses the attributes of a conntrack message in one walk.
    ///
    /// # Errors
    /// The [`ParseError`] of the first malformed attribute.
    #[inline]
    pub fn parse(family: u8, attrs: Attrs<'a>) -> Result<Self, ParseError> {
        let mut view = Self::default();
        view.read(family, attrs)?;
        Ok(view)
    }

    /// Parses as [`FlowView::parse`] does, into this view: a view is large, and to move one costs half as much as the
    /// walk.
    ///
    /// # Errors
    /// The [`ParseError`] of the first malformed attribute. The view then has the fields before it.
    #[inline]
    pub fn read(&mut self, family: u8, attrs: Attrs<'a>) -> Result<(), ParseError> {
        *self = Self { family, ..Self::default() };
        let rest = self.read_usual_start(&attrs);
        self.walk(rest.unwrap_or(attrs))
    }

    /// Reads all attributes.
    #[inline]
    fn walk(&mut self, attrs: Attrs<'a>) -> Result<(), ParseError> {
        for attr in attrs {
            self.read_attr(&attr?)?;
        }
        Ok(())
    }

    /// Reads the start of the message if it has the usual form; returns the attributes behind it. Otherwise it returns
    /// `None`, and the walk reads everything that may have been read here once more.
    #[inline]
    fn read_usual_start(&mut self, attrs: &Attrs<'a>) -> Option<Attrs<'a>> {
        let (usual, rest) = Usual::split(attrs)?;
        let tuples = [(&usual.orig, &mut self.orig), (&usual.reply, &mut self.reply)];
        if tuples.into_iter().any(|(words, out)| !tuple::usual::read_v4(words, out)) {
            return None;
        }
        (self.id, self.status) = (Some(usual.id.get()), Some(usual.status.get()));
        Some(rest)
    }

    /// Reads one attribute.
    #[inline]
    fn read_attr(&mut self, attr: &Attr<'a>) -> Result<(), ParseError> {
        match attr.kind {
            uapi::CTA_TUPLE_ORIG => Tuple::read(attr, &mut self.orig)?,
            uapi::CTA_TUPLE_REPLY => Tuple::read(attr, &mut self.reply)?,
            uapi::CTA_STATUS => self.status = Some(attr.be32()?),
            uapi::CTA_PROTOINFO => ProtoInfo::read(attr, &mut self.proto)?,
            uapi::CTA_TIMEOUT => self.timeout = Some(attr.be32()?),
            uapi::CTA_MARK => self.mark = Some(attr.be32()?),
            uapi::CTA_USE => self.use_count = Some(attr.be32()?),
            uapi::CTA_ID => self.id = Some(attr.be32()?),
            uapi::CTA_ZONE => self.zone = Some(attr.be16()?),
            uapi::CTA_COUNTERS_ORIG => self.counters_orig = Some(Counters::parse(attr.nested())?),
            uapi::CTA_COUNTERS_REPLY => self.counters_reply = Some(Counters::parse(attr.nested())?),
            uapi::CTA_TIMESTAMP => (self.start_ns, self.stop_ns) = parse_timestamp(attr.nested())?,
            uapi::CTA_TIMESTAMP_EVENT => self.event_ns = Some(attr.be64()?),
            _ => self.read_rare_attr(attr)?,
        }
        Ok(())
    }

    /// Reads an attribute that few flows have, and ignores unknown ones. It is a function of its own, so that the walk
    /// over the common attributes stays small.
    fn read_rare_attr(&mut self, attr: &Attr<'a>) -> Result<(), ParseError> {
        match attr.kind {
            uapi::CTA_TUPLE_MASTER => self.rare.master = Some(Tuple::parse(attr)?),
            uapi::CTA_HELP => self.rare.helper = Helper::parse(attr.nested())?,
            uapi::CTA_SECMARK => self.secmark = Some(attr.be32()?),
            uapi::CTA_SECCTX => self.rare.secctx = parse_secctx(attr.nested())?,
            uapi::CTA_LABELS => self.rare.labels = Some(Labels::parse(attr)?),
            uapi::CTA_SEQ_ADJ_ORIG => self.rare.seqadj_orig = Some(SeqAdj::parse(attr.nested())?),
            uapi::CTA_SEQ_ADJ_REPLY => self.rare.seqadj_reply = Some(SeqAdj::parse(attr.nested())?),
            uapi::CTA_SYNPROXY => self.rare.synproxy = Some(Synproxy::parse(attr.nested())?),
            _ => {}
        }
        Ok(())
    }

    /// The flow's id, read without parsing the other attributes.
    #[inline]
    pub(crate) fn id_of(attrs: &Attrs<'a>) -> Option<u32> {
        if let Some((usual, _)) = Usual::split(attrs) {
            return Some(usual.id.get());
        }
        attrs.clone().map_while(Result::ok).find(|attr| attr.kind == uapi::CTA_ID)?.be32().ok()
    }

    /// The flow's key; `None` where the original tuple is missing.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<FlowKey> {
        let orig = self.orig?;
        let zone = orig.zone.or(self.zone).unwrap_or(0);
        Some(FlowKey { orig: Tuple { zone: None, ..orig }, zone })
    }

    /// Whether all of `flags` (`IPS_*`) are set; false where the kernel did not send the status.
    #[must_use]
    pub fn has_status(&self, flags: u32) -> bool {
        self.status.unwrap_or(0) & flags == flags
    }

    /// The layer-4 protocol number; 0 where the original tuple is missing.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.orig.map_or(0, |orig| orig.proto)
    }

    /// Writes the attributes that [`FlowView::parse`] reads, in the order of their numbers.
    ///
    /// # Errors
    /// [`Full`] where the buffer has no room.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        let Self {
            family: _, // the message's header has it
            orig,
            reply,
            status,
            timeout,
            mark,
            id,
            use_count,
            zone,
            secmark,
            proto,
            counters_orig,
            counters_reply,
            start_ns,
            stop_ns,
            event_ns,
            rare: RareAttributes { helper, secctx, labels, seqadj_orig, seqadj_reply, synproxy, master },
        } = self;
        write_tuple(writer, uapi::CTA_TUPLE_ORIG, orig.as_ref())?;
        write_tuple(writer, uapi::CTA_TUPLE_REPLY, reply.as_ref())?;
        writer.be32_opt(uapi::CTA_STATUS, *status)?;
        proto.map_or(Ok(()), |proto| proto.write(writer))?;
        helper.map_or(Ok(()), |helper| helper.write(writer))?;
        writer.be32_opt(uapi::CTA_TIMEOUT, *timeout)?;
        writer.be32_opt(uapi::CTA_MARK, *mark)?;
        write_counters(writer, uapi::CTA_COUNTERS_ORIG, *counters_orig)?;
        write_counters(writer, uapi::CTA_COUNTERS_REPLY, *counters_reply)?;
        writer.be32_opt(uapi::CTA_USE, *use_count)?;
        writer.be32_opt(uapi::CTA_ID, *id)?;
        write_tuple(writer, uapi::CTA_TUPLE_MASTER, master.as_ref())?;
        SeqAdj::write(*seqadj_orig, writer, uapi::CTA_SEQ_ADJ_ORIG)?;
        SeqAdj::write(*seqadj_reply, writer, uapi::CTA_SEQ_ADJ_REPLY)?;
        writer.be32_opt(uapi::CTA_SECMARK, *secmark)?;
        writer.be16_opt(uapi::CTA_ZONE, *zone)?;
        write_secctx(writer, *secctx)?;
        write_timestamp(writer, *start_ns, *stop_ns)?;
        labels.map_or(Ok(()), |labels| labels.write(writer, uapi::CTA_LABELS))?;
        synproxy.map_or(Ok(()), |synproxy| synproxy.write(writer))?;
        writer.be64_opt(uapi::CTA_TIMESTAMP_EVENT, *event_ns)
    }
}

/// Writes the tuple of one direction, if there is one.
fn write_tuple(writer: &mut Writer<'_>, kind: u16, tuple: Option<&Tuple>) -> Result<(), Full> {
    tuple.map_or(Ok(()), |tuple| tuple.write(writer, kind))
}

/// The usual start of a message: the attributes with which kernels start nearly every event of an IPv4 flow. See
/// [`tuple::usual`] for why it has a reader of its own.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Usual {
    orig_header: [u8; 4],
    orig: [[u8; 4]; tuple::usual::WORDS_V4],
    reply_header: [u8; 4],
    reply: [[u8; 4]; tuple::usual::WORDS_V4],
    id_header: [u8; 4],
    id: U32<BigEndian>,
    status_header: [u8; 4],
    status: U32<BigEndian>,
}

impl Usual {
    /// The usual start with its tuples not parsed yet, and the attributes behind it; `None` where the message starts
    /// otherwise.
    #[inline]
    fn split<'a>(attrs: &Attrs<'a>) -> Option<(&'a Self, Attrs<'a>)> {
        const ORIG: [u8; 4] = header(52, uapi::CTA_TUPLE_ORIG | uapi::NLA_F_NESTED);
        const REPLY: [u8; 4] = header(52, uapi::CTA_TUPLE_REPLY | uapi::NLA_F_NESTED);
        const ID: [u8; 4] = header(8, uapi::CTA_ID);
        const STATUS: [u8; 4] = header(8, uapi::CTA_STATUS);
        let (usual, rest) = attrs.split::<Self>()?;
        let headers = (usual.orig_header, usual.reply_header, usual.id_header, usual.status_header);
        (headers == (ORIG, REPLY, ID, STATUS)).then_some((usual, rest))
    }
}

impl Counters {
    /// Parses the nest.
    #[inline]
    fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut counters = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_COUNTERS_PACKETS => counters.packets = attr.be64()?,
                uapi::CTA_COUNTERS_BYTES => counters.bytes = attr.be64()?,
                _ => {}
            }
        }
        Ok(counters)
    }
}

/// Writes the counters of one direction, if there are any.
fn write_counters(writer: &mut Writer<'_>, kind: u16, counters: Option<Counters>) -> Result<(), Full> {
    let Some(counters) = counters else { return Ok(()) };
    writer.nest(kind, |nest| {
        nest.be64_opt(uapi::CTA_COUNTERS_PACKETS, Some(counters.packets))?;
        nest.be64_opt(uapi::CTA_COUNTERS_BYTES, Some(counters.bytes))
    })
}

/// Parses the nest; returns start and stop time, in nanoseconds since 1970.
#[inline]
fn parse_timestamp(attrs: Attrs<'_>) -> Result<(Option<u64>, Option<u64>), ParseError> {
    let (mut start, mut stop) = (None, None);
    for attr in attrs {
        let attr = attr?;
        match attr.kind {
            uapi::CTA_TIMESTAMP_START => start = Some(attr.be64()?),
            uapi::CTA_TIMESTAMP_STOP => stop = Some(attr.be64()?),
            _ => {}
        }
    }
    Ok((start, stop))
}

/// Writes start and stop time, if there is either.
fn write_timestamp(writer: &mut Writer<'_>, start_ns: Option<u64>, stop_ns: Option<u64>) -> Result<(), Full> {
    if start_ns.or(stop_ns).is_none() {
        return Ok(());
    }
    writer.nest(uapi::CTA_TIMESTAMP, |nest| {
        nest.be64_opt(uapi::CTA_TIMESTAMP_START, start_ns)?;
        nest.be64_opt(uapi::CTA_TIMESTAMP_STOP, stop_ns)
    })
}

/// Parses the nest; returns the name of the security context.
fn parse_secctx(attrs: Attrs<'_>) -> Result<Option<&str>, ParseError> {
    let mut context = None;
    for attr in attrs {
        let attr = attr?;
        if attr.kind == uapi::CTA_SECCTX_NAME {
            context = Some(attr.text()?);
        }
    }
    Ok(context)
}

/// Writes the name of the security context, if there is one.
fn write_secctx(writer: &mut Writer<'_>, context: Option<&str>) -> Result<(), Full> {
    let Some(context) = context else { return Ok(()) };
    writer.nest(uapi::CTA_SECCTX, |nest| nest.text(uapi::CTA_SECCTX_NAME, context))
}

impl<'a> Helper<'a> {
    /// Parses the nest; `None` where it has no name.
    fn parse(attrs: Attrs<'a>) -> Result<Option<Self>, ParseError> {
        let mut name = None;
        let mut info = &[][..];
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_HELP_NAME => name = Some(attr.text()?),
                uapi::CTA_HELP_INFO => info = attr.payload,
                _ => {}
            }
        }
        Ok(name.map(|name| Self { name, info }))
    }

    /// Writes the nest.
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.nest(uapi::CTA_HELP, |nest| {
            nest.text(uapi::CTA_HELP_NAME, self.name)?;
            if self.info.is_empty() { Ok(()) } else { nest.attr(uapi::CTA_HELP_INFO, self.info) }
        })
    }
}

impl SeqAdj {
    /// Parses the nest.
    fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut adjust = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_SEQADJ_CORRECTION_POS => adjust.correction_pos = attr.be32()?,
                uapi::CTA_SEQADJ_OFFSET_BEFORE => adjust.offset_before = attr.be32()?,
                uapi::CTA_SEQADJ_OFFSET_AFTER => adjust.offset_after = attr.be32()?,
                _ => {}
            }
        }
        Ok(adjust)
    }

    /// Writes the nest, if there is an adjustment.
    fn write(adjust: Option<Self>, writer: &mut Writer<'_>, kind: u16) -> Result<(), Full> {
        let Some(adjust) = adjust else { return Ok(()) };
        writer.nest(kind, |nest| {
            nest.be32(uapi::CTA_SEQADJ_CORRECTION_POS, adjust.correction_pos)?;
            nest.be32(uapi::CTA_SEQADJ_OFFSET_BEFORE, adjust.offset_before)?;
            nest.be32(uapi::CTA_SEQADJ_OFFSET_AFTER, adjust.offset_after)
        })
    }
}

impl Synproxy {
    /// Parses the nest.
    fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut synproxy = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_SYNPROXY_ISN => synproxy.isn = attr.be32()?,
                uapi::CTA_SYNPROXY_ITS => synproxy.its = attr.be32()?,
                uapi::CTA_SYNPROXY_TSOFF => synproxy.tsoff = attr.be32()?,
                _ => {}
            }
        }
        Ok(synproxy)
    }

    /// Writes the nest.
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        writer.nest(uapi::CTA_SYNPROXY, |nest| {
            nest.be32(uapi::CTA_SYNPROXY_ISN, self.isn)?;
            nest.be32(uapi::CTA_SYNPROXY_ITS, self.its)?;
            nest.be32(uapi::CTA_SYNPROXY_TSOFF, self.tsoff)
        })
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use std::vec::Vec;

    proptest! {
        /// The reader of the usual start and the walk agree on messages that start so, and on damaged ones.
        #[test]
        fn the_usual_start_reads_as_the_walk_reads_it(
            src: [u8; 4], ports: (u16, u16), numbers: [u32; 3], at in 0usize..128, value: u8,
        ) {
            let l4 = tuple::L4::Ports { src: ports.0, dst: ports.1 };
            let tuple = Tuple { src: src.into(), dst: IpAddr::from([10, 2, 2, 2]), proto: uapi::IPPROTO_UDP, l4, zone: None };
            let mut buffer = [0; 256];
            let mut writer = Writer::new(&mut buffer);
            tuple.write(&mut writer, uapi::CTA_TUPLE_ORIG).unwrap();
            tuple.write(&mut writer, uapi::CTA_TUPLE_REPLY).unwrap();
            for (kind, number) in [uapi::CTA_ID, uapi::CTA_STATUS, uapi::CTA_TIMEOUT].into_iter().zip(numbers) {
                writer.be32_opt(kind, Some(number)).unwrap();
            }
            let mut bytes = writer.bytes().to_vec();
            prop_assert!(Usual::split(&Attrs::new(&bytes, 20)).is_some());
            for damaged in [false, true] {
                if let Some(byte) = bytes.get_mut(at).filter(|_| damaged) {
                    *byte = value;
                }
                let attrs = || Attrs::new(&bytes, 20);
                let mut walked = FlowView::default();
                let walk = walked.walk(attrs()).map(|()| walked);
                prop_assert_eq!(FlowView::parse(0, attrs()), walk);
                let found = attrs().map_while(Result::ok).find(|attr| attr.kind == uapi::CTA_ID);
                prop_assert_eq!(FlowView::id_of(&attrs()), found.and_then(|attr| attr.be32().ok()));
            }
        }
    }

    #[test]
    fn labels_keep_their_numbers_through_the_kernels_words() {
        let labels = Labels(1 << 0 | 1 << 33 | 1 << 127);
        let mut buffer = [0; 32];
        let mut writer = Writer::new(&mut buffer);
        labels.write(&mut writer, uapi::CTA_LABELS).unwrap();
        let view = FlowView::parse(uapi::AF_INET, Attrs::new(writer.bytes(), 0)).unwrap();
        assert_eq!(view.rare.labels.unwrap().iter().collect::<Vec<_>>(), [0, 33, 127]);
    }

    #[test]
    fn labels_longer_than_the_kernels_are_refused() {
        let mut buffer = [0; 32];
        let mut writer = Writer::new(&mut buffer);
        writer.attr(uapi::CTA_LABELS, &[0; 20]).unwrap();
        let refused = FlowView::parse(uapi::AF_INET, Attrs::new(writer.bytes(), 0));
        assert_eq!(refused, Err(ParseError::new(4, Reason::Labels(20))));
    }

    #[test]
    fn a_zone_of_the_original_direction_is_part_of_the_key() {
        let orig = Tuple {
            src: IpAddr::from([10, 1, 1, 1]),
            dst: IpAddr::from([10, 2, 2, 2]),
            proto: uapi::IPPROTO_UDP,
            l4: tuple::L4::Ports { src: 1, dst: 2 },
            zone: Some(3),
        };
        let view = FlowView { orig: Some(orig), ..FlowView::default() };
        assert_eq!(view.key(), Some(FlowKey { orig: Tuple { zone: None, ..orig }, zone: 3 }));
    }
}
