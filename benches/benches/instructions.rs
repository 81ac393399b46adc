//! Question: how many instructions does each stage of the pipeline take? Callgrind counts them, whatever else the
//! machine runs.
//!
//! The input is 11,000 recorded events of 2,000 flows, of which 500 exist at a time. The bench needs `valgrind` and
//! `gungraun-runner`; `instructions.json` has the recorded figures, and CONTRIBUTING.md the way to change them.

#![allow(missing_docs, unused_qualifications)] // in the code that the macros generate

use std::hint::black_box;
use std::sync::Arc;

use ctflow_benches::pair::Pair;
use ctflow_benches::{MultipliedEvents, records};
use ctflow_engine::capture::receive::Sink;
use ctflow_engine::limits::RECEIVE_BATCH;
use ctflow_engine::metrics::Counts;
use ctflow_engine::replication::filter::ReplicationFilter;
use ctflow_engine::shard::{Outbox, Shard};
use ctflow_engine::worker::intake::Intake;
use ctflow_replicate::Payload;
use gungraun::{library_benchmark, library_benchmark_group, main};

const FLOWS: u32 = 2_000;
const ALIVE: u32 = 500;
const FLOWS_MAX: u32 = 1_000_000;
const DATAGRAM_BYTES: usize = 1_432;
const BATCHES_PER_DRAIN: usize = 4;

fn events() -> MultipliedEvents {
    MultipliedEvents::new(FLOWS, ALIVE)
}

fn captured() -> (MultipliedEvents, Shard) {
    (events(), Shard::new(FLOWS_MAX))
}

fn replicated() -> (MultipliedEvents, Shard, Outbox) {
    (events(), Shard::replicated(FLOWS_MAX, Arc::new(ReplicationFilter::default())), Outbox::new(0, DATAGRAM_BYTES))
}

/// The batches for replicas that a shard makes of the events.
fn batches((events, mut shard, mut outbox): (MultipliedEvents, Shard, Outbox)) -> Vec<Payload> {
    let (mut counts, mut batches) = (Counts::default(), Vec::new());
    for datagrams in events.datagrams().chunks(BATCHES_PER_DRAIN * RECEIVE_BATCH) {
        for batch in datagrams.chunks(RECEIVE_BATCH) {
            Intake::new(&mut shard, &mut counts).on_datagrams(batch);
        }
        shard.drain(&mut outbox);
        outbox.close();
        batches.extend(std::iter::from_fn(|| outbox.pop()));
    }
    batches
}

fn built_batches() -> (Pair, Vec<Payload>) {
    (Pair::new(), batches(replicated()))
}

fn sealed() -> (Pair, Vec<Vec<u8>>) {
    let (mut pair, batches) = built_batches();
    let datagrams = pair.seal(batches);
    (pair, datagrams)
}

#[library_benchmark]
#[bench::events(events())]
fn parse(events: MultipliedEvents) -> MultipliedEvents {
    for datagram in events.datagrams() {
        for record in records(datagram) {
            let _ = black_box(record.flow());
        }
    }
    events
}

#[library_benchmark]
#[bench::events(captured())]
fn cache((events, mut shard): (MultipliedEvents, Shard)) -> (MultipliedEvents, Shard) {
    let mut counts = Counts::default();
    for batch in events.datagrams().chunks(RECEIVE_BATCH) {
        Intake::new(&mut shard, &mut counts).on_datagrams(batch);
    }
    (events, shard)
}

#[library_benchmark]
#[bench::events(replicated())]
fn delta(state: (MultipliedEvents, Shard, Outbox)) -> Vec<Payload> {
    batches(state)
}

#[library_benchmark]
#[bench::events(built_batches())]
fn seal((mut pair, batches): (Pair, Vec<Payload>)) -> (Pair, Vec<Vec<u8>>) {
    let datagrams = pair.seal(batches);
    (pair, datagrams)
}

#[library_benchmark]
#[bench::events(sealed())]
fn apply((mut pair, datagrams): (Pair, Vec<Vec<u8>>)) -> Pair {
    pair.apply(datagrams);
    pair
}

library_benchmark_group!(name = stages, benchmarks = [parse, cache, delta, seal, apply]);
main!(library_benchmark_groups = stages);
