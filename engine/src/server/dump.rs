//! The entries of a cache, bucket by bucket.
//!
//! A bucket is asked for when the client's way has room for it, so a client that reads slowly costs a worker nothing, and
//! one that reads fast costs it a bucket between two batches of events.

use std::collections::VecDeque;

use ctflow_replicate::ReplicaId;
use ctflow_replicate::buckets::{BUCKETS, EXPECTATIONS};
use serde::Serialize;

use super::context::{Query, World};
use super::failure::Failure;
use super::job::{Job, Polled, Question, Turn, Unanswered, stage_silent, worker_silent};
use super::out::Out;
use super::request::{Cache, Of};
use crate::limits::{SERVER_ANSWER_MAX, STAGE_ANSWER_MAX};
use crate::replication::{ReplicationStatus, Request};
use crate::worker_channel::WorkerRequest;

/// Where entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Worker(u16),
    Replica(ReplicaId),
}

/// Before the first entry of a peer's.
#[derive(Debug, Serialize)]
struct Peer<'a> {
    peer: &'a str,
}

/// A dump under way.
pub(super) struct Dump {
    of: Of,
    /// Which replicas there are is still to be said.
    listing: Option<Question<ReplicationStatus>>,
    /// Buckets still to be shown.
    rest: VecDeque<(Place, u16)>,
    showing: Option<(Place, Question<Vec<u8>>)>,
    /// Names by node.
    peers: Vec<(u64, String)>,
    /// The peer whose entries are being told.
    told: Option<u64>,
}

impl Dump {
    pub(super) fn new(cache: Cache, of: Of, world: &World) -> Self {
        let list = || Question::new(STAGE_ANSWER_MAX, world, |reply| Query::Stage(Request::Status(reply)));
        let listing = (cache == Cache::External && world.access.replication.is_some()).then(list);
        let mut dump = Self { of, listing, rest: VecDeque::new(), showing: None, peers: Vec::new(), told: None };
        if cache == Cache::Internal {
            let workers = u16::try_from(world.access.workers.len()).unwrap_or(u16::MAX); // there are 64 at most
            (0..workers).for_each(|worker| dump.add(Place::Worker(worker), worker));
        }
        dump
    }

    /// Has the buckets of a place shown. Expectations are in stream 0 only.
    fn add(&mut self, place: Place, stream: u16) {
        match self.of {
            Of::Flows => self.rest.extend((0..BUCKETS).map(|bucket| (place, bucket))),
            Of::Expectations if stream == 0 => self.rest.push_back((place, EXPECTATIONS)),
            Of::Expectations => {}
        }
    }

    fn list(&mut self, status: &ReplicationStatus) {
        self.peers = status.node.peers.iter().map(|peer| (peer.node, peer.name.clone())).collect();
        let mut replicas: Vec<_> = status.replicas.iter().map(|replica| replica.id).collect();
        replicas.sort_unstable();
        replicas.into_iter().for_each(|id| self.add(Place::Replica(id), id.stream));
    }

    fn show(&mut self, place: Place, bucket: u16, world: &World) {
        let question = Question::new(SERVER_ANSWER_MAX, world, |reply| match place {
            Place::Worker(worker) => Query::Worker(worker.into(), WorkerRequest::ListBucket(bucket, reply)),
            Place::Replica(id) => Query::Stage(Request::Show(id, bucket, reply)),
        });
        self.showing = Some((place, question));
    }

    fn tell(&mut self, place: Place, entries: &[u8], out: &mut Out) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        if let Place::Replica(id) = place
            && self.told != Some(id.node)
        {
            self.told = Some(id.node);
            let unnamed = format!("{:016x}", id.node);
            let named = self.peers.iter().find(|(node, _)| *node == id.node);
            out.json(&Peer { peer: named.map_or(&unnamed, |(_, name)| name) })?;
        }
        out.entries(entries);
        Ok(())
    }
}

fn silent(place: Place, why: Unanswered) -> Failure {
    match place {
        Place::Worker(worker) => worker_silent(worker.into(), why),
        Place::Replica(_) => stage_silent(why),
    }
}

impl Job for Dump {
    fn turn(&mut self, world: &mut World, out: &mut Out) -> Result<Turn, Failure> {
        if let Some(listing) = &mut self.listing {
            match listing.poll(world).map_err(stage_silent)? {
                Polled::Answer(status) => self.list(&status),
                Polled::Not(turn) => return Ok(turn),
            }
            self.listing = None;
        }
        loop {
            if let Some((place, question)) = &mut self.showing {
                let place = *place;
                match question.poll(world).map_err(|why| silent(place, why))? {
                    Polled::Answer(entries) => self.tell(place, &entries, out)?,
                    Polled::Not(turn) => return Ok(turn),
                }
                self.showing = None;
            }
            if !out.has_room() {
                return Ok(Turn::More);
            }
            let Some((place, bucket)) = self.rest.pop_front() else { return Ok(Turn::Done) };
            self.show(place, bucket, world);
        }
    }
}
