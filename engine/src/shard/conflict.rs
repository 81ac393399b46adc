//! Whose word on a flow is newer: this node's, or a peer's that has it, too.
//!
//! A flow that moves from one firewall to another is known to both. The one that saw its last change is right, and only the
//! worker that owns the flow here can say when it changed here.

use ctflow_parser::compact::{Address, Key};
use ctflow_parser::flow::FlowView;
use ctflow_parser::record::Event;
use ctflow_parser::tuple::FlowKey;
use ctflow_parser::uapi;

use super::Shard;
use super::table::Table;

/// What a peer says of a flow that is in this node's kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerVersion {
    /// Which flow.
    pub(crate) key: FlowKey,
    /// Its id in this kernel.
    pub(crate) id: u32,
    /// When it changed on the peer, in milliseconds since 1970.
    pub(crate) changed_ms: u64,
}

/// What this node has to say to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newer {
    /// Nothing is known of the flow here.
    Unknown,
    /// What is known here is not newer.
    Peer,
    /// It changed here since.
    Local,
}

impl Shard {
    /// Judges a claim.
    pub(crate) fn compare_with_peer(&self, claim: &PeerVersion) -> Newer {
        let changed_ms = match claim.key.orig.family() {
            uapi::AF_INET => changed_ms(&self.v4, claim, self.now_ms),
            _ => changed_ms(&self.v6, claim, self.now_ms),
        };
        match changed_ms {
            None => Newer::Unknown,
            Some(here) if here <= claim.changed_ms => Newer::Peer,
            Some(_) => Newer::Local,
        }
    }

    /// Judges a claim, and gives up the flow to it unless it changed here since: it is the peer's from now on, and replicas
    /// are told that it is not this node's any more.
    pub(crate) fn evict_unless_newer(&mut self, claim: &PeerVersion) -> Newer {
        let verdict = self.compare_with_peer(claim);
        if verdict == Newer::Peer {
            let (orig, zone) = (Some(claim.key.orig), claim.key.named_zone());
            self.apply(Event::Destroy, &FlowView { orig, zone, id: Some(claim.id), ..FlowView::default() });
        }
        verdict
    }
}

fn changed_ms<A: Address>(table: &Table<A>, claim: &PeerVersion, now_ms: u64) -> Option<u64> {
    let slot = table.find_slot(&Key::of(&claim.key)?, claim.id)?;
    Some(slot.changed.time_ms(now_ms))
}
