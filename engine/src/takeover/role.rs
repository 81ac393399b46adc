//! The steps of a change of role.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ctflow_replicate::Role;

use super::commit::{self, CommitScope, Progress};
use super::isolate::TABLE;
use super::report::{RoleChange, milliseconds};
use super::{KernelLock, State, Takeover, schedule};
use crate::access::Access;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_RETRY};
use crate::os_error::os_error_text;
use crate::replication::{Replication, ReplicationStatus};
use crate::reply;
use crate::worker::channel::WorkerRequest;
use crate::worker::kernel_resync::WorkerEnded;

/// Changes the role to `role` in the calling thread. For primary that takes as long as a commit and a kernel resync.
pub(crate) fn change_role(access: &Access, lock: &KernelLock, role: Role, progress: &Arc<Progress>) -> RoleChange {
    let (started, takeover) = (Instant::now(), &lock.0);
    let before = takeover.role();
    let mut report = RoleChange::new(role, before);
    // With two primaries, a primary that becomes primary again takes over the flows of the other one.
    let takes_over = role == Role::Primary && takeover.settings.active_active;
    if role == before && !takes_over && takeover.state().complete {
        report.already = true;
        return report;
    }
    tracing::info!("changing the role from {before} to {role}");
    set_role(access, takeover, role, &mut report);
    match role {
        Role::Primary => promote(access, takeover, progress, &mut report),
        Role::Backup | Role::Fault => step_back(access, takeover, &mut report),
        Role::None => {}
    }
    let mut state = takeover.state();
    state.complete = report.missing.is_empty();
    if state.complete {
        report.missing.extend(save_role(&state));
    }
    drop(state);
    report.took_ms = milliseconds(started.elapsed());
    tracing::info!("the role is {role}, {} ms", report.took_ms);
    report.missing.iter().for_each(|missing| tracing::warn!("the change of role is incomplete: {missing}"));
    report
}

/// Stores the new role as incomplete and sends it to the peers.
fn set_role(access: &Access, takeover: &Arc<Takeover>, role: Role, report: &mut RoleChange) {
    let mut state = takeover.state();
    (state.role, state.complete) = (role, false);
    report.missing.extend(save_role(&state));
    drop(state);
    if access.replication.as_ref().is_some_and(|replication| replication.set_role(role).is_err()) {
        report
            .missing
            .push("the peers did not receive the role: the replication thread does not answer; see the log".to_owned());
    }
}

/// The word that follows a role in its file until the change to it is complete.
const INCOMPLETE: &str = "begun";

/// Stores the role in its file. Returns the reason if that fails.
fn save_role(state: &State) -> Option<String> {
    let file = state.file.as_ref()?;
    let text = if state.complete { format!("{}\n", state.role) } else { format!("{} {INCOMPLETE}\n", state.role) };
    let error = fs::write(file, text).err()?;
    let file = file.display();
    let why = os_error_text(&error);
    Some(format!("cannot store the role in {file}: {why}; set the role again after a restart of the daemon"))
}

/// The role stored in a file, if the file exists, and whether the change to it was complete.
pub(super) fn load_role(file: &Path) -> Option<(Role, bool)> {
    let text = fs::read_to_string(file).ok()?;
    let mut words = text.split_whitespace();
    let role = Role::from_name(words.next()?)?;
    Some((role, words.next().is_none()))
}

/// The steps of becoming primary.
fn promote(access: &Access, takeover: &Arc<Takeover>, progress: &Arc<Progress>, report: &mut RoleChange) {
    takeover.cancel_purge();
    if let Some(Ok(status)) = access.replication.as_ref().map(Replication::status) {
        let missing = missing_from_replicas(&status);
        if status.hot_in_sync && missing.is_empty() {
            admit(takeover, report); // the kernel has every flow already, so traffic need not wait for the commit
        }
        report.missing.extend(missing);
    } // without an answer the commit fails, too, and reports it
    let scope = CommitScope { flows: true, expectations: true };
    match commit::run(access, scope, takeover.settings.rules, progress) {
        Ok(done) => {
            let refused = done.tally.refused.iter();
            report.missing.extend(refused.map(|(why, count)| format!("entries not committed: {count} ({why})")));
            report.committed = Some(done.into());
        }
        Err(error) => report.missing.push(format!("the commit stopped before its end: {error}")),
    }
    admit(takeover, report);
    // Flows whose NAT address moved hold resyncs back for a while. This resync must not wait.
    for worker in access.workers.iter() {
        worker.request_and_wait(WorkerRequest::ForgetMoved); // the resync below reports a worker that does not answer
    }
    match kernel_resync(access) {
        Ok(()) => report.internal_flows = Some(access.totals().flows),
        Err(why) => report.missing.push(format!("the internal cache was not compared with the kernel's table: {why}")),
    }
    // The flows of absent peers are this node's now. If their replicas were kept, the next takeover would create flows
    // again that have ended until then.
    if report.committed.is_some() {
        let emptied = access.replication.as_ref().is_none_or(|replication| replication.flush_absent().is_ok());
        if !emptied {
            report.missing.push("the replicas of peers that are down were not emptied: see the log".to_owned());
        }
    }
}

/// Ends the isolation and reports a failure.
fn admit(takeover: &Takeover, report: &mut RoleChange) {
    if let Err(error) = takeover.admit() {
        report.missing.push(format!(
            "nftables table inet {TABLE} still blocks traffic: {error}; restart the daemon, which removes it"
        ));
    }
}

/// The steps of becoming backup or fault.
fn step_back(access: &Access, takeover: &Arc<Takeover>, report: &mut RoleChange) {
    if let Err(error) = takeover.isolate() {
        report.missing.push(format!("this node is not isolated: {error}"));
    }
    let after = takeover.settings.purge_after;
    schedule::flush_later(access, takeover, after);
    report.purge_in_ms = Some(milliseconds(after));
}

/// Lists what is missing in the replicas, as far as this node can know.
fn missing_from_replicas(status: &ReplicationStatus) -> Vec<String> {
    let mut missing = Vec::new();
    if status.proven_peers().next().is_none() {
        missing.push("no peer has connected, so its flows, if there are any, are missing: check the links".to_owned());
    }
    for (peer, unknown) in
        status.proven_peers().map(|peer| (peer, status.unknown_buckets_of(peer))).filter(|(_, unknown)| *unknown > 0)
    {
        let peer = status.peer_label(peer);
        missing.push(format!("flows of peer {peer} may be missing (parts not received yet: {unknown})"));
    }
    if status.replicas.iter().any(|replica| replica.is_full) {
        let refused = status.changes.refused;
        missing.push(format!("the external cache was full and refused {refused} flows: raise [engine] flows_max"));
    }
    missing
}

/// Requests a kernel resync and waits for its end.
fn kernel_resync(access: &Access) -> Result<(), &'static str> {
    let deadline = Instant::now() + SERVER_ANSWER_MAX;
    let (reply, awaited) = reply::channel(None);
    let mut request = reply;
    while let Err(unsent) = access.resync_requests.try_request(request) {
        if Instant::now() >= deadline {
            return Err("the control thread does not answer; see the log");
        }
        std::thread::sleep(SERVER_RETRY);
        request = unsent;
    }
    match awaited.wait(SERVER_ANSWER_MAX) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(WorkerEnded)) => Err("a worker has ended; see the log"),
        Err(reply::NoAnswer) => Err("it takes more than a minute and continues"),
    }
}
