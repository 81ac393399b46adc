//! Question: what does it cost to parse one event, from the datagram to the view? Goal: under 100 ns, without
//! allocation.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ctflow_benches::{EVENTS, frames, records, report_allocations};

fn parse(frames: &[&[u8]]) {
    for frame in frames {
        for record in records(frame) {
            let _ = black_box((record.event(), &record.flow()));
        }
    }
}

fn record(criterion: &mut Criterion) {
    let frames = frames();
    report_allocations("record", frames.len(), || parse(&frames));
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::ElementsAndBytes { elements: frames.len() as u64, bytes: EVENTS.len() as u64 });
    group.bench_function("parse", |bencher| bencher.iter(|| parse(black_box(&frames))));
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
