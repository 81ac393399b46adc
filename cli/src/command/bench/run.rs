//! One trial: a load, a pipeline that receives its events, and what both did in the trial's duration.
//!
//! ```text
//! start pipeline ─► fill ─► settle ─► load ─► warm up ─┬──── duration ────┬─► stop ─► settle ─► agree? ─► empty
//!                                                      └ read counters    └ read counters
//! ```

use std::num::NonZeroU32;
use std::thread;
use std::time::{Duration, Instant};

use ctflow_engine::engine::Settings;
use ctflow_engine::replication::Lag;
use ctflow_lab::drain::Drain;
use ctflow_lab::load::{Load, Running, Senders};
use serde::Serialize;

use super::network::Network;
use super::pipeline::{self, Depth, Pipeline, Reading};
use crate::command::progress::Live;
use crate::failure::Failure;

/// Time before the measurement, in which the load reaches its pace.
const WARM_UP: Duration = Duration::from_millis(300);
/// Interval at which the live line is updated, and a failed load is noticed.
const TICK: Duration = Duration::from_millis(100);
/// The share of flows by which a load may fall behind and still count as the requested one.
const LATE_SHARE: f64 = 0.02;

/// The settings of a trial.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) depth: Depth,
    pub(super) load: Load,
    /// Events a second; `None` for as many as this machine makes.
    pub(super) rate: Option<f64>,
    /// The duration of the measurement.
    pub(super) duration: Duration,
    pub(super) settings: Settings,
    /// The age that a flow must reach to be replicated.
    pub(super) min_age: Duration,
    /// Whether the floor runs at the same time: threads on the same cores that discard the same events.
    pub(super) with_floor: bool,
}

/// The result of a trial. Counts and times are those of its duration; a value in `_ns` is the mean of an event.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    /// How far events went.
    pub(super) depth: Depth,
    /// The requested rate in events a second; null for as many as this machine makes.
    pub(super) asked_per_second: Option<f64>,
    /// The measured duration.
    pub(super) seconds: f64,
    /// Flows that the load started.
    pub(super) flows_per_second: f64,
    /// Events that the pipeline received.
    pub(super) events_per_second: f64,
    /// Events that did not fit the sockets' buffers, also before and after the duration.
    pub(super) lost: u64,
    /// Flows that were due and that the load could not make.
    pub(super) late: u64,
    /// Whether kernel, shards and replicas had the same number of flows at the end.
    pub(super) agreed: bool,
    /// CPU time of an event.
    pub(super) cpu: Cpu,
    /// CPU time of the steps; null if it was not metered.
    pub(super) steps: Option<Steps>,
    /// Wake-ups of the workers and of the replication stage.
    pub(super) wakeups_per_second: f64,
    /// Bytes of datagrams to all backups, for each flow that was started.
    pub(super) wire_bytes_per_flow: f64,
    /// Latencies to the replicas.
    #[serde(skip)]
    pub(super) lag: Lag,
}

/// CPU time of an event in nanoseconds, by thread.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Cpu {
    /// All workers of the primary, or the threads of the floor at depth drained.
    pub(super) worker_ns: f64,
    /// The primary's control thread.
    pub(super) control_ns: f64,
    /// The primary's replication stage.
    pub(super) stage_ns: f64,
    /// The sum of the three above.
    pub(super) total_ns: f64,
    /// All threads of all backups.
    pub(super) backups_ns: f64,
    /// The floor in the same trial; null if the trial has none, or if the floor lost events.
    pub(super) floor_ns: Option<f64>,
}

/// CPU time of an event in nanoseconds, by step.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Steps {
    /// Wake-up, and copying from the kernel.
    pub(super) receive_ns: f64,
    /// Parsing.
    pub(super) parse_ns: f64,
    /// Applying to the shard.
    pub(super) cache_ns: f64,
    /// Building batches of changes.
    pub(super) delta_ns: f64,
    /// Numbering, queueing and sealing batches.
    pub(super) seal_ns: f64,
    /// Sending to the links.
    pub(super) send_ns: f64,
    /// Receiving, opening and applying on all backups together.
    pub(super) backups_ns: f64,
}

impl Steps {
    /// Returns all steps with their names, in their order.
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

    /// Iterates over the steps of half a nanosecond or more, each with its index among all steps.
    pub(super) fn significant(&self) -> impl Iterator<Item = (usize, &'static str, f64)> {
        let steps = self.named().into_iter().enumerate();
        steps.filter(|(_, (_, ns))| *ns >= 0.5).map(|(index, (name, ns))| (index, name, ns))
    }
}

impl Trial {
    /// Runs the trial.
    ///
    /// # Errors
    /// The pipeline or the load failed.
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
        self.wait_for_duration(&running, &pipeline, &before, live);
        let (after, floor_after) = (pipeline.read_counters(|| running.totals())?, floor_cpu());
        let mut senders = running.stop()?;
        let settled = pipeline.wait_until_settled(Duration::ZERO)?;
        let agreed = settled && pipeline.counts_agree(self.min_age)?;
        let lost = pipeline.read_counters(|| senders.totals())?.lost;
        // Before the flows are deleted, so that the pipeline does not receive their events.
        pipeline.stop()?;
        // Lost events cost the floor no CPU time, so that its time for each event would be too low.
        let floor_lost_none = floor.as_ref().is_some_and(|floor| floor.totals().lost == 0);
        floor.map(Drain::stop).transpose()?;
        match network {
            Network::Host => senders.clear()?,
            Network::Lab { .. } => network.flush()?,
        }
        let floor = floor_before.zip(floor_after).filter(|_| floor_lost_none);
        Ok(self.outcome([&before, &after], floor, lost, agreed))
    }

    /// Returns the rate of new flows that results in the requested rate of events.
    fn flows_per_second(&self) -> Option<NonZeroU32> {
        let flows = self.rate? / self.load.kind.events_per_flow();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // no machine makes four billion a second
        NonZeroU32::new(flows.round() as u32).or(Some(NonZeroU32::MIN))
    }

    /// Waits for the trial's duration, or until the load or the pipeline fails. Stopping them returns the error.
    fn wait_for_duration(&self, running: &Running, pipeline: &Pipeline, before: &Reading, live: &Live) {
        let started = Instant::now();
        while started.elapsed() < self.duration && !running.has_failed() && pipeline.is_running() {
            thread::sleep(TICK.min(self.duration.saturating_sub(started.elapsed())));
            let (events, lost) = pipeline.received();
            let per_second = (events - before.events) as f64 / before.at.elapsed().as_secs_f64();
            live.update(format_args!("{per_second:.0} events/s, {lost} lost"));
        }
    }

    /// Returns the result from the readings before and after. `floor` is the floor's CPU time at both moments.
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
    /// Returns whether nothing was lost and all had the same number of flows at the end.
    pub(super) fn is_held(&self) -> bool {
        self.lost == 0 && self.agreed
    }

    /// Returns whether the load fell behind the requested rate.
    pub(super) fn is_late(&self) -> bool {
        self.late as f64 > LATE_SHARE * self.flows_per_second * self.seconds
    }
}

/// Returns the CPU time of each step between two readings, for each of `events`.
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
