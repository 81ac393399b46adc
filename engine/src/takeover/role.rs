//! Taking a role, step by step.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ctflow_replicate::Role;

use super::isolate::TABLE;
use super::report::{RoleChange, milliseconds};
use super::{KernelLock, State, schedule};
use crate::access::Access;
use crate::kernel_resync::WorkerEnded;
use crate::limits::{SERVER_ANSWER_MAX, SERVER_RETRY};
use crate::replication::{self, CommitScope, Progress, Replication, ReplicationStatus};
use crate::reply;
use crate::worker_channel::WorkerRequest;

/// Takes `role`, in the calling thread: as long as a commit and a kernel resync take.
pub(crate) fn change_role(access: &Access, _turn: &KernelLock, role: Role, progress: &Arc<Progress>) -> RoleChange {
    let began = Instant::now();
    let before = access.takeover.role();
    let mut report = RoleChange::new(role, before);
    // Where both are primary, who is told so again is to take over what the other one had.
    let takes_over = role == Role::Primary && access.takeover.settings.active_active;
    if role == before && !takes_over && access.takeover.state().complete {
        report.already = true;
        return report;
    }
    tracing::info!(%role, %before, "changing sides");
    set_role(access, role, &mut report);
    match role {
        Role::Primary => promote(access, progress, &mut report),
        Role::Backup | Role::Fault => step_back(access, &mut report),
        Role::None => {}
    }
    let mut state = access.takeover.state();
    state.complete = report.missing.is_empty();
    if state.complete {
        report.missing.extend(save_role(&state));
    }
    drop(state);
    report.took_ms = milliseconds(began.elapsed());
    tracing::info!(%role, took = ?began.elapsed(), "changed sides");
    report.missing.iter().for_each(|missing| tracing::warn!("incomplete: {missing}"));
    report
}

fn set_role(access: &Access, role: Role, report: &mut RoleChange) {
    let mut state = access.takeover.state();
    (state.role, state.complete) = (role, false);
    report.missing.extend(save_role(&state));
    drop(state);
    if access.replication.as_ref().is_some_and(|replication| replication.set_role(role).is_err()) {
        report.missing.push("the peers cannot be told: the replication stage does not answer, see the log".to_owned());
    }
}

/// What a role that is not completely taken is followed by in its file.
const INCOMPLETE: &str = "begun";

/// Keeps the role; why that was not possible.
fn save_role(state: &State) -> Option<String> {
    let file = state.file.as_ref()?;
    let text = if state.complete { format!("{}\n", state.role) } else { format!("{} {INCOMPLETE}\n", state.role) };
    let error = fs::write(file, text).err()?;
    let file = file.display();
    Some(format!("the role cannot be kept in {file} ({error}): a restarted daemon will not know it"))
}

/// The role kept in a file, if there is one, and whether it was taken completely.
pub(super) fn load_role(file: &Path) -> Option<(Role, bool)> {
    let text = fs::read_to_string(file).ok()?;
    let mut words = text.split_whitespace();
    let role = Role::from_name(words.next()?)?;
    Some((role, words.next().is_none()))
}

fn promote(access: &Access, progress: &Arc<Progress>, report: &mut RoleChange) {
    access.takeover.cancel_purge();
    if let Some(Ok(status)) = access.replication.as_ref().map(Replication::status) {
        let lacks = missing_from_replicas(&status);
        if status.hot_in_sync && lacks.is_empty() {
            admit(access, report); // what its packets need is in the kernel
        }
        report.missing.extend(lacks);
    } // who does not answer does not commit either, which says so
    let what = CommitScope { flows: true, expectations: true };
    match replication::commit(access, what, access.takeover.settings.rules, progress) {
        Ok(done) => {
            let refused = done.tally.refused.iter();
            report.missing.extend(refused.map(|(why, count)| format!("{count} entries were not committed: {why}")));
            report.committed = Some(done.into());
        }
        Err(error) => report.missing.push(format!("the commit broke off: {error}")),
    }
    admit(access, report);
    for asker in access.workers.iter() {
        asker.request_and_wait(WorkerRequest::ForgetMoved); // who does not answer is told of by the resync
    }
    match kernel_resync(access) {
        Ok(()) => report.internal_flows = Some(access.totals().flows),
        Err(why) => report.missing.push(format!("the internal cache was not compared with the kernel's table: {why}")),
    }
    // Their flows are this node's now. Were they kept, the next takeover would bring back what ends until then.
    if report.committed.is_some() {
        let emptied = access.replication.as_ref().is_none_or(|replication| replication.flush_absent().is_ok());
        if !emptied {
            report.missing.push("replicas of peers that are gone were not emptied: see the log".to_owned());
        }
    }
}

fn admit(access: &Access, report: &mut RoleChange) {
    if let Err(error) = access.takeover.admit() {
        report.missing.push(format!(
            "traffic is still kept away by nftables table {TABLE}: {error}; restart the daemon, with which it goes"
        ));
    }
}

fn step_back(access: &Access, report: &mut RoleChange) {
    if let Err(error) = access.takeover.isolate() {
        report.missing.push(format!("traffic is not kept away: {error}"));
    }
    let after = access.takeover.settings.purge_after;
    schedule::flush_later(access, after);
    report.purge_in_ms = Some(milliseconds(after));
}

/// What the replicas lack, as far as it is known.
fn missing_from_replicas(status: &ReplicationStatus) -> Vec<String> {
    let mut lacks = Vec::new();
    if status.proven_peers().next().is_none() {
        lacks.push("no peer has been met: of its flows, if there are any, nothing is known".to_owned());
    }
    for (peer, unknown) in
        status.proven_peers().map(|peer| (peer, status.unknown_buckets_of(peer))).filter(|(_, unknown)| *unknown > 0)
    {
        lacks.push(format!("{unknown} buckets of peer {} were not known: flows may be missing", peer.name));
    }
    if status.replicas.iter().any(|replica| replica.is_full) {
        let refused = status.changes.refused;
        lacks.push(format!("a replica was full, {refused} flows were refused: raise [engine] flows_max"));
    }
    lacks
}

/// Has the shards compared with the kernel's table, and waits until they are.
fn kernel_resync(access: &Access) -> Result<(), &'static str> {
    let until = Instant::now() + SERVER_ANSWER_MAX;
    let (reply, awaited) = reply::channel(None);
    let mut wish = reply;
    while let Err(unsent) = access.resync_requests.try_request(wish) {
        if Instant::now() >= until {
            return Err("the control thread does not answer, see the log");
        }
        std::thread::sleep(SERVER_RETRY);
        wish = unsent;
    }
    match awaited.wait(SERVER_ANSWER_MAX) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(WorkerEnded)) => Err("a worker has ended, see the log"),
        Err(reply::NoAnswer) => Err("it takes too long, and goes on"),
    }
}
