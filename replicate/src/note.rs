//! What an operator's log shall say: one line each, what happened, where, what to do.

use std::fmt;
use std::mem::{Discriminant, discriminant};

use crate::control::Reason;
use crate::host::Address;
use crate::limits::{NOTE_MS, NOTES_KEPT};
use crate::mode::Mode;
use crate::time::Epoch;
use crate::wire::{Cipher, VERSION};

/// Something worth a line in the log. What strangers or faulty peers can cause comes at most once a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A peer's epoch was proven.
    Live {
        /// The peer's name.
        name: String,
        /// Its epoch.
        epoch: Epoch,
        /// Its streams.
        streams: u16,
    },
    /// A lost or stopped peer is heard again in the same epoch.
    Reconnected {
        /// The peer's name.
        name: String,
    },
    /// All buckets of a peer are known.
    InSync {
        /// The peer's name.
        name: String,
    },
    /// A peer was not heard for three seconds.
    Lost {
        /// The peer's name.
        name: String,
    },
    /// A peer was stopped by its operator.
    Stopped {
        /// The peer's name.
        name: String,
    },
    /// A peer refuses this node.
    Refused {
        /// The peer's node id.
        node: u64,
        /// Why.
        reason: Reason,
    },
    /// A peer runs in another mode.
    OtherMode {
        /// The peer's name.
        name: String,
        /// Its mode; `None` for one that is not known here.
        theirs: Option<Mode>,
        /// This node's.
        ours: Mode,
    },
    /// Another node has this node's name.
    NameTaken {
        /// The name.
        name: String,
        /// Where the other one is.
        from: Address,
    },
    /// A datagram of another version came.
    OtherVersion {
        /// From where.
        from: Address,
        /// Its version.
        version: u8,
    },
    /// A datagram came in clear to a node with a key, or sealed to one without.
    OtherCipher {
        /// From where.
        from: Address,
        /// What it was.
        theirs: Cipher,
    },
    /// A datagram did not open: another key, or a forgery.
    WrongKey {
        /// From where.
        from: Address,
    },
    /// A peer knows a later epoch of this node: its clock went back. Its streams began anew.
    EpochRaised {
        /// What it is now.
        epoch: Epoch,
    },
    /// A batch did not parse.
    Malformed {
        /// The peer's name.
        name: String,
        /// The stream.
        stream: u16,
        /// The batch.
        seq: u64,
    },
    /// A control message has a block that must be known, and is not.
    UnknownBlock {
        /// The peer's node id.
        node: u64,
        /// The block's type.
        kind: u8,
    },
    /// A replica refused an entry.
    Full {
        /// The peer's name.
        name: String,
        /// The stream.
        stream: u16,
    },
    /// There are as many peers as there can be.
    TooManyPeers {
        /// Where one more is.
        from: Address,
    },
    /// A comparison of a stream's replica with its source.
    Verdict {
        /// The peer's name.
        name: String,
        /// Whose replica it is.
        held_by: HeldBy,
        /// The stream.
        stream: u16,
        /// What it was asked for under.
        number: u64,
        /// Entries in the replica.
        entries: u64,
        /// Buckets that differ.
        differing: u32,
    },
}

/// Which of two nodes holds a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeldBy {
    /// This node, of the peer's stream.
    ThisNode,
    /// The peer, of this node's stream.
    Peer,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live { name, epoch, streams } => {
                write!(f, "peer {name}: live, epoch {epoch}, {streams} streams")
            }
            Self::Reconnected { name } => write!(f, "peer {name}: heard again, goes on where it was"),
            Self::InSync { name } => write!(f, "peer {name}: all of it is replicated"),
            Self::Lost { name } => write!(f, "peer {name}: not heard for 3 s; its flows are kept, check the link"),
            Self::Stopped { name } => write!(f, "peer {name}: stopped; its flows are kept"),
            Self::Refused { node, reason } => write!(f, "node {node:016x}: refuses this node: {reason}"),
            Self::OtherMode { name, theirs: Some(theirs), ours } => {
                write!(f, "peer {name}: runs in mode {theirs}, this node in {ours}; set both to the same")
            }
            Self::OtherMode { name, theirs: None, ours } => {
                write!(f, "peer {name}: runs in an unknown mode, this node in {ours}; set both to the same")
            }
            Self::NameTaken { name, .. } => {
                write!(f, "another node is called {name} too; give one of them another name")
            }
            Self::OtherVersion { version, .. } => {
                write!(f, "datagram of version {version}, this node speaks {VERSION}; update one of the two")
            }
            Self::OtherCipher { theirs: Cipher::Clear, .. } => {
                write!(f, "datagram in clear, this node has a key; give that one the same key")
            }
            Self::OtherCipher { theirs: Cipher::Sealed, .. } => {
                write!(f, "sealed datagram, this node runs in clear; give it the same key")
            }
            Self::WrongKey { .. } => f.write_str("datagram does not open; give both nodes the same key"),
            Self::EpochRaised { epoch } => {
                write!(
                    f,
                    "a peer knows a later epoch of this node, its clock went back: now epoch {epoch}, telling all again"
                )
            }
            Self::Malformed { name, stream, seq } => {
                write!(f, "peer {name}: batch {seq} of stream {stream} does not parse; its flows are asked for again")
            }
            Self::UnknownBlock { node, kind } => {
                write!(f, "node {node:016x}: needs block {kind} to be understood; update this node")
            }
            Self::Full { name, stream } => {
                write!(f, "peer {name}: no room for more of stream {stream}; raise [engine] flows_max here")
            }
            Self::TooManyPeers { .. } => f.write_str("one peer too many; it is ignored"),
            Self::Verdict { name, held_by: held, stream, number, entries, differing } => {
                let held = match held {
                    HeldBy::ThisNode => "of",
                    HeldBy::Peer => "at",
                };
                let verdict = if *differing == 0 { "is the same" } else { "differs and is told again" };
                write!(f, "verify {number}: replica {held} {name}, stream {stream}, {entries} entries, ")?;
                write!(f, "{verdict} ({differing} buckets differ)")
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it was stopped"),
            Self::Version => f.write_str("no version in common; update one of the two"),
            Self::NameTaken => f.write_str("another node has the same name; give one of them another"),
            Self::Mode => f.write_str("it runs in another mode; set both to the same"),
            Self::Other(number) => write!(f, "reason {number} of a later version"),
        }
    }
}

impl Note {
    /// Where the datagram came from that it is about: what an address looks like only the caller knows.
    #[must_use]
    pub fn source_address(&self) -> Option<Address> {
        match self {
            Self::NameTaken { from, .. }
            | Self::OtherVersion { from, .. }
            | Self::OtherCipher { from, .. }
            | Self::WrongKey { from }
            | Self::TooManyPeers { from } => Some(*from),
            _ => None,
        }
    }

    /// What it is about, where it is not to be repeated. What anybody could have sent is about nothing in particular:
    /// one of its kind is enough, whatever address it claims.
    fn rate_limit_key(&self) -> Option<u64> {
        match self {
            Self::NameTaken { .. }
            | Self::OtherVersion { .. }
            | Self::OtherCipher { .. }
            | Self::WrongKey { .. }
            | Self::TooManyPeers { .. } => Some(0),
            Self::Refused { node, .. } | Self::UnknownBlock { node, .. } => Some(*node),
            Self::OtherMode { name, .. } => Some(crate::wire::node_id(name)),
            Self::Malformed { name, stream, .. } | Self::Full { name, stream } => {
                Some(crate::wire::node_id(name) ^ u64::from(*stream))
            }
            _ => None,
        }
    }
}

/// What was said lately, so that it is not said again within a minute.
#[derive(Debug, Default)]
pub(crate) struct RecentNotes(Vec<(Discriminant<Note>, u64, u64)>);

impl RecentNotes {
    /// Whether `note` is to be said at `now_ms`; if so it counts as said.
    pub(crate) fn admit(&mut self, note: &Note, now_ms: u64) -> bool {
        let Some(subject) = note.rate_limit_key() else { return true };
        let kind = discriminant(note);
        self.0.retain(|(.., said_ms)| now_ms.saturating_sub(*said_ms) < NOTE_MS);
        if self.0.iter().any(|(other, about, _)| (*other, *about) == (kind, subject)) {
            return false;
        }
        if self.0.len() >= NOTES_KEPT {
            self.0.remove(0);
        }
        self.0.push((kind, subject, now_ms));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_that_anyone_can_cause_are_logged_once_a_minute() {
        let mut said = RecentNotes::default();
        let note = |peer| Note::WrongKey { from: Address { peer, link: 0 } };
        assert!(said.admit(&note(1), 0));
        assert!(!said.admit(&note(2), NOTE_MS - 1), "another address is no other matter");
        assert!(said.admit(&note(1), NOTE_MS));
        let lost = Note::Lost { name: "b".into() };
        assert!(said.admit(&lost, 0) && said.admit(&lost, 0));
    }
}
