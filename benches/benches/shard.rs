//! Question: what does it cost to apply an event to a shard that holds many flows, and to insert a new flow?
//!
//! Copies of a recorded flow with other addresses and ids fill the shard, so that it holds a million flows and each
//! lookup reads cold memory, as on a busy firewall.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ctflow_benches::{frames, records, report_allocations};
use ctflow_engine::limits::RECEIVE_BATCH;
use ctflow_engine::shard::{Shard, spread};
use ctflow_parser::flow::FlowView;
use ctflow_parser::record::Event;
use ctflow_parser::tuple::Tuple;

const FLOWS: u32 = 1_000_000;
const BATCH: u32 = 100_000;

/// The template with the address and the id of flow number `n`.
fn flow(template: &FlowView<'static>, n: u32) -> FlowView<'static> {
    let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | n));
    let orig = template.orig.map(|orig| Tuple { src: address, ..orig });
    let reply = template.reply.map(|reply| Tuple { dst: address, ..reply });
    let [a, b, c, d, ..] = spread(n).to_be_bytes();
    FlowView { orig, reply, id: Some(u32::from_be_bytes([a, b, c, d])), ..*template }
}

/// The first recorded IPv4 flow.
fn template() -> Option<FlowView<'static>> {
    let frames = frames();
    let flows = frames.iter().flat_map(|frame| records(frame)).filter_map(|record| record.flow().ok());
    flows.into_iter().find(|flow| flow.orig.is_some_and(|orig| orig.src.is_ipv4()))
}

/// A shard that holds `flows` flows.
fn fill(template: &FlowView<'static>, flows: u32) -> Shard {
    let mut shard = Shard::new(2 * FLOWS);
    for n in 0..flows {
        shard.apply(Event::New, &flow(template, n));
    }
    shard
}

fn apply(shard: &mut Shard, event: Event, flows: &[FlowView<'_>]) {
    for batch in flows.chunks(RECEIVE_BATCH) {
        shard.prefetch(batch.iter().filter_map(|flow| Some((flow.family, flow.id?))));
        for flow in batch {
            black_box(shard.apply(event, flow));
        }
    }
}

fn shard(criterion: &mut Criterion) {
    let Some(template) = template() else { return };
    let mut full = fill(&template, FLOWS);
    // Spread over the whole shard, so that flows updated one after the other are not neighbours in memory.
    let batch: Vec<_> = (0..BATCH).map(|n| flow(&template, n.wrapping_mul(7_919) % FLOWS)).collect();
    let fresh: Vec<_> = (0..BATCH).map(|n| flow(&template, FLOWS + n)).collect();
    report_allocations("shard update", batch.len(), || {
        apply(&mut full, Event::Update, &batch);
    });
    let mut group = criterion.benchmark_group("shard");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    group.bench_function("update among a million", |bencher| {
        bencher.iter(|| apply(&mut full, Event::Update, &batch));
    });
    group.bench_function("create and destroy among a million", |bencher| {
        bencher.iter(|| {
            apply(&mut full, Event::New, &fresh);
            apply(&mut full, Event::Destroy, &fresh);
        });
    });
    group.bench_function("create in an empty shard", |bencher| {
        bencher.iter_batched(
            || Shard::new(FLOWS),
            |mut shard| {
                apply(&mut shard, Event::New, &batch);
                shard
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, shard);
criterion_main!(benches);
