//! What the daemon may do once it runs: change connection tracking, and little else.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// What is needed to the end: netlink requests and dumps; a link that is dialled again is bound to its interface.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);

/// Gives up every capability of this thread, and so of those that it starts, but those that are needed. What was not there
/// is not missed here: the engine says what it lacks.
pub(super) fn drop_capabilities() {
    let kept = capabilities(None).map(|had| CapabilitySets {
        effective: had.effective & KEPT,
        permitted: had.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    });
    let dropped = kept.and_then(|kept| set_capabilities(None, kept)).and_then(|()| set_no_new_privs(true));
    match dropped {
        Ok(()) => tracing::info!("capabilities are given up, but CAP_NET_ADMIN and CAP_NET_RAW"),
        Err(error) => tracing::warn!(%error, "cannot give up capabilities: the daemon keeps those it has"),
    }
}
