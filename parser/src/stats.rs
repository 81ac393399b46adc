//! Kernel statistics: the counters of both tables for each CPU, and the conntrack table's size.

use crate::attr::Attrs;
use crate::error::ParseError;
use crate::uapi;

/// One CPU's counters, in the kernel's order.
#[derive(Debug, Clone)]
pub struct CpuStats<'a> {
    /// The CPU's number.
    pub cpu: u16,
    /// The counters, not walked yet.
    pub(crate) attrs: Attrs<'a>,
}

impl CpuStats<'_> {
    /// Each counter's attribute type (`CTA_STATS_*`, or `CTA_STATS_EXP_*` for expectations) and its value.
    ///
    /// An item is an error where a counter is not 32 bits wide, or an attribute is malformed.
    pub fn counters(&self) -> impl Iterator<Item = Result<(u16, u32), ParseError>> {
        self.attrs.clone().map(|attr| attr.and_then(|attr| Ok((attr.kind, attr.be32()?))))
    }
}

/// The conntrack table's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GlobalStats {
    /// The current number of entries.
    pub entries: Option<u32>,
    /// `nf_conntrack_max`; `None` from kernels before 4.17.
    pub max_entries: Option<u32>,
}

impl GlobalStats {
    /// Parses the attributes of the answer.
    pub(crate) fn parse(attrs: Attrs<'_>) -> Result<Self, ParseError> {
        let mut stats = Self::default();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                uapi::CTA_STATS_GLOBAL_ENTRIES => stats.entries = Some(attr.be32()?),
                uapi::CTA_STATS_GLOBAL_MAX_ENTRIES => stats.max_entries = Some(attr.be32()?),
                _ => {}
            }
        }
        Ok(stats)
    }
}
