//! Replication: what the workers' shards tell goes to the peers, what the peers tell goes into replicas.
//!
//! ```text
//!  workers ── batches ──► stage: Node ──► links ──► peers
//!          ◄── asks ────     │  ▲
//!                            ▼  └──────── links ◄── peers
//!                         replicas                               requests: status, dumps, what operators want
//! ```
//!
//! One thread drives the protocol's state machine ([`ctflow_replicate::Node`]) in a mio loop; the protocol itself is in
//! `PROTOCOL.md`. Others reach it by [`Replication`].

mod commit;
mod hot;
mod inject;
mod lag;
mod split_brain;
mod stage;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use ctflow_replicate::node::PeerStatus;
use ctflow_replicate::{Config, Mode, PeerState, ReplicaId, Role, Status};
use thiserror::Error;

pub use self::commit::{CommitError, CommitScope, Committed};
pub(crate) use self::commit::{Progress, run as commit};
pub(crate) use self::hot::{HotWork, run as keep_hot};
pub use self::inject::Tally;
pub use self::lag::{Lag, LagSummary};
pub(crate) use self::stage::PreparedStage;
pub use self::stage::StageError;
use crate::filter::ReplicationFilter;
use crate::limits::STAGE_ANSWER_MAX;
use crate::link::{LinkReport, LinkSettings};
use crate::reply::{self, Awaited, Reply};
use crate::shard::replica::Changes;
use crate::takeover;

/// How to replicate.
#[derive(Debug, Clone)]
pub struct ReplicationSettings {
    /// The node. Its streams, epoch and datagram length are set by the engine.
    pub node: Config,
    /// The links, in the order of preference.
    pub links: Vec<LinkSettings>,
    /// What is told.
    pub filter: ReplicationFilter,
    /// Flows of each family that a replica of one stream may hold.
    pub replica_flows_max: u32,
    /// What happens when a side fails.
    pub takeover: takeover::Settings,
    /// Whether, and how far, traffic is kept away while the node waits.
    pub isolation: Option<takeover::Isolation>,
    /// Where the node's role is kept.
    pub role_file: Option<PathBuf>,
}

/// What the stage can tell of itself.
#[derive(Debug, Clone)]
pub struct ReplicationStatus {
    /// The state machine's.
    pub node: Status,
    /// The links'.
    pub links: Vec<LinkReport>,
    /// The replicas that are held: which, how many flows and expectations, and how long their changes took.
    pub replicas: Vec<ReplicaStatus>,
    /// What is known of each peer besides, in the order of the state machine's.
    pub peers: Vec<PeerReport>,
    /// What became of the flows of all replicas since the stage began, also of those that are held no more.
    pub changes: Changes,
    /// Times that batches had to wait because a peer's window was closed.
    pub deferred: u64,
    /// Whether datagrams are sealed.
    pub sealed: bool,
    /// What the stage's steps took, where that is measured.
    pub cpu: StageCpu,
    /// Peers that are primary while this node is, and should not be.
    pub split_brain: Vec<String>,
    /// In hot mode: all that is known of peers is in the kernel, but for what it refused.
    pub hot_in_sync: bool,
}

impl ReplicationStatus {
    /// Buckets of all live and lost peers' streams that are not known, so that flows may be missing in the replicas.
    #[must_use]
    pub fn unknown_buckets(&self) -> u64 {
        self.node.peers.iter().flat_map(|peer| &peer.received).map(|stream| u64::from(stream.unknown)).sum()
    }

    /// The peers that have proven who they are.
    pub(crate) fn proven_peers(&self) -> impl Iterator<Item = &PeerStatus> {
        self.node.peers.iter().filter(|peer| peer.state != PeerState::Unproven)
    }

    /// Buckets that a peer has yet to tell; in alarm mode nothing is ever known for sure, and what is not told expires.
    pub(crate) fn unknown_buckets_of(&self, peer: &PeerStatus) -> u32 {
        match self.node.mode {
            Mode::Alarm => 0,
            Mode::Ftfw | Mode::Notrack => peer.received.iter().map(|stream| stream.unknown).sum(),
        }
    }
}

/// Nanoseconds on a processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageCpu {
    /// Taking batches and sealing them.
    pub seal_ns: u64,
    /// Sending them.
    pub send_ns: u64,
    /// Receiving, opening and applying what peers tell.
    pub receive_ns: u64,
}

/// What the stage knows of a peer besides its state.
#[derive(Debug, Clone, Copy)]
pub struct PeerReport {
    /// Where it was heard last; none where the link has forgotten.
    pub address: Option<SocketAddr>,
    /// From a change on it to its being held here, since the stage began.
    pub lag: LagSummary,
}

/// A replica that is held.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaStatus {
    /// Which.
    pub id: ReplicaId,
    /// Flows in it.
    pub flows: u64,
    /// Expectations in it.
    pub expectations: u64,
    /// Flows of each family that it may hold.
    pub flows_max: u32,
    /// From a change on its source to its being held here, since the stage began.
    pub lag: LagSummary,
    /// Bytes of memory that hold its flows.
    pub bytes: u64,
    /// Whether there is no room for one more flow of some family.
    pub is_full: bool,
}

/// What others want of the stage.
#[derive(Debug)]
pub(crate) enum StageRequest {
    Status(Reply<ReplicationStatus>),
    Lag(Reply<Lag>),
    EncodeBucket(ReplicaId, u16, Reply<Vec<u8>>),
    BulkSend,
    RequestAll,
    Verify(u64),
    FlushExternal,
    FlushAbsent,
    SetRole(Role),
    NextWork(Reply<HotWork>),
    RequeueAll,
}

/// The stage has ended, or is not heard of within [`STAGE_ANSWER_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the replication stage does not answer: see the log")]
pub struct NoAnswer;

/// Reaches the stage from other threads.
#[derive(Debug, Clone)]
pub struct Replication {
    requests: Sender<StageRequest>,
    waker: Arc<mio::Waker>,
    /// Disconnected when the stage has ended: what was asked last may then wait in its channel for ever.
    ended: Receiver<Infallible>,
}

impl Replication {
    /// How things stand.
    ///
    /// # Errors
    /// [`NoAnswer`]; so for all that follow.
    pub fn status(&self) -> Result<ReplicationStatus, NoAnswer> {
        self.query(StageRequest::Status)
    }

    /// How long changes took from their sources to the replicas held here, since the stage began.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn lag(&self) -> Result<Lag, NoAnswer> {
        self.query(StageRequest::Lag)
    }

    /// The entries of a replica's bucket, in the form of the control socket; nothing of one that is gone.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn encode_bucket(&self, id: ReplicaId, bucket: u16) -> Result<Vec<u8>, NoAnswer> {
        self.request_bucket(id, bucket).and_then(|awaited| Self::await_bucket(&awaited))
    }

    /// Asks for the entries of a bucket; [`Replication::await_bucket`] waits for them.
    fn request_bucket(&self, id: ReplicaId, bucket: u16) -> Result<Awaited<Vec<u8>>, NoAnswer> {
        self.start_query(|reply| StageRequest::EncodeBucket(id, bucket, reply))
    }

    fn await_bucket(awaited: &Awaited<Vec<u8>>) -> Result<Vec<u8>, NoAnswer> {
        awaited.wait(STAGE_ANSWER_MAX).map_err(|_| NoAnswer)
    }

    /// Tells everything to all peers again.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn bulk_send(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::BulkSend)
    }

    /// Asks all peers for everything.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn request_all(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::RequestAll)
    }

    /// Has all replicas compared with their sources, here and at the peers, under a `number` that is not 0. What came of
    /// it shows in the status under that number.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn verify(&self, number: u64) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::Verify(number))
    }

    /// Empties the replicas.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn flush_external(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::FlushExternal)
    }

    /// Empties the replicas of peers that are not live: what is left of them is in the kernel.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub(crate) fn flush_absent(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::FlushAbsent)
    }

    /// What is to be put into the kernel next, as soon as there is something.
    fn next_work(&self) -> Result<HotWork, NoAnswer> {
        self.start_query(StageRequest::NextWork)?.wait_unless_ended(&self.ended).map_err(|_| NoAnswer)
    }

    /// Has everything handed over once more.
    fn requeue_all(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::RequeueAll)
    }

    /// Sets what this node does for traffic, for its peers to know.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn set_role(&self, role: Role) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::SetRole(role))
    }

    /// Has the stage look whether it is to stop.
    pub(crate) fn wake(&self) {
        let _ = self.waker.wake(); // fails only where the stage is gone
    }

    /// Asks without waiting, if there is room. A stage that has ended is asked in vain.
    ///
    /// # Errors
    /// What was asked, where there is none.
    pub(crate) fn try_send_request(&self, request: StageRequest) -> Result<(), StageRequest> {
        let result = self.requests.try_send(request);
        self.wake();
        match result {
            Err(TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    fn send_request(&self, request: StageRequest) -> Result<(), NoAnswer> {
        self.requests.send_timeout(request, STAGE_ANSWER_MAX).map_err(|_| NoAnswer)?;
        self.waker.wake().map_err(|_| NoAnswer)
    }

    fn query<T>(&self, request: impl FnOnce(Reply<T>) -> StageRequest) -> Result<T, NoAnswer> {
        self.start_query(request)?.wait(STAGE_ANSWER_MAX).map_err(|_| NoAnswer)
    }

    fn start_query<T>(&self, request: impl FnOnce(Reply<T>) -> StageRequest) -> Result<Awaited<T>, NoAnswer> {
        let (reply, answer) = reply::channel(None);
        self.send_request(request(reply))?;
        Ok(answer)
    }
}
