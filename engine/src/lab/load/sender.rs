//! One thread's flows: begun in batches, ended in batches.

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
use crate::kernel::batch::{Batch, Refused};
use crate::lab::topology::Firewall;

/// Flows begun or ended together.
const BATCH: u32 = 64;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;
/// How long a sender that has nothing to do sleeps at most before it looks whether to stop.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// What a sender has made, where others can read it.
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

/// The raw sockets of the client and of the server.
#[derive(Debug)]
pub(super) struct RawSockets {
    client: OwnedFd,
    server: OwnedFd,
    packets: Box<[Packet]>,
}

impl RawSockets {
    pub(super) fn open(firewall: &Firewall) -> Result<Self, LabError> {
        let open = || socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW));
        let failed = |error| LabError::system("open a raw socket", error);
        let client = firewall.client.run(open).map_err(failed)?;
        let server = firewall.server.run(open).map_err(failed)?;
        Ok(Self { client, server, packets: vec![Packet::EMPTY; BATCH as usize].into_boxed_slice() })
    }

    /// Sends the packet that `step` is for each of the flows.
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

/// The flows of one script.
#[derive(Debug)]
struct ScriptFlows {
    script: &'static Script,
    weight: u32,
    /// Flows that shall be there, where it is the oldest that go.
    target: u32,
    /// Of those begun, the ones that filled the table.
    prefilled: u32,
    started: u32,
    ended: u32,
    /// Where flows go by age: when those below a number had begun.
    started_at: VecDeque<(Instant, u32)>,
}

impl ScriptFlows {
    fn alive(&self) -> u32 {
        self.started.wrapping_sub(self.ended)
    }

    /// How many there should be and are not, at most a batch.
    fn missing(&self) -> u32 {
        match self.script.lifetime {
            Lifetime::UntilOldest => self.target.saturating_sub(self.alive()).min(BATCH),
            Lifetime::For(_) => 0,
        }
    }

    /// Flows begun since the table was filled.
    fn started_after_fill(&self) -> u64 {
        u64::from(self.started.wrapping_sub(self.prefilled))
    }

    /// How many are to be ended now, at most a batch.
    fn due_to_end(&self, now: Instant) -> u32 {
        let due = match self.script.lifetime {
            Lifetime::UntilOldest => self.alive().saturating_sub(self.target),
            Lifetime::For(life) => {
                let past = self.started_at.iter().take_while(|(began, _)| now.duration_since(*began) >= life).last();
                past.map_or(0, |(_, below)| below.wrapping_sub(self.ended))
            }
        };
        due.min(BATCH)
    }
}

/// One thread's flows.
#[derive(Debug)]
pub(super) struct Sender {
    index: u32,
    scripts: Vec<ScriptFlows>,
    /// Flows that came due since the table was filled.
    flows_due: u64,
    raw_sockets: Option<RawSockets>,
    changes: Batch,
}

impl Sender {
    /// Opens its socket for changes in the calling thread's network namespace.
    pub(super) fn open(index: u32, kind: Kind, flows: u32, ways: Option<RawSockets>) -> Result<Self, LoadError> {
        let lanes = script::scripts_of(kind).iter().map(|lane| ScriptFlows {
            script: lane.script,
            weight: lane.weight,
            target: flows,
            prefilled: 0,
            started: 0,
            ended: 0,
            started_at: VecDeque::new(),
        });
        Ok(Self {
            index,
            scripts: lanes.collect(),
            flows_due: 0,
            raw_sockets: ways,
            changes: Batch::open("make load")?,
        })
    }

    /// Begins and ends flows until told to stop.
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
                Some(Next::Now { skipped: given_up }) => _ = shared.skipped.fetch_add(given_up, Ordering::Relaxed),
                None => {}
            }
        }
        Ok(())
    }

    /// Begins nothing until told to stop.
    pub(super) fn run_idle(&mut self, stop: &AtomicBool, shared: &SenderCounters) -> Result<(), LoadError> {
        self.sleep_until(None, stop, shared)
    }

    /// Sleeps until then, or until told to stop, but for what has to end meanwhile.
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

    /// Begins flows until those that stay are as many as shall be.
    pub(super) fn fill(&mut self, shared: &SenderCounters) -> Result<(), LoadError> {
        for place in 0..self.scripts.len() {
            while let Some(missing) = self.scripts.get(place).map(ScriptFlows::missing).filter(|missing| *missing > 0) {
                self.start_script_flows(place, missing, shared)?;
            }
            self.scripts.get_mut(place).into_iter().for_each(|lane| lane.prefilled = lane.started);
        }
        Ok(())
    }

    /// Ends all flows.
    pub(super) fn clear(&mut self, shared: &SenderCounters) -> Result<(), LoadError> {
        for place in 0..self.scripts.len() {
            while let Some(count) = self.scripts.get(place).map(ScriptFlows::alive).filter(|alive| *alive > 0) {
                self.end_script_flows(place, count.min(BATCH), shared)?;
            }
        }
        Ok(())
    }

    fn start_flows(&mut self, count: u32, shared: &SenderCounters) -> Result<(), LoadError> {
        let weights: u32 = self.scripts.iter().map(|lane| lane.weight).sum();
        self.flows_due += u64::from(count);
        for place in 0..self.scripts.len() {
            let Some(lane) = self.scripts.get(place) else { break };
            // Each lane keeps its share of all that came due, however small the steps are.
            let share = self.flows_due * u64::from(lane.weight) / u64::from(weights.max(1));
            let missing = u32::try_from(share.saturating_sub(lane.started_after_fill())).unwrap_or(BATCH).min(BATCH);
            if missing > 0 {
                self.start_script_flows(place, missing, shared)?;
            }
        }
        Ok(())
    }

    fn start_script_flows(&mut self, place: usize, count: u32, shared: &SenderCounters) -> Result<(), LoadError> {
        let Some(lane) = self.scripts.get_mut(place) else { return Ok(()) };
        let (first, script, index) = (lane.started, lane.script, self.index);
        let flows = (first..first.wrapping_add(count)).map(|number| script::flow_endpoints(index, number, script));
        match &mut self.raw_sockets {
            Some(ways) => {
                for step in script.open {
                    let sent = ways.send_step(step, flows.clone())?;
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
        lane.started = first.wrapping_add(count);
        if let Lifetime::For(_) = script.lifetime {
            lane.started_at.push_back((Instant::now(), lane.started));
        }
        shared.started.fetch_add(count.into(), Ordering::Relaxed);
        Ok(())
    }

    fn end_due_flows(&mut self, shared: &SenderCounters) -> Result<(), LoadError> {
        let now = Instant::now();
        for place in 0..self.scripts.len() {
            while let Some(count) = self.scripts.get(place).map(|lane| lane.due_to_end(now)).filter(|due| *due > 0) {
                self.end_script_flows(place, count, shared)?;
            }
        }
        Ok(())
    }

    /// Closes and deletes the oldest.
    fn end_script_flows(&mut self, place: usize, count: u32, shared: &SenderCounters) -> Result<(), LoadError> {
        let Some(lane) = self.scripts.get_mut(place) else { return Ok(()) };
        let (first, script, index) = (lane.ended, lane.script, self.index);
        let flows = (first..first.wrapping_add(count)).map(|number| script::flow_endpoints(index, number, script));
        if let Some(ways) = &mut self.raw_sockets {
            for step in script.close {
                let sent = ways.send_step(step, flows.clone())?;
                shared.packets.fetch_add(sent, Ordering::Relaxed);
            }
        }
        for ends in flows {
            let which = Selector::Orig(tuple(script, &ends));
            let delete = |writer: &mut Writer<'_>, seq| request::delete(writer, seq, &which, None, None);
            self.changes.add(0, delete, &mut count_refused(shared))?;
        }
        self.changes.finish(&mut count_refused(shared))?;
        lane.ended = first.wrapping_add(count);
        let alive = lane.alive();
        while lane.started_at.front().is_some_and(|(_, below)| lane.started.wrapping_sub(*below) >= alive) {
            lane.started_at.pop_front();
        }
        shared.ended.fetch_add(count.into(), Ordering::Relaxed);
        Ok(())
    }
}

fn count_refused(shared: &SenderCounters) -> impl FnMut(Refused) {
    |_| _ = shared.refused.fetch_add(1, Ordering::Relaxed)
}

fn tuple(script: &Script, ends: &Endpoints) -> Tuple {
    let l4 = L4::Ports { src: ends.src_port, dst: ends.dst_port };
    Tuple { src: ends.src.into(), dst: ends.dst.into(), proto: script.proto, l4, zone: None }
}

/// The flow as a request has it.
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
