//! A replica that has received every batch of a shard holds the same entries as the shard, whatever happened before.

use std::collections::BTreeSet;
use std::sync::Arc;

use ctflow_parser::expect::ExpectView;
use ctflow_parser::flow::{FlowView, Helper, RareAttributes};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi;
use ctflow_replicate::Payload;
use ctflow_replicate::buckets::{BucketSet, EXPECTATIONS, bucket_of};
use ctflow_replicate::ctflow::item::{Item, Items};
use ctflow_replicate::ctflow::wire::HEADER_BYTES;
use ctflow_replicate::entry;
use ctflow_replicate::host::{Entry, Replica as _};
use proptest::prelude::*;

use crate::limits::OUTBOX_BATCHES;
use crate::replication::filter::{Listed, ReplicationFilter, Rule};
use crate::shard::replica::Replica;
use crate::shard::{Outbox, Shard};

const START_MS: u64 = 1_800_000_000_000;

/// Applies all batches of the outbox to a replica, as the protocol does, and checks the digests in them; returns the
/// number of flows and flow ends.
fn deliver(outbox: &mut Outbox, replica: &mut Replica) -> usize {
    outbox.close();
    std::iter::from_fn(|| outbox.pop()).map(|payload| apply_batch(&payload, replica)).sum()
}

/// Applies one batch to a replica, and checks the digests in it; returns the number of flows and flow ends.
fn apply_batch(payload: &Payload, replica: &mut Replica) -> usize {
    let mut entries = 0;
    for item in Items::new(&payload.bytes[HEADER_BYTES..]).unwrap() {
        match item.unwrap() {
            Item::Flow { family, entry: bytes, version_ms } => {
                entries += 1;
                let flow = entry::decode_flow(family, bytes).unwrap();
                let bucket = bucket_of(flow.id.unwrap());
                replica
                    .insert_flow(&flow, &Entry { bucket, bytes, check: entry::entry_check(bytes), version_ms })
                    .unwrap();
            }
            Item::FlowEnd { family, body, .. } => {
                entries += 1;
                let (key, id) = entry::decode_flow_end(family, body).unwrap();
                replica.remove_flow(bucket_of(id), &key, id);
            }
            Item::Expect { entry: bytes, version_ms } => {
                let expect = entry::decode_expect(bytes).unwrap();
                let received = Entry { bucket: EXPECTATIONS, bytes, check: entry::entry_check(bytes), version_ms };
                replica.insert_expect(&expect, &received).unwrap();
            }
            Item::ExpectEnd { id, .. } => replica.remove_expect(id),
            Item::BucketBegin(bucket) => replica.mark_bucket(bucket),
            Item::BucketEnd(bucket) => {
                replica.purge_marked(bucket);
            }
            Item::Digests(digests) => {
                for (bucket, digest) in digests.iter() {
                    assert_eq!(digest, replica.digest(bucket), "bucket {bucket}");
                }
            }
        }
    }
    entries
}

/// All entries that `encode_bucket` writes, without their heads: the times in these differ between shard and replica.
fn held_entries(encode_bucket: impl Fn(u16, &mut Vec<u8>)) -> BTreeSet<Vec<u8>> {
    let mut entries = BTreeSet::new();
    for bucket in 0..=EXPECTATIONS {
        let mut out = Vec::new();
        encode_bucket(bucket, &mut out);
        let mut rest = &out[..];
        while let [_, ..] = rest {
            let length = usize::from(u16::from_be_bytes([rest[24], rest[25]]));
            entries.insert(rest[26..26 + length].to_vec());
            rest = &rest[26 + length..];
        }
    }
    entries
}

fn assert_same_entries(shard: &Shard, replica: &Replica) {
    let in_shard = held_entries(|bucket, out| shard.encode_bucket(bucket, 0, out));
    let in_replica = held_entries(|bucket, out| replica.encode_bucket(bucket, 0, out));
    assert_eq!(in_shard, in_replica);
}

/// Flow number `n`: every third is UDP, every fifth IPv6.
fn flow(n: u8) -> FlowView<'static> {
    let proto = if n.is_multiple_of(3) { uapi::IPPROTO_UDP } else { uapi::IPPROTO_TCP };
    let (src, dst) = if n.is_multiple_of(5) {
        (format!("2001:db8::{n:x}").parse().unwrap(), "2001:db8::ffff".parse().unwrap())
    } else {
        (std::net::IpAddr::from([10, 0, 0, n]), std::net::IpAddr::from([192, 0, 2, 1]))
    };
    let tuple = |src, dst, from, to| Tuple { src, dst, proto, l4: L4::Ports { src: from, dst: to }, zone: None };
    FlowView {
        family: if n.is_multiple_of(5) { uapi::AF_INET6 } else { uapi::AF_INET },
        orig: Some(tuple(src, dst, 1_000, 80)),
        reply: Some(tuple(dst, src, 80, 1_000)),
        id: Some(u32::from(n % 64)), // some share an id
        ..FlowView::default()
    }
}

fn expectation(n: u8) -> ExpectView<'static> {
    let FlowView { family, orig, .. } = flow(n);
    let (tuple, mask, master) = (orig, orig, orig);
    ExpectView { family, tuple, mask, master, id: Some(n.into()), timeout: Some(9), ..ExpectView::default() }
}

fn new_shard(filter: ReplicationFilter) -> (Shard, Outbox, Replica) {
    let mut shard = Shard::replicated(1_000, Arc::new(filter));
    shard.set_time(START_MS);
    (shard, Outbox::new(0, 1_400), Replica::new(1_000))
}

#[derive(Debug, Clone)]
enum Step {
    Flow(Event, u8, u32),
    Helped(u8),
    Expect(Event, u8),
    Wait(u16),
    Drain,
    Bucket(u8),
    Digests,
    Resync(Vec<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = || prop_oneof![Just(Event::New), Just(Event::Update), Just(Event::Destroy)];
    let step = prop_oneof![
        12 => (event(), any::<u8>(), 0..3u32).prop_map(|(event, n, mark)| Step::Flow(event, n % 80, mark)),
        1 => (0..80u8).prop_map(Step::Helped),
        2 => (event(), 0..8u8).prop_map(|(event, n)| Step::Expect(event, n)),
        2 => (0..400u16).prop_map(Step::Wait),
        2 => Just(Step::Drain),
        1 => any::<u8>().prop_map(Step::Bucket),
        1 => Just(Step::Digests),
        1 => prop::collection::vec(0..80u8, 0..40).prop_map(Step::Resync),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_drained_shard_and_its_replica_hold_the_same(steps in steps(), least_ms in prop_oneof![Just(0), Just(300)]) {
        let least_ages = vec![(uapi::IPPROTO_UDP, least_ms)];
        let filter = ReplicationFilter { least_ages, ..ReplicationFilter::default() };
        let (mut shard, mut outbox, mut replica) = new_shard(filter);
        let mut now = START_MS;
        for step in steps {
            match step {
                Step::Flow(event, n, mark) => {
                    shard.apply(event, &FlowView { mark: Some(mark), ..flow(n) });
                }
                Step::Helped(n) => {
                    let helper = Some(Helper { name: "ftp", info: &[] });
                    let rare = RareAttributes { helper, ..RareAttributes::default() };
                    shard.apply(Event::Update, &FlowView { rare, ..flow(n) });
                }
                Step::Expect(event, n) => {
                    shard.apply_expectation(event, &expectation(n));
                }
                Step::Wait(ms) => now += u64::from(ms),
                Step::Drain => {
                    shard.drain(&mut outbox);
                    deliver(&mut outbox, &mut replica);
                }
                Step::Bucket(bucket) => shard.queue_buckets(&[u16::from(bucket), EXPECTATIONS].into_iter().collect()),
                Step::Digests => shard.queue_digests(1),
                Step::Resync(confirmed) => {
                    shard.start_resync();
                    confirmed.into_iter().for_each(|n| { shard.apply_dumped(&flow(n)); });
                    shard.finish_dump();
                    while shard.is_sweeping() {
                        shard.sweep(16, |_| {});
                    }
                }
            }
            shard.set_time(now);
            outbox.set_time(now);
        }
        shard.set_time(now + 1_000);
        shard.drain(&mut outbox);
        shard.queue_digests(2);
        shard.drain(&mut outbox);
        deliver(&mut outbox, &mut replica);
        assert_same_entries(&shard, &replica);
        prop_assert!(!shard.has_pending());
    }
}

#[test]
fn a_flow_is_sent_once_in_its_newest_state() {
    let (mut shard, mut outbox, mut replica) = new_shard(ReplicationFilter::default());
    shard.apply(Event::New, &flow(1));
    for mark in 1..10 {
        shard.apply(Event::Update, &FlowView { mark: Some(mark), ..flow(1) });
    }
    shard.apply(Event::New, &flow(2));
    shard.apply(Event::Destroy, &flow(2));
    shard.drain(&mut outbox);
    assert_eq!(deliver(&mut outbox, &mut replica), 1);
    shard.apply(Event::Update, &FlowView { mark: Some(3), ..flow(1) });
    shard.apply(Event::Update, &FlowView { mark: Some(9), ..flow(1) });
    shard.drain(&mut outbox);
    assert_eq!(deliver(&mut outbox, &mut replica), 0, "the replica holds this very state");
    shard.apply(Event::Destroy, &flow(1));
    shard.drain(&mut outbox);
    assert_eq!((deliver(&mut outbox, &mut replica), replica.entries()), (1, 0));
}

#[test]
fn a_flow_below_its_protocols_least_age_is_not_sent() {
    let filter = ReplicationFilter { least_ages: vec![(uapi::IPPROTO_UDP, 500)], ..ReplicationFilter::default() };
    let (mut shard, mut outbox, mut replica) = new_shard(filter);
    shard.apply(Event::New, &flow(3));
    shard.apply(Event::New, &flow(6));
    shard.apply(Event::New, &flow(4)); // TCP
    assert_eq!(shard.pending_in_ms(), Some(0));
    shard.drain(&mut outbox);
    assert_eq!(deliver(&mut outbox, &mut replica), 1);
    assert_eq!(shard.pending_in_ms(), Some(500));
    shard.apply(Event::Destroy, &flow(3));
    shard.set_time(START_MS + 500);
    assert!(shard.has_pending());
    shard.drain(&mut outbox);
    assert_eq!((deliver(&mut outbox, &mut replica), replica.entries()), (1, 2));
    assert_same_entries(&shard, &replica);
}

/// A shard with a least age of half a second for all flows, and one flow of that age that was just sent.
fn sent_aged_flow() -> (Shard, Outbox, Replica) {
    let (mut shard, mut outbox, mut replica) =
        new_shard(ReplicationFilter { least_age_ms: 500, ..ReplicationFilter::default() });
    shard.apply(Event::New, &flow(1));
    shard.set_time(START_MS + 500);
    shard.drain(&mut outbox);
    assert_eq!(deliver(&mut outbox, &mut replica), 1);
    (shard, outbox, replica)
}

#[test]
fn with_a_least_age_for_all_flows_changes_are_sent_together() {
    let (mut shard, mut outbox, mut replica) = sent_aged_flow();
    shard.apply(Event::Update, &FlowView { mark: Some(7), ..flow(1) });
    assert_eq!((shard.has_pending(), shard.pending_in_ms()), (false, Some(5)));
    shard.set_time(START_MS + 505);
    assert!(shard.has_pending());
    shard.drain(&mut outbox);
    assert_eq!(deliver(&mut outbox, &mut replica), 1);
    shard.apply(Event::Destroy, &flow(1));
    assert!(!shard.has_pending());
    shard.cancel_batch_delay();
    assert!(shard.has_pending(), "a worker that stops sends everything");
    shard.queue_digests(1);
    shard.drain(&mut outbox);
    assert_eq!((deliver(&mut outbox, &mut replica), replica.entries()), (1, 0));
    assert_same_entries(&shard, &replica);
}

#[test]
fn a_clock_set_back_delays_no_change() {
    let (mut shard, mut outbox, mut replica) = sent_aged_flow();
    shard.set_time(START_MS - 3_600_000);
    shard.apply(Event::Destroy, &flow(1));
    assert!(shard.has_pending());
    shard.drain(&mut outbox);
    assert_eq!((deliver(&mut outbox, &mut replica), replica.entries()), (1, 0));
}

#[test]
fn a_clock_set_back_delays_no_young_flow() {
    let (mut shard, mut outbox, mut replica) =
        new_shard(ReplicationFilter { least_age_ms: 500, ..ReplicationFilter::default() });
    shard.apply(Event::New, &flow(1));
    shard.set_time(START_MS - 3_600_000);
    assert!(shard.has_pending());
    shard.drain(&mut outbox);
    assert_eq!((deliver(&mut outbox, &mut replica), replica.entries()), (1, 1));
}

#[test]
fn a_flow_no_longer_selected_is_retracted() {
    let marked = |mark| FlowView { mark: Some(mark), ..flow(1) };
    let mark = ctflow_parser::filter::Masked { value: 1, mask: 1 };
    let (mut shard, mut outbox, mut replica) =
        new_shard(ReplicationFilter { mark: Some(mark), ..ReplicationFilter::default() });
    let mut after = |mark| {
        shard.apply(Event::Update, &marked(mark));
        shard.drain(&mut outbox);
        deliver(&mut outbox, &mut replica);
        replica.entries()
    };
    assert_eq!([after(0), after(1), after(3), after(2), after(1)], [0, 1, 1, 0, 1]);
    shard.set_filter(Arc::new(ReplicationFilter {
        mark: Some(ctflow_parser::filter::Masked { value: 0, mask: 1 }),
        ..ReplicationFilter::default()
    }));
    shard.drain(&mut outbox);
    deliver(&mut outbox, &mut replica);
    assert_eq!(replica.entries(), 0, "the new filter selects no held flow");
    let of = vec![uapi::IPPROTO_TCP];
    let ignored = ReplicationFilter {
        protocols: Some(Rule { listed: Listed::Ignored, entries: of }),
        ..ReplicationFilter::default()
    };
    assert!(!ignored.selects(&flow(1)) && ignored.selects(&flow(3)));
}

/// A helper's name of 256 letters: longer than an entry can hold, and than the kernel permits.
const UNENCODABLE_NAME: &str = match std::str::from_utf8(&[b'x'; 256]) {
    Ok(name) => name,
    Err(_) => unreachable!(),
};

#[test]
fn a_flow_that_cannot_be_encoded_is_counted_and_retracted() {
    let (mut shard, mut outbox, mut replica) = new_shard(ReplicationFilter::default());
    let unencodable = FlowView {
        rare: RareAttributes {
            helper: Some(Helper { name: UNENCODABLE_NAME, info: &[] }),
            ..RareAttributes::default()
        },
        ..flow(1)
    };
    shard.apply(Event::New, &flow(1));
    shard.apply(Event::New, &flow(2));
    shard.drain(&mut outbox);
    assert_eq!((deliver(&mut outbox, &mut replica), outbox.take_unencodable()), (2, 0));
    shard.apply(Event::Update, &unencodable);
    shard.drain(&mut outbox);
    assert_eq!((deliver(&mut outbox, &mut replica), outbox.take_unencodable()), (1, 1));
    assert_eq!(replica.entries(), 1, "no replica keeps the flow's old state");
    assert_eq!(outbox.take_unencodable(), 0, "each is counted once");
}

#[test]
fn a_full_outbox_leaves_changes_for_later() {
    let flows_max = 60_000;
    let (mut shard, mut outbox, mut replica) = (
        Shard::replicated(flows_max, Arc::new(ReplicationFilter::default())),
        Outbox::new(0, 1_232),
        Replica::new(flows_max),
    );
    let many = |n: u32| {
        let [_, _, high, low] = n.to_be_bytes();
        let src = std::net::IpAddr::from([10, 1, high, low]);
        let view = flow(1);
        let (orig, reply) = (Tuple { src, ..view.orig.unwrap() }, Tuple { dst: src, ..view.reply.unwrap() });
        FlowView { orig: Some(orig), reply: Some(reply), id: Some(n), ..view }
    };
    (0..40_000).for_each(|n| {
        shard.apply(Event::New, &many(n));
    });
    let mut drains = 0;
    while shard.has_pending() {
        shard.drain(&mut outbox);
        outbox.close();
        let waiting: Vec<_> = std::iter::from_fn(|| outbox.pop()).collect();
        assert!(waiting.len() <= OUTBOX_BATCHES + 1, "{}", waiting.len());
        waiting.iter().for_each(|payload| {
            apply_batch(payload, &mut replica);
        });
        drains += 1;
    }
    assert!(drains > 1);
    assert_same_entries(&shard, &replica);
}

#[test]
fn a_full_outbox_leaves_buckets_for_later() {
    let (mut shard, mut outbox, mut replica) = new_shard(ReplicationFilter::default());
    for n in 0..80 {
        shard.apply(Event::New, &flow(n));
    }
    shard.queue_buckets(&BucketSet::all_of(0));
    let mut drains = 0;
    while shard.has_pending() {
        shard.drain(&mut outbox);
        outbox.close();
        drains += 1;
        // The stage receives one batch for each drain, which is less than a drain writes.
        let mut received = Outbox::new(0, 1_400);
        outbox.pop().into_iter().for_each(|payload| received.push_front(payload));
        deliver(&mut received, &mut replica);
        assert!(drains < 1_000);
    }
    deliver(&mut outbox, &mut replica);
    assert_same_entries(&shard, &replica);
}
