//! The kinds of change to one flow.

/// The kind of change to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// The flow is new.
    Created,
    /// The flow existed, and its state changed.
    Updated,
    /// The flow was removed.
    Destroyed,
}
