//! The whole pipeline on this kernel: real traffic, real losses, and shards that agree with the kernel's table.
#![allow(clippy::unwrap_used)] // a test fails by it, here in its helpers too

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ctflow_engine::capture::receive::BackendKind;
use ctflow_engine::capture::socket::{BufferPlan, Options};
use ctflow_engine::engine::{Engine, Settings};
use ctflow_engine::kernel::dump::{Dump, Progress};
use ctflow_engine::kernel::request::Requester;
use ctflow_engine::metrics::Counts;
use ctflow_lab::topology::{Firewall, REDIRECTED, SERVER, SERVER6};
use ctflow_lab::traffic::{Flood, tcp_exchange, udp_exchange};
use ctflow_lab::{Lab, sysctl};
use ctflow_parser::filter::{DumpFilter, TupleFilter};
use ctflow_parser::request::{self, Table};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::{AF_INET, AF_UNSPEC, CTA_FILTER_F_CTA_PROTO_NUM, IPPROTO_TCP, IPPROTO_UDP};
use ctflow_parser::write::Writer;

/// Waits until the counts meet the condition. Fails with `what` after 20 s.
fn until(engine: &Engine, what: &str, mut satisfied: impl FnMut(&Counts) -> bool) -> Counts {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let totals = engine.totals();
        if satisfied(&totals) {
            return totals;
        }
        assert!(Instant::now() < deadline, "never: {what}: {totals:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn settings(workers: u32) -> Settings {
    Settings { workers, pin: false, ..Settings::default() }
}

fn flush() {
    let mut requester = Requester::open().unwrap();
    requester.request("empty the table", |writer, seq| request::flush(writer, seq, 0), |_| {}).unwrap();
}

#[test]
fn workers_share_the_flows_of_real_traffic_and_lose_none() {
    ctflow_lab::isolated!({
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        let engine = Engine::start(&settings(3)).unwrap();
        firewall.client.run(|| {
            for _ in 0..30 {
                tcp_exchange((SERVER, 80).into(), b"hello").unwrap();
                tcp_exchange(REDIRECTED, b"hello").unwrap();
                udp_exchange((SERVER6, 53).into(), b"hello").unwrap();
            }
        });
        until(&engine, "the shards hold every flow", |totals| {
            totals.flows == sysctl::flow_count().unwrap() && totals.flows >= 90
        });
        assert!(engine.by_worker().iter().all(|counts| counts.events() > 0), "{:?}", engine.by_worker());
        flush();
        until(&engine, "every flow is gone", |totals| totals.flows == 0);
        let totals = engine.stop().unwrap();
        assert_eq!((totals.events_new, totals.events_destroy), (90, 90));
        assert_eq!((totals.events_lost, totals.malformed, totals.purged), (0, 0, 0));
    });
}

#[test]
fn flows_older_than_the_capture_are_found_by_the_first_resync() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        Flood::open().unwrap().send(5_000).unwrap();
        let engine = Engine::start(&settings(2)).unwrap();
        until(&engine, "the shards hold the old flows", |totals| totals.flows == sysctl::flow_count().unwrap());
        assert!(engine.totals().resync_created >= 5_000);
        // With nf_conntrack_events=2 the kernel sends no event of their end, so only another resync finds it.
    });
}

#[test]
fn a_loss_is_counted_and_repaired_by_a_resync() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        for backend in [BackendKind::IoUring, BackendKind::Recvmmsg, BackendKind::Recv] {
            lose_and_repair(backend);
        }
    });
}

fn lose_and_repair(backend: BackendKind) {
    let socket = Options { buffer: BufferPlan::Fixed(8 * 1_280), ..Options::default() };
    let engine = Engine::start(&Settings { backend, socket, ..settings(2) }).unwrap();
    until(&engine, "the first resync", |totals| totals.resyncs >= 2);
    let mut flood = Flood::open().unwrap();
    while engine.totals().events_lost == 0 {
        flood.send(5_000).unwrap();
    }
    flush();
    flood.send(3_000).unwrap();
    let count = sysctl::flow_count().unwrap();
    let totals = until(&engine, "the shards agree with the kernel after a loss", |totals| {
        totals.flows == count && totals.resyncs >= 3
    });
    assert!(totals.events_lost > 0);
}

#[test]
fn under_steady_losses_resyncs_complete_and_purge_dead_flows() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        let socket = Options { buffer: BufferPlan::Fixed(8 * 1_280), ..Options::default() };
        let engine = Engine::start(&Settings { socket, ..settings(2) }).unwrap();
        let mut flood = Flood::open().unwrap();
        let purged = |engine: &Engine| engine.totals().purged;
        let started = Instant::now();
        while purged(&engine) < 10_000 {
            flood.send(2_000).unwrap();
            if flood.sent().is_multiple_of(20_000) {
                flush();
            }
            assert!(started.elapsed() < Duration::from_secs(30), "never purged: {:?}", engine.totals());
        }
        let count = sysctl::flow_count().unwrap();
        until(&engine, "the shards agree with the kernel once the losses end", |totals| totals.flows == count);
    });
}

#[test]
fn flows_that_end_without_an_event_are_found_by_the_flow_count() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        sysctl::write("net/netfilter/nf_conntrack_events", "0").unwrap();
        Flood::open().unwrap().send(2_000).unwrap();
        sysctl::write("net/netfilter/nf_conntrack_events", "2").unwrap();
        let engine = Engine::start(&settings(2)).unwrap();
        until(&engine, "the shards hold the flows created without an event", |totals| totals.flows >= 2_000);
        flush();
        let totals = until(&engine, "the shards purge the flows", |totals| totals.flows == 0);
        assert!(totals.purged >= 2_000 && totals.events_destroy == 0, "{totals:?}");
    });
}

#[test]
fn a_worker_that_cannot_start_fails_the_engine_start() {
    ctflow_lab::isolated!({
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        let settings = Settings { backend: BackendKind::IoUring, ..settings(3) };
        let started = (1..200).find_map(|few| {
            setrlimit(Resource::Nofile, Rlimit { current: Some(few), ..limit }).unwrap();
            Engine::start(&settings).ok() // with too few descriptors one of its steps fails
        });
        setrlimit(Resource::Nofile, limit).unwrap();
        // The first engine that started runs every worker.
        let engine = started.unwrap();
        let all_synced = || engine.by_worker().iter().all(|counts| counts.resyncs > 0);
        until(&engine, "every worker resyncs", |_| all_synced());
        engine.stop().unwrap();
    });
}

#[test]
fn events_queued_at_the_stop_are_still_read() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        for _ in 0..20 {
            let engine = Engine::start(&settings(2)).unwrap();
            until(&engine, "the first resync", |totals| totals.resyncs >= 2);
            Flood::open().unwrap().send(100).unwrap();
            let totals = engine.stop().unwrap();
            assert_eq!((totals.events_new, totals.events_lost), (100, 0));
            flush();
        }
    });
}

#[test]
fn a_flush_of_one_family_leaves_the_other() {
    ctflow_lab::isolated!({
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        firewall.client.run(|| {
            udp_exchange((SERVER, 53).into(), b"hello").unwrap();
            udp_exchange((SERVER6, 53).into(), b"hello").unwrap();
        });
        let before = sysctl::flow_count().unwrap();
        let mut requester = Requester::open().unwrap();
        for (family, left) in [(AF_INET, before - 1), (AF_UNSPEC, 0)] {
            let write = |writer: &mut Writer<'_>, seq| request::flush(writer, seq, family);
            requester.request("empty the table", write, |_| {}).unwrap();
            assert_eq!(sysctl::flow_count().unwrap(), left);
        }
    });
}

#[test]
fn wrong_worker_counts_are_refused_with_the_range() {
    for workers in [0, 65] {
        let refused = Engine::start(&settings(workers)).err().unwrap().to_string();
        assert_eq!(refused, format!("{workers} workers are out of range: use 1 to 64"));
    }
}

#[test]
fn a_dump_is_the_same_whether_read_whole_or_prefetched() {
    ctflow_lab::isolated!({
        let _firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        Flood::open().unwrap().send(3_000).unwrap();
        let all = || Dump::start(Table::Conntrack, &DumpFilter::default(), false).unwrap();
        let mut whole = Vec::new();
        all().read_all(|record| whole.push(record.flow().unwrap().id)).unwrap();
        assert!(whole.len() >= 3_000);
        let mut ahead = all().read_ahead().unwrap();
        let mut parts = Vec::new();
        while ahead.read(|record| parts.push(record.flow().unwrap().id)).unwrap() != Progress::Done {}
        assert_eq!(parts, whole);
        drop(all().read_ahead().unwrap()); // a dropped reader must not block
    });
}

#[test]
fn a_dump_the_kernel_cannot_filter_is_listed_whole() {
    ctflow_lab::isolated!({
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        firewall.client.run(|| {
            tcp_exchange((SERVER, 80).into(), b"hello").unwrap();
            udp_exchange((SERVER, 53).into(), b"hello").unwrap();
        });
        let protocols = |family| {
            let any = SERVER;
            let tuple = Tuple { src: any, dst: any, proto: IPPROTO_UDP, l4: L4::None, zone: None };
            let orig = Some(TupleFilter { flags: CTA_FILTER_F_CTA_PROTO_NUM, tuple });
            let filter = DumpFilter { family, orig, ..DumpFilter::default() };
            let mut protocols = BTreeSet::new();
            let mut dump = Dump::start(Table::Conntrack, &filter, false).unwrap();
            dump.read_all(|record| protocols.extend([record.flow().unwrap().protocol()])).unwrap();
            protocols.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(protocols(AF_INET), [IPPROTO_UDP]);
        // No kernel so far selects a protocol in a dump of both families: it refuses, and the dump is repeated
        // unfiltered.
        assert!(protocols(AF_UNSPEC).contains(&IPPROTO_TCP));
    });
}
