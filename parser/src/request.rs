//! Requests to ctnetlink, written whole into a caller's buffer.
//!
//! What a request says of a flow is what a view says of it, plus what only requests have ([`FlowChange`]): so what was
//! read can be sent back. Every request asks for an acknowledgement; a dump is answered by its end instead.

use core::net::IpAddr;

use crate::expect::ExpectView;
use crate::filter::DumpFilter;
use crate::flow::{FlowView, Labels};
use crate::tuple::Tuple;
use crate::uapi;
use crate::write::{Full, Writer};

/// Bytes that hold any single request of this module: tuples, blobs at their longest, and headers.
pub const REQUEST_BYTES: usize = 4096;

/// What to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// The flows.
    Conntrack,
    /// The expectations.
    Expect,
    /// Flows whose destroy event a reliable listener has not taken yet.
    Dying,
    /// Flows whose first packet is still under way; always empty since Linux 6.4.
    Unconfirmed,
}

/// How a flow is translated on creation: CTA_NAT_SRC, CTA_NAT_DST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatRange {
    /// The address to put in.
    pub address: IpAddr,
    /// The port to put in; `None` leaves it to the kernel.
    pub port: Option<u16>,
}

/// A flow to create or change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowChange<'a> {
    /// What it shall be. Fields the kernel only reports (counters, times, use) are sent as they stand and ignored.
    pub flow: FlowView<'a>,
    /// Which bits of the mark to change; `None` changes all.
    pub mark_mask: Option<u32>,
    /// Which labels to change; `None` changes all.
    pub labels_mask: Option<Labels>,
    /// Source translation; on creation only.
    pub nat_src: Option<NatRange>,
    /// Destination translation; on creation only.
    pub nat_dst: Option<NatRange>,
}

/// Which one flow: by its original direction, or by its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// By the original direction.
    Orig(Tuple),
    /// By the reply direction.
    Reply(Tuple),
}

/// What a create request does with a flow that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// Refuses: EEXIST.
    Refuse,
    /// Changes it.
    Change,
}

/// Lists a table. With `zero` (conntrack only) the counters are read and set to 0 at once.
///
/// # Errors
/// [`Full`] when the buffer has no room; likewise for all that follow.
pub fn dump(writer: &mut Writer<'_>, seq: u32, table: Table, filter: &DumpFilter, zero: bool) -> Result<(), Full> {
    let (subsystem, kind) = match table {
        Table::Conntrack if zero => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_CTRZERO),
        Table::Conntrack => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET),
        Table::Dying => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_DYING),
        Table::Unconfirmed => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_UNCONFIRMED),
        Table::Expect => (uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET),
    };
    let flags = uapi::NLM_F_REQUEST | uapi::NLM_F_DUMP;
    // Expectations are selected by family alone; their attributes are numbered otherwise.
    writer.netfilter(subsystem, kind, flags, seq, filter.family, 0, |message| match table {
        Table::Expect => Ok(()),
        Table::Conntrack | Table::Dying | Table::Unconfirmed => filter.write(message),
    })
}

/// Lists one CPU after the other the counters of the conntrack table, or of the expectation table.
///
/// # Errors
/// [`Full`].
pub fn cpu_stats(writer: &mut Writer<'_>, seq: u32, table: Table) -> Result<(), Full> {
    let (subsystem, kind) = match table {
        Table::Expect => (uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET_STATS_CPU),
        _ => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS_CPU),
    };
    writer.netfilter(subsystem, kind, uapi::NLM_F_REQUEST | uapi::NLM_F_DUMP, seq, uapi::AF_UNSPEC, 0, |_| Ok(()))
}

/// Asks for the conntrack table's size.
///
/// # Errors
/// [`Full`].
pub fn global_stats(writer: &mut Writer<'_>, seq: u32) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS, 0, seq, uapi::AF_UNSPEC, |_| Ok(()))
}

/// Asks for one flow.
///
/// # Errors
/// [`Full`].
pub fn get(writer: &mut Writer<'_>, seq: u32, which: &Selector, zone: Option<u16>) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET, 0, seq, which.family(), |message| {
        which.write(message, zone)
    })
}

/// Creates a flow.
///
/// # Errors
/// [`Full`].
pub fn create(writer: &mut Writer<'_>, seq: u32, change: &FlowChange<'_>, existing: IfExists) -> Result<(), Full> {
    let flags = uapi::NLM_F_CREATE
        | match existing {
            IfExists::Refuse => uapi::NLM_F_EXCL,
            IfExists::Change => 0,
        };
    write_acked(
        writer,
        uapi::NFNL_SUBSYS_CTNETLINK,
        uapi::IPCTNL_MSG_CT_NEW,
        flags,
        seq,
        change.flow.family,
        |message| change.write(message),
    )
}

/// Changes a flow that must be there.
///
/// # Errors
/// [`Full`].
pub fn update(writer: &mut Writer<'_>, seq: u32, change: &FlowChange<'_>) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW, 0, seq, change.flow.family, |message| {
        change.write(message)
    })
}

/// Deletes one flow; where `id` is given, only if the flow still has it.
///
/// # Errors
/// [`Full`].
pub fn delete(
    writer: &mut Writer<'_>,
    seq: u32,
    which: &Selector,
    zone: Option<u16>,
    id: Option<u32>,
) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_DELETE, 0, seq, which.family(), |message| {
        which.write(message, zone)?;
        message.be32_opt(uapi::CTA_ID, id)
    })
}

/// Empties the conntrack table, of one family or, with `AF_UNSPEC`, of both.
///
/// # Errors
/// [`Full`].
pub fn flush(writer: &mut Writer<'_>, seq: u32, family: u8) -> Result<(), Full> {
    let kind = u16::from_be_bytes([uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_DELETE]);
    // Version 0 empties both families, whatever the family says: so old programs expect it.
    writer.message(kind, uapi::NLM_F_REQUEST | uapi::NLM_F_ACK, seq, |message| {
        message.family_header(family, uapi::NFNETLINK_V1, 0)
    })
}

/// Asks for the expectation that awaits exactly `tuple`.
///
/// # Errors
/// [`Full`].
pub fn get_expect(writer: &mut Writer<'_>, seq: u32, tuple: &Tuple, zone: Option<u16>) -> Result<(), Full> {
    let which = ExpectView { tuple: Some(*tuple), zone, ..ExpectView::default() };
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET, 0, seq, tuple.family(), |message| {
        which.write(message)
    })
}

/// Creates an expectation; the kernel needs its tuple, mask and master.
///
/// # Errors
/// [`Full`].
pub fn create_expect(writer: &mut Writer<'_>, seq: u32, view: &ExpectView<'_>) -> Result<(), Full> {
    let flags = uapi::NLM_F_CREATE | uapi::NLM_F_EXCL;
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_NEW, flags, seq, view.family, |message| {
        view.write(message)
    })
}

/// Changes an expectation that must be there; the kernel takes a new timeout, class, or flags.
///
/// # Errors
/// [`Full`].
pub fn update_expect(writer: &mut Writer<'_>, seq: u32, view: &ExpectView<'_>) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_NEW, 0, seq, view.family, |message| {
        view.write(message)
    })
}

/// Deletes the expectation that awaits exactly `tuple`.
///
/// # Errors
/// [`Full`].
pub fn delete_expect(writer: &mut Writer<'_>, seq: u32, tuple: &Tuple, zone: Option<u16>) -> Result<(), Full> {
    let which = ExpectView { tuple: Some(*tuple), zone, ..ExpectView::default() };
    write_acked(
        writer,
        uapi::NFNL_SUBSYS_CTNETLINK_EXP,
        uapi::IPCTNL_MSG_EXP_DELETE,
        0,
        seq,
        tuple.family(),
        |message| which.write(message),
    )
}

/// Empties the expectation table.
///
/// # Errors
/// [`Full`].
pub fn flush_expect(writer: &mut Writer<'_>, seq: u32) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_DELETE, 0, seq, uapi::AF_UNSPEC, |_| {
        Ok(())
    })
}

/// A request to one of the two tables' subsystems, to be acknowledged.
fn write_acked(
    writer: &mut Writer<'_>,
    subsystem: u8,
    kind: u8,
    flags: u16,
    seq: u32,
    family: u8,
    body: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>,
) -> Result<(), Full> {
    let flags = flags | uapi::NLM_F_REQUEST | uapi::NLM_F_ACK;
    writer.netfilter(subsystem, kind, flags, seq, family, 0, body)
}

impl Selector {
    fn family(&self) -> u8 {
        match self {
            Self::Orig(tuple) | Self::Reply(tuple) => tuple.family(),
        }
    }

    fn write(&self, writer: &mut Writer<'_>, zone: Option<u16>) -> Result<(), Full> {
        match self {
            Self::Orig(tuple) => tuple.write(writer, uapi::CTA_TUPLE_ORIG)?,
            Self::Reply(tuple) => tuple.write(writer, uapi::CTA_TUPLE_REPLY)?,
        }
        writer.be16_opt(uapi::CTA_ZONE, zone)
    }
}

impl FlowChange<'_> {
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), Full> {
        self.flow.write(writer)?;
        writer.be32_opt(uapi::CTA_MARK_MASK, self.mark_mask)?;
        if let Some(mask) = self.labels_mask {
            mask.write(writer, uapi::CTA_LABELS_MASK)?;
        }
        NatRange::write(self.nat_src, writer, uapi::CTA_NAT_SRC)?;
        NatRange::write(self.nat_dst, writer, uapi::CTA_NAT_DST)
    }
}

impl NatRange {
    fn write(range: Option<Self>, writer: &mut Writer<'_>, kind: u16) -> Result<(), Full> {
        let Some(range) = range else { return Ok(()) };
        writer.nest(kind, |nest| {
            let (min, max) = match range.address {
                IpAddr::V4(_) => (uapi::CTA_NAT_V4_MINIP, uapi::CTA_NAT_V4_MAXIP),
                IpAddr::V6(_) => (uapi::CTA_NAT_V6_MINIP, uapi::CTA_NAT_V6_MAXIP),
            };
            for kind in [min, max] {
                match range.address {
                    IpAddr::V4(address) => nest.attr(kind, &address.octets())?,
                    IpAddr::V6(address) => nest.attr(kind, &address.octets())?,
                }
            }
            let Some(port) = range.port else { return Ok(()) };
            nest.nest(uapi::CTA_NAT_PROTO, |proto| {
                proto.be16(uapi::CTA_PROTONAT_PORT_MIN, port)?;
                proto.be16(uapi::CTA_PROTONAT_PORT_MAX, port)
            })
        })
    }
}
