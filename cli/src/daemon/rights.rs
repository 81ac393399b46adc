//! The capabilities of the running daemon: those that connection tracking needs, and no others.

use ctflow_engine::os_error::os_error_text;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// Capabilities that are needed until the end: CAP_NET_ADMIN for netlink requests and dumps, CAP_NET_RAW to bind a link
/// that reconnects to its interface.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);

/// Drops every capability of this thread, and so of those that it starts, except [`KEPT`]. A capability that the daemon
/// did not have is not an error here: the engine reports what it cannot do without it.
pub(super) fn drop_capabilities() {
    let kept = capabilities(None).map(|had| CapabilitySets {
        effective: had.effective & KEPT,
        permitted: had.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    });
    let dropped = kept.and_then(|kept| set_capabilities(None, kept)).and_then(|()| set_no_new_privs(true));
    match dropped {
        Ok(()) => tracing::info!("dropped all capabilities except CAP_NET_ADMIN and CAP_NET_RAW"),
        Err(error) => {
            let why = os_error_text(&error.into());
            tracing::warn!("cannot drop capabilities: {why}; the daemon keeps those it has");
        }
    }
}
