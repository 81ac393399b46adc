//! The comparison of replicas with their sources, here and at the peers.
//!
//! The nodes make one comparison at a time. Clients who come while one is under way wait for the next, and share that.

use std::sync::Arc;
use std::time::Instant;

use ctflow_replicate::PeerState;
use ctflow_replicate::node::{PeerStatus, VerdictStatus};
use serde::Serialize;

use super::context::{Query, ServerContext};
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, Step, no_peers_error, stage_error};
use super::out::OutBuffer;
use crate::limits::{SERVER_POLL_INTERVAL, SERVER_RETRY, SERVER_VERIFY_MAX, STAGE_ANSWER_MAX};
use crate::replication::{ReplicationStatus, StageRequest};
use crate::worker::now_ms;

/// The last comparison.
#[derive(Debug, Default)]
pub(super) struct Verification {
    /// Its number; 0 before the first.
    number: u64,
    /// When it is over at the latest; nothing where it is over.
    deadline: Option<Instant>,
    /// Counts them.
    started: u64,
    /// What the last one that is over found, for all who wait for it.
    last: Option<(u64, Arc<Verdict>)>,
}

impl Verification {
    fn is_under_way(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|until| now < until)
    }
}

/// What a comparison found.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verdict {
    /// Whether every peer that was ever met answered, and every replica is as its source.
    agrees: bool,
    /// This node's streams, as it told them.
    streams: Vec<Source>,
    peers: Vec<Peer>,
}

/// A stream of this node.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Source {
    stream: u16,
    /// Flows and expectations in the cache when this was written, told or not.
    entries: u64,
    /// Of all that was told, in 16 hex digits; nothing where no peer answered.
    digest: Option<String>,
    /// The batch that it is as of.
    seq: Option<u64>,
}

/// A peer.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Peer {
    name: String,
    answered: bool,
    /// This node's streams, as it holds them.
    streams: Vec<Compared>,
    /// Its streams, as this node holds them.
    held: Vec<Compared>,
}

/// A replica of a stream.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Compared {
    stream: u16,
    /// Entries in the replica.
    entries: u64,
    /// Of the source, in 16 hex digits.
    digest: String,
    /// The batch with the digests.
    seq: u64,
    agrees: bool,
    /// Buckets that are not as in the source.
    differing: Vec<u16>,
}

impl Compared {
    fn new(stream: u16, verdict: &VerdictStatus) -> Self {
        Self {
            stream,
            entries: verdict.entries,
            digest: format!("{:016x}", verdict.digest),
            seq: verdict.seq,
            agrees: verdict.differing.is_empty(),
            differing: verdict.differing.iter().collect(),
        }
    }

    /// Those of `verdicts`, in the order of the streams, that were asked for under `number`.
    fn all(number: u64, verdicts: impl Iterator<Item = Option<VerdictStatus>>) -> Vec<Self> {
        let fresh = |(stream, verdict): (u16, Option<VerdictStatus>)| {
            verdict.filter(|verdict| verdict.number == number).map(|verdict| Self::new(stream, &verdict))
        };
        (0..).zip(verdicts).filter_map(fresh).collect()
    }
}

impl Peer {
    fn new(number: u64, peer: &PeerStatus) -> Self {
        let streams = Compared::all(number, peer.verdicts.iter().copied());
        let held = Compared::all(number, peer.received.iter().map(|stream| stream.verdict));
        let answered =
            peer.state == PeerState::Live && streams.len() == peer.verdicts.len() && held.len() == peer.received.len();
        Self { name: peer.name.clone(), answered, streams, held }
    }

    fn agrees(&self) -> bool {
        self.answered && self.streams.iter().chain(&self.held).all(|replica| replica.agrees)
    }
}

impl Verdict {
    /// `entries` of each stream of this node.
    fn new(number: u64, status: &ReplicationStatus, entries: impl Iterator<Item = u64>) -> Self {
        // One that never proved itself is nobody yet.
        let met = status.node.peers.iter().filter(|peer| peer.state != PeerState::Unproven);
        let peers: Vec<_> = met.map(|peer| Peer::new(number, peer)).collect();
        let source = |(stream, entries)| {
            let of = |peer: &Peer| {
                let compared = peer.streams.iter().find(|compared| compared.stream == stream);
                compared.map(|compared| (compared.seq, compared.digest.clone()))
            };
            let newest = peers.iter().filter_map(of).max();
            let (seq, digest) = newest.unzip();
            Source { stream, entries, digest, seq }
        };
        let streams = (0..).zip(entries).map(source).collect();
        let agrees = !peers.is_empty() && peers.iter().all(Peer::agrees);
        Self { agrees, streams, peers }
    }
}

/// Whether every live peer has answered. Nobody else will.
fn is_answered_by_all(number: u64, status: &ReplicationStatus) -> bool {
    let live = status.node.peers.iter().filter(|peer| peer.state == PeerState::Live);
    live.map(|peer| Peer::new(number, peer)).all(|peer| peer.answered)
}

/// A client that waits for a comparison.
pub(super) struct VerifyJob {
    /// Comparisons up to this one began before the client came.
    started_before: u64,
    /// The number of the one that it waits for.
    number: Option<u64>,
    pending_status: Option<PendingQuery<ReplicationStatus>>,
}

impl VerifyJob {
    pub(super) fn new(world: &ServerContext) -> Result<Self, Failure> {
        world.access.replication.as_ref().ok_or_else(no_peers_error)?;
        Ok(Self { started_before: world.verification.started, number: None, pending_status: None })
    }

    /// Joins a comparison that began since, or begins one as soon as none is under way.
    fn join(&mut self, world: &mut ServerContext) -> Result<u64, Step> {
        let now = world.now;
        if world.verification.started == self.started_before {
            if world.verification.is_under_way(now) {
                return Err(Step::Again(SERVER_POLL_INTERVAL));
            }
            let number = next_number(world.verification.number);
            if world.send_query(Query::Stage(StageRequest::Verify(number))).is_err() {
                return Err(Step::Again(SERVER_RETRY));
            }
            let count = world.verification.started + 1;
            let found = world.verification.last.take();
            world.verification =
                Verification { number, deadline: Some(now + SERVER_VERIFY_MAX), started: count, last: found };
        }
        Ok(world.verification.number)
    }
}

/// A number that neither this node nor, but for chance, any other has used: the time in microseconds, and never twice.
fn next_number(last: u64) -> u64 {
    now_ms().saturating_mul(1_000).max(last.saturating_add(1))
}

impl Job for VerifyJob {
    fn advance(&mut self, world: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        let number = match self.number {
            Some(number) => number,
            None => match self.join(world) {
                Ok(number) => *self.number.insert(number),
                Err(turn) => return Ok(turn),
            },
        };
        // All who wait are served in turn, so each sees this before another comparison can be over.
        if let Some((_, verdict)) = world.verification.last.as_ref().filter(|(found, _)| *found == number) {
            out.push_json(verdict.as_ref())?;
            return Ok(Step::Done);
        }
        let query = |reply| Query::Stage(StageRequest::Status(reply));
        let looking = self.pending_status.get_or_insert_with(|| PendingQuery::new(STAGE_ANSWER_MAX, world, query));
        let status = match looking.poll(world).map_err(stage_error)? {
            Polled::Ready(status) => status,
            Polled::Pending(turn) => return Ok(turn),
        };
        self.pending_status = None;
        let mine = world.verification.number == number;
        // A later one of the daemon's own can only have begun when this one was over.
        let over = !mine || !world.verification.is_under_way(world.now);
        if !over && !is_answered_by_all(number, &status) {
            return Ok(Step::Again(SERVER_POLL_INTERVAL));
        }
        let entries = world.access.by_worker().map(|counts| counts.flows + counts.expectations);
        let verdict = Arc::new(Verdict::new(number, &status, entries));
        out.push_json(verdict.as_ref())?;
        if mine {
            (world.verification.deadline, world.verification.last) = (None, Some((number, verdict)));
        }
        Ok(Step::Done)
    }
}
