//! Errors of requests to the kernel, with the kernel's text and a hint where the cause is known.

use std::io;

use ctflow_parser::error::ParseError;
use ctflow_parser::frame::Ack;
use ctflow_parser::write::Full;
use rustix::io::Errno;
use thiserror::Error;

use crate::os_error::os_error_text;

/// A request to the kernel failed.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The netfilter socket could not be opened.
    #[error("cannot open a netfilter socket: {text}{hint}", text = os_error_text(.0), hint = hint(.0))]
    Open(#[source] io::Error),
    /// Sending or receiving failed.
    #[error("cannot {operation}: {text}", text = os_error_text(.source))]
    Transport {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel answered with an error.
    #[error(
        "the kernel refused to {operation}: {text}{kernel}{hint}",
        text = os_error_text(.source), kernel = format_kernel_text(.kernel_text.as_ref()), hint = hint(.source)
    )]
    Refused {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The errno.
        source: io::Error,
        /// The text of the kernel's extended acknowledgement, and the offset in bytes of the attribute that it refused.
        kernel_text: Option<(Box<str>, Option<u32>)>,
    },
    /// The kernel's answer does not parse.
    #[error("cannot {operation}: the kernel's answer is malformed: {source}")]
    Malformed {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The offset and the reason.
        source: ParseError,
    },
    /// An answer was longer than the receive buffer, which should hold any answer.
    #[error("cannot {operation}: the kernel's answer of {bytes} bytes was cut")]
    Cut {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The answer's full length.
        bytes: usize,
    },
    /// The request is longer than its buffer, which should hold any request.
    #[error("cannot {operation}: {source}")]
    TooLong {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The writer's error.
        source: Full,
    },
    /// Answers to some of the requests that were sent together are missing, so it is unknown whether the kernel carried
    /// them out.
    #[error(
        "cannot {operation}: some of the kernel's answers to {requests} requests were lost; \
         check what was done, and raise net.core.rmem_max"
    )]
    Unanswered {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The number of requests that were sent together.
        requests: usize,
    },
}

impl KernelError {
    /// The error for an acknowledgement with an errno.
    pub(crate) fn refused(operation: &'static str, ack: &Ack<'_>) -> Self {
        let kernel_text = ack.text.map(|text| (text.into(), ack.attr_offset));
        Self::Refused { operation, source: io::Error::from_raw_os_error(ack.errno), kernel_text }
    }

    /// The errno of the kernel or of a system call; `None` for errors of other kinds.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Open(source) | Self::Transport { source, .. } => source.raw_os_error(),
            Self::Malformed { .. } | Self::Cut { .. } | Self::TooLong { .. } | Self::Unanswered { .. } => None,
        }
    }
}

/// The kernel's text as an addition to a message; empty where the kernel sent none.
fn format_kernel_text(kernel_text: Option<&(Box<str>, Option<u32>)>) -> String {
    match kernel_text {
        Some((text, Some(offset))) => format!(" ({text}, at byte {offset} of the request)"),
        Some((text, None)) => format!(" ({text})"),
        None => String::new(),
    }
}

/// What to do about the usual refusals, as an addition to a message.
fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::PERM) => "; this needs root or CAP_NET_ADMIN",
        Some(Errno::PROTONOSUPPORT) => "; the kernel has no netfilter netlink: modprobe nfnetlink",
        // nfnetlink returns EINVAL for a subsystem that no module has registered.
        Some(Errno::INVAL) if !std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_count").exists() => {
            "; the kernel has no connection tracking: modprobe nf_conntrack_netlink"
        }
        // The kernel returns ENOMEM for a new flow when the table is full.
        Some(Errno::NOMEM) => "; if the table is full, raise net.netfilter.nf_conntrack_max",
        _ => "",
    }
}
