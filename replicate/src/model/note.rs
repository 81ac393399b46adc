//! The events for the operator's log, one line each: what happened, where, and what to do.

use std::fmt;
use std::mem::{Discriminant, discriminant};

use crate::limits::{NOTE_MS, NOTES_KEPT, PEERS_MAX};
use crate::model::buckets::BucketSet;
use crate::model::host::{Address, Cipher, node_id};
use crate::model::mode::Mode;
use crate::model::status::Reason;
use crate::model::time::Epoch;

/// An event for the operator's log. One that an unproven or faulty node can cause is passed at most once a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A peer's epoch was proven.
    Live {
        /// The peer's name.
        name: String,
        /// Its epoch.
        epoch: Epoch,
        /// The number of its streams.
        streams: u16,
    },
    /// A message of a lost or stopped peer was received again, in the same epoch.
    Reconnected {
        /// The peer's name.
        name: String,
    },
    /// All buckets of a peer are known, except those that the replica has no room for.
    InSync {
        /// The peer's name.
        name: String,
    },
    /// Nothing was received from a peer for three seconds.
    Lost {
        /// The peer's name.
        name: String,
    },
    /// A peer was stopped by its operator.
    Stopped {
        /// The peer's name.
        name: String,
    },
    /// Another node refuses this node.
    Refused {
        /// The origin of its message.
        from: Address,
        /// The other node's id.
        node: u64,
        /// The other node's name; `None` if it has sent no hello yet.
        name: Option<String>,
        /// Its reason.
        reason: Reason,
    },
    /// A peer runs in another mode.
    OtherMode {
        /// The peer's name.
        name: String,
        /// Its mode; `None` for one that this version does not know.
        theirs: Option<Mode>,
        /// This node's mode.
        ours: Mode,
    },
    /// Another node has this node's name.
    NameTaken {
        /// The name.
        name: String,
        /// The origin of its message.
        from: Address,
    },
    /// A datagram of another protocol version was received.
    OtherVersion {
        /// The origin of the datagram.
        from: Address,
        /// Its version.
        theirs: u8,
        /// This node's version.
        ours: u8,
    },
    /// A datagram in clear was received although this node has a key, or a sealed one although it has none.
    OtherCipher {
        /// The origin of the datagram.
        from: Address,
        /// Whether the datagram was sealed.
        theirs: Cipher,
    },
    /// A datagram could not be opened: it was sealed with another key, or forged.
    WrongKey {
        /// The origin of the datagram.
        from: Address,
    },
    /// A peer knows a later epoch of this node, whose clock went back. This node's streams started again.
    EpochRaised {
        /// This node's new epoch.
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
    /// A control message has a block that must be known, and this version does not know it.
    UnknownBlock {
        /// The origin of the message.
        from: Address,
        /// The other node's id.
        node: u64,
        /// The other node's name; `None` if it has sent no hello yet.
        name: Option<String>,
        /// The block's type.
        kind: u8,
    },
    /// The replica of a stream had no room for an entry.
    Full {
        /// The peer's name.
        name: String,
        /// The stream.
        stream: u16,
    },
    /// A new node was ignored because there are as many peers as there can be.
    TooManyPeers {
        /// The origin of its message.
        from: Address,
    },
    /// The verdict on a comparison of a stream's replica with its source.
    Verdict {
        /// The peer's name.
        name: String,
        /// The holder of the replica.
        held_by: HeldBy,
        /// The stream.
        stream: u16,
        /// The number of the verification; another node's if this node requested none.
        number: u64,
        /// The number of entries in the replica.
        entries: u64,
        /// The number of buckets that differ.
        differing: u32,
    },
}

/// The node that holds a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeldBy {
    /// This node holds the replica of a peer's stream.
    ThisNode,
    /// The peer holds the replica of this node's stream.
    Peer,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live { name, .. } => write!(f, "peer {name}: connected"),
            Self::Reconnected { name } => write!(f, "peer {name}: connected again; continues where it was"),
            Self::InSync { name } => write!(f, "peer {name}: in sync"),
            Self::Lost { name } => {
                write!(f, "peer {name}: nothing received for 3 s; its flows are kept; check the peer and the link")
            }
            Self::Stopped { name } => write!(f, "peer {name}: stopped; its flows are kept"),
            Self::Refused { name, node, reason, .. } => {
                write!(f, "{} refused this node: {reason}", sender(name.as_deref(), *node))
            }
            Self::OtherMode { name, theirs: Some(theirs), ours } => {
                write!(f, "peer {name}: refused: it runs mode {theirs}, this node runs {ours}; set [sync] mode alike")
            }
            Self::OtherMode { name, theirs: None, ours } => {
                write!(f, "peer {name}: refused: it runs an unknown mode, this node runs {ours}; set [sync] mode alike")
            }
            Self::NameTaken { name, .. } => {
                write!(f, "another node has the name {name} too; change [node] name on one of the two")
            }
            Self::OtherVersion { theirs, ours, .. } => {
                write!(f, "datagram refused: it has version {theirs}, this node has {ours}; update the older node")
            }
            Self::OtherCipher { theirs: Cipher::Clear, .. } => {
                f.write_str("datagram refused: it is not encrypted; copy this node's key file to the sender")
            }
            Self::OtherCipher { theirs: Cipher::Sealed, .. } => {
                f.write_str("datagram refused: it is encrypted; copy the sender's key file to this node")
            }
            Self::WrongKey { .. } => {
                f.write_str("datagram refused: another key, or damaged; copy the same key file to both nodes")
            }
            Self::EpochRaised { .. } => {
                f.write_str("this node's clock went back since its last run; sending all flows again; check the clock")
            }
            Self::Malformed { name, stream, seq } => {
                write!(f, "peer {name}: unreadable datagram; requesting its flows again (stream {stream}, seq {seq})")
            }
            Self::UnknownBlock { name, node, kind, .. } => {
                let sender = sender(name.as_deref(), *node);
                write!(f, "message of {sender} refused: it needs block {kind}, unknown here; update this node")
            }
            Self::Full { name, stream } => {
                write!(f, "peer {name}: no room for its flows of worker {stream}; raise [engine] flows_max here")
            }
            Self::TooManyPeers { .. } => write!(f, "more than {PEERS_MAX} peers; ignoring this one"),
            Self::Verdict { name, held_by, stream, entries, differing, .. } => {
                match held_by {
                    HeldBy::ThisNode => write!(f, "verify: our copy of {name}, worker {stream}: ")?,
                    HeldBy::Peer => write!(f, "verify: {name}'s copy of this node, worker {stream}: ")?,
                }
                if *differing > 0 {
                    let parts = BucketSet::all_of(*stream).count();
                    return write!(f, "differs in {differing} of {parts} parts; these are sent again");
                }
                write!(f, "identical; entries: {entries}")
            }
        }
    }
}

/// A node by its name, or by its id before its name is known.
fn sender(name: Option<&str>, node: u64) -> String {
    name.map_or_else(|| format!("node {node:016x}"), |name| format!("peer {name}"))
}

impl Note {
    /// The origin of the datagram that caused the event, for the caller to print: only the caller knows the address
    /// itself.
    #[must_use]
    pub fn origin_address(&self) -> Option<Address> {
        match self {
            Self::Refused { from, .. }
            | Self::NameTaken { from, .. }
            | Self::OtherVersion { from, .. }
            | Self::OtherCipher { from, .. }
            | Self::WrongKey { from }
            | Self::UnknownBlock { from, .. }
            | Self::TooManyPeers { from } => Some(*from),
            _ => None,
        }
    }

    /// The key by which repeats of the event are suppressed; `None` for one that is always logged. An event that
    /// anybody can cause has the same key for all origins, because a forged origin must not cause more lines.
    fn rate_limit_key(&self) -> Option<u64> {
        match self {
            Self::NameTaken { .. }
            | Self::OtherVersion { .. }
            | Self::OtherCipher { .. }
            | Self::WrongKey { .. }
            | Self::TooManyPeers { .. } => Some(0),
            Self::Refused { node, .. } | Self::UnknownBlock { node, .. } => Some(*node),
            Self::OtherMode { name, .. } => Some(node_id(name)),
            Self::Malformed { name, stream, .. } | Self::Full { name, stream } => {
                Some(node_id(name) ^ u64::from(*stream))
            }
            _ => None,
        }
    }
}

/// The notes logged in the last minute, so that they are not repeated: kind, key and time of each.
#[derive(Debug, Default)]
pub(crate) struct RecentNotes(Vec<(Discriminant<Note>, u64, u64)>);

impl RecentNotes {
    /// Whether `note` is to be logged at `now_ms`; if so, it counts as logged.
    pub(crate) fn admit(&mut self, note: &Note, now_ms: u64) -> bool {
        let Some(key) = note.rate_limit_key() else { return true };
        let kind = discriminant(note);
        self.0.retain(|(.., logged_ms)| now_ms.saturating_sub(*logged_ms) < NOTE_MS);
        if self.0.iter().any(|(other, other_key, _)| (*other, *other_key) == (kind, key)) {
            return false;
        }
        if self.0.len() >= NOTES_KEPT {
            self.0.remove(0);
        }
        self.0.push((kind, key, now_ms));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_that_anyone_can_cause_are_logged_once_a_minute() {
        let mut recent = RecentNotes::default();
        let note = |peer| Note::WrongKey { from: Address { peer, link: 0 } };
        assert!(recent.admit(&note(1), 0));
        assert!(!recent.admit(&note(2), NOTE_MS - 1), "another address is not another problem");
        assert!(recent.admit(&note(1), NOTE_MS));
        let lost = Note::Lost { name: "b".into() };
        assert!(recent.admit(&lost, 0) && recent.admit(&lost, 0));
    }
}
