//! Load: flows that come, stay for a while and go, at a steady rate or as fast as this kernel makes them.
//!
//! ```text
//!   client  ── opening packets ──►  firewall  ── answers ◄──  server         a flow opens by its script
//!   198.19.0.0/16, nobody's         tracks       198.18.0.0/16, nobody's
//!                                     ▲
//!   sender ── ctnetlink: delete ──────┘                                      and ends by request, with its event
//! ```
//!
//! Both ends' packets are made by one thread, a [`Senders`]'s, from raw sockets of the client and the server; neither host has
//! the addresses, so none answers and no packet costs more than its way through the firewall. What a flow's packets are is its
//! *script*: one datagram, a question and its answer, a TCP connection from handshake to close. A flow ends when so many are
//! there as shall be, the oldest first, or after its script's life; the request that deletes it takes the place of the kernel's
//! timeout, which would come when the kernel finds time to look. Nothing is random: flow number *n* of sender *s* always has
//! the same addresses and ports.
//!
//! With [`Kind::Netlink`] flows come by request, too, and no packets are needed: that also runs outside a lab.

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
use crate::kernel::KernelError;
use script::{CLIENTS, CLIENTS_PREFIX};
use sender::{RawSockets, Sender, SenderCounters};

/// What comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Three of four are questions by UDP, answered and over within 200 ms; the fourth is TCP. What busy
    /// firewalls mostly see.
    #[default]
    Dns,
    /// TCP connections: handshake, data, close.
    Tcp,
    /// One UDP datagram each, and no answer.
    Udp,
    /// Established TCP connections, put in by ctnetlink.
    Netlink,
}

impl Kind {
    /// Every kind, under the name that `FromStr` reads and `Display` writes.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Dns, "dns"), (Self::Tcp, "tcp"), (Self::Udp, "udp"), (Self::Netlink, "netlink")];

    /// Events that a flow is, from its first to its last: the kernel's, with default settings, as the tests find them.
    #[must_use]
    pub fn events_per_flow(self) -> f64 {
        let lanes = script::scripts_of(self);
        let weights: u32 = lanes.iter().map(|lane| lane.weight).sum();
        let events: u32 = lanes.iter().map(|lane| lane.weight * lane.script.events).sum();
        f64::from(events) / f64::from(weights.max(1))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(Self::ALL.iter().find(|(kind, _)| kind == self).map_or("", |(_, name)| name))
    }
}

/// A word that names no kind of load.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no load is called '{0}': use dns, tcp, udp or netlink")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(_, name)| *name == word);
        found.map(|(kind, _)| *kind).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// What load to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// What comes.
    pub kind: Kind,
    /// Flows that are there all the while.
    pub flows: u32,
    /// Threads that make it, at most [`SENDERS`].
    pub senders: u32,
}

/// The most senders: what the addresses can keep apart.
pub const SENDERS: u32 = 16;

/// Load that cannot go on.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The network.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The kernel, asked to make or end flows.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// What has been made so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadTotals {
    /// Flows begun.
    pub started: u64,
    /// Flows ended by request.
    pub ended: u64,
    /// Packets sent.
    pub packets: u64,
    /// Flows that the kernel would not make by request, or that had gone before they were ended: as a rule since its table is
    /// full.
    pub refused: u64,
    /// Flows that were due and not made: this machine was too slow for the rate.
    pub skipped: u64,
}

impl LoadTotals {
    /// What was made between `earlier` and now.
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

/// Has the firewall, the calling thread's, send what is for the load's clients to nobody, and keep flows until they are ended.
///
/// # Errors
/// [`LabError`]
pub fn prepare_firewall(_firewall: &Firewall) -> Result<(), LabError> {
    let links = Links::open()?;
    links.add_neighbour(INSIDE_LINK, UNUSED_INSIDE.into(), UNUSED_HARDWARE)?;
    links.add_route(CLIENTS.into(), CLIENTS_PREFIX, UNUSED_INSIDE.into())?;
    ["udp_timeout", "udp_timeout_stream", "tcp_timeout_syn_sent", "tcp_timeout_time_wait"]
        .iter()
        .try_for_each(|name| sysctl::write(&format!("net/netfilter/nf_conntrack_{name}"), "3600"))
}

/// Load that is not under way: its flows are there, and nothing happens to them.
#[derive(Debug)]
pub struct Senders {
    load: Load,
    senders: Vec<Sender>,
    shared: Arc<[SenderCounters]>,
}

impl Senders {
    /// Opens the sockets; packets go through `firewall`, which is the calling thread's network and [prepared](prepare_firewall). Without
    /// one only [`Kind::Netlink`] makes flows, in the calling thread's network.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn open(load: Load, firewall: Option<&Firewall>) -> Result<Self, LoadError> {
        let count = load.senders.clamp(1, SENDERS);
        let senders = (0..count).map(|index| {
            let ways = firewall.filter(|_| load.kind != Kind::Netlink).map(RawSockets::open).transpose()?;
            let flows = load.flows / count + u32::from(index < load.flows % count);
            Sender::open(index, load.kind, flows, ways)
        });
        let senders: Vec<Sender> = senders.collect::<Result<_, LoadError>>()?;
        let shared = senders.iter().map(|_| SenderCounters::default()).collect();
        Ok(Self { load, senders, shared })
    }

    /// What has been made since they were opened.
    #[must_use]
    pub fn totals(&self) -> LoadTotals {
        sum_totals(&self.shared)
    }

    /// Makes flows until as many are there as shall be, as fast as it goes.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn fill(&mut self) -> Result<(), LoadError> {
        self.for_each_sender(Sender::fill)
    }

    /// Ends all flows.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn clear(&mut self) -> Result<(), LoadError> {
        self.for_each_sender(Sender::clear)
    }

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

    /// Starts it: `per_second` flows come and as many go, or as many as this machine can make. Sender *n* stays on the *n*th
    /// core from the end.
    ///
    /// # Errors
    /// [`LoadError`] when no thread is to be had.
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
                    (Some(shared), Some(None)) => sender.run_idle(&stop, shared), // the rate is less than one a sender
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

/// Load under way; it stops when dropped.
#[derive(Debug)]
pub struct Running {
    load: Load,
    shared: Arc<[SenderCounters]>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Sender, LoadError>>>,
}

impl Running {
    /// What has been made since the senders were opened.
    #[must_use]
    pub fn totals(&self) -> LoadTotals {
        sum_totals(&self.shared)
    }

    /// Whether a sender has ended, which none does of itself but by an error: [`Running::stop`] tells it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops it; its flows stay.
    ///
    /// # Errors
    /// [`LoadError`] that ended a sender.
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
        self.threads.drain(..).for_each(|thread| drop(thread.join())); // what ended one nobody asked
    }
}

fn sum_totals(shared: &[SenderCounters]) -> LoadTotals {
    shared.iter().map(SenderCounters::totals).fold(LoadTotals::default(), |sum, made| LoadTotals {
        started: sum.started + made.started,
        ended: sum.ended + made.ended,
        packets: sum.packets + made.packets,
        refused: sum.refused + made.refused,
        skipped: sum.skipped + made.skipped,
    })
}

/// Keeps the calling thread on the core that is sender `index`'s, from the end: workers take theirs from the beginning.
fn pin(index: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(core) = cores.iter().rev().nth(index % cores.len().max(1)) {
        let _ = core_affinity::set_for_current(*core); // or it runs where the scheduler puts it
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ctflow_parser::frame::{Message, Messages};

    use super::*;
    use crate::lab::Lab;
    use crate::listener::{Listener, Patience};
    use crate::receive::{BackendKind, Interrupts};
    use crate::socket::Options;

    const FLOWS: u32 = 60;

    /// The load's making of `kind`, from the first flow to the last, and how many events the kernel told.
    fn run_load(kind: Kind) -> (LoadTotals, u64) {
        let firewall = Firewall::build(&Lab::enter().unwrap()).unwrap();
        prepare_firewall(&firewall).unwrap();
        let mut listener = Listener::open(&Options::default(), BackendKind::Recvmmsg, Interrupts::new()).unwrap();
        let load = Load { kind, flows: FLOWS, senders: 2 };
        let mut senders = Senders::open(load, Some(&firewall)).unwrap();
        senders.fill().unwrap();
        assert!(sysctl::flow_count().unwrap() >= u64::from(FLOWS));
        let running = senders.start(NonZeroU32::new(400)).unwrap();
        let (mut heard, began) = (0, Instant::now());
        let mut take = |listener: &mut Listener| {
            let round = listener.receive_round(Patience::None, &mut |frame: &[u8]| {
                heard +=
                    Messages::new(frame).filter(|message| matches!(message, Ok(Message::Record(_)))).count() as u64;
            });
            let round = round.unwrap();
            assert_eq!(round.lost, 0);
            round.received.datagrams
        };
        while began.elapsed() < Duration::from_millis(600) {
            take(&mut listener);
            thread::sleep(Duration::from_millis(2));
        }
        assert!(!running.has_failed());
        let mut senders = running.stop().unwrap();
        assert!(sysctl::flow_count().unwrap() >= u64::from(FLOWS));
        senders.clear().unwrap();
        while take(&mut listener) > 0 {}
        (senders.totals(), heard)
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
            assert_eq!(senders.totals().started, 2, "one of each that has a share");
            senders.clear().unwrap();
        });
    }

    fn check_events(kind: Kind) {
        let (made, heard) = run_load(kind);
        // Those that filled the table are none of the questions.
        let lasting = if kind == Kind::Dns { Kind::Tcp } else { kind };
        let filled = f64::from(FLOWS);
        let expected = kind.events_per_flow() * (made.started as f64 - filled) + lasting.events_per_flow() * filled;
        assert!((heard as f64 - expected).abs() <= expected * 0.02, "{heard} events of {expected}, {made:?}");
        assert_eq!((made.started, made.refused), (made.ended, 0), "{made:?}");
        assert!(made.started + made.skipped > 150, "{made:?}");
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
