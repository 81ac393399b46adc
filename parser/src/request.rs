//! Writers of requests to ctnetlink.
//!
//! A request contains the same fields of a flow as a view, plus those that only requests have ([`FlowChange`]), so a
//! parsed flow can be sent back. Every request has the acknowledgement flag, except dumps, which the kernel ends with a
//! message of its own.

use core::net::IpAddr;

use crate::expect::ExpectView;
use crate::filter::DumpFilter;
use crate::flow::{FlowView, Labels};
use crate::tuple::Tuple;
use crate::uapi;
use crate::write::{Full, Writer};

/// The length in bytes of a buffer for any single request of this module, with tuples, the longest blobs, and headers.
pub const REQUEST_BYTES: usize = 4096;

/// A table of the kernel that can be dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// The conntrack table, which holds the flows.
    Conntrack,
    /// The expectation table.
    Expect,
    /// Flows whose destroy event a reliable listener has not received yet.
    Dying,
    /// Flows whose first packet has not left the host yet; always empty since Linux 6.4.
    Unconfirmed,
}

/// The translation of a flow that is created (CTA_NAT_SRC, CTA_NAT_DST).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatRange {
    /// The address to translate to.
    pub address: IpAddr,
    /// The port to translate to; `None` leaves the choice to the kernel.
    pub port: Option<u16>,
}

/// A flow to create or change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowChange<'a> {
    /// The new fields of the flow. The kernel ignores the fields that it only reports (counters, times, use count).
    pub flow: FlowView<'a>,
    /// The bits of the mark to change; `None` changes all.
    pub mark_mask: Option<u32>,
    /// The labels to change; `None` changes all.
    pub labels_mask: Option<Labels>,
    /// The source translation; only for a flow that is created.
    pub nat_src: Option<NatRange>,
    /// The destination translation; only for a flow that is created.
    pub nat_dst: Option<NatRange>,
}

/// Selects one flow, by its original or its reply direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// Selects by the original direction.
    Orig(Tuple),
    /// Selects by the reply direction.
    Reply(Tuple),
}

/// What the kernel does with a create request for a flow that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// It refuses the request with EEXIST.
    Refuse,
    /// It changes the flow.
    Change,
}

/// Writes a request to dump a table. With `zero` (conntrack table only) the kernel resets the counters that it reports.
/// The kernel filters the expectation table by family only.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn dump(writer: &mut Writer<'_>, seq: u32, table: Table, filter: &DumpFilter, zero: bool) -> Result<(), Full> {
    let (subsystem, kind) = match table {
        Table::Conntrack if zero => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_CTRZERO),
        Table::Conntrack => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET),
        Table::Dying => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_DYING),
        Table::Unconfirmed => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_UNCONFIRMED),
        Table::Expect => (uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET),
    };
    let flags = uapi::NLM_F_REQUEST | uapi::NLM_F_DUMP;
    // Expectations can be selected by family only. Their attributes have other numbers.
    writer.netfilter(subsystem, kind, flags, seq, filter.family, 0, |message| match table {
        Table::Expect => Ok(()),
        Table::Conntrack | Table::Dying | Table::Unconfirmed => filter.write(message),
    })
}

/// Writes a request for the counters of the conntrack or the expectation table: the kernel answers with one record for
/// each CPU.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn cpu_stats(writer: &mut Writer<'_>, seq: u32, table: Table) -> Result<(), Full> {
    let (subsystem, kind) = match table {
        Table::Expect => (uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET_STATS_CPU),
        _ => (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS_CPU),
    };
    writer.netfilter(subsystem, kind, uapi::NLM_F_REQUEST | uapi::NLM_F_DUMP, seq, uapi::AF_UNSPEC, 0, |_| Ok(()))
}

/// Writes a request for the conntrack table's size.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn global_stats(writer: &mut Writer<'_>, seq: u32) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS, 0, seq, uapi::AF_UNSPEC, |_| Ok(()))
}

/// Writes a request for one flow.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn get(writer: &mut Writer<'_>, seq: u32, which: &Selector, zone: Option<u16>) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET, 0, seq, which.family(), |message| {
        which.write(message, zone)
    })
}

/// Writes a request to create a flow.
///
/// # Errors
/// [`Full`] where the buffer has no room.
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

/// Writes a request to change a flow. The kernel refuses it where the flow does not exist.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn update(writer: &mut Writer<'_>, seq: u32, change: &FlowChange<'_>) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW, 0, seq, change.flow.family, |message| {
        change.write(message)
    })
}

/// Writes a request to delete one flow. With an `id` the kernel deletes the flow only if it has this id.
///
/// # Errors
/// [`Full`] where the buffer has no room.
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

/// Writes a request to delete all flows of one family, or of both with `AF_UNSPEC`.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn flush(writer: &mut Writer<'_>, seq: u32, family: u8) -> Result<(), Full> {
    let kind = u16::from_be_bytes([uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_DELETE]);
    // With version 0 the kernel deletes the flows of both families, whatever the family is, as old programs expect.
    writer.message(kind, uapi::NLM_F_REQUEST | uapi::NLM_F_ACK, seq, |message| {
        message.family_header(family, uapi::NFNETLINK_V1, 0)
    })
}

/// Writes a request for the expectation whose tuple is exactly `tuple`.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn get_expect(writer: &mut Writer<'_>, seq: u32, tuple: &Tuple, zone: Option<u16>) -> Result<(), Full> {
    let which = ExpectView { tuple: Some(*tuple), zone, ..ExpectView::default() };
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET, 0, seq, tuple.family(), |message| {
        which.write(message)
    })
}

/// Writes a request to create an expectation. The kernel needs its tuple, mask and master.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn create_expect(writer: &mut Writer<'_>, seq: u32, view: &ExpectView<'_>) -> Result<(), Full> {
    let flags = uapi::NLM_F_CREATE | uapi::NLM_F_EXCL;
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_NEW, flags, seq, view.family, |message| {
        view.write(message)
    })
}

/// Writes a request to change an expectation, which must exist. The kernel accepts a new timeout, class, or flags.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn update_expect(writer: &mut Writer<'_>, seq: u32, view: &ExpectView<'_>) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_NEW, 0, seq, view.family, |message| {
        view.write(message)
    })
}

/// Writes a request to delete the expectation whose tuple is exactly `tuple`.
///
/// # Errors
/// [`Full`] where the buffer has no room.
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

/// Writes a request to delete all expectations.
///
/// # Errors
/// [`Full`] where the buffer has no room.
pub fn flush_expect(writer: &mut Writer<'_>, seq: u32) -> Result<(), Full> {
    write_acked(writer, uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_DELETE, 0, seq, uapi::AF_UNSPEC, |_| {
        Ok(())
    })
}

/// Writes a request to the subsystem of either table, with the acknowledgement flag.
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
    /// The family of the tuple.
    fn family(&self) -> u8 {
        match self {
            Self::Orig(tuple) | Self::Reply(tuple) => tuple.family(),
        }
    }

    /// Writes the tuple and the zone.
    fn write(&self, writer: &mut Writer<'_>, zone: Option<u16>) -> Result<(), Full> {
        match self {
            Self::Orig(tuple) => tuple.write(writer, uapi::CTA_TUPLE_ORIG)?,
            Self::Reply(tuple) => tuple.write(writer, uapi::CTA_TUPLE_REPLY)?,
        }
        writer.be16_opt(uapi::CTA_ZONE, zone)
    }
}

impl FlowChange<'_> {
    /// Writes the attributes of the change.
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
    /// Writes the nest, if there is a translation. A range of one address and port is sent as equal bounds.
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
