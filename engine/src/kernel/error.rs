//! What the kernel refused, in its own words and ours.

use std::io;

use ctflow_parser::error::ParseError;
use ctflow_parser::frame::Ack;
use ctflow_parser::write::Full;
use rustix::io::Errno;
use thiserror::Error;

/// A request to the kernel did not do what it was for.
#[derive(Debug, Error)]
pub enum KernelError {
    /// No netfilter socket could be had.
    #[error("cannot open a netfilter socket: {0}{hint}", hint = hint(.0))]
    Open(#[source] io::Error),
    /// Sending or receiving failed.
    #[error("cannot {operation}: {source}")]
    Transport {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel answered with an error.
    #[error("the kernel refused to {operation}: {source}{said}{hint}", said = format_kernel_text(.said.as_ref()), hint = hint(.source))]
    Refused {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// The errno.
        source: io::Error,
        /// The kernel's own words, with the offset of the attribute that it did not like.
        said: Option<(Box<str>, Option<u32>)>,
    },
    /// The kernel's answer does not parse.
    #[error("cannot {operation}: the kernel's answer is malformed: {source}")]
    Malformed {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// Where and why.
        source: ParseError,
    },
    /// An answer was longer than the buffer that all answers fit.
    #[error("cannot {operation}: an answer of {bytes} bytes was cut")]
    Cut {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// The answer's full length.
        bytes: usize,
    },
    /// The request is longer than the buffer that all requests fit.
    #[error("cannot {operation}: {source}")]
    TooLong {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// The writer's word.
        source: Full,
    },
    /// Answers to some of the requests that were sent together are missing, so nobody knows how those fared.
    #[error(
        "cannot {operation}: of {requests} requests sent together the kernel's answers to some were lost; \
         look at what was done, and raise net.core.rmem_max"
    )]
    Unanswered {
        /// What was being done, as a verb phrase.
        operation: &'static str,
        /// How many requests were sent together.
        requests: usize,
    },
}

impl KernelError {
    pub(crate) fn refused(operation: &'static str, ack: &Ack<'_>) -> Self {
        let said = ack.text.map(|text| (text.into(), ack.attr_offset));
        Self::Refused { operation, source: io::Error::from_raw_os_error(ack.errno), said }
    }

    /// The kernel's errno, where it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Open(source) | Self::Transport { source, .. } => source.raw_os_error(),
            Self::Malformed { .. } | Self::Cut { .. } | Self::TooLong { .. } | Self::Unanswered { .. } => None,
        }
    }
}

fn format_kernel_text(said: Option<&(Box<str>, Option<u32>)>) -> String {
    match said {
        Some((text, Some(offset))) => format!(" ({text}, at byte {offset} of the request)"),
        Some((text, None)) => format!(" ({text})"),
        None => String::new(),
    }
}

/// What mends the usual refusals.
fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::PERM) => "; this needs root or CAP_NET_ADMIN",
        Some(Errno::PROTONOSUPPORT) => "; the kernel has no netfilter netlink: modprobe nfnetlink",
        // nfnetlink says "invalid" of a subsystem that nobody registered.
        Some(Errno::INVAL) if !std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_count").exists() => {
            "; the kernel has no connection tracking: modprobe nf_conntrack_netlink"
        }
        // Of a new flow: there are as many as there may be.
        Some(Errno::NOMEM) => "; if the table is full, raise net.netfilter.nf_conntrack_max",
        _ => "",
    }
}
