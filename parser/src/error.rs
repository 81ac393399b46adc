//! What was wrong with received bytes, and where.

use thiserror::Error;

/// Malformed bytes: where they begin and what rule they break. Small and `Copy`, so that reporting a bad message
/// on the event path allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{reason} at byte {offset}")]
pub struct ParseError {
    /// Bytes from the start of the frame.
    pub offset: u32,
    /// The rule that was broken.
    pub reason: Reason,
}

impl ParseError {
    /// An error at `offset` bytes from the start of the frame; offsets past `u32::MAX` saturate.
    pub(crate) fn new(offset: usize, reason: Reason) -> Self {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        Self { offset, reason }
    }
}

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Reason {
    /// Fewer bytes are left than a message header takes; usually a cut datagram.
    #[error("message header cut short")]
    HeaderCut,
    /// `nlmsg_len` is shorter than its own header or reaches past the frame.
    #[error("message length out of range")]
    MessageLength,
    /// The message has no room for the `nfgenmsg` that every netfilter message starts with.
    #[error("netfilter header cut short")]
    FamilyHeaderCut,
    /// `nla_len` is shorter than its own header or reaches past its container.
    #[error("attribute length out of range")]
    AttributeLength,
    /// A number of the wrong width for its attribute.
    #[error("attribute {kind} has {found} bytes, not {expected}")]
    Width {
        /// The attribute's type, flags removed.
        kind: u16,
        /// Bytes that the kernel's policy gives this attribute.
        expected: u8,
        /// Bytes found; saturates at 65,535.
        found: u16,
    },
    /// The text has no terminating NUL where one is required, or bytes other than UTF-8.
    #[error("attribute {0} is not text")]
    Text(u16),
    /// A tuple mixes the families, or has one address of a pair.
    #[error("tuple has no complete address pair")]
    Addresses,
    /// A label mask longer than the kernel's 128 bits, or not in whole 32-bit words.
    #[error("labels of {0} bytes")]
    Labels(u16),
}
