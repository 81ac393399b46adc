//! Question: what does it cost to find the messages of a datagram and check their headers?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ctflow_benches::{EVENTS, frames, report_allocations};
use ctflow_parser::frame::Messages;

fn walk(frames: &[&[u8]]) {
    for frame in frames {
        for message in Messages::new(frame) {
            let _ = black_box(message);
        }
    }
}

fn frame(criterion: &mut Criterion) {
    let frames = frames();
    report_allocations("frame", frames.len(), || walk(&frames));
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::ElementsAndBytes { elements: frames.len() as u64, bytes: EVENTS.len() as u64 });
    group.bench_function("walk", |bencher| bencher.iter(|| walk(black_box(&frames))));
    group.finish();
}

criterion_group!(benches, frame);
criterion_main!(benches);
