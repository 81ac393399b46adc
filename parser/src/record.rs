//! A netfilter message: its subsystem, event and family, and its attributes, which are not walked yet.

use crate::attr::Attrs;
use crate::error::ParseError;
use crate::expect::ExpectView;
use crate::flow::FlowView;
use crate::header::NlMsgHdr;
use crate::stats::{CpuStats, GlobalStats};
use crate::uapi;

const FAMILY_HEADER_BYTES: usize = 4;

/// The event that a message reports of a flow or an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The entry was created.
    New,
    /// The entry changed; in a dump, it exists.
    Update,
    /// The entry was destroyed.
    Destroy,
}

/// What a message describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One flow: [`Record::flow`].
    Flow,
    /// One expectation: [`Record::expect`].
    Expect,
    /// One CPU's counters of the conntrack table: [`Record::cpu_stats`].
    FlowCpuStats,
    /// The conntrack table's size: [`Record::global_stats`].
    GlobalStats,
    /// One CPU's counters of the expectation table: [`Record::cpu_stats`].
    ExpectCpuStats,
    /// A message of another subsystem.
    Foreign,
}

/// A borrowed netfilter message whose header has been checked.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    header: &'a NlMsgHdr,
    message: &'a [u8],
    family: u8,
    resource: u16,
    attrs: Attrs<'a>,
}

impl<'a> Record<'a> {
    /// The message, whose payload is `offset` bytes into the frame; `None` where it is too short for its netfilter
    /// header.
    #[inline]
    pub(crate) fn new(header: &'a NlMsgHdr, message: &'a [u8], offset: usize) -> Option<Self> {
        let payload = message.get(size_of::<NlMsgHdr>()..)?;
        let (&[family, _version, high, low], attrs) = payload.split_first_chunk::<FAMILY_HEADER_BYTES>()?;
        let attrs = Attrs::new(attrs, offset.saturating_add(FAMILY_HEADER_BYTES));
        Some(Self { header, message, family, resource: u16::from_be_bytes([high, low]), attrs })
    }

    /// The whole message as it was received, including its header.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.message
    }

    /// What the message describes.
    #[must_use]
    #[inline]
    pub fn subject(&self) -> Subject {
        let [subsystem, kind] = self.header.kind.get().to_be_bytes();
        match (subsystem, kind) {
            (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW | uapi::IPCTNL_MSG_CT_DELETE) => Subject::Flow,
            (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS_CPU) => Subject::FlowCpuStats,
            (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS) => Subject::GlobalStats,
            (uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_NEW | uapi::IPCTNL_MSG_EXP_DELETE) => {
                Subject::Expect
            }
            // The kernel answers with the subsystem of the conntrack table (`ctnetlink_exp_stat_fill_info`).
            (uapi::NFNL_SUBSYS_CTNETLINK | uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET_STATS_CPU) => {
                Subject::ExpectCpuStats
            }
            _ => Subject::Foreign,
        }
    }

    /// The event, for flows and expectations. The kernel marks a creation by flags only (`ctnetlink_conntrack_event` in
    /// nf_conntrack_netlink.c). Both tables use the same number for "delete".
    #[must_use]
    #[inline]
    pub fn event(&self) -> Event {
        const _: () = assert!(uapi::IPCTNL_MSG_CT_DELETE == uapi::IPCTNL_MSG_EXP_DELETE);
        let [_, kind] = self.header.kind.get().to_be_bytes();
        let flags = self.header.flags.get();
        match kind {
            uapi::IPCTNL_MSG_CT_DELETE => Event::Destroy,
            _ if flags & (uapi::NLM_F_CREATE | uapi::NLM_F_EXCL) != 0 => Event::New,
            _ => Event::Update,
        }
    }

    /// `AF_INET`, `AF_INET6`, or `AF_UNSPEC`.
    #[must_use]
    pub fn family(&self) -> u8 {
        self.family
    }

    /// The port id of the process whose request caused this event; `None` for an event that a packet or a timer caused.
    #[must_use]
    pub fn requester(&self) -> Option<u32> {
        match self.header.port_id.get() {
            0 => None,
            port_id => Some(port_id),
        }
    }

    /// Whether the message is a request to the kernel and not a message of the kernel. Captures of netlink contain
    /// both.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.header.flags.get() & uapi::NLM_F_REQUEST != 0
    }

    /// The sequence number of the request that this message answers.
    #[must_use]
    pub fn seq(&self) -> u32 {
        self.header.seq.get()
    }

    /// The attributes, not yet walked.
    #[must_use]
    pub fn attrs(&self) -> Attrs<'a> {
        self.attrs.clone()
    }

    /// The kernel's id of the flow that this message is about, read without parsing the rest of the message. `None`
    /// where the message is not about a flow, or has no id before its first malformed attribute.
    #[must_use]
    #[inline]
    pub fn flow_id(&self) -> Option<u32> {
        (self.subject() == Subject::Flow).then(|| FlowView::id_of(&self.attrs)).flatten()
    }

    /// Parses the flow that this message is about. It is meaningful where [`Record::subject`] is [`Subject::Flow`].
    ///
    /// # Errors
    /// The first malformed attribute.
    #[inline]
    pub fn flow(&self) -> Result<FlowView<'a>, ParseError> {
        FlowView::parse(self.family, self.attrs())
    }

    /// Parses the flow as [`Record::flow`] does, into `view`.
    ///
    /// # Errors
    /// The first malformed attribute.
    #[inline]
    pub fn read_flow(&self, view: &mut FlowView<'a>) -> Result<(), ParseError> {
        view.read(self.family, self.attrs())
    }

    /// Parses the expectation that this message is about. It is meaningful where [`Record::subject`] is
    /// [`Subject::Expect`].
    ///
    /// # Errors
    /// The first malformed attribute.
    pub fn expect(&self) -> Result<ExpectView<'a>, ParseError> {
        ExpectView::parse(self.family, self.attrs())
    }

    /// One CPU's counters, of the conntrack or the expectation table.
    #[must_use]
    pub fn cpu_stats(&self) -> CpuStats<'a> {
        CpuStats { cpu: self.resource, attrs: self.attrs() }
    }

    /// Parses the conntrack table's size.
    ///
    /// # Errors
    /// The first malformed attribute.
    pub fn global_stats(&self) -> Result<GlobalStats, ParseError> {
        GlobalStats::parse(self.attrs())
    }
}
