//! Errors in received bytes, with their offset.

use thiserror::Error;

/// Malformed bytes: their offset, and the rule that they break. The error is small and `Copy`, so that the event path
/// can report a malformed message without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{reason} at byte {offset}")]
pub struct ParseError {
    /// The offset in bytes from the start of the frame.
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

/// The rule that received bytes break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Reason {
    /// Fewer bytes are left than a message header has; usually because the datagram was cut.
    #[error("message header cut short")]
    HeaderCut,
    /// `nlmsg_len` is shorter than its own header, or exceeds the frame.
    #[error("message length out of range")]
    MessageLength,
    /// The message is too short for the `nfgenmsg` at the start of every netfilter message.
    #[error("netfilter header cut short")]
    FamilyHeaderCut,
    /// `nla_len` is shorter than its own header, or exceeds its container.
    #[error("attribute length out of range")]
    AttributeLength,
    /// A number has the wrong width for its attribute.
    #[error("attribute {kind} has {found} bytes, not {expected}")]
    Width {
        /// The attribute's type, without flags.
        kind: u16,
        /// The width in bytes that the kernel's policy defines for this attribute.
        expected: u8,
        /// The width found, in bytes; saturates at 65,535.
        found: u16,
    },
    /// A text is not UTF-8.
    #[error("attribute {0} is not text")]
    Text(u16),
    /// A tuple mixes the families, or does not have both addresses.
    #[error("tuple has no complete address pair")]
    Addresses,
    /// Labels are longer than the kernel's 128 bits, or not in whole 32-bit words.
    #[error("labels of {0} bytes")]
    Labels(u16),
}
