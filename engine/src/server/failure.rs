//! A request that is refused or failed, as its client is told.

use serde::Serialize;

/// The payload of the last frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    /// What happened, and what to do: one line.
    pub(super) error: String,
    /// What a program ends with that was asked for this.
    pub(super) code: u8,
}

impl Failure {
    /// A failure as any other.
    pub(super) fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: 1 }
    }
}
