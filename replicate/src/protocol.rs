//! A replication protocol, as the replication stage drives it.
//!
//! ```text
//!  shards ── send_batch ─►            ──► Host::send
//!  links ─── receive ────►  Protocol  ──► Host::replica
//!  timer ─── tick ───────►            ──► Host::schedule_buckets, Host::schedule_digests, Host::note
//! ```
//!
//! A protocol is a state machine over a [`Host`]: it gets bytes and the time, and acts through the host alone. It does
//! not block. [`Protocol`] is an enum with a variant for each protocol: its methods are generic over the host, and a
//! call costs no indirection. The caller checks [`Protocol::is_window_open`] before it passes a batch, and calls
//! [`Protocol::tick`] at [`Protocol::deadline`].
//!
//! A shard writes a batch in the protocol's own form ([`BatchWriter`]), so that the bytes it writes are those sent.

use crate::ctflow::Node;
pub use crate::ctflow::{BatchWriter, Config, Key, Payload, WriteError};
use crate::model::host::{Address, Host};
use crate::model::mode::Role;
use crate::model::status::Status;
use crate::model::time::Time;

/// The state machine of a node in one of the protocols.
pub enum Protocol {
    /// The protocol that `PROTOCOL.md` specifies.
    Ctflow(Node),
}

impl Protocol {
    /// Creates a node without peers. The numbers in `config` are clamped to what the protocol allows.
    #[must_use]
    pub fn new(config: Config, now: Time) -> Self {
        Self::Ctflow(Node::new(config, now))
    }

    /// Whether the window of `stream` is open, so that its shard may pass a batch. While it is closed, deltas wait in
    /// the shard, where the newest state of a flow replaces older ones.
    #[must_use]
    #[inline]
    pub fn is_window_open(&self, now: Time, stream: u16) -> bool {
        match self {
            Self::Ctflow(node) => node.is_window_open(now, stream),
        }
    }

    /// Sends the next batch of a stream to all peers. What a peer misses while it is not live, it receives when it
    /// connects again. A batch of a stream that does not exist is dropped.
    #[inline]
    pub fn send_batch(&mut self, now: Time, payload: Payload, host: &mut impl Host) {
        match self {
            Self::Ctflow(node) => node.send_batch(now, payload, host),
        }
    }

    /// Handles a received datagram, which may be decrypted in place. Any bytes are allowed: a datagram that is not
    /// accepted is counted and dropped. Returns whether the datagram is genuine: it could be opened, so with a key it
    /// is from a node that has the key. A genuine duplicate may be reported as not genuine.
    #[inline]
    pub fn receive(&mut self, now: Time, from: Address, datagram: &mut [u8], host: &mut impl Host) -> bool {
        match self {
            Self::Ctflow(node) => {
                let before = node.datagrams_opened();
                node.receive(now, from, datagram, host);
                node.datagrams_opened() > before
            }
        }
    }

    /// Sends the messages and does the timed work that is due. Early or late calls do no harm.
    #[inline]
    pub fn tick(&mut self, now: Time, host: &mut impl Host) {
        match self {
            Self::Ctflow(node) => node.tick(now, host),
        }
    }

    /// The time at which to call [`Protocol::tick`] next, in monotonic milliseconds.
    #[must_use]
    #[inline]
    pub fn deadline(&self) -> u64 {
        match self {
            Self::Ctflow(node) => node.deadline(),
        }
    }

    /// Reports to all peers that this node stops. No other method may be called afterwards.
    pub fn stop(&mut self, host: &mut impl Host) {
        match self {
            Self::Ctflow(node) => node.stop(host),
        }
    }

    /// Sets the role, which the peers receive at the next [`Protocol::tick`].
    pub fn set_role(&mut self, now: Time, role: Role) {
        match self {
            Self::Ctflow(node) => node.set_role(now, role),
        }
    }

    /// The node's role.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Ctflow(node) => node.role(),
        }
    }

    /// The names of the live peers in `role`. Another primary beside this one is a split brain, unless the operator
    /// configured both as primary.
    pub fn peers_in_role(&self, role: Role) -> impl Iterator<Item = &str> {
        match self {
            Self::Ctflow(node) => node.peers_in_role(role),
        }
    }

    /// Whether any peer is live.
    #[must_use]
    pub fn has_live_peer(&self) -> bool {
        match self {
            Self::Ctflow(node) => node.has_live_peer(),
        }
    }

    /// Whether a peer is live, and the replicas have all flows of all live peers, except those that they have no room
    /// for.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        match self {
            Self::Ctflow(node) => node.is_in_sync(),
        }
    }

    /// Sends everything to all peers again, for an operator.
    pub fn bulk_send(&mut self, host: &mut impl Host) {
        match self {
            Self::Ctflow(node) => node.bulk_send(host),
        }
    }

    /// Requests everything from all peers again, for an operator.
    pub fn request_from_all(&mut self, now: Time, host: &mut impl Host) {
        match self {
            Self::Ctflow(node) => node.request_from_all(now, host),
        }
    }

    /// Compares all replicas with their sources, this node's and its peers', for an operator. Each verdict is reported
    /// as [`Note::Verdict`](crate::Note::Verdict) under `number`, which is not 0, and in the status.
    pub fn verify(&mut self, now: Time, number: u64, host: &mut impl Host) {
        match self {
            Self::Ctflow(node) => node.verify(now, number, host),
        }
    }

    /// Empties all replicas, for an operator, and requests everything from the peers again.
    pub fn flush_external(&mut self, now: Time, host: &mut impl Host) {
        match self {
            Self::Ctflow(node) => node.flush_external(now, host),
        }
    }

    /// Empties the replicas of the peers that are not live, because this node has taken over their flows and those
    /// change without them. A peer that is marked live now, but from which nothing more is received, is treated alike
    /// once it is lost.
    pub fn flush_absent(&mut self, now: Time, host: &mut impl Host) {
        match self {
            Self::Ctflow(node) => node.flush_absent(now, host),
        }
    }

    /// Returns the status of the node and its peers.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        match self {
            Self::Ctflow(node) => node.status(now),
        }
    }
}
