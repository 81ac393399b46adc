//! Batches of requests against this kernel: which request a refusal belongs to, and what happens to the others.
#![allow(clippy::unwrap_used)] // a test fails by it, here in its helpers too

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ctflow_engine::kernel::KernelError;
use ctflow_engine::kernel::batch::{Batch, BatchOutcome, Refused};
use ctflow_engine::kernel::dump::Dump;
use ctflow_lab::{Lab, sysctl};
use ctflow_parser::filter::DumpFilter;
use ctflow_parser::flow::{FlowView, Helper, RareAttributes};
use ctflow_parser::request::{self, FlowChange, IfExists, Selector, Table};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::{AF_INET, IPPROTO_UDP};
use ctflow_parser::write::{Full, Writer};
use rustix::io::Errno;

const EEXIST: i32 = Errno::EXIST.raw_os_error();
const ENOENT: i32 = Errno::NOENT.raw_os_error();

/// The original direction of the flow number `index`. Every flow has another one.
fn orig(index: u32) -> Tuple {
    let [_, high, middle, low] = index.to_be_bytes();
    let l4 = L4::Ports { src: 1000, dst: 2000 };
    let address = |first| Ipv4Addr::new(first, high, middle, low).into();
    Tuple { src: address(10), dst: address(11), proto: IPPROTO_UDP, l4, zone: None }
}

fn create(writer: &mut Writer<'_>, seq: u32, index: u32) -> Result<(), Full> {
    let orig = orig(index);
    let l4 = L4::Ports { src: 2000, dst: 1000 };
    let reply = Tuple { src: orig.dst, dst: orig.src, l4, ..orig };
    let flow = FlowView {
        family: AF_INET,
        orig: Some(orig),
        reply: Some(reply),
        timeout: Some(600),
        mark: Some(index),
        ..FlowView::default()
    };
    request::create(writer, seq, &FlowChange { flow, ..FlowChange::default() }, IfExists::Refuse)
}

fn delete(writer: &mut Writer<'_>, seq: u32, index: u32) -> Result<(), Full> {
    request::delete(writer, seq, &Selector::Orig(orig(index)), None, None)
}

type Write = fn(&mut Writer<'_>, u32, u32) -> Result<(), Full>;

/// Sends a request for each index, which is also its tag. Returns the tags and errnos of the refused requests.
fn run_batch(
    operation: &'static str,
    write: Write,
    indices: impl Iterator<Item = u32>,
) -> (BatchOutcome, Vec<(u64, i32)>) {
    let mut batch = Batch::open(operation).unwrap();
    let mut refusals = Vec::new();
    let mut refused = |refused: Refused| refusals.push((refused.tag, refused.error.errno().unwrap()));
    for index in indices {
        batch.add(index.into(), |writer, seq| write(writer, seq, index), &mut refused).unwrap();
    }
    let done = batch.finish(&mut refused).unwrap();
    (done, refusals)
}

/// The marks of the flows in the kernel. A flow's mark is its index.
fn marks_in_kernel() -> BTreeSet<u32> {
    let mut marks = BTreeSet::new();
    let mut dump = Dump::start(Table::Conntrack, &DumpFilter::default(), false).unwrap();
    dump.read_all(|record| marks.extend(record.flow().unwrap().mark)).unwrap();
    marks
}

/// A private network whose table has room for `flows`.
fn network(flows: u64) -> Lab {
    let lab = Lab::enter().unwrap();
    assert!(sysctl::read("net/netfilter/nf_conntrack_max").unwrap() >= flows, "the table is too small here");
    lab
}

#[test]
fn every_one_of_many_requests_is_carried_out() {
    ctflow_lab::isolated!({
        let _lab = network(20_000);
        let expected = BatchOutcome { requests: 20_000, refused: 0 };
        assert_eq!(run_batch("create flows", create, 0..20_000), (expected, vec![]));
        assert_eq!(marks_in_kernel(), (0..20_000).collect());
        assert_eq!(run_batch("delete flows", delete, 0..20_000), (expected, vec![]));
        assert_eq!(marks_in_kernel(), BTreeSet::new());
    });
}

#[test]
fn a_refused_request_is_named_and_does_not_stop_the_others() {
    ctflow_lab::isolated!({
        let _lab = network(1_000);
        let thirds = || (0..1_000).filter(|index| index % 3 == 0);
        let refusals = |errno| thirds().map(|index| (u64::from(index), errno)).collect::<Vec<_>>();
        assert_eq!(run_batch("create flows", create, thirds()).1, []);
        let done = BatchOutcome { requests: 1_000, refused: 334 };
        assert_eq!(done.carried_out(), 666);
        assert_eq!(run_batch("create flows", create, 0..1_000), (done, refusals(EEXIST)));
        assert_eq!(marks_in_kernel(), (0..1_000).collect());

        assert_eq!(run_batch("delete flows", delete, thirds()).1, []);
        assert_eq!(run_batch("delete flows", delete, 0..1_000), (done, refusals(ENOENT)));
        assert_eq!(marks_in_kernel(), BTreeSet::new());
    });
}

#[test]
fn a_batch_of_refusals_loses_no_answer() {
    ctflow_lab::isolated!({
        let _lab = network(0);
        let (done, refusals) = run_batch("delete flows", delete, 0..10_000);
        assert_eq!(done, BatchOutcome { requests: 10_000, refused: 10_000 });
        assert_eq!(refusals, (0..10_000).map(|index| (index, ENOENT)).collect::<Vec<_>>());
    });
}

#[test]
fn a_request_that_is_too_long_is_reported_in_order() {
    ctflow_lab::isolated!({
        let _lab = network(3);
        let mut batch = Batch::open("create flows").unwrap();
        let mut tags = Vec::new();
        let mut refused = |refused: Refused| tags.push((refused.tag, refused.error.to_string()));
        batch.add(1, |writer, seq| create(writer, seq, 1), &mut refused).unwrap();
        batch.add(2, |writer, seq| create(writer, seq, 1), &mut refused).unwrap();
        let long = [0; 5_000];
        let helper = Some(Helper { name: "ftp", info: &long });
        let rare = RareAttributes { helper, ..RareAttributes::default() };
        let flow = FlowView { family: AF_INET, orig: Some(orig(2)), rare, ..FlowView::default() };
        let change = FlowChange { flow, ..FlowChange::default() };
        let too_long = |writer: &mut Writer<'_>, seq| request::create(writer, seq, &change, IfExists::Refuse);
        batch.add(3, too_long, &mut refused).unwrap();
        batch.add(4, |writer, seq| create(writer, seq, 4), &mut refused).unwrap();
        let done = batch.finish(&mut refused).unwrap();
        assert_eq!((done.requests, done.refused, done.carried_out()), (4, 2, 2));
        let [(2, exists), (3, long)] = &tags[..] else { panic!("{tags:?}") };
        assert!(exists.starts_with("the kernel refused to create flows: File exists"), "{exists}");
        assert_eq!(long, "cannot create flows: the request is too long for its buffer");
        assert_eq!(marks_in_kernel(), [1, 4].into());
        assert_eq!(batch.finish(&mut |_| {}).unwrap(), BatchOutcome::default());
    });
}

#[test]
fn a_missing_capability_fails_the_whole_batch() {
    ctflow_lab::isolated!({
        let _lab = network(3);
        let mut batch = Batch::open("create flows").unwrap();
        let mut capabilities = rustix::thread::capabilities(None).unwrap();
        capabilities.effective.remove(rustix::thread::CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, capabilities).unwrap();
        let mut refused = |refused: Refused| panic!("{refused:?}");
        for index in 0..3 {
            batch.add(index.into(), |writer, seq| create(writer, seq, index), &mut refused).unwrap();
        }
        let error = batch.finish(&mut refused).unwrap_err();
        assert!(matches!(error, KernelError::Refused { .. }) && error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}
