//! Question: what does it cost to receive queued events from the kernel, by back end?
//!
//! Flows are created and flushed over ctnetlink in a private network; only the receipt of the events that wait in the
//! socket is timed. The cost of a wake-up is left out: pacing makes wake-ups rare, for all back ends alike.

#![allow(clippy::expect_used)] // a bench that cannot be set up fails with the reason

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ctflow_benches::udp_flow;
use ctflow_engine::capture::receive::{self, BackendKind, Interrupts, Receive, Wait};
use ctflow_engine::capture::socket::{EventSocket, Options};
use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::request::Requester;
use ctflow_lab::Lab;
use ctflow_parser::request::{self, FlowChange, IfExists};
use ctflow_parser::uapi;

/// Fewer than an unprivileged socket holds (332).
const FLOWS: u16 = 256;

fn create(requester: &mut Requester) -> Result<(), KernelError> {
    (1..=FLOWS).try_for_each(|port| {
        let change = FlowChange { flow: udp_flow(port), ..FlowChange::default() };
        requester.request("create", |writer, seq| request::create(writer, seq, &change, IfExists::Refuse), |_| {})
    })
}

/// Receives all queued events; returns the time that it took, and their number.
fn drain(receive: &mut dyn Receive) -> (Duration, usize) {
    let started = Instant::now();
    let mut count = 0;
    let mut consume = |frame: &[u8]| {
        black_box(frame);
    };
    while let Ok(received) = receive.receive(Wait::None, &mut consume) {
        count += received.datagrams;
        if received.datagrams == 0 {
            break;
        }
    }
    (started.elapsed(), count)
}

/// Creates and flushes the flows once; returns the time that it took to receive the events.
fn round(requester: &mut Requester, receive: &mut dyn Receive) -> Result<Duration, KernelError> {
    create(requester)?;
    let (created, created_events) = drain(receive);
    requester.request("flush", |writer, seq| request::flush(writer, seq, uapi::AF_UNSPEC), |_| {})?;
    let (flushed, flushed_events) = drain(receive);
    assert_eq!(created_events + flushed_events, 2 * usize::from(FLOWS), "no event is missing");
    Ok(created + flushed)
}

fn receive(criterion: &mut Criterion) {
    let _lab = Lab::enter().expect("a private network");
    let mut requester = Requester::open().expect("a netfilter socket");
    let mut group = criterion.benchmark_group("receive");
    group.throughput(Throughput::Elements(2 * u64::from(FLOWS)));
    for kind in [BackendKind::Recvmmsg, BackendKind::IoUring, BackendKind::Recv] {
        let socket = EventSocket::open(&Options::default()).expect("an event socket");
        let Ok(mut receive) = receive::open(kind, socket.netlink(), Interrupts::new()) else {
            println!("{kind} is not available here");
            continue;
        };
        group.bench_function(kind.name(), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut round = || round(&mut requester, &mut *receive).expect("flows are created and flushed");
                (0..rounds).map(|_| round()).sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, receive);
criterion_main!(benches);
