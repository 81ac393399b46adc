//! Verification: the comparison of replicas with their sources, here and on the peers.
//!
//! One comparison runs at a time. Clients that send a request meanwhile wait for the next comparison and share it.

use std::sync::Arc;
use std::time::Instant;

use ctflow_replicate::{PeerState, PeerStatus, VerdictStatus};

use serde::Serialize;

use super::context::{Query, ServerContext};
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, Step, no_peers_error, stage_error};
use super::out::OutBuffer;
use crate::clock::now_ms;
use crate::limits::{SERVER_POLL_INTERVAL, SERVER_RETRY, SERVER_VERIFY_MAX, STAGE_ANSWER_MAX};
use crate::replication::{ReplicationStatus, StageRequest};

/// The current or the last comparison, shared by all clients.
#[derive(Debug, Default)]
pub(super) struct Verification {
    /// The number of the comparison; 0 before the first.
    number: u64,
    /// The time when it ends at the latest; `None` after its end.
    deadline: Option<Instant>,
    /// How many comparisons were started.
    started: u64,
    /// The number and verdict of the last complete comparison, for every client that waits for it.
    last: Option<(u64, Arc<Verdict>)>,
}

impl Verification {
    /// Whether a comparison is running.
    fn is_running(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now < deadline)
    }
}

/// The document with the result of a comparison.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verdict {
    /// Whether there is a peer, every peer ever proven answered, and no replica differs from its source.
    agrees: bool,
    /// This node's streams.
    streams: Vec<Source>,
    /// The proven peers.
    peers: Vec<Peer>,
}

/// The part of the document about a stream of this node.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Source {
    stream: u16,
    /// Flows and expectations in the cache now, sent to the peers or not.
    entries: u64,
    /// The digest of the entries sent, in 16 hex digits; `None` where no peer answered.
    digest: Option<String>,
    /// The seq of the batch that the digest is as of.
    seq: Option<u64>,
}

/// The part of the document about a peer.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Peer {
    name: String,
    /// Whether the peer is live and all its verdicts have arrived.
    answered: bool,
    /// This node's streams, in the peer's replicas.
    streams: Vec<Compared>,
    /// The peer's streams, in this node's replicas.
    held: Vec<Compared>,
}

/// The part of the document about a replica.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Compared {
    stream: u16,
    /// Entries in the replica.
    entries: u64,
    /// The source's digest, in 16 hex digits.
    digest: String,
    /// The seq of the batch with the source's digests.
    seq: u64,
    /// Whether no bucket differs.
    agrees: bool,
    /// The buckets that differ from the source.
    differing: Vec<u16>,
}

impl Compared {
    /// The part about the replica of one stream.
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

    /// The `verdicts`, in the order of the streams, that belong to the comparison `number`.
    fn all(number: u64, verdicts: impl Iterator<Item = Option<VerdictStatus>>) -> Vec<Self> {
        let of_number = |(stream, verdict): (u16, Option<VerdictStatus>)| {
            verdict.filter(|verdict| verdict.number == number).map(|verdict| Self::new(stream, &verdict))
        };
        (0..).zip(verdicts).filter_map(of_number).collect()
    }
}

impl Peer {
    /// The part about a peer, from its verdicts in the comparison `number`.
    fn new(number: u64, peer: &PeerStatus) -> Self {
        let streams = Compared::all(number, peer.verdicts.iter().copied());
        let held = Compared::all(number, peer.received.iter().map(|stream| stream.verdict));
        let answered =
            peer.state == PeerState::Live && streams.len() == peer.verdicts.len() && held.len() == peer.received.len();
        Self { name: peer.name.clone(), answered, streams, held }
    }

    /// Whether the peer answered and no replica differs.
    fn agrees(&self) -> bool {
        self.answered && self.streams.iter().chain(&self.held).all(|replica| replica.agrees)
    }
}

impl Verdict {
    /// Creates the result of the comparison `number`. `entries` are the entries of each stream of this node.
    fn new(number: u64, status: &ReplicationStatus, entries: impl Iterator<Item = u64>) -> Self {
        let peers: Vec<_> = status.proven_peers().map(|peer| Peer::new(number, peer)).collect();
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

/// Whether every live peer has answered. Other peers do not answer.
fn is_answered_by_all(number: u64, status: &ReplicationStatus) -> bool {
    let live = status.node.peers.iter().filter(|peer| peer.state == PeerState::Live);
    live.map(|peer| Peer::new(number, peer)).all(|peer| peer.answered)
}

/// The job of a client that waits for a comparison.
pub(super) struct VerifyJob {
    /// How many comparisons had been started when the client sent its request.
    started_before: u64,
    /// The number of the comparison that it waits for.
    number: Option<u64>,
    /// The query for the status, which has the verdicts.
    pending_status: Option<PendingQuery<ReplicationStatus>>,
}

impl VerifyJob {
    /// Creates the job of a client that has just sent its request.
    ///
    /// # Errors
    /// The daemon has no peers.
    pub(super) fn new(context: &ServerContext) -> Result<Self, Failure> {
        context.access.replication.as_ref().ok_or_else(no_peers_error)?;
        Ok(Self { started_before: context.verification.started, number: None, pending_status: None })
    }

    /// Joins a comparison that was started after the client's request, or starts one as soon as none is running.
    /// Returns its number, or the step to return meanwhile.
    fn join(&mut self, context: &mut ServerContext) -> Result<u64, Step> {
        let now = context.now;
        if context.verification.started == self.started_before {
            if context.verification.is_running(now) {
                return Err(Step::Again(SERVER_POLL_INTERVAL));
            }
            let number = next_number(context.verification.number);
            if context.send_query(Query::Stage(StageRequest::Verify(number))).is_err() {
                return Err(Step::Again(SERVER_RETRY));
            }
            let started = context.verification.started + 1;
            let last = context.verification.last.take();
            context.verification = Verification { number, deadline: Some(now + SERVER_VERIFY_MAX), started, last };
        }
        Ok(context.verification.number)
    }
}

/// A number that this node has not used before, and other nodes only by chance: the time in microseconds.
fn next_number(last: u64) -> u64 {
    now_ms().saturating_mul(1_000).max(last.saturating_add(1))
}

impl Job for VerifyJob {
    fn advance(&mut self, context: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        let number = match self.number {
            Some(number) => number,
            None => match self.join(context) {
                Ok(number) => *self.number.insert(number),
                Err(step) => return Ok(step),
            },
        };
        // The server serves all clients in each round, so every waiting client reads this verdict before the next one
        // exists.
        if let Some((_, verdict)) = context.verification.last.as_ref().filter(|(last, _)| *last == number) {
            out.push_json(verdict.as_ref())?;
            return Ok(Step::Done);
        }
        let query = |reply| Query::Stage(StageRequest::Status(reply));
        let pending = self.pending_status.get_or_insert_with(|| PendingQuery::new(STAGE_ANSWER_MAX, context, query));
        let status = match pending.poll(context).map_err(stage_error)? {
            Polled::Ready(status) => status,
            Polled::Pending(step) => return Ok(step),
        };
        self.pending_status = None;
        let is_current = context.verification.number == number;
        // If a later comparison is current, this one has ended before.
        let over = !is_current || !context.verification.is_running(context.now);
        if !over && !is_answered_by_all(number, &status) {
            return Ok(Step::Again(SERVER_POLL_INTERVAL));
        }
        let entries = context.access.by_worker().map(|counts| counts.flows + counts.expectations);
        let verdict = Arc::new(Verdict::new(number, &status, entries));
        out.push_json(verdict.as_ref())?;
        if is_current {
            (context.verification.deadline, context.verification.last) = (None, Some((number, verdict)));
        }
        Ok(Step::Done)
    }
}
