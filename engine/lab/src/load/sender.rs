//! One sending thread: it starts and ends its flows in batches.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddrV4;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ctflow_parser::flow::FlowView;
use ctflow_parser::proto::{ProtoInfo, TcpInfo};
use ctflow_parser::request::{self, FlowChange, IfExists, Selector};
use ctflow_parser::tuple::{L4, Tuple};
use ctflow_parser::uapi::{AF_INET, IPS_ASSURED, IPS_CONFIRMED, IPS_SEEN_REPLY};
use ctflow_parser::write::Writer;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketFlags, SocketType, ipproto, sendmmsg,
    socket_with,
};

use super::pace::{Next, Pace};
use super::packet::{Endpoints, Packet};
use super::script::{self, Lifetime, Origin, Script, Step, TIMEOUT};
use super::{Kind, LabError, LoadError, LoadTotals};
use crate::topology::Firewall;
use ctflow_engine::kernel::batch::{Batch, Refused};

/// The most flows started or ended together.
const BATCH: u32 = 64;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;
/// The longest sleep of an idle sender: it notices a stop within this time.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// The counters of one sender, shared with the threads that read them. Aligned so that two senders share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct SenderCounters {
    started: AtomicU64,
    ended: AtomicU64,
    packets: AtomicU64,
    refused: AtomicU64,
    skipped: AtomicU64,
}

impl SenderCounters {
    /// Reads the counters.
    pub(super) fn totals(&self) -> LoadTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LoadTotals {
            started: read(&self.started),
            ended: read(&self.ended),
            packets: read(&self.packets),
            refused: read(&self.refused),
            skipped: read(&self.skipped),
        }
    }
}

/// The raw sockets of the client and of the server, and the buffers of one batch of packets.
#[derive(Debug)]
pub(super) struct RawSockets {
    client: OwnedFd,
    server: OwnedFd,
    packets: Box<[Packet]>,
}

impl RawSockets {
    /// Opens a raw socket on the client and one on the server.
    pub(super) fn open(firewall: &Firewall) -> Result<Self, LabError> {
        let open = || socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW));
        let failed = |error| LabError::system("open a raw socket", error);
        let client = firewall.client.run(open).map_err(failed)?;
        let server = firewall.server.run(open).map_err(failed)?;
        Ok(Self { client, server, packets: vec![Packet::EMPTY; BATCH as usize].into_boxed_slice() })
    }

    /// Sends the packet of `step` once for each of the flows, and returns the number of packets sent.
    fn send_step(&mut self, step: &Step, flows: impl Iterator<Item = Endpoints>) -> Result<u64, LabError> {
        let (socket, flows): (_, Vec<Endpoints>) = match step.origin {
            Origin::Client => (&self.client, flows.collect()),
            Origin::Server => (&self.server, flows.map(Endpoints::reversed).collect()),
        };
        for (packet, ends) in self.packets.iter_mut().zip(&flows) {
            packet.write(step.segment, ends);
        }
        let targets: Vec<SocketAddrAny> = flows.iter().map(|ends| SocketAddrV4::new(ends.dst, 0).into()).collect();
        let payloads: Vec<[IoSlice<'_>; 1]> =
            self.packets.iter().take(flows.len()).map(|packet| [IoSlice::new(packet.bytes())]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> = flows.iter().map(|_| <_>::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> = targets
            .iter()
            .zip(&payloads)
            .zip(&mut controls)
            .map(|((to, payload), control)| MMsgHdr::new_with_addr(to, payload, control))
            .collect();
        let mut sent = 0;
        while sent < messages.len() {
            let rest = messages.get_mut(sent..).unwrap_or_default();
            sent += sendmmsg(socket, rest, SendFlags::empty())
                .map_err(|error| LabError::system("send a load's packets", error))?
                .max(1);
        }
        Ok(sent as u64)
    }
}

/// The flows of one script. They are numbered in the order in which they start, and end in that order. The numbers
/// wrap.
#[derive(Debug)]
struct ScriptFlows {
    script: &'static Script,
    weight: u32,
    /// The number of flows to keep alive, for scripts whose oldest flow ends first ([`Lifetime::UntilOldest`]).
    target: u32,
    /// The number of flows that were started to fill the table.
    prefilled: u32,
    started: u32,
    ended: u32,
    /// For scripts whose flows end by age: each batch's start time, and the number below which all flows had started
    /// then.
    started_at: VecDeque<(Instant, u32)>,
}

impl ScriptFlows {
    /// The number of flows that have started and not ended.
    fn alive(&self) -> u32 {
        self.started.wrapping_sub(self.ended)
    }

    /// The number of flows missing to the target, at most [`BATCH`].
    fn missing(&self) -> u32 {
        match self.script.lifetime {
            Lifetime::UntilOldest => self.target.saturating_sub(self.alive()).min(BATCH),
            Lifetime::For(_) => 0,
        }
    }

    /// The number of flows started since the table was filled.
    fn started_after_fill(&self) -> u64 {
        u64::from(self.started.wrapping_sub(self.prefilled))
    }

    /// The number of flows to end now, at most [`BATCH`].
    fn due_to_end(&self, now: Instant) -> u32 {
        let due = match self.script.lifetime {
            Lifetime::UntilOldest => self.alive().saturating_sub(self.target),
            Lifetime::For(life) => {
                let past = self.started_at.iter().take_while(|(start, _)| now.duration_since(*start) >= life).last();
                past.map_or(0, |(_, below)| below.wrapping_sub(self.ended))
            }
        };
        due.min(BATCH)
    }
}

/// The state of one sending thread: its flows and its sockets.
#[derive(Debug)]
pub(super) struct Sender {
    index: u32,
    scripts: Vec<ScriptFlows>,
    /// The number of flows that came due since the table was filled, of all scripts.
    flows_due: u64,
    /// The sockets that start flows by packets; `None` where flows are created by ctnetlink.
    raw_sockets: Option<RawSockets>,
    /// The ctnetlink requests that create and delete flows.
    changes: Batch,
}

impl Sender {
    /// Opens the ctnetlink socket in the calling thread's network namespace. `flows` is the number of flows to keep
    /// alive.
    pub(super) fn open(index: u32, kind: Kind, flows: u32, sockets: Option<RawSockets>) -> Result<Self, LoadError> {
        let groups = script::scripts_of(kind).iter().map(|group| ScriptFlows {
            script: group.script,
            weight: group.weight,
            target: flows,
            prefilled: 0,
            started: 0,
            ended: 0,
            started_at: VecDeque::new(),
        });
        Ok(Self {
            index,
            scripts: groups.collect(),
            flows_due: 0,
            raw_sockets: sockets,
            changes: Batch::open("make load")?,
        })
    }

    /// Starts and ends flows until `stop` is set: `per_second` flows a second, or as many as possible.
    pub(super) fn run(
        &mut self,
        per_second: Option<NonZeroU32>,
        stop: &AtomicBool,
        shared: &SenderCounters,
    ) -> Result<(), LoadError> {
        let mut pace = per_second.map(|rate| Pace::new(rate, Instant::now()));
        while !stop.load(Ordering::Relaxed) {
            let count = pace.as_ref().map_or(BATCH, |pace| pace.step_size(BATCH));
            self.start_flows(count, shared)?;
            self.end_due_flows(shared)?;
            match pace.as_mut().map(|pace| pace.advance(count, Instant::now())) {
                Some(Next::Wait(time)) => self.sleep_until(Some(Instant::now() + time), stop, shared)?,
                Some(Next::Now { skipped }) => _ = shared.skipped.fetch_add(skipped, Ordering::Relaxed),
                None => {}
            }
        }
        Ok(())
    }

    /// Starts no flows until `stop` is set, and ends the flows that come due.
    pub(super) fn run_idle(&mut self, stop: &AtomicBool, shared: &SenderCounters) -> Result<(), LoadError> {
        self.sleep_until(None, stop, shared)
    }

    /// Sleeps until `until` or until `stop` is set; `None` sleeps until `stop` is set. Ends the flows that come due
    /// meanwhile.
    fn sleep_until(
        &mut self,
        until: Option<Instant>,
        stop: &AtomicBool,
        shared: &SenderCounters,
    ) -> Result<(), LoadError> {
        while !stop.load(Ordering::Relaxed) {
            let left = until.map_or(SLEEP_MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(SLEEP_MAX));
            self.end_due_flows(shared)?;
        }
        Ok(())
    }

    /// Starts flows until each script with a target has reached it.
    pub(super) fn fill(&mut self, shared: &SenderCounters) -> Result<(), LoadError> {
        for index in 0..self.scripts.len() {
            while let Some(missing) = self.scripts.get(index).map(ScriptFlows::missing).filter(|missing| *missing > 0) {
                self.start_script_flows(index, missing, shared)?;
            }
            self.scripts.get_mut(index).into_iter().for_each(|group| group.prefilled = group.started);
        }
        Ok(())
    }

    /// Ends all flows.
    pub(super) fn clear(&mut self, shared: &SenderCounters) -> Result<(), LoadError> {
        for index in 0..self.scripts.len() {
            while let Some(count) = self.scripts.get(index).map(ScriptFlows::alive).filter(|alive| *alive > 0) {
                self.end_script_flows(index, count.min(BATCH), shared)?;
            }
        }
        Ok(())
    }

    /// Starts the flows that come due with `count` further ones, shared among the scripts by their weights.
    fn start_flows(&mut self, count: u32, shared: &SenderCounters) -> Result<(), LoadError> {
        let weights: u32 = self.scripts.iter().map(|group| group.weight).sum();
        self.flows_due += u64::from(count);
        for index in 0..self.scripts.len() {
            let Some(group) = self.scripts.get(index) else { break };
            // The share is that of all flows due so far. A share of `count` alone would round to 0 in small steps.
            let share = self.flows_due * u64::from(group.weight) / u64::from(weights.max(1));
            let missing = u32::try_from(share.saturating_sub(group.started_after_fill())).unwrap_or(BATCH).min(BATCH);
            if missing > 0 {
                self.start_script_flows(index, missing, shared)?;
            }
        }
        Ok(())
    }

    /// Starts `count` flows of the script at `index`, by packets or by ctnetlink.
    fn start_script_flows(&mut self, index: usize, count: u32, shared: &SenderCounters) -> Result<(), LoadError> {
        let Some(group) = self.scripts.get_mut(index) else { return Ok(()) };
        let (first, script, sender) = (group.started, group.script, self.index);
        let flows = (first..first.wrapping_add(count)).map(|number| script::flow_endpoints(sender, number, script));
        match &mut self.raw_sockets {
            Some(sockets) => {
                for step in script.open {
                    let sent = sockets.send_step(step, flows.clone())?;
                    shared.packets.fetch_add(sent, Ordering::Relaxed);
                }
            }
            None => {
                for ends in flows {
                    let create = |writer: &mut Writer<'_>, seq| {
                        request::create(writer, seq, &established_flow(script, &ends), IfExists::Refuse)
                    };
                    self.changes.add(0, create, &mut count_refused(shared))?;
                }
                self.changes.finish(&mut count_refused(shared))?;
            }
        }
        group.started = first.wrapping_add(count);
        if let Lifetime::For(_) = script.lifetime {
            group.started_at.push_back((Instant::now(), group.started));
        }
        shared.started.fetch_add(count.into(), Ordering::Relaxed);
        Ok(())
    }

    /// Ends all flows that are due to end.
    fn end_due_flows(&mut self, shared: &SenderCounters) -> Result<(), LoadError> {
        let now = Instant::now();
        for index in 0..self.scripts.len() {
            while let Some(count) = self.scripts.get(index).map(|group| group.due_to_end(now)).filter(|due| *due > 0) {
                self.end_script_flows(index, count, shared)?;
            }
        }
        Ok(())
    }

    /// Closes the `count` oldest flows of the script at `index` by packets, where there are sockets, and deletes them.
    fn end_script_flows(&mut self, index: usize, count: u32, shared: &SenderCounters) -> Result<(), LoadError> {
        let Some(group) = self.scripts.get_mut(index) else { return Ok(()) };
        let (first, script, sender) = (group.ended, group.script, self.index);
        let flows = (first..first.wrapping_add(count)).map(|number| script::flow_endpoints(sender, number, script));
        if let Some(sockets) = &mut self.raw_sockets {
            for step in script.close {
                let sent = sockets.send_step(step, flows.clone())?;
                shared.packets.fetch_add(sent, Ordering::Relaxed);
            }
        }
        for ends in flows {
            let which = Selector::Orig(tuple(script, &ends));
            let delete = |writer: &mut Writer<'_>, seq| request::delete(writer, seq, &which, None, None);
            self.changes.add(0, delete, &mut count_refused(shared))?;
        }
        self.changes.finish(&mut count_refused(shared))?;
        group.ended = first.wrapping_add(count);
        let alive = group.alive();
        while group.started_at.front().is_some_and(|(_, below)| group.started.wrapping_sub(*below) >= alive) {
            group.started_at.pop_front();
        }
        shared.ended.fetch_add(count.into(), Ordering::Relaxed);
        Ok(())
    }
}

/// Returns a callback that counts each refused request.
fn count_refused(shared: &SenderCounters) -> impl FnMut(Refused) {
    |_| _ = shared.refused.fetch_add(1, Ordering::Relaxed)
}

/// The original tuple of a flow.
fn tuple(script: &Script, ends: &Endpoints) -> Tuple {
    let l4 = L4::Ports { src: ends.src_port, dst: ends.dst_port };
    Tuple { src: ends.src.into(), dst: ends.dst.into(), proto: script.proto, l4, zone: None }
}

/// The request's view of an established TCP flow.
fn established_flow(script: &Script, ends: &Endpoints) -> FlowChange<'static> {
    let tcp = TcpInfo { state: Some(ESTABLISHED), ..TcpInfo::default() };
    let flow = FlowView {
        family: AF_INET,
        orig: Some(tuple(script, ends)),
        reply: Some(tuple(script, &ends.reversed())),
        status: Some(IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED),
        timeout: Some(TIMEOUT),
        proto: Some(ProtoInfo::Tcp(tcp)),
        ..FlowView::default()
    };
    FlowChange { flow, ..FlowChange::default() }
}
