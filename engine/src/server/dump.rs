//! A dump: the entries of a cache, bucket by bucket.
//!
//! The job requests a bucket only when the client's buffer has room for it. A client that reads slowly therefore costs
//! a worker nothing, and a client that reads fast costs it one bucket between two batches of events.

use std::collections::VecDeque;

use ctflow_replicate::ReplicaId;
use ctflow_replicate::buckets::{BUCKETS, EXPECTATIONS};
use serde::Serialize;

use super::context::{Query, ServerContext};
use super::failure::Failure;
use super::job::{Job, PendingQuery, Polled, QueryError, Step, stage_error, worker_error};
use super::out::OutBuffer;
use super::request::{Cache, Table};
use crate::limits::{SERVER_ANSWER_MAX, STAGE_ANSWER_MAX};
use crate::replication::{ReplicationStatus, StageRequest};
use crate::worker::channel::WorkerRequest;

/// The thread and the table that entries come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntrySource {
    /// The shard of the worker of this index.
    Worker(u16),
    /// A replica, in the replication stage.
    Replica(ReplicaId),
}

/// The document before the first entry of each peer.
#[derive(Debug, Serialize)]
struct Peer<'a> {
    peer: &'a str,
}

/// The job of a dump.
pub(super) struct DumpJob {
    of: Table,
    /// The query for the list of replicas, until it is answered.
    pending_status: Option<PendingQuery<ReplicationStatus>>,
    /// The buckets to request, in order.
    remaining: VecDeque<(EntrySource, u16)>,
    /// The bucket that is requested now.
    pending_bucket: Option<(EntrySource, PendingQuery<Vec<u8>>)>,
    /// The peers' node ids and names.
    peers: Vec<(u64, String)>,
    /// The node id of the peer whose entries the client receives now.
    current_peer: Option<u64>,
}

impl DumpJob {
    /// Starts a dump of a cache.
    pub(super) fn new(cache: Cache, of: Table, context: &ServerContext) -> Self {
        let list = || PendingQuery::new(STAGE_ANSWER_MAX, context, |reply| Query::Stage(StageRequest::Status(reply)));
        let pending_status = (cache == Cache::External && context.access.replication.is_some()).then(list);
        let mut dump = Self {
            of,
            pending_status,
            remaining: VecDeque::new(),
            pending_bucket: None,
            peers: Vec::new(),
            current_peer: None,
        };
        if cache == Cache::Internal {
            let workers = u16::try_from(context.access.workers.len()).unwrap_or(u16::MAX); // a node has at most 64
            (0..workers).for_each(|worker| dump.enqueue_buckets(EntrySource::Worker(worker), worker));
        }
        dump
    }

    /// Queues the buckets of a source. Only stream 0 has expectations.
    fn enqueue_buckets(&mut self, source: EntrySource, stream: u16) {
        match self.of {
            Table::Flows => self.remaining.extend((0..BUCKETS).map(|bucket| (source, bucket))),
            Table::Expectations if stream == 0 => self.remaining.push_back((source, EXPECTATIONS)),
            Table::Expectations => {}
        }
    }

    /// Queues the buckets of all replicas in the status.
    fn on_status(&mut self, status: &ReplicationStatus) {
        self.peers = status.node.peers.iter().map(|peer| (peer.node, peer.name.clone())).collect();
        let mut replicas: Vec<_> = status.replicas.iter().map(|replica| replica.id).collect();
        replicas.sort_unstable();
        replicas.into_iter().for_each(|id| self.enqueue_buckets(EntrySource::Replica(id), id.stream));
    }

    /// Requests a bucket from its source.
    fn request_bucket(&mut self, source: EntrySource, bucket: u16, context: &ServerContext) {
        let query = PendingQuery::new(SERVER_ANSWER_MAX, context, |reply| match source {
            EntrySource::Worker(worker) => Query::Worker(worker.into(), WorkerRequest::EncodeBucket(bucket, reply)),
            EntrySource::Replica(id) => Query::Stage(StageRequest::EncodeBucket(id, bucket, reply)),
        });
        self.pending_bucket = Some((source, query));
    }

    /// Appends the entries of a bucket to the output, after the document that names the peer.
    fn write_entries(&mut self, source: EntrySource, entries: &[u8], out: &mut OutBuffer) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        if let EntrySource::Replica(id) = source
            && self.current_peer != Some(id.node)
        {
            self.current_peer = Some(id.node);
            let unnamed = format!("{:016x}", id.node); // the status does not list the peer
            let named = self.peers.iter().find(|(node, _)| *node == id.node);
            out.push_json(&Peer { peer: named.map_or(&unnamed, |(_, name)| name) })?;
        }
        out.push_entries(entries);
        Ok(())
    }
}

/// The failure of a dump because a source does not answer.
fn source_error(source: EntrySource, why: QueryError) -> Failure {
    match source {
        EntrySource::Worker(worker) => worker_error(worker.into(), why),
        EntrySource::Replica(_) => stage_error(why),
    }
}

impl Job for DumpJob {
    fn advance(&mut self, context: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        if let Some(query) = &mut self.pending_status {
            match query.poll(context).map_err(stage_error)? {
                Polled::Ready(status) => self.on_status(&status),
                Polled::Pending(step) => return Ok(step),
            }
            self.pending_status = None;
        }
        loop {
            if let Some((source, query)) = &mut self.pending_bucket {
                let source = *source;
                match query.poll(context).map_err(|why| source_error(source, why))? {
                    Polled::Ready(entries) => self.write_entries(source, &entries, out)?,
                    Polled::Pending(step) => return Ok(step),
                }
                self.pending_bucket = None;
            }
            if !out.has_room() {
                return Ok(Step::More);
            }
            let Some((source, bucket)) = self.remaining.pop_front() else { return Ok(Step::Done) };
            self.request_bucket(source, bucket, context);
        }
    }
}
