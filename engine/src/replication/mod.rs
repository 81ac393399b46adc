//! Replication: the stage sends the batches of the workers' shards to the peers, and stores the peers' flows in
//! replicas.
//!
//! ```text
//!  workers ── batches ───► stage: Protocol ──► links ──► peers
//!          ◄── requests ──   │  ▲
//!                            ▼  └──────────── links ◄── peers
//!                         replicas
//!
//!  other threads ── Replication: status, dumps, operators' requests ──► stage
//! ```
//!
//! The stage is one thread. It drives the protocol's state machine ([`ctflow_replicate::Protocol`]) in a mio loop;
//! `PROTOCOL.md` specifies the protocol. Other threads send requests to the stage through [`Replication`].

pub mod filter;
pub(crate) mod inject_queue;
pub(crate) mod lag;
pub mod link;
mod split_brain;
mod stage;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use ctflow_replicate::{Config, Mode, PeerState, PeerStatus, ReplicaId, Role, Status};
use thiserror::Error;

use self::inject_queue::HotWork;
pub use self::lag::{Lag, LagSummary};
pub(crate) use self::stage::PreparedStage;
pub use self::stage::StageError;
use crate::limits::STAGE_ANSWER_MAX;
use crate::replication::filter::ReplicationFilter;
use crate::replication::link::{LinkReport, LinkSettings};
use crate::reply::{self, Awaited, Reply};
use crate::shard::replica::Changes;
use crate::takeover::isolate::Isolation;
use crate::takeover::settings::Settings as TakeoverSettings;

/// The configuration of replication.
#[derive(Debug, Clone)]
pub struct ReplicationSettings {
    /// The node's configuration. The engine sets its streams and datagram length.
    pub node: Config,
    /// The links, in order of preference.
    pub links: Vec<LinkSettings>,
    /// Which flows are replicated.
    pub filter: ReplicationFilter,
    /// Flows of each address family that the replica of one stream may hold.
    pub replica_flows_max: u32,
    /// What the node does when its role changes.
    pub takeover: TakeoverSettings,
    /// What an isolated backup still accepts; `None` where a backup is not isolated.
    pub isolation: Option<Isolation>,
    /// The file that stores the node's role across restarts of the daemon.
    pub role_file: Option<PathBuf>,
}

/// The state of the stage at one moment.
#[derive(Debug, Clone)]
pub struct ReplicationStatus {
    /// The status of the state machine: this node, its streams and its peers.
    pub node: Status,
    /// The status of each link, in configured order.
    pub links: Vec<LinkReport>,
    /// The replicas that this node holds, in no particular order.
    pub replicas: Vec<ReplicaStatus>,
    /// Each peer's address and lag, in the order of `node.peers`.
    pub peers: Vec<PeerReport>,
    /// Counts of changes to the flows of all replicas since the stage started, dropped replicas included.
    pub changes: Changes,
    /// How often batches waited because a peer's window was closed.
    pub deferred: u64,
    /// Whether datagrams are sealed, that is, whether a key is configured.
    pub sealed: bool,
    /// Processor time of the stage's steps; 0 unless it is measured.
    pub cpu: StageCpu,
    /// Names of the peers in split brain with this node.
    pub split_brain: Vec<String>,
    /// In hot mode: the kernel has every replicated flow that it did not refuse.
    pub hot_in_sync: bool,
}

impl ReplicationStatus {
    /// The number of unknown buckets in the streams of all peers: their flows may be missing in the replicas.
    #[must_use]
    pub fn unknown_buckets(&self) -> u64 {
        self.node.peers.iter().flat_map(|peer| &peer.received).filter_map(|stream| stream.unknown).map(u64::from).sum()
    }

    /// The peers in any state except [`PeerState::Unproven`].
    pub(crate) fn proven_peers(&self) -> impl Iterator<Item = &PeerStatus> {
        self.node.peers.iter().filter(|peer| peer.state != PeerState::Unproven)
    }

    /// The name of `peer` and, where it is known, its address: `fw2 (192.0.2.2)`.
    pub(crate) fn peer_label(&self, peer: &PeerStatus) -> String {
        let index = self.node.peers.iter().position(|other| other.node == peer.node);
        match index.and_then(|index| self.peers.get(index)).and_then(|report| report.address) {
            Some(address) => format!("{} ({})", peer.name, address.ip()),
            None => peer.name.clone(),
        }
    }

    /// The number of buckets still to be received from `peer`. It is 0 in alarm mode, which has no bucket that is known
    /// for sure: entries that the peer does not repeat expire.
    pub(crate) fn unknown_buckets_of(&self, peer: &PeerStatus) -> u32 {
        match self.node.mode {
            Mode::Alarm => 0,
            Mode::Ftfw | Mode::Notrack => peer.received.iter().filter_map(|stream| stream.unknown).sum(),
        }
    }
}

/// Processor time of the stage's steps, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageCpu {
    /// Time to receive batches from the workers and to seal them.
    pub seal_ns: u64,
    /// Time to send datagrams.
    pub send_ns: u64,
    /// Time to receive, open and apply the peers' datagrams.
    pub receive_ns: u64,
}

/// A peer's address and the lag of its changes.
#[derive(Debug, Clone, Copy)]
pub struct PeerReport {
    /// The address of the peer's last datagram; `None` where the link no longer remembers it.
    pub address: Option<SocketAddr>,
    /// Time from a change on the peer to the change in a replica here, since the stage started.
    pub lag: LagSummary,
}

/// The state of one replica.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaStatus {
    /// The peer's node and stream that the replica is of.
    pub id: ReplicaId,
    /// Flows in the replica.
    pub flows: u64,
    /// Expectations in the replica.
    pub expectations: u64,
    /// Flows of each address family that the replica may hold.
    pub flows_max: u32,
    /// Time from a change on the source to the change in this replica, since the stage started.
    pub lag: LagSummary,
    /// Memory of the replica's flows, in bytes.
    pub bytes: u64,
    /// Whether the replica has no room for one more flow of at least one address family.
    pub is_full: bool,
}

/// A request to the stage from another thread.
#[derive(Debug)]
pub(crate) enum StageRequest {
    /// Return the status.
    Status(Reply<ReplicationStatus>),
    /// Return the lag of all replicas together.
    Lag(Reply<Lag>),
    /// Encode the entries of a replica's bucket in the format of the control socket.
    EncodeBucket(ReplicaId, u16, Reply<Vec<u8>>),
    /// Send the whole internal cache to all peers.
    BulkSend,
    /// Request every bucket from all peers.
    RequestAll,
    /// Compare all replicas with their sources under this number.
    Verify(u64),
    /// Empty all replicas and request them again.
    FlushExternal,
    /// Empty the replicas of peers that are not live.
    FlushAbsent,
    /// Set the role that the peers see.
    SetRole(Role),
    /// Return the next work for the kernel in hot mode, once there is some.
    NextWork(Reply<HotWork>),
    /// In hot mode, queue every replicated flow for the kernel once more.
    RequeueAll,
}

/// The stage has ended, or did not answer within [`STAGE_ANSWER_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the replication thread does not answer: see the log")]
pub struct NoAnswer;

/// Sends requests to the stage from other threads.
#[derive(Debug, Clone)]
pub struct Replication {
    requests: Sender<StageRequest>,
    waker: Arc<mio::Waker>,
    /// Disconnected when the stage has ended. The last request may then stay in its channel for ever, so the reply's
    /// own channel does not report the end.
    ended: Receiver<Infallible>,
}

impl Replication {
    /// Returns the status of the stage.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn status(&self) -> Result<ReplicationStatus, NoAnswer> {
        self.query(StageRequest::Status)
    }

    /// Returns the time that changes took from their sources to the replicas here, since the stage started.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn lag(&self) -> Result<Lag, NoAnswer> {
        self.query(StageRequest::Lag)
    }

    /// Requests the entries of a replica's bucket, in the format of the control socket; none for a replica that does
    /// not exist. [`Replication::await_bucket`] waits for them.
    pub(crate) fn request_bucket(&self, id: ReplicaId, bucket: u16) -> Result<Awaited<Vec<u8>>, NoAnswer> {
        self.start_query(|reply| StageRequest::EncodeBucket(id, bucket, reply))
    }

    /// Waits for the entries that [`Replication::request_bucket`] requested.
    pub(crate) fn await_bucket(awaited: &Awaited<Vec<u8>>) -> Result<Vec<u8>, NoAnswer> {
        awaited.wait(STAGE_ANSWER_MAX).map_err(|_| NoAnswer)
    }

    /// Sends the whole internal cache to all peers again.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn bulk_send(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::BulkSend)
    }

    /// Starts a comparison of all replicas with their sources, here and on the peers. `number` identifies the
    /// comparison and is not 0; the status has the verdicts under that number.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn verify(&self, number: u64) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::Verify(number))
    }

    /// Empties all replicas and requests their entries from the peers again.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn flush_external(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::FlushExternal)
    }

    /// Empties the replicas of peers that are not live. A commit has put their flows into the kernel before.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub(crate) fn flush_absent(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::FlushAbsent)
    }

    /// Waits for the next work for the kernel in hot mode, without a time limit.
    pub(crate) fn next_work(&self) -> Result<HotWork, NoAnswer> {
        self.start_query(StageRequest::NextWork)?.wait_unless_ended(&self.ended).map_err(|_| NoAnswer)
    }

    /// In hot mode, queues every replicated flow for the kernel once more.
    pub(crate) fn requeue_all(&self) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::RequeueAll)
    }

    /// Sets the role that this node announces to its peers.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub fn set_role(&self, role: Role) -> Result<(), NoAnswer> {
        self.send_request(StageRequest::SetRole(role))
    }

    /// Wakes the stage, so that it reads its stop flag.
    pub(crate) fn wake(&self) {
        let _ = self.waker.wake(); // fails only when the stage has ended
    }

    /// Sends a request without waiting. A stage that has ended drops it, which its [`Reply`] reports.
    ///
    /// # Errors
    /// The request, when the channel is full.
    pub(crate) fn try_send_request(&self, request: StageRequest) -> Result<(), StageRequest> {
        let result = self.requests.try_send(request);
        self.wake();
        match result {
            Err(TrySendError::Full(request)) => Err(request),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Sends a request, and waits up to [`STAGE_ANSWER_MAX`] for room in the channel.
    fn send_request(&self, request: StageRequest) -> Result<(), NoAnswer> {
        self.requests.send_timeout(request, STAGE_ANSWER_MAX).map_err(|_| NoAnswer)?;
        self.waker.wake().map_err(|_| NoAnswer)
    }

    /// Sends a request and waits for its answer.
    fn query<T>(&self, request: impl FnOnce(Reply<T>) -> StageRequest) -> Result<T, NoAnswer> {
        self.start_query(request)?.wait(STAGE_ANSWER_MAX).map_err(|_| NoAnswer)
    }

    /// Sends a request and returns the channel that its answer arrives in.
    fn start_query<T>(&self, request: impl FnOnce(Reply<T>) -> StageRequest) -> Result<Awaited<T>, NoAnswer> {
        let (reply, answer) = reply::channel(None);
        self.send_request(request(reply))?;
        Ok(answer)
    }
}
