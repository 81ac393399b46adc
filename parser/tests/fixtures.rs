//! Tests on messages that a kernel sent for real traffic, recorded with `engine/examples/record.rs`: Linux 6.18, with
//! counters and time stamps on; 24 rounds of two TCP exchanges over IPv4 (one masqueraded, the other masqueraded and
//! redirected), one over IPv6, and one UDP exchange over each.
#![allow(clippy::unwrap_used)] // a test fails by it, here in its helpers too

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ctflow_parser::flow::FlowView;
use ctflow_parser::frame::{Message, Messages};
use ctflow_parser::record::{Event, Record, Subject};
use ctflow_parser::request::{self, FlowChange, IfExists, REQUEST_BYTES};
use ctflow_parser::uapi;
use ctflow_parser::write::Writer;

const EVENTS: &[u8] = include_bytes!("../fixtures/events.nl");
const DUMP: &[u8] = include_bytes!("../fixtures/dump.nl");
const STATS: &[u8] = include_bytes!("../fixtures/stats.nl");
const FLOWS: usize = 24 * 5;

fn records(messages: &[u8]) -> Vec<Record<'_>> {
    let record = |message| match message {
        Ok(Message::Record(record)) => record,
        other => unreachable!("a record, not {other:?}"),
    };
    Messages::new(messages).map(record).collect()
}

fn flows(messages: &[u8]) -> Vec<(Event, FlowView<'_>)> {
    let flows = records(messages).into_iter().filter(|record| record.subject() == Subject::Flow);
    flows.map(|record| (record.event(), record.flow().unwrap())).collect()
}

#[test]
fn every_flow_is_born_once_and_dies_once() {
    let mut alive = HashSet::new();
    let mut dead = 0;
    for (event, flow) in flows(EVENTS) {
        let name = (flow.key().unwrap(), flow.id.unwrap());
        match event {
            Event::New => assert!(alive.insert(name)),
            Event::Update => assert!(alive.contains(&name)),
            Event::Destroy => {
                assert!(alive.remove(&name));
                dead += 1;
            }
        }
    }
    assert_eq!((alive.len(), dead), (0, FLOWS));
}

#[test]
fn the_listing_holds_the_flows_that_events_reported() {
    let born: HashMap<_, _> = flows(EVENTS).iter().map(|(_, flow)| (flow.key().unwrap(), flow.id)).collect();
    let listed: HashMap<_, _> = flows(DUMP).iter().map(|(_, flow)| (flow.key().unwrap(), flow.id)).collect();
    assert_eq!((born.len(), &born), (FLOWS, &listed));
}

#[test]
fn translated_flows_show_both_sides() {
    let server = IpAddr::from([198, 51, 100, 10]);
    let firewall = IpAddr::from([198, 51, 100, 1]);
    let redirected: Vec<_> =
        flows(DUMP).into_iter().filter(|(_, flow)| flow.orig.unwrap().ports().unwrap().1 == 9000).collect();
    assert_eq!(redirected.len(), 24);
    for (_, flow) in redirected {
        let reply = flow.reply.unwrap();
        assert_eq!((reply.src, reply.dst, reply.ports().unwrap().0), (server, firewall, 443));
        assert!(flow.has_status(uapi::IPS_SRC_NAT | uapi::IPS_DST_NAT | uapi::IPS_ASSURED));
    }
}

#[test]
fn destroy_events_have_counters_times_and_the_last_state() {
    for (_, flow) in flows(EVENTS).into_iter().filter(|(event, _)| *event == Event::Destroy) {
        assert!(flow.counters_orig.unwrap().packets > 0 && flow.counters_reply.unwrap().bytes > 0);
        assert!(flow.start_ns.unwrap() < flow.stop_ns.unwrap());
        if flow.protocol() == uapi::IPPROTO_TCP {
            assert_eq!(flow.proto.unwrap().state_name(), Some("TIME_WAIT"));
        }
    }
}

#[test]
fn a_parsed_flow_can_be_sent_back() {
    for (_, flow) in flows(EVENTS).into_iter().chain(flows(DUMP)) {
        let mut buffer = [0; REQUEST_BYTES];
        let mut writer = Writer::new(&mut buffer);
        request::create(&mut writer, 1, &FlowChange { flow, ..FlowChange::default() }, IfExists::Refuse).unwrap();
        assert_eq!(records(writer.bytes())[0].flow(), Ok(flow));
    }
}

#[test]
fn statistics_of_both_tables_name_their_cpu() {
    let records = records(STATS);
    let of = |subject| records.iter().filter(move |record| record.subject() == subject);
    let cpus: Vec<_> = of(Subject::FlowCpuStats).map(|record| record.cpu_stats().cpu).collect();
    assert_eq!(cpus, [0, 1]);
    let inserted = |record: &Record<'_>| {
        let counters: HashMap<_, _> = record.cpu_stats().counters().map(Result::unwrap).collect();
        counters.contains_key(&uapi::CTA_STATS_INSERT_FAILED)
    };
    assert!(of(Subject::FlowCpuStats).all(inserted));
    assert_eq!(of(Subject::ExpectCpuStats).count(), 2);
    let global = of(Subject::GlobalStats).next().unwrap().global_stats().unwrap();
    assert_eq!((global.entries, global.max_entries), (Some(120), Some(262_144)));
}
