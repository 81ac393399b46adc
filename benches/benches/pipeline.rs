//! Question: how many events a second does one core apply from memory to a shard, and write on into batches for
//! replicas?
//!
//! The recorded events are those of 200,000 flows, of which 50,000 exist at a time; they are applied in batches, as a
//! back end passes them. The delta stage drains the shard every 256 events, that is, every millisecond at 256,000 a
//! second.

use std::hint::black_box;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use ctflow_benches::{MultipliedEvents, report_allocations};
use ctflow_engine::capture::receive::Sink;
use ctflow_engine::limits::RECEIVE_BATCH;
use ctflow_engine::metrics::Counts;
use ctflow_engine::replication::filter::ReplicationFilter;
use ctflow_engine::shard::{Outbox, Shard};
use ctflow_engine::worker::intake::Intake;

const FLOWS: u32 = 200_000;
const ALIVE: u32 = 50_000;
const FLOWS_MAX: u32 = 1_000_000;
const DATAGRAM_BYTES: usize = 1_432;
/// The number of event batches between two drains of the shard.
const BATCHES_PER_DRAIN: usize = 4;

/// Applies all datagrams to a shard.
fn apply_events(shard: &mut Shard, datagrams: &[&[u8]]) -> Counts {
    let mut counts = Counts::default();
    for batch in datagrams.chunks(RECEIVE_BATCH) {
        Intake::new(shard, &mut counts).on_datagrams(batch);
    }
    counts
}

/// Applies all datagrams to a shard, and drains the deltas into batches.
fn apply_and_drain(shard: &mut Shard, datagrams: &[&[u8]], outbox: &mut Outbox) {
    for datagrams in datagrams.chunks(BATCHES_PER_DRAIN * RECEIVE_BATCH) {
        apply_events(shard, datagrams);
        shard.drain(outbox);
        outbox.close();
        while let Some(batch) = outbox.pop() {
            black_box(batch);
        }
    }
}

fn replicated() -> (Shard, Outbox) {
    (Shard::replicated(FLOWS_MAX, Arc::new(ReplicationFilter::default())), Outbox::new(0, DATAGRAM_BYTES))
}

fn stage<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    setup: impl Fn() -> S,
    work: impl Fn(&mut S, &[&[u8]]),
    datagrams: &[&[u8]],
) {
    group.bench_function(name, |bencher| {
        bencher.iter_batched(
            &setup,
            |mut state| {
                work(&mut state, datagrams);
                state
            },
            BatchSize::PerIteration,
        );
    });
}

fn pipeline(criterion: &mut Criterion) {
    let events = MultipliedEvents::new(FLOWS, ALIVE);
    let datagrams = events.datagrams();
    let counts = apply_events(&mut Shard::new(FLOWS_MAX), &datagrams);
    assert_eq!((counts.flows_created, counts.flows_destroyed, counts.malformed), (FLOWS.into(), FLOWS.into(), 0));
    let (mut shard, mut outbox) = replicated();
    report_allocations("pipeline", datagrams.len(), || apply_and_drain(&mut shard, &datagrams, &mut outbox));
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(datagrams.len() as u64)).sample_size(10);
    let parse = |(): &mut (), datagrams: &[&[u8]]| {
        for datagram in datagrams {
            for record in ctflow_benches::records(datagram) {
                let _ = black_box(record.flow());
            }
        }
    };
    stage(&mut group, "parse", || (), parse, &datagrams);
    let cache = |shard: &mut Shard, datagrams: &[&[u8]]| _ = black_box(apply_events(shard, datagrams));
    stage(&mut group, "parse, shard", || Shard::new(FLOWS_MAX), cache, &datagrams);
    let delta = |(shard, outbox): &mut (Shard, Outbox), datagrams: &[&[u8]]| apply_and_drain(shard, datagrams, outbox);
    stage(&mut group, "parse, shard, delta", replicated, delta, &datagrams);
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
