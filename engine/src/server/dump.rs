//! The entries of a cache, bucket by bucket.
//!
//! A bucket is asked for when the client's way has room for it, so a client that reads slowly costs a worker nothing, and
//! one that reads fast costs it a bucket between two batches of events.

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
use crate::worker_channel::WorkerRequest;

/// Where entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntrySource {
    Worker(u16),
    Replica(ReplicaId),
}

/// Before the first entry of a peer's.
#[derive(Debug, Serialize)]
struct Peer<'a> {
    peer: &'a str,
}

/// A dump under way.
pub(super) struct DumpJob {
    of: Table,
    /// Which replicas there are is still to be said.
    pending_status: Option<PendingQuery<ReplicationStatus>>,
    /// Buckets still to be shown.
    remaining: VecDeque<(EntrySource, u16)>,
    pending_bucket: Option<(EntrySource, PendingQuery<Vec<u8>>)>,
    /// Names by node.
    peers: Vec<(u64, String)>,
    /// The peer whose entries are being told.
    current_peer: Option<u64>,
}

impl DumpJob {
    pub(super) fn new(cache: Cache, of: Table, world: &ServerContext) -> Self {
        let list = || PendingQuery::new(STAGE_ANSWER_MAX, world, |reply| Query::Stage(StageRequest::Status(reply)));
        let listing = (cache == Cache::External && world.access.replication.is_some()).then(list);
        let mut dump = Self {
            of,
            pending_status: listing,
            remaining: VecDeque::new(),
            pending_bucket: None,
            peers: Vec::new(),
            current_peer: None,
        };
        if cache == Cache::Internal {
            let workers = u16::try_from(world.access.workers.len()).unwrap_or(u16::MAX); // there are 64 at most
            (0..workers).for_each(|worker| dump.enqueue_buckets(EntrySource::Worker(worker), worker));
        }
        dump
    }

    /// Has the buckets of a place shown. Expectations are in stream 0 only.
    fn enqueue_buckets(&mut self, place: EntrySource, stream: u16) {
        match self.of {
            Table::Flows => self.remaining.extend((0..BUCKETS).map(|bucket| (place, bucket))),
            Table::Expectations if stream == 0 => self.remaining.push_back((place, EXPECTATIONS)),
            Table::Expectations => {}
        }
    }

    fn on_status(&mut self, status: &ReplicationStatus) {
        self.peers = status.node.peers.iter().map(|peer| (peer.node, peer.name.clone())).collect();
        let mut replicas: Vec<_> = status.replicas.iter().map(|replica| replica.id).collect();
        replicas.sort_unstable();
        replicas.into_iter().for_each(|id| self.enqueue_buckets(EntrySource::Replica(id), id.stream));
    }

    fn request_bucket(&mut self, place: EntrySource, bucket: u16, world: &ServerContext) {
        let question = PendingQuery::new(SERVER_ANSWER_MAX, world, |reply| match place {
            EntrySource::Worker(worker) => Query::Worker(worker.into(), WorkerRequest::ListBucket(bucket, reply)),
            EntrySource::Replica(id) => Query::Stage(StageRequest::EncodeBucket(id, bucket, reply)),
        });
        self.pending_bucket = Some((place, question));
    }

    fn write_entries(&mut self, place: EntrySource, entries: &[u8], out: &mut OutBuffer) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        if let EntrySource::Replica(id) = place
            && self.current_peer != Some(id.node)
        {
            self.current_peer = Some(id.node);
            let unnamed = format!("{:016x}", id.node);
            let named = self.peers.iter().find(|(node, _)| *node == id.node);
            out.push_json(&Peer { peer: named.map_or(&unnamed, |(_, name)| name) })?;
        }
        out.push_entries(entries);
        Ok(())
    }
}

fn source_error(place: EntrySource, why: QueryError) -> Failure {
    match place {
        EntrySource::Worker(worker) => worker_error(worker.into(), why),
        EntrySource::Replica(_) => stage_error(why),
    }
}

impl Job for DumpJob {
    fn advance(&mut self, world: &mut ServerContext, out: &mut OutBuffer) -> Result<Step, Failure> {
        if let Some(listing) = &mut self.pending_status {
            match listing.poll(world).map_err(stage_error)? {
                Polled::Ready(status) => self.on_status(&status),
                Polled::Pending(turn) => return Ok(turn),
            }
            self.pending_status = None;
        }
        loop {
            if let Some((place, question)) = &mut self.pending_bucket {
                let place = *place;
                match question.poll(world).map_err(|why| source_error(place, why))? {
                    Polled::Ready(entries) => self.write_entries(place, &entries, out)?,
                    Polled::Pending(turn) => return Ok(turn),
                }
                self.pending_bucket = None;
            }
            if !out.has_room() {
                return Ok(Step::More);
            }
            let Some((place, bucket)) = self.remaining.pop_front() else { return Ok(Step::Done) };
            self.request_bucket(place, bucket, world);
        }
    }
}
