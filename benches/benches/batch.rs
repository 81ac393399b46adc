//! Question: what does it cost to create a flow in the kernel, one request at a time and in batches?
//!
//! The creations are timed; the flush that makes room for the next round is not.
#![allow(clippy::expect_used)] // a bench that cannot be set up fails with the reason

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ctflow_benches::udp_flow;
use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::batch::Batch;
use ctflow_engine::kernel::request::Requester;
use ctflow_lab::Lab;
use ctflow_parser::request::{self, FlowChange, IfExists};
use ctflow_parser::uapi;
use ctflow_parser::write::Writer;

const FLOWS: u16 = 4_096;

/// Creates all flows, one request at a time.
fn one_by_one(requester: &mut Requester) -> Result<(), KernelError> {
    (1..=FLOWS).try_for_each(|port| {
        let change = FlowChange { flow: udp_flow(port), ..FlowChange::default() };
        requester.request("create", |writer, seq| request::create(writer, seq, &change, IfExists::Refuse), |_| {})
    })
}

/// Creates all flows in batches of requests.
fn in_batches(batch: &mut Batch) -> Result<(), KernelError> {
    let mut refused = 0;
    for port in 1..=FLOWS {
        let change = FlowChange { flow: udp_flow(port), ..FlowChange::default() };
        let refuse = &mut |_| refused += 1;
        batch.add(port.into(), |writer, seq| request::create(writer, seq, &change, IfExists::Refuse), refuse)?;
    }
    batch.finish(&mut |_| refused += 1)?;
    assert_eq!(refused, 0, "every flow is new");
    Ok(())
}

/// Returns the time that `work` takes to create the flows, and flushes them.
fn timed(work: impl FnOnce() -> Result<(), KernelError>) -> Duration {
    let started = Instant::now();
    work().expect("flows are created");
    let elapsed = started.elapsed();
    let flush = |writer: &mut Writer<'_>, seq| request::flush(writer, seq, uapi::AF_UNSPEC);
    Requester::open().and_then(|mut requester| requester.request("flush", flush, |_| {})).expect("flows are flushed");
    elapsed
}

fn batch(criterion: &mut Criterion) {
    let _lab = Lab::enter().expect("a private network");
    let mut requester = Requester::open().expect("a netfilter socket");
    let mut batch = Batch::open("create flows").expect("a netfilter socket");
    let mut group = criterion.benchmark_group("create");
    group.throughput(Throughput::Elements(u64::from(FLOWS)));
    group.bench_function("one by one", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| timed(|| one_by_one(&mut requester))).sum());
    });
    group.bench_function("in batches", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| timed(|| in_batches(&mut batch))).sum());
    });
    group.finish();
}

criterion_group!(benches, batch);
criterion_main!(benches);
