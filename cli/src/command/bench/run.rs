//! One trial: a load, something that listens to it, and what both did in a stretch of time.
//!
//! ```text
//! start listening ─► fill ─► settle ─► load ── begin ───── the stretch ───── end ──► stop ─► settle ─► agree? ─► empty
//!                                              └ look                         └ look
//! ```

use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::drain::Drain;
use ctflow_engine::engine::Settings;
use ctflow_engine::lab::load::{Load, Running, Senders};
use ctflow_engine::replication::Lag;
use serde::Serialize;

use super::network::Network;
use super::pipeline::{self, Depth, Pipeline, Reading};
use crate::command::progress::Live;
use crate::failure::Failure;

/// Before the stretch: until the load has its pace.
const WARM_UP: Duration = Duration::from_millis(300);
/// How often the progress is told, and a load that failed is noticed.
const TICK: Duration = Duration::from_millis(100);
/// A load that falls behind by more than this part is not the one that was asked for.
const LATE_SHARE: f64 = 0.02;

/// What to try.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) depth: Depth,
    pub(super) load: Load,
    /// Events a second; as many as this machine makes, if none.
    pub(super) rate: Option<f64>,
    pub(super) stretch: Duration,
    pub(super) settings: Settings,
    /// The age that a flow must reach to be replicated.
    pub(super) min_age: Duration,
    /// Whether the same events are thrown away beside, on the same cores.
    pub(super) with_floor: bool,
}

/// What came of it. Times are of the stretch; what is `_ns` is a mean an event.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    /// How far events went.
    pub(super) depth: Depth,
    /// Events a second that were asked for; null for as many as this machine makes.
    pub(super) asked_per_second: Option<f64>,
    pub(super) seconds: f64,
    pub(super) flows_per_second: f64,
    pub(super) events_per_second: f64,
    /// Events that did not fit the sockets' buffers, also before and after the stretch.
    pub(super) lost: u64,
    /// Flows that were due and that the load could not make.
    pub(super) late: u64,
    /// Whether all was equal everywhere in the end.
    pub(super) agreed: bool,
    pub(super) cpu: Cpu,
    /// What the steps took; null where that was not measured.
    pub(super) steps: Option<Steps>,
    /// A second, of the workers and of the replication stage.
    pub(super) wakeups_per_second: f64,
    /// Bytes of datagrams to all backups, a flow begun.
    pub(super) wire_bytes_per_flow: f64,
    #[serde(skip)]
    pub(super) lag: Lag,
}

/// Time on a processor, an event, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Cpu {
    pub(super) worker_ns: f64,
    pub(super) control_ns: f64,
    pub(super) stage_ns: f64,
    /// All of the primary's.
    pub(super) total_ns: f64,
    /// Of all backups together.
    pub(super) backups_ns: f64,
    /// Of what threw the same events away beside it, in trials that have that and where it lost none.
    pub(super) floor_ns: Option<f64>,
}

/// Time on a processor, an event, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Steps {
    /// Waking, and copying out of the kernel.
    pub(super) receive_ns: f64,
    /// Taking apart.
    pub(super) parse_ns: f64,
    /// Into the shard.
    pub(super) cache_ns: f64,
    /// Into batches.
    pub(super) delta_ns: f64,
    /// Numbering, keeping and sealing them.
    pub(super) seal_ns: f64,
    /// Onto the links.
    pub(super) send_ns: f64,
    /// On all backups together: receiving, opening and applying.
    pub(super) backups_ns: f64,
}

impl Steps {
    /// Each with its name, in their order.
    pub(super) fn named(&self) -> [(&'static str, f64); 7] {
        [
            ("receive", self.receive_ns),
            ("parse", self.parse_ns),
            ("cache", self.cache_ns),
            ("delta", self.delta_ns),
            ("seal", self.seal_ns),
            ("send", self.send_ns),
            ("backups", self.backups_ns),
        ]
    }

    /// Those that took half a nanosecond or more, each with its place among all.
    pub(super) fn significant(&self) -> impl Iterator<Item = (usize, &'static str, f64)> {
        let places = self.named().into_iter().enumerate();
        places.filter(|(_, (_, ns))| *ns >= 0.5).map(|(place, (name, ns))| (place, name, ns))
    }
}

impl Trial {
    /// Runs it.
    ///
    /// # Errors
    /// When the pipeline or the load fails.
    pub(super) fn run(&self, network: &Network, live: &Live) -> Result<Outcome, Failure> {
        let floor = self.with_floor.then(|| Drain::start(&self.settings)).transpose()?;
        let floor_cpu = || floor.as_ref().map(|floor| pipeline::thread_usage(floor.threads(), |_| true).cpu);
        let pipeline = Pipeline::start(self.depth, network, &self.settings, self.min_age)?;
        let mut senders = Senders::open(self.load, network.firewall())?;
        senders.fill()?;
        pipeline.wait_until_settled(self.min_age)?;
        let running = senders.start(self.flows_per_second())?;
        thread::sleep(WARM_UP);
        let (before, floor_before) = (pipeline.read_counters(|| running.totals())?, floor_cpu());
        self.wait_for_stretch(&running, &pipeline, &before, live);
        let (after, floor_after) = (pipeline.read_counters(|| running.totals())?, floor_cpu());
        let mut senders = running.stop()?;
        let settled = pipeline.wait_until_settled(Duration::ZERO)?;
        let agreed = settled && pipeline.counts_agree(self.min_age)?;
        let lost = pipeline.read_counters(|| senders.totals())?.lost;
        pipeline.stop()?; // what ends now nobody hears
        // What it lost was no work for it.
        let floor_lost_none = floor.as_ref().is_some_and(|floor| floor.totals().lost == 0);
        floor.map(Drain::stop).transpose()?;
        match network {
            Network::Host => senders.clear()?,
            Network::Lab { .. } => network.flush()?,
        }
        let floor = floor_before.zip(floor_after).filter(|_| floor_lost_none);
        Ok(self.outcome([&before, &after], floor, lost, agreed))
    }

    fn flows_per_second(&self) -> Option<NonZeroU32> {
        let flows = self.rate? / self.load.kind.events_per_flow();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // no machine makes four billion a second
        NonZeroU32::new(flows.round() as u32).or(Some(NonZeroU32::MIN))
    }

    /// For the stretch, or until a part fails: stopping it says why.
    fn wait_for_stretch(&self, running: &Running, pipeline: &Pipeline, before: &Reading, live: &Live) {
        let began = Instant::now();
        while began.elapsed() < self.stretch && !running.has_failed() && pipeline.is_running() {
            thread::sleep(TICK.min(self.stretch.saturating_sub(began.elapsed())));
            let (events, lost) = pipeline.received();
            let per_second = (events - before.events) as f64 / before.at.elapsed().as_secs_f64();
            live.update(format_args!("{per_second:.0} events/s, {lost} lost"));
        }
    }

    /// `floor` is the processor time of what threw the same events away, at both looks.
    fn outcome(
        &self,
        [before, after]: [&Reading; 2],
        floor: Option<(Duration, Duration)>,
        lost: u64,
        agreed: bool,
    ) -> Outcome {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let made = after.made.since(&before.made);
        let events = (after.events - before.events) as f64;
        let each =
            |before: Duration, after: Duration| (after.saturating_sub(before)).as_nanos() as f64 / events.max(1.0);
        let mut cpu = Cpu {
            worker_ns: each(before.worker.cpu, after.worker.cpu),
            control_ns: each(before.control.cpu, after.control.cpu),
            stage_ns: each(before.stage.cpu, after.stage.cpu),
            total_ns: 0.0,
            backups_ns: each(before.backup.cpu, after.backup.cpu),
            floor_ns: floor.map(|(before, after)| each(before, after)),
        };
        cpu.total_ns = cpu.worker_ns + cpu.control_ns + cpu.stage_ns;
        let metered = self.settings.metered.then(|| step_times(before, after, events));
        let wakeups = |reading: &Reading| reading.worker.wakeups + reading.stage.wakeups;
        Outcome {
            depth: self.depth,
            asked_per_second: self.rate,
            seconds,
            flows_per_second: made.started as f64 / seconds,
            events_per_second: events / seconds,
            lost,
            late: made.skipped,
            agreed,
            cpu,
            steps: metered,
            wakeups_per_second: (wakeups(after) - wakeups(before)) as f64 / seconds,
            wire_bytes_per_flow: (after.wire_bytes - before.wire_bytes) as f64 / (made.started as f64).max(1.0),
            lag: after.lag.since(&before.lag),
        }
    }
}

impl Outcome {
    /// Whether nothing was lost, and everything equal in the end.
    pub(super) fn is_held(&self) -> bool {
        self.lost == 0 && self.agreed
    }

    /// Whether the load fell behind what was asked for.
    pub(super) fn is_late(&self) -> bool {
        self.late as f64 > LATE_SHARE * self.flows_per_second * self.seconds
    }
}

fn step_times(before: &Reading, after: &Reading, events: f64) -> Steps {
    let each = |of: fn(&Reading) -> u64| of(after).saturating_sub(of(before)) as f64 / events.max(1.0);
    Steps {
        receive_ns: each(|reading| reading.counts.receive_cpu_ns),
        parse_ns: each(|reading| reading.counts.parse_cpu_ns),
        cache_ns: each(|reading| reading.counts.cache_cpu_ns),
        delta_ns: each(|reading| reading.counts.delta_cpu_ns),
        seal_ns: each(|reading| reading.stage_cpu[0].seal_ns),
        send_ns: each(|reading| reading.stage_cpu[0].send_ns),
        backups_ns: each(|reading| reading.stage_cpu[1].receive_ns),
    }
}
