//! Question: what does it cost to take queued events from the kernel, by back end?
//!
//! Flows are created and flushed over ctnetlink in a network of the bench's own; only the draining of the events that
//! waited in the socket is timed. What a wake-up costs is left out: pacing makes it rare, in the same way for all.

#![allow(clippy::expect_used)] // a bench that cannot be set up says why and ends

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ctflow_benches::udp_flow;
use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::request::Requester;
use ctflow_engine::lab::Lab;
use ctflow_engine::receive::{self, BackendKind, Interrupts, Receive, Wait};
use ctflow_engine::socket::{EventSocket, Options};
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

/// Drains what is queued; how long that took, and how much it was.
fn drain(receive: &mut dyn Receive) -> (Duration, usize) {
    let started = Instant::now();
    let mut count = 0;
    let mut look = |frame: &[u8]| {
        black_box(frame);
    };
    while let Ok(taken) = receive.receive(Wait::None, &mut look) {
        count += taken.datagrams;
        if taken.datagrams == 0 {
            break;
        }
    }
    (started.elapsed(), count)
}

fn round(requester: &mut Requester, receive: &mut dyn Receive) -> Result<Duration, KernelError> {
    create(requester)?;
    let (created, news) = drain(receive);
    requester.request("flush", |writer, seq| request::flush(writer, seq, uapi::AF_UNSPEC), |_| {})?;
    let (flushed, ends) = drain(receive);
    assert_eq!(news + ends, 2 * usize::from(FLOWS), "every event is there");
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
            println!("{kind} is refused here");
            continue;
        };
        group.bench_function(kind.name(), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut round = || round(&mut requester, &mut *receive).expect("flows come and go");
                (0..rounds).map(|_| round()).sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, receive);
criterion_main!(benches);
