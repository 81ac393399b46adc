//! The fuzz targets as plain functions: the fuzzers call them, and `cargo test` replays every corpus through them.
//!
//! A target passes when it returns. It asserts what must hold, so that the replay checks that too.

use ctflow_parser::compact::{Flow, V4, V6};
use ctflow_parser::expect::ExpectView;
use ctflow_parser::filter::{DumpFilter, Masked, TupleFilter};
use ctflow_parser::flow::FlowView;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::{Record, Subject};
use ctflow_parser::request::{self, FlowChange, IfExists, REQUEST_BYTES, Selector, Table};
use ctflow_parser::tuple::FlowKey;
use ctflow_parser::uapi;
use ctflow_parser::write::Writer;
use ctflow_replicate::buckets::BucketSet;
use ctflow_replicate::ctflow::item::{Item, Items};
use ctflow_replicate::entry::{decode_expect, decode_flow, decode_flow_end, encode_expect, encode_flow};
use ctflow_replicate::host::{Address, DatagramClass, Destination, Entry, Full, Host, Replica, ReplicaId, node_id};
use ctflow_replicate::{Config, Epoch, Key, Note, Protocol, Time};

/// A target: its name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; each has a folder of its name in `corpus/`.
pub const TARGETS: [Target; 4] =
    [("frame", frame), ("attributes", attributes), ("request", request), ("replication", replication)];

/// Parses any bytes as a datagram from the kernel, and each record in it by every view.
pub fn frame(bytes: &[u8]) {
    let mut end = 0;
    for message in Messages::new(bytes) {
        match message {
            Ok(Message::Record(record)) => {
                end += record.bytes().len();
                print_all_views(&record);
            }
            Ok(message) => drop(format!("{message:?}")),
            Err(error) => assert!(error.offset as usize <= bytes.len(), "{error} is outside the frame"),
        }
    }
    assert!(end <= bytes.len(), "messages extend past the frame");
}

/// Parses any bytes as the attributes of each kind of record. A flow or an expectation is written and parsed again.
pub fn attributes(bytes: &[u8]) {
    let kinds = [
        (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW),
        (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS),
        (uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_GET_STATS_CPU),
        (uapi::NFNL_SUBSYS_CTNETLINK_EXP, uapi::IPCTNL_MSG_EXP_NEW),
    ];
    for (subsystem, kind) in kinds {
        let mut buffer = vec![0; bytes.len() + 64];
        let mut writer = Writer::new(&mut buffer);
        let written = writer.netfilter(subsystem, kind, 0, 1, uapi::AF_INET, 0, |message| message.raw(bytes));
        assert!(written.is_ok(), "the buffer was made to fit");
        let Some(Ok(Message::Record(record))) = Messages::new(writer.bytes()).next() else { continue };
        print_all_views(&record);
        assert_round_trip(&record);
    }
}

/// Parses any bytes as a flow, and writes every request that can name the flow, into buffers of any size.
pub fn request(bytes: &[u8]) {
    let Some((&size, attributes)) = bytes.split_first() else { return };
    let mut buffer = vec![0; attributes.len() + 64];
    let mut writer = Writer::new(&mut buffer);
    let _ = writer.netfilter(uapi::NFNL_SUBSYS_CTNETLINK, uapi::IPCTNL_MSG_CT_NEW, 0, 1, uapi::AF_INET, 0, |message| {
        message.raw(attributes)
    });
    let Some(Ok(Message::Record(record))) = Messages::new(writer.bytes()).next() else { return };
    let Ok(flow) = record.flow() else { return };
    let Some(orig) = flow.orig else { return };
    let mut small = vec![0; usize::from(size) * 4];
    let mut writer = Writer::new(&mut small);
    let change = FlowChange { flow, mark_mask: flow.mark, labels_mask: flow.rare.labels, ..FlowChange::default() };
    let field = TupleFilter { flags: flow.status.unwrap_or(0), tuple: orig };
    let mark = flow.mark.map(|value| Masked { value, mask: value });
    let filter = DumpFilter { mark, zone: flow.zone, orig: Some(field), ..DumpFilter::default() };
    let results = [
        request::dump(&mut writer, 1, Table::Conntrack, &filter, false),
        request::create(&mut writer, 2, &change, IfExists::Refuse),
        request::update(&mut writer, 3, &change),
        request::get(&mut writer, 4, &Selector::Orig(orig), flow.zone),
        request::delete(&mut writer, 5, &Selector::Reply(orig), flow.zone, flow.id),
        request::delete_expect(&mut writer, 6, &orig, flow.zone),
    ];
    // A request that did not fit left nothing in the buffer; the others are complete.
    let written = Messages::new(writer.bytes()).filter(Result::is_ok).count();
    assert_eq!(written, results.iter().filter(|result| result.is_ok()).count());
    assert_eq!(written, Messages::new(writer.bytes()).count());
}

/// Parses any bytes as input from a peer: as an entry, as the items of a batch, and as datagrams to a node, each behind
/// its length in two bytes. One node runs in clear and accepts them as they are, the other has a key.
pub fn replication(bytes: &[u8]) {
    for family in [uapi::AF_INET, uapi::AF_INET6] {
        assert_entry_round_trip(family, bytes);
    }
    check_items(bytes);
    for key in [None, Some(Key::new([7; 32]))] {
        let now = Time { wall_ms: 1_000, mono_ms: 1_000 };
        let mut node = Protocol::new(Config { key, ..Config::new("a", 2, Epoch::new(1, 1)) }, now);
        let mut host = NullHost;
        let mut rest = bytes;
        while let Some(([a, b], after)) = rest.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([*a, *b])).min(after.len());
            let (datagram, after) = after.split_at(length);
            node.receive(now, Address { peer: 1, link: 0 }, &mut datagram.to_vec(), &mut host);
            node.tick(now, &mut host);
            rest = after;
        }
        drop(format!("{:?}", node.status(now)));
    }
}

/// Parses bytes as an entry. Its canonical form must be the same bytes after it is decoded and encoded again.
fn assert_entry_round_trip(family: u8, bytes: &[u8]) {
    let _ = decode_flow_end(family, bytes);
    let (mut canonical, mut again) = (Vec::new(), Vec::new());
    if let Ok(flow) = decode_flow(family, bytes)
        && encode_flow(&flow, &mut canonical).is_ok()
    {
        let written = decode_flow(family, &canonical).map(|flow| encode_flow(&flow, &mut again));
        assert_eq!((written, &again), (Ok(Ok(())), &canonical));
    }
    canonical.clear();
    again.clear();
    if let Ok(expect) = decode_expect(bytes)
        && encode_expect(&expect, &mut canonical).is_ok()
    {
        let written = decode_expect(&canonical).map(|expect| encode_expect(&expect, &mut again));
        assert_eq!((written, &again), (Ok(Ok(())), &canonical));
    }
}

/// Parses bytes as the items of a batch, and the entries in them.
fn check_items(bytes: &[u8]) {
    for item in Items::new(bytes).into_iter().flatten().flatten() {
        match item {
            Item::Flow { family, entry: bytes, .. } => assert_entry_round_trip(family, bytes),
            Item::Expect { entry: bytes, .. } => assert_entry_round_trip(uapi::AF_INET, bytes),
            Item::Digests(digests) => drop(digests.iter().count()),
            item => drop(format!("{item:?}")),
        }
    }
}

/// A host that stores nothing, and asserts what it can about the calls of a node.
struct NullHost;

impl Host for NullHost {
    type Replica = Self;

    fn send(&mut self, _: Destination, _: DatagramClass, datagram: &[u8]) {
        assert!((32..=65_000).contains(&datagram.len()));
    }

    fn replica(&mut self, id: ReplicaId) -> &mut Self {
        assert!(id.stream < id.streams && id.node != node_id("a"));
        self
    }

    fn drop_replica(&mut self, _: ReplicaId) {}

    fn schedule_buckets(&mut self, stream: u16, buckets: &BucketSet) {
        assert!(stream < 2 && !buckets.is_empty());
    }

    fn schedule_digests(&mut self, stream: u16, _: u64) {
        assert!(stream < 2);
    }

    fn note(&mut self, note: Note) {
        assert!(!note.to_string().is_empty());
    }
}

impl Replica for NullHost {
    fn insert_flow(&mut self, _: &FlowView<'_>, _: &Entry<'_>) -> Result<(), Full> {
        Err(Full)
    }

    fn insert_expect(&mut self, _: &ExpectView<'_>, _: &Entry<'_>) -> Result<(), Full> {
        Ok(())
    }

    fn remove_flow(&mut self, _: u16, _: &FlowKey, _: u32) {}

    fn remove_expect(&mut self, _: u32) {}

    fn mark_bucket(&mut self, bucket: u16) {
        assert!(bucket < 257);
    }

    fn purge_marked(&mut self, _: u16) -> u64 {
        0
    }

    fn digest(&self, bucket: u16) -> u64 {
        u64::from(bucket % 2)
    }

    fn entries(&self) -> u64 {
        1
    }

    fn has_room(&self) -> bool {
        true
    }

    fn clear(&mut self) {}
}

/// Prints every view of a record, which reads all its fields.
fn print_all_views(record: &Record<'_>) {
    let flow = record.flow();
    if let Ok(flow) = &flow {
        let compact = (Flow::<V4>::new(flow).map(|flow| flow.view()), Flow::<V6>::new(flow).map(|flow| flow.view()));
        drop(format!("{compact:?} {:?}", flow.key()));
    }
    let stats: Vec<_> = record.cpu_stats().counters().collect();
    drop(format!("{flow:?} {:?} {:?} {stats:?}", record.expect(), record.global_stats()));
    drop(format!("{:?} {:?} {:?}", record.subject(), record.event(), record.requester()));
}

/// Writes the flow or expectation of a record into a request; parsed again it must be the same.
fn assert_round_trip(record: &Record<'_>) {
    let mut buffer = [0; REQUEST_BYTES];
    let mut writer = Writer::new(&mut buffer);
    match record.subject() {
        Subject::Flow => {
            let Ok(flow) = record.flow() else { return };
            let change = FlowChange { flow, ..FlowChange::default() };
            if request::create(&mut writer, 1, &change, IfExists::Change).is_ok() {
                assert_eq!(single_record(writer.bytes()).and_then(|record| record.flow().ok()), Some(flow));
            }
        }
        Subject::Expect => {
            let Ok(expect) = record.expect() else { return };
            if request::create_expect(&mut writer, 1, &expect).is_ok() {
                assert_eq!(single_record(writer.bytes()).and_then(|record| record.expect().ok()), Some(expect));
            }
        }
        _ => {}
    }
}

/// The first message of a frame, if it is a record.
fn single_record(frame: &[u8]) -> Option<Record<'_>> {
    match Messages::new(frame).next() {
        Some(Ok(Message::Record(record))) => Some(record),
        _ => None,
    }
}
