//! A netfilter message: which subsystem, which event, which family, and its attributes still to be walked.

use crate::attr::Attrs;
use crate::error::ParseError;
use crate::expect::ExpectView;
use crate::flow::FlowView;
use crate::frame::NlMsgHdr;
use crate::stats::{CpuStats, GlobalStats};
use crate::uapi;

const FAMILY_HEADER_BYTES: usize = 4;

/// What happened to the flow or expectation that a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// It came to be.
    New,
    /// It changed, or, in a dump, it is there.
    Update,
    /// It is gone.
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
    /// Some other subsystem's message.
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
    #[inline]
    pub(crate) fn new(header: &'a NlMsgHdr, message: &'a [u8], offset: usize) -> Option<Self> {
        let payload = message.get(size_of::<NlMsgHdr>()..)?;
        let (&[family, _version, high, low], attrs) = payload.split_first_chunk::<FAMILY_HEADER_BYTES>()?;
        let attrs = Attrs::new(attrs, offset.saturating_add(FAMILY_HEADER_BYTES));
        Some(Self { header, message, family, resource: u16::from_be_bytes([high, low]), attrs })
    }

    /// The whole message, header included, as it was received.
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
            // The kernel answers under the other table's name (`ctnetlink_exp_stat_fill_info`).
            (uapi::NFNL_SUBSYS_CTNETLINK | uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_GET_STATS_CPU) => {
                Subject::ExpectCpuStats
            }
            _ => Subject::Foreign,
        }
    }

    /// What happened, for flows and expectations. The kernel tells creation from change by the flags only
    /// (`ctnetlink_conntrack_event` in nf_conntrack_netlink.c); both tables number "delete" alike.
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

    /// Port id of the process whose request caused this event; `None` for packets and timers.
    #[must_use]
    pub fn requester(&self) -> Option<u32> {
        match self.header.port_id.get() {
            0 => None,
            port_id => Some(port_id),
        }
    }

    /// Whether this is what somebody asked of the kernel, not what the kernel told; captures of netlink have both.
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

    /// The kernel's id of the flow that this message is about, where it stands before anything that is malformed: for a look
    /// ahead, without taking the message apart.
    #[must_use]
    #[inline]
    pub fn flow_id(&self) -> Option<u32> {
        (self.subject() == Subject::Flow).then(|| FlowView::id_of(&self.attrs)).flatten()
    }

    /// The flow this message is about. Meaningful where [`Record::subject`] is [`Subject::Flow`].
    ///
    /// # Errors
    /// The first malformed attribute.
    #[inline]
    pub fn flow(&self) -> Result<FlowView<'a>, ParseError> {
        FlowView::parse(self.family, self.attrs())
    }

    /// As [`Record::flow`], in place of what was there.
    ///
    /// # Errors
    /// The first malformed attribute.
    #[inline]
    pub fn read_flow(&self, view: &mut FlowView<'a>) -> Result<(), ParseError> {
        view.read(self.family, self.attrs())
    }

    /// The expectation this message is about. Meaningful where [`Record::subject`] is [`Subject::Expect`].
    ///
    /// # Errors
    /// The first malformed attribute.
    pub fn expect(&self) -> Result<ExpectView<'a>, ParseError> {
        ExpectView::parse(self.family, self.attrs())
    }

    /// One CPU's counters, of either table.
    #[must_use]
    pub fn cpu_stats(&self) -> CpuStats<'a> {
        CpuStats { cpu: self.resource, attrs: self.attrs() }
    }

    /// The conntrack table's size.
    ///
    /// # Errors
    /// The first malformed attribute.
    pub fn global_stats(&self) -> Result<GlobalStats, ParseError> {
        GlobalStats::parse(self.attrs())
    }
}
