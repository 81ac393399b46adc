//! Load: flows that start, live for a while and end, at a steady rate or as fast as this kernel makes them.
//!
//! ```text
//!   client  ── opening packets ──►  firewall  ◄── replies ──  server         packets open a flow by its script
//!   198.19.0.0/16, unassigned       tracks       198.18.0.0/16, unassigned
//!                                     ▲
//!   sender ── ctnetlink: delete ──────┘                                      a request ends it, with its event
//! ```
//!
//! One thread of [`Senders`] sends the packets of both ends, from raw sockets of the client and the server. Neither
//! host has the addresses, so none answers, and a packet costs only its path through the firewall. A flow's packets are
//! its *script*: one datagram, a DNS query and its reply, or a TCP connection from handshake to close. Depending on the
//! script, a flow ends when it is the oldest and there are more flows than the load keeps alive, or after a fixed
//! lifetime. A request deletes it, in place of the kernel's timeout, whose moment depends on the kernel's garbage
//! collection. Nothing is random: flow number *n* of sender *s* always has the same addresses and ports.
//!
//! With [`Kind::Netlink`] a request also creates each flow, and no packets are needed; this works outside a lab, too.

pub mod pace;
mod packet;
mod script;
mod sender;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use thiserror::Error;

use super::error::LabError;
use super::link::Links;
use super::sysctl;
use super::topology::{Firewall, INSIDE_LINK, UNUSED_HARDWARE, UNUSED_INSIDE};
use ctflow_engine::kernel::KernelError;
use script::{CLIENTS, CLIENTS_PREFIX};
use sender::{RawSockets, Sender, SenderCounters};

/// The kind of a load's flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Three flows of four are DNS queries by UDP, answered at once and ended after 200 ms; the fourth is a TCP
    /// connection. This is the common mix on busy firewalls.
    #[default]
    Dns,
    /// TCP connections: handshake, data, close.
    Tcp,
    /// One UDP datagram a flow, without a reply.
    Udp,
    /// Established TCP connections, created by ctnetlink.
    Netlink,
}

impl Kind {
    /// Every kind, under the name that `FromStr` reads and `Display` writes.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Dns, "dns"), (Self::Tcp, "tcp"), (Self::Udp, "udp"), (Self::Netlink, "netlink")];

    /// The mean number of events of a flow of this kind, from NEW to DESTROY, with the kernel's default settings. The
    /// tests check these numbers against the kernel.
    #[must_use]
    pub fn events_per_flow(self) -> f64 {
        let scripts = script::scripts_of(self);
        let weights: u32 = scripts.iter().map(|one| one.weight).sum();
        let events: u32 = scripts.iter().map(|one| one.weight * one.script.events).sum();
        f64::from(events) / f64::from(weights.max(1))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(Self::ALL.iter().find(|(kind, _)| kind == self).map_or("", |(_, name)| name))
    }
}

/// A name that is no kind of load.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown load '{0}': use dns, tcp, udp or netlink")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(_, name)| *name == word);
        found.map(|(kind, _)| *kind).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// The parameters of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// The kind of its flows.
    pub kind: Kind,
    /// The number of flows that are kept alive.
    pub flows: u32,
    /// The number of sending threads, from 1 to [`SENDERS`]; other values are clamped.
    pub senders: u32,
}

/// The most senders whose flows the addresses can keep distinct.
pub const SENDERS: u32 = 16;

/// An error that stops a load.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The network failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A request to create or delete flows failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// The counts of a load so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadTotals {
    /// Flows started.
    pub started: u64,
    /// Flows ended by request.
    pub ended: u64,
    /// Packets sent.
    pub packets: u64,
    /// Requests to create or delete a flow that the kernel refused. A deletion is refused when its flow does not exist
    /// any more. The usual reason for both is a full table.
    pub refused: u64,
    /// Flows that were due and were not started, since this machine was too slow for the rate.
    pub skipped: u64,
}

impl LoadTotals {
    /// The counts from the time of `earlier` until now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            started: self.started.saturating_sub(earlier.started),
            ended: self.ended.saturating_sub(earlier.ended),
            packets: self.packets.saturating_sub(earlier.packets),
            refused: self.refused.saturating_sub(earlier.refused),
            skipped: self.skipped.saturating_sub(earlier.skipped),
        }
    }
}

/// Prepares the firewall, which is the calling thread's network: routes packets to the load's clients to a hardware
/// address that no link has, and sets timeouts to an hour so that flows live until a request ends them.
///
/// # Errors
/// [`LabError`] when a route or a setting is refused.
pub fn prepare_firewall(_firewall: &Firewall) -> Result<(), LabError> {
    let links = Links::open()?;
    links.add_neighbour(INSIDE_LINK, UNUSED_INSIDE.into(), UNUSED_HARDWARE)?;
    links.add_route(CLIENTS.into(), CLIENTS_PREFIX, UNUSED_INSIDE.into())?;
    ["udp_timeout", "udp_timeout_stream", "tcp_timeout_syn_sent", "tcp_timeout_time_wait"]
        .iter()
        .try_for_each(|name| sysctl::write(&format!("net/netfilter/nf_conntrack_{name}"), "3600"))
}

/// A load that is stopped: its flows exist, and none start or end.
#[derive(Debug)]
pub struct Senders {
    load: Load,
    senders: Vec<Sender>,
    shared: Arc<[SenderCounters]>,
}

impl Senders {
    /// Opens the sockets. Packets cross `firewall`, which is the calling thread's network and
    /// [prepared](prepare_firewall). Without a firewall only [`Kind::Netlink`] works; it creates flows in the calling
    /// thread's network.
    ///
    /// # Errors
    /// [`LoadError`] when a socket cannot be opened.
    pub fn open(load: Load, firewall: Option<&Firewall>) -> Result<Self, LoadError> {
        let count = load.senders.clamp(1, SENDERS);
        let senders = (0..count).map(|index| {
            let sockets = firewall.filter(|_| load.kind != Kind::Netlink).map(RawSockets::open).transpose()?;
            let flows = load.flows / count + u32::from(index < load.flows % count);
            Sender::open(index, load.kind, flows, sockets)
        });
        let senders: Vec<Sender> = senders.collect::<Result<_, LoadError>>()?;
        let shared = senders.iter().map(|_| SenderCounters::default()).collect();
        Ok(Self { load, senders, shared })
    }

    /// The counts since the senders were opened, summed over all senders.
    #[must_use]
    pub fn totals(&self) -> LoadTotals {
        sum_totals(&self.shared)
    }

    /// Starts flows until [`Load::flows`] exist, as fast as possible.
    ///
    /// # Errors
    /// [`LoadError`] when a sender fails.
    pub fn fill(&mut self) -> Result<(), LoadError> {
        self.for_each_sender(Sender::fill)
    }

    /// Ends all flows.
    ///
    /// # Errors
    /// [`LoadError`] when a sender fails.
    pub fn clear(&mut self) -> Result<(), LoadError> {
        self.for_each_sender(Sender::clear)
    }

    /// Calls `work` for each sender, on a thread of its own, and waits for all of them.
    fn for_each_sender(
        &mut self,
        work: fn(&mut Sender, &SenderCounters) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let senders = self.senders.iter_mut().zip(self.shared.iter());
        thread::scope(|scope| {
            let threads: Vec<_> = senders.map(|(sender, shared)| scope.spawn(move || work(sender, shared))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Starts the load: `per_second` flows start and as many end each second, or as many as this machine can make.
    /// Sender *n* is pinned to the *n*th core from the end.
    ///
    /// # Errors
    /// [`LoadError`] when a thread cannot be started.
    pub fn start(self, per_second: Option<NonZeroU32>) -> Result<Running, LoadError> {
        let stop = Arc::<AtomicBool>::default();
        let mut running =
            Running { load: self.load, shared: self.shared.clone(), stop: stop.clone(), threads: Vec::new() };
        for (index, mut sender) in self.senders.into_iter().enumerate() {
            let (shared, stop) = (self.shared.clone(), stop.clone());
            let share = per_second.map(|all| pace::rate_share(all, index, self.load.senders));
            let body = move || {
                pin(index);
                let result = match (shared.get(index), share) {
                    // The rate is less than one flow a second for each sender.
                    (Some(shared), Some(None)) => sender.run_idle(&stop, shared),
                    (Some(shared), share) => sender.run(share.flatten(), &stop, shared),
                    (None, _) => Ok(()),
                };
                result.map(|()| sender)
            };
            let thread = thread::Builder::new().name(format!("load{index}")).spawn(body);
            running.threads.push(thread.map_err(|error| LabError::system("start a sender", error))?);
        }
        Ok(running)
    }
}

/// A running load. It stops when dropped.
#[derive(Debug)]
pub struct Running {
    load: Load,
    shared: Arc<[SenderCounters]>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Sender, LoadError>>>,
}

impl Running {
    /// The counts since the senders were opened, summed over all senders.
    #[must_use]
    pub fn totals(&self) -> LoadTotals {
        sum_totals(&self.shared)
    }

    /// Whether a sender has ended, which only an error causes. [`Running::stop`] returns that error.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops the load. Its flows stay.
    ///
    /// # Errors
    /// The [`LoadError`] that ended a sender.
    pub fn stop(mut self) -> Result<Senders, LoadError> {
        self.stop.store(true, Ordering::Relaxed);
        let ends =
            self.threads.drain(..).map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let senders = ends.collect::<Result<_, _>>()?;
        Ok(Senders { load: self.load, senders, shared: self.shared.clone() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join())); // a caller interested in the errors calls `stop`
    }
}

/// The sums over all senders.
fn sum_totals(shared: &[SenderCounters]) -> LoadTotals {
    shared.iter().map(SenderCounters::totals).fold(LoadTotals::default(), |sum, made| LoadTotals {
        started: sum.started + made.started,
        ended: sum.ended + made.ended,
        packets: sum.packets + made.packets,
        refused: sum.refused + made.refused,
        skipped: sum.skipped + made.skipped,
    })
}

/// Pins the calling thread, sender `index`, to a core, counted from the last. Workers are pinned from the first on.
fn pin(index: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(core) = cores.iter().rev().nth(index % cores.len().max(1)) {
        let _ = core_affinity::set_for_current(*core); // on failure the scheduler chooses
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ctflow_parser::frame::{Message, Messages};

    use super::*;
    use crate::Lab;
    use ctflow_engine::capture::listener::{Listener, Patience};
    use ctflow_engine::capture::receive::{BackendKind, Interrupts};
    use ctflow_engine::capture::socket::Options;

    const FLOWS: u32 = 60;

    /// Runs a load of `kind` until all its flows have ended, and returns its counts and the number of events received.
    fn run_load(kind: Kind) -> (LoadTotals, u64) {
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        prepare_firewall(&firewall).unwrap();
        let mut listener = Listener::open(&Options::default(), BackendKind::Recvmmsg, Interrupts::new()).unwrap();
        let load = Load { kind, flows: FLOWS, senders: 2 };
        let mut senders = Senders::open(load, Some(&firewall)).unwrap();
        senders.fill().unwrap();
        assert!(sysctl::flow_count().unwrap() >= u64::from(FLOWS));
        let running = senders.start(NonZeroU32::new(400)).unwrap();
        let (mut events, start) = (0, Instant::now());
        let mut receive = |listener: &mut Listener| {
            let round = listener.receive_round(Patience::None, &mut |frame: &[u8]| {
                events +=
                    Messages::new(frame).filter(|message| matches!(message, Ok(Message::Record(_)))).count() as u64;
            });
            let round = round.unwrap();
            assert_eq!(round.lost, 0);
            round.received.datagrams
        };
        while start.elapsed() < Duration::from_millis(600) {
            receive(&mut listener);
            thread::sleep(Duration::from_millis(2));
        }
        assert!(!running.has_failed());
        let mut senders = running.stop().unwrap();
        assert!(sysctl::flow_count().unwrap() >= u64::from(FLOWS));
        senders.clear().unwrap();
        while receive(&mut listener) > 0 {}
        (senders.totals(), events)
    }

    #[test]
    fn a_sender_without_a_share_of_the_rate_stays_idle() {
        crate::isolated!({
            let _lab = Lab::enter().unwrap();
            let load = Load { kind: Kind::Netlink, flows: 4, senders: 4 };
            let running = Senders::open(load, None).unwrap().start(NonZeroU32::new(2)).unwrap();
            thread::sleep(Duration::from_millis(100));
            assert!(!running.has_failed());
            let mut senders = running.stop().unwrap();
            assert_eq!(senders.totals().started, 2, "one flow of each sender that has a share");
            senders.clear().unwrap();
        });
    }

    fn check_events(kind: Kind) {
        let (totals, events) = run_load(kind);
        // The table is filled with the long-lived flows of the kind only: for DNS these are the TCP connections.
        let lasting = if kind == Kind::Dns { Kind::Tcp } else { kind };
        let filled = f64::from(FLOWS);
        let expected = kind.events_per_flow() * (totals.started as f64 - filled) + lasting.events_per_flow() * filled;
        assert!((events as f64 - expected).abs() <= expected * 0.02, "{events} events of {expected}, {totals:?}");
        assert_eq!((totals.started, totals.refused), (totals.ended, 0), "{totals:?}");
        assert!(totals.started + totals.skipped > 150, "{totals:?}");
    }

    #[test]
    fn dns_load_makes_the_stated_events_and_leaves_no_flows() {
        crate::isolated!({
            check_events(Kind::Dns);
        });
    }

    #[test]
    fn tcp_load_makes_the_stated_events_and_leaves_no_flows() {
        crate::isolated!({
            check_events(Kind::Tcp);
        });
    }

    #[test]
    fn udp_load_makes_the_stated_events_and_leaves_no_flows() {
        crate::isolated!({
            check_events(Kind::Udp);
        });
    }

    #[test]
    fn netlink_load_makes_the_stated_events_and_leaves_no_flows() {
        crate::isolated!({
            check_events(Kind::Netlink);
        });
    }
}
