//! The failure of a request, as its client receives it.

use serde::Serialize;

/// The payload of the last frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    /// What happened, and what to do: one line.
    pub(super) error: String,
    /// The exit code for a client program.
    pub(super) code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub(super) fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: 1 }
    }
}
