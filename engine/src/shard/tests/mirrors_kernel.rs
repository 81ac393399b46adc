//! The shard is compared with a plain map, and a resync with a model of the kernel that loses events.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use ctflow_parser::flow::{Counters, FlowView, Helper, Labels, RareAttributes, SeqAdj, Synproxy};
use ctflow_parser::proto::{ProtoInfo, SctpInfo, TcpInfo};
use ctflow_parser::record::Event;
use ctflow_parser::tuple::{FlowKey, L4, Tuple};
use ctflow_parser::uapi;
use proptest::prelude::*;

use crate::shard::{Applied, Shard, Swept};

/// Flow number `n` with the id `id`: two flows may share an id.
fn flow(n: u16, id: u32, v6: bool) -> FlowView<'static> {
    let [high, low] = n.to_be_bytes();
    let address = |last: u8| match v6 {
        false => IpAddr::from([10, high, low, last]),
        true => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, n, u16::from(last)]),
    };
    let tuple = |src, dst, ports: (u16, u16)| Tuple {
        src,
        dst,
        proto: uapi::IPPROTO_TCP,
        l4: L4::Ports { src: ports.0, dst: ports.1 },
        zone: None,
    };
    FlowView {
        family: if v6 { uapi::AF_INET6 } else { uapi::AF_INET },
        orig: Some(tuple(address(1), address(2), (n, 80))),
        reply: Some(tuple(address(2), address(1), (80, n))),
        id: Some(id),
        ..FlowView::default()
    }
}

fn tcp_state(state: u8) -> Option<ProtoInfo> {
    Some(ProtoInfo::Tcp(TcpInfo { state: Some(state), ..TcpInfo::default() }))
}

fn labels(bits: u128) -> RareAttributes<'static> {
    RareAttributes { labels: Some(Labels(bits)), ..RareAttributes::default() }
}

fn key(view: &FlowView<'_>) -> FlowKey {
    view.key().unwrap()
}

fn sweep_all(shard: &mut Shard) -> (Vec<FlowKey>, Swept) {
    let mut purged = Vec::new();
    loop {
        match shard.sweep(7, |flow| purged.push(key(&flow))) {
            Swept::More => {}
            result => return (purged, result),
        }
    }
}

#[test]
fn an_update_keeps_the_fields_it_does_not_carry() {
    let mut shard = Shard::new(10);
    let new = FlowView { mark: Some(7), status: Some(8), proto: tcp_state(1), ..flow(1, 5, false) };
    assert_eq!(shard.apply(Event::New, &new), Applied::Created);
    let update = FlowView { status: Some(14), proto: tcp_state(3), rare: labels(2), ..flow(1, 5, false) };
    assert_eq!(shard.apply(Event::Update, &update), Applied::Updated);
    assert_eq!(shard.apply(Event::Update, &update), Applied::Unchanged);
    let held = shard.get(&key(&new), 5).unwrap();
    assert_eq!((held.mark, held.status, held.rare), (Some(7), Some(14), labels(2)));
    assert_eq!(held.proto.and_then(|proto| proto.state_name()), Some("ESTABLISHED"));
}

#[test]
fn two_flows_may_share_an_id_and_one_flow_its_key_with_its_predecessor() {
    let mut shard = Shard::new(10);
    for (n, id) in [(1, 5), (2, 5), (1, 6)] {
        assert_eq!(shard.apply(Event::New, &flow(n, id, false)), Applied::Created);
    }
    assert_eq!(shard.apply(Event::Destroy, &flow(1, 5, false)), Applied::Destroyed);
    assert_eq!(shard.len(), 2);
    assert!(shard.get(&key(&flow(2, 5, false)), 5).is_some());
    assert!(shard.get(&key(&flow(1, 6, false)), 6).is_some());
}

#[test]
fn a_full_shard_refuses_flows_until_one_is_destroyed() {
    let mut shard = Shard::new(2);
    for n in 0..2 {
        shard.apply(Event::New, &flow(n, n.into(), false));
    }
    assert_eq!(shard.apply(Event::New, &flow(9, 9, false)), Applied::Full);
    assert_eq!(shard.apply(Event::Update, &FlowView { mark: Some(1), ..flow(1, 1, false) }), Applied::Updated);
    shard.apply(Event::Destroy, &flow(0, 0, false));
    assert_eq!(shard.apply(Event::New, &flow(9, 9, false)), Applied::Created);
}

#[test]
fn every_attribute_is_kept_except_those_of_this_kernel_alone() {
    let FlowView { family, orig, reply, id, .. } = flow(1, 5, false);
    let seqadj = |correction_pos| Some(SeqAdj { correction_pos, offset_before: 1, offset_after: 2 });
    let kept = FlowView {
        family,
        orig,
        reply,
        status: Some(14),
        timeout: Some(60),
        mark: Some(7),
        id,
        zone: Some(3),
        proto: Some(ProtoInfo::Sctp(SctpInfo { state: Some(3), vtag_orig: Some(1), vtag_reply: Some(2) })),
        use_count: None,
        secmark: None,
        counters_orig: None,
        counters_reply: None,
        start_ns: None,
        stop_ns: None,
        event_ns: None,
        rare: RareAttributes {
            helper: Some(Helper { name: "sip", info: b"x" }),
            secctx: Some("system_u"),
            labels: Some(Labels(1 << 100)),
            seqadj_orig: seqadj(1),
            seqadj_reply: seqadj(2),
            synproxy: Some(Synproxy { isn: 1, its: 2, tsoff: 3 }),
            master: flow(2, 6, false).orig,
        },
    };
    let counters = Some(Counters { packets: 1, bytes: 60 });
    let reported = FlowView {
        use_count: Some(1),
        secmark: Some(2),
        counters_orig: counters,
        counters_reply: counters,
        start_ns: Some(3),
        stop_ns: Some(4),
        event_ns: Some(5),
        ..kept
    };
    let mut shard = Shard::new(10);
    assert_eq!(shard.apply(Event::New, &reported), Applied::Created);
    assert_eq!(shard.get(&key(&kept), 5), Some(kept));
    // An update with every attribute changes a flow that was created with the fewest.
    let mut shard = Shard::new(10);
    shard.apply(Event::New, &FlowView { family, orig, reply, id, zone: kept.zone, ..FlowView::default() });
    assert_eq!(shard.apply(Event::Update, &reported), Applied::Updated);
    assert_eq!(shard.get(&key(&kept), 5), Some(kept));
}

#[test]
fn rare_attributes_are_removed_with_their_flow() {
    let mut shard = Shard::new(10);
    let rare = RareAttributes { helper: Some(Helper { name: "ftp", info: &[] }), ..RareAttributes::default() };
    let helped = FlowView { rare, ..flow(1, 5, false) };
    shard.apply(Event::New, &helped);
    assert_eq!(shard.get(&key(&helped), 5).unwrap().rare.helper.unwrap().name, "ftp");
    shard.apply(Event::Destroy, &helped);
    shard.apply(Event::New, &flow(2, 6, false));
    assert_eq!(shard.get(&key(&flow(2, 6, false)), 6).unwrap().rare.helper, None);
}

#[test]
fn a_resync_purges_flows_that_neither_dump_nor_events_confirm() {
    let mut shard = Shard::new(100);
    for n in 0..20 {
        shard.apply(Event::New, &flow(n, n.into(), n % 2 == 0));
    }
    shard.start_resync();
    shard.apply(Event::Update, &FlowView { status: Some(2), ..flow(3, 3, false) });
    for n in 10..20 {
        shard.apply_dumped(&flow(n, n.into(), n % 2 == 0));
    }
    shard.apply_dumped(&flow(30, 30, false));
    shard.finish_dump();
    let (purged, result) = sweep_all(&mut shard);
    assert_eq!((purged.len(), result, shard.len()), (9, Swept::Done, 12));
    assert!(!purged.contains(&key(&flow(3, 3, false))));
}

#[test]
fn a_flow_that_ended_while_the_dump_was_read_does_not_come_back() {
    let mut shard = Shard::new(10);
    shard.apply(Event::New, &flow(1, 5, false));
    shard.start_resync();
    shard.apply(Event::Destroy, &flow(1, 5, false));
    shard.apply_dumped(&flow(1, 5, false));
    shard.finish_dump();
    assert_eq!(sweep_all(&mut shard).1, Swept::Done);
    assert!(shard.is_empty());
}

#[test]
fn an_older_dump_fills_in_but_rolls_nothing_back() {
    let mut shard = Shard::new(10);
    shard.apply(Event::New, &FlowView { proto: tcp_state(1), ..flow(1, 5, false) });
    shard.start_resync();
    shard.apply(Event::Update, &FlowView { status: Some(14), proto: tcp_state(3), ..flow(1, 5, false) });
    let dumped = FlowView { status: Some(8), mark: Some(9), proto: tcp_state(2), ..flow(1, 5, false) };
    assert_eq!(shard.apply_dumped(&dumped), Applied::Updated);
    let held = shard.get(&key(&dumped), 5).unwrap();
    assert_eq!((held.status, held.mark), (Some(14), Some(9)));
    assert_eq!(held.proto.and_then(|proto| proto.state_name()), Some("ESTABLISHED"));
}

#[test]
fn an_abandoned_dump_purges_nothing() {
    let mut shard = Shard::new(10);
    shard.apply(Event::New, &flow(1, 5, false));
    shard.start_resync();
    shard.abandon_resync();
    assert_eq!(sweep_all(&mut shard), (Vec::new(), Swept::Done));
    assert_eq!(shard.len(), 1);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Event(Event, u16, u32),
    Resync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = prop_oneof![Just(Event::New), Just(Event::Update), Just(Event::Destroy)];
    let step = prop_oneof![
        40 => (event, 0u16..40, any::<u32>()).prop_map(|(event, n, mark)| Step::Event(event, n, mark)),
        1 => Just(Step::Resync),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    /// After any sequence of events and resyncs the shard holds what a plain map holds. Four flows share each id.
    #[test]
    fn the_shard_holds_what_a_plain_map_holds(steps in steps()) {
        let mut shard = Shard::new(1_000);
        let mut oracle: HashMap<FlowKey, u32> = HashMap::new();
        let view = |n: u16, mark: u32| FlowView { mark: Some(mark), ..flow(n, u32::from(n / 4), n.is_multiple_of(3)) };
        for step in steps {
            match step {
                Step::Event(Event::Destroy, n, _) => {
                    let applied = shard.apply(Event::Destroy, &view(n, 0));
                    let existed = oracle.remove(&key(&view(n, 0))).is_some();
                    prop_assert_eq!(applied, if existed { Applied::Destroyed } else { Applied::Unknown });
                }
                Step::Event(event, n, mark) => {
                    let applied = shard.apply(event, &view(n, mark));
                    let expected = match oracle.insert(key(&view(n, mark)), mark) {
                        None => Applied::Created,
                        Some(before) if before == mark => Applied::Unchanged,
                        Some(_) => Applied::Updated,
                    };
                    prop_assert_eq!(applied, expected);
                }
                // The kernel has lost the flows with an odd mark, and no event reported it.
                Step::Resync => {
                    shard.start_resync();
                    oracle.retain(|_, mark| mark.is_multiple_of(2));
                    for n in (0..40).filter(|n| oracle.contains_key(&key(&view(*n, 0)))) {
                        shard.apply_dumped(&view(n, oracle[&key(&view(n, 0))]));
                    }
                    shard.finish_dump();
                    prop_assert_eq!(sweep_all(&mut shard).1, Swept::Done);
                }
            }
            prop_assert_eq!(shard.len() as usize, oracle.len());
        }
        for flow in shard.iter() {
            prop_assert_eq!(oracle.get(&key(&flow)).copied(), flow.mark);
        }
    }
}

/// A step of the kernel, or of the shard that follows it.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// The kernel creates the flow with this number, or gives it this mark where it exists.
    Touch(u16, u32),
    EndFlow(u16),
    /// Events are lost from now on, or are not lost any more.
    Lose(bool),
    /// The worker receives up to so many of the queued events.
    Deliver(usize),
    StartDump,
    Slice,
    FinishDump,
    Sweep,
    Abandon,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        10 => (0u16..32, 1u32..9).prop_map(|(n, mark)| Act::Touch(n, mark)),
        6 => (0u16..32).prop_map(Act::EndFlow),
        1 => any::<bool>().prop_map(Act::Lose),
        8 => (0usize..6).prop_map(Act::Deliver),
        2 => Just(Act::StartDump),
        6 => Just(Act::Slice),
        2 => Just(Act::FinishDump),
        4 => Just(Act::Sweep),
        1 => Just(Act::Abandon),
    ];
    proptest::collection::vec(act, 0..300)
}

/// A kernel's table, its queued events, and a dump of the table that is composed one part ahead of its reader.
#[derive(Default)]
struct Kernel {
    flows: HashMap<u16, FlowView<'static>>,
    births: u32,
    queue: VecDeque<(Event, FlowView<'static>)>,
    losing: bool,
    composed: VecDeque<FlowView<'static>>,
    dumped_to: u16,
}

const SLICE: u16 = 5;

impl Kernel {
    fn emit_event(&mut self, event: Event, flow: FlowView<'static>) {
        if !self.losing {
            self.queue.push_back((event, flow));
        }
    }

    fn touch(&mut self, n: u16, mark: u32) {
        if let Some(flow) = self.flows.get_mut(&n) {
            flow.mark = Some(mark);
            let updated = *flow;
            return self.emit_event(Event::Update, updated);
        }
        self.births += 1;
        let created = FlowView { mark: Some(mark), ..flow(n, self.births, n.is_multiple_of(3)) };
        self.flows.insert(n, created);
        self.emit_event(Event::New, created);
    }

    fn end_flow(&mut self, n: u16) {
        if let Some(flow) = self.flows.remove(&n) {
            self.emit_event(Event::Destroy, FlowView { mark: None, ..flow });
        }
    }

    fn start_dump(&mut self) {
        self.dumped_to = 0;
        self.compose();
    }

    fn compose(&mut self) {
        let to = self.dumped_to + SLICE;
        self.composed = (self.dumped_to..to).filter_map(|n| self.flows.get(&n).copied()).collect();
        self.dumped_to = to;
    }

    /// Returns the part that was composed last, and composes the next one.
    fn slice(&mut self) -> VecDeque<FlowView<'static>> {
        let part = std::mem::take(&mut self.composed);
        self.compose();
        part
    }

    fn deliver_events(&mut self, count: usize, shard: &mut Shard) {
        for (event, flow) in self.queue.drain(..count.min(self.queue.len())) {
            shard.apply(event, &flow);
        }
    }
}

proptest! {
    /// Whatever events were lost, and however dumps and events were interleaved or broken off: one resync after the
    /// losses end makes the shard hold what the kernel holds, even while the kernel's table changes.
    #[test]
    fn one_resync_after_the_losses_end_repairs_everything(before in acts(), during in acts()) {
        let mut kernel = Kernel::default();
        let mut shard = Shard::new(1_000);
        for act in before {
            match act {
                Act::Touch(n, mark) => kernel.touch(n, mark),
                Act::EndFlow(n) => kernel.end_flow(n),
                Act::Lose(losing) => kernel.losing = losing,
                Act::Deliver(count) => kernel.deliver_events(count, &mut shard),
                Act::StartDump => {
                    shard.start_resync();
                    kernel.start_dump();
                }
                Act::Slice => for flow in kernel.slice() {
                    shard.apply_dumped(&flow);
                },
                Act::FinishDump => shard.finish_dump(),
                Act::Sweep => {
                    shard.sweep(7, |_| {});
                }
                Act::Abandon => shard.abandon_resync(),
            }
        }
        kernel.losing = false;
        // A worker receives all events from before the loss before it starts a resync.
        kernel.deliver_events(usize::MAX, &mut shard);
        shard.start_resync();
        kernel.start_dump();
        for act in during {
            match act {
                Act::Touch(n, mark) => kernel.touch(n, mark),
                Act::EndFlow(n) => kernel.end_flow(n),
                Act::Deliver(count) => kernel.deliver_events(count, &mut shard),
                Act::Slice => for flow in kernel.slice() {
                    shard.apply_dumped(&flow);
                },
                _ => {}
            }
        }
        while kernel.dumped_to < 32 + 2 * SLICE {
            for flow in kernel.slice() {
                shard.apply_dumped(&flow);
            }
        }
        shard.finish_dump();
        prop_assert_eq!(sweep_all(&mut shard).1, Swept::Done);
        kernel.deliver_events(usize::MAX, &mut shard);
        let held: HashMap<_, _> = shard.iter().map(|flow| ((key(&flow), flow.id), flow.mark)).collect();
        let in_kernel: HashMap<_, _> = kernel.flows.values().map(|flow| ((key(flow), flow.id), flow.mark)).collect();
        prop_assert_eq!(held, in_kernel);
    }
}
