//! Which node saw the newer change of a flow: this one or a peer.
//!
//! Both firewalls hold a flow that moved from one to the other, and the node that saw its last change has the right
//! state. Only the worker that owns the flow knows when it changed on this node.

use ctflow_parser::compact::{Address, Key};
use ctflow_parser::flow::FlowView;
use ctflow_parser::record::Event;
use ctflow_parser::tuple::FlowKey;
use ctflow_parser::uapi;

use super::Shard;
use super::table::Table;

/// A peer's version of a flow that exists in this node's kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerVersion {
    /// The flow's key.
    pub(crate) key: FlowKey,
    /// The flow's id in this kernel.
    pub(crate) id: u32,
    /// When the flow last changed on the peer, in milliseconds since 1970.
    pub(crate) changed_ms: u64,
}

/// Which version of a flow is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Newer {
    /// The shard does not hold the flow.
    Unknown,
    /// The peer's version is newer, or as new as the version of this node.
    Peer,
    /// The flow changed on this node after it changed on the peer.
    Local,
}

impl Shard {
    /// Compares the peer's version of a flow with the version of this shard.
    pub(crate) fn compare_with_peer(&self, version: &PeerVersion) -> Newer {
        let local_ms = match version.key.orig.family() {
            uapi::AF_INET => changed_ms(&self.v4, version, self.now_ms),
            _ => changed_ms(&self.v6, version, self.now_ms),
        };
        match local_ms {
            None => Newer::Unknown,
            Some(local_ms) if local_ms <= version.changed_ms => Newer::Peer,
            Some(_) => Newer::Local,
        }
    }

    /// Compares the peer's version of a flow with the version of this shard, and removes the flow from the shard unless
    /// the latter is newer. The flow belongs to the peer from then on, and replicas receive its end from this node.
    pub(crate) fn evict_unless_newer(&mut self, version: &PeerVersion) -> Newer {
        let newer = self.compare_with_peer(version);
        if newer == Newer::Peer {
            let (orig, zone) = (Some(version.key.orig), version.key.named_zone());
            self.apply(Event::Destroy, &FlowView { orig, zone, id: Some(version.id), ..FlowView::default() });
        }
        newer
    }
}

/// When the flow last changed on this node, in milliseconds since 1970; `None` where the table does not hold it.
fn changed_ms<A: Address>(table: &Table<A>, version: &PeerVersion, now_ms: u64) -> Option<u64> {
    let slot = table.find_slot(&Key::of(&version.key)?, version.id)?;
    Some(slot.changed.time_ms(now_ms))
}
