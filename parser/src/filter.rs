//! The filter of a dump, as far as the kernel supports it.
//!
//! | field | kernel | an older kernel |
//! |---|---|---|
//! | family | every | |
//! | `mark` | 3.x | |
//! | `status` | 5.15 | ignores it: the dump is not filtered |
//! | `zone` | 6.8 | ignores it |
//! | `orig`, `reply` (CTA_FILTER) | 5.8 | ignores it |
//!
//! CTA_FILTER needs a family: with `AF_UNSPEC` the kernel refuses it (EOPNOTSUPP, Linux 6.18).
//!
//! A kernel that ignores a filter reports no error, so the reader of a dump must filter it again.

use crate::tuple::{L4, Tuple};
use crate::uapi;
use crate::write::{Full, Writer};

/// A number under a mask: an entry matches when `entry & mask == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// The value that the masked bits must have.
    pub value: u32,
    /// The bits that are compared.
    pub mask: u32,
}

impl Masked {
    /// Whether `number` matches, as the kernel compares: a value with bits outside the mask never matches.
    #[must_use]
    pub fn matches(self, number: u32) -> bool {
        number & self.mask == self.value
    }
}

/// A filter on the fields of a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TupleFilter {
    /// The fields that are compared (`CTA_FILTER_F_CTA_*`). The kernel refuses ports or ICMP fields without the
    /// protocol's number.
    pub flags: u32,
    /// The values of the fields. Fields that are not compared are not sent.
    pub tuple: Tuple,
}

impl TupleFilter {
    /// Writes the nest with the fields that are compared. The kernel refuses a flag whose attribute is missing.
    fn write(&self, writer: &mut Writer<'_>, kind: u16) -> Result<(), Full> {
        let bare = Tuple {
            l4: if self.flags & PROTO_FIELDS == 0 { L4::None } else { self.tuple.l4 },
            zone: self.tuple.zone.filter(|_| self.flags & uapi::CTA_FILTER_F_CTA_TUPLE_ZONE != 0),
            ..self.tuple
        };
        bare.write(writer, kind)
    }
}

const ICMP_TYPE: u32 = uapi::CTA_FILTER_F_CTA_PROTO_ICMP_TYPE | uapi::CTA_FILTER_F_CTA_PROTO_ICMPV6_TYPE;
const ICMP_CODE: u32 = uapi::CTA_FILTER_F_CTA_PROTO_ICMP_CODE | uapi::CTA_FILTER_F_CTA_PROTO_ICMPV6_CODE;
const ICMP_ID: u32 = uapi::CTA_FILTER_F_CTA_PROTO_ICMP_ID | uapi::CTA_FILTER_F_CTA_PROTO_ICMPV6_ID;

/// The flags of all ports and ICMP fields.
const PROTO_FIELDS: u32 =
    uapi::CTA_FILTER_F_CTA_PROTO_SRC_PORT | uapi::CTA_FILTER_F_CTA_PROTO_DST_PORT | ICMP_TYPE | ICMP_CODE | ICMP_ID;

/// The filter of a dump; the default selects everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DumpFilter {
    /// `AF_UNSPEC` for both families.
    pub family: u8,
    /// Selects by connection mark.
    pub mark: Option<Masked>,
    /// Selects by status (`IPS_*`). The kernel refuses an empty mask.
    pub status: Option<Masked>,
    /// Selects by the zone of both directions.
    pub zone: Option<u16>,
    /// Selects by fields of the original direction.
    pub orig: Option<TupleFilter>,
    /// Selects by fields of the reply direction.
    pub reply: Option<TupleFilter>,
}

impl DumpFilter {
    /// Writes the filter's attributes.
    pub(crate) fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        self.orig.map_or(Ok(()), |orig| orig.write(writer, uapi::CTA_TUPLE_ORIG))?;
        self.reply.map_or(Ok(()), |reply| reply.write(writer, uapi::CTA_TUPLE_REPLY))?;
        if let Some(status) = self.status {
            writer.be32(uapi::CTA_STATUS, status.value)?;
            writer.be32(uapi::CTA_STATUS_MASK, status.mask)?;
        }
        if let Some(mark) = self.mark {
            writer.be32(uapi::CTA_MARK, mark.value)?;
            writer.be32(uapi::CTA_MARK_MASK, mark.mask)?;
        }
        writer.be16_opt(uapi::CTA_ZONE, self.zone)?;
        if self.orig.is_none() && self.reply.is_none() {
            return Ok(());
        }
        writer.nest(uapi::CTA_FILTER, |nest| {
            self.orig.map_or(Ok(()), |orig| nest.ne32(uapi::CTA_FILTER_ORIG_FLAGS, orig.flags))?;
            self.reply.map_or(Ok(()), |reply| nest.ne32(uapi::CTA_FILTER_REPLY_FLAGS, reply.flags))
        })
    }
}
