//! `ctflow bench`: measures how many events this machine captures and replicates, and what each step costs.
//!
//! ```text
//! stock      a full, idle table: memory, idle CPU time, time of a kernel resync and of a peer resync
//!            (first, while the process has freed no memory that it would use again)
//! rounds     in turns: unheard, drained, captured, replicated; with --compare by each back end
//! steps      the CPU time of each step of the pipeline, by a clock that the rounds do without
//! search     the highest rate without loss, captured and replicated: by bisection, unless full speed is held
//! rates      at fractions of the highest rate: latency, wake-ups
//! ```
//!
//! The benchmark runs in its own namespaces, unless the host itself is to be measured. It judges nothing, because
//! figures depend on the machine. [`results`] has all figures as they are serialized.

mod idle;
mod machine;
mod network;
mod page;
mod pipeline;
mod results;
mod run;
mod search;
mod sections;
mod table;

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use ctflow_engine::capture::receive::BackendKind;
use ctflow_engine::engine::Settings;
use ctflow_lab::load::Load;

use self::network::Network;
use self::pipeline::Depth;
use self::results::{BenchSettings, FORMAT, Held, Kernel, Latency, Limit, Measured, Rate, Results, Spread};
use self::run::{Outcome, Steps, Trial};
use self::search::{Found, Next, Search};
use crate::command::progress::Live;
use crate::failure::Failure;
use crate::flags::plan::Bench;

/// Duration of the trial that measures the steps, as a multiple of an ordinary trial: it has only one round.
const METERED_FACTOR: u32 = 3;
/// Fractions of the highest rate held at which latency is measured.
const RATE_PARTS: [f64; 3] = [0.25, 0.5, 0.75];
/// The back ends that `--compare` compares. All other measurements use the first one then, unless another is requested.
const BACKENDS: [BackendKind; 3] = [BackendKind::Recvmmsg, BackendKind::IoUring, BackendKind::Recv];

/// Runs the benchmark and prints its results.
///
/// # Errors
/// Namespaces are forbidden, a pipeline or the load fails, or output cannot be written.
pub(super) fn run(plan: &Bench) -> Result<(), Failure> {
    let refused = |path: &Path, source| Failure::Report { path: path.to_owned(), source };
    if let Some(path) = &plan.report {
        // An unwritable report is reported now and not after minutes. The old content stays until the new one is
        // complete.
        File::options().append(true).create(true).open(path).map_err(|source| refused(path, source))?;
    }
    let machine = machine::detect();
    let network = Network::build(plan)?; // before the live line, which starts a thread
    let results = Bencher::new(plan, &network)?.run(machine)?;
    let json = json(&results);
    let text = if plan.json { &json } else { &table::table(&results) };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    if let Some(path) = &plan.report {
        fs::write(path, page::page(&results, &json)).map_err(|source| refused(path, source))?;
    }
    Ok(())
}

/// Returns the results as JSON, in one line.
fn json(results: &Results) -> String {
    // This cannot fail: it fails only for maps whose keys are not strings, and there is no map.
    serde_json::to_string(results).map(|text| text + "\n").unwrap_or_default()
}

/// A benchmark in progress.
struct Bencher<'p> {
    plan: &'p Bench,
    network: &'p Network,
    settings: Settings,
    load: Load,
    notes: Vec<String>,
    live: Live,
}

impl<'p> Bencher<'p> {
    /// Chooses the settings and the load that this machine can make.
    ///
    /// # Errors
    /// The limit on flows cannot be read.
    fn new(plan: &'p Bench, network: &'p Network) -> Result<Self, Failure> {
        // A comparison needs named back ends, so `auto` becomes the first of them.
        let backend = if plan.compare && plan.backend == BackendKind::Auto { BACKENDS[0] } else { plan.backend };
        let mut settings = Settings { backend, ..Settings::default() };
        settings.workers = plan.workers.map_or(settings.workers, NonZeroU32::get);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spare = u32::try_from(cores).unwrap_or(u32::MAX).saturating_sub(settings.workers + 1).max(1);
        let (flows, note) = network.fit_flows(plan)?;
        let load = Load { kind: plan.load, flows, senders: spare.min(ctflow_lab::load::SENDERS) };
        Ok(Self { plan, network, settings, load, notes: note.into_iter().collect(), live: Live::new() })
    }

    /// Takes all measurements.
    ///
    /// # Errors
    /// A pipeline or the load failed.
    fn run(mut self, machine: results::Machine) -> Result<Results, Failure> {
        let stock = idle::measure(self.network, &self.settings, (self.load, self.plan.trial_duration), &mut self.live)?;
        let depths = self.rounds()?;
        let steps = self.steps()?;
        let drained = find_depth(&depths, Depth::Drain).map(|drain| drain.spread(|one| one.events_per_second).median);
        let mut held = Vec::new();
        for measured in [Depth::Capture, Depth::Replicate].into_iter().filter_map(|depth| find_depth(&depths, depth)) {
            held.push(self.search(measured, drained)?);
        }
        let rates = match held.last() {
            Some(Held { depth, events_per_second: Some(rate), .. }) => self.rates(*depth, *rate)?,
            _ => Vec::new(),
        };
        Ok(Results {
            format: FORMAT,
            ctflow: env!("CARGO_PKG_VERSION"),
            machine,
            settings: self.settings_used(),
            stock,
            kernel: kernel_figures(&depths, self.plan),
            notes: notes(self.notes, &depths, &held, &rates),
            depths,
            steps,
            held,
            rates,
        })
    }

    /// Returns the settings for the results.
    fn settings_used(&self) -> BenchSettings {
        BenchSettings {
            load: self.plan.load.to_string(),
            rate: self.plan.rate.map(NonZeroU32::get),
            flows: self.load.flows,
            seconds: self.plan.trial_duration.as_secs_f64(),
            rounds: self.plan.rounds,
            workers: self.settings.workers,
            senders: self.load.senders,
            backend: self.settings.backend.to_string(),
            compare: self.plan.compare,
            replicas: self.network.backups().len(),
            min_age_ms: u64::try_from(self.plan.min_age.as_millis()).unwrap_or(u64::MAX),
            host: self.plan.host,
            tolerance: search::TOLERANCE,
        }
    }

    /// Returns a trial at a depth. `rate` is in events a second; without it the load is as fast as this machine makes
    /// it.
    fn trial(&self, depth: Depth, rate: Option<f64>) -> Trial {
        Trial {
            depth,
            load: self.load,
            rate,
            duration: self.plan.trial_duration,
            settings: self.settings.clone(),
            min_age: self.plan.min_age,
            with_floor: false,
        }
    }

    /// Measures all depths in turns, so that other work on this machine affects all alike.
    ///
    /// # Errors
    /// A pipeline or the load failed.
    fn rounds(&mut self) -> Result<Vec<Measured>, Failure> {
        let main_backend = self.settings.backend;
        let mut cases = vec![(Depth::Unheard, main_backend)];
        let others = BACKENDS.into_iter().filter(|backend| self.plan.compare && *backend != main_backend);
        for backend in [main_backend].into_iter().chain(others) {
            cases.extend([(Depth::Drain, backend), (Depth::Capture, backend)]);
        }
        if !self.network.backups().is_empty() {
            cases.push((Depth::Replicate, main_backend));
        }
        let mut rounds: Vec<[Vec<Outcome>; 2]> = cases.iter().map(|_| Default::default()).collect();
        let count = self.plan.rounds;
        for round in 1..=count {
            for ((depth, backend), [outcomes, with_floor]) in cases.iter().zip(&mut rounds) {
                self.live.start_step(format!("round {round} of {count}, {}", sections::depth_name(*depth)));
                let mut trial = self.trial(*depth, self.rate());
                trial.settings.backend = *backend;
                outcomes.push(trial.run(self.network, &self.live)?);
                if matches!(depth, Depth::Capture | Depth::Replicate) {
                    self.live.start_step(format!(
                        "round {round} of {count}, {} beside the floor",
                        sections::depth_name(*depth)
                    ));
                    with_floor.push(Trial { with_floor: true, ..trial }.run(self.network, &self.live)?);
                }
            }
        }
        let measured = cases.into_iter().zip(rounds).map(|((depth, backend), [rounds, beside])| Measured {
            depth,
            backend: backend.to_string(),
            to_floor: Spread::of(beside.iter().filter_map(to_floor)),
            rounds,
            beside,
        });
        Ok(measured.collect())
    }

    /// Measures the CPU time of each step.
    ///
    /// # Errors
    /// A pipeline or the load failed.
    fn steps(&mut self) -> Result<Steps, Failure> {
        let depth = if self.network.backups().is_empty() { Depth::Capture } else { Depth::Replicate };
        self.live.start_step("CPU time of each step");
        let mut trial = self.trial(depth, self.rate());
        trial.settings.metered = true;
        trial.duration *= METERED_FACTOR;
        Ok(trial.run(self.network, &self.live)?.steps.unwrap_or_default())
    }

    /// Returns the requested rate in events a second, if there is one.
    fn rate(&self) -> Option<f64> {
        self.plan.rate.map(|rate| f64::from(rate.get()))
    }

    /// Searches the highest rate that a depth holds. The result of the rounds at full speed counts as the first trial.
    ///
    /// # Errors
    /// A pipeline or the load failed.
    fn search(&mut self, measured: &Measured, drained: Option<f64>) -> Result<Held, Failure> {
        let (mut search, mut trials) = (Search::default(), Vec::new());
        let depth = measured.depth;
        let found = loop {
            let rate = match search.next() {
                Next::Found(found) => break found,
                Next::Unlimited => {
                    let held = measured.rounds.iter().all(Outcome::is_held);
                    search.record(measured.spread(|one| one.events_per_second).median, held);
                    continue;
                }
                Next::Rate(rate) => rate,
            };
            self.live
                .start_step(format!("highest rate without loss, {}: trying {rate:.0}", sections::depth_name(depth)));
            let outcome = self.trial(depth, Some(rate)).run(self.network, &self.live)?;
            search.record(outcome.events_per_second, outcome.is_held());
            trials.push(outcome);
        };
        let (events_per_second, limit) = match found {
            Found::All(rate) => (Some(rate), Limit::Load),
            Found::Limit(rate) => (Some(rate), Limit::Loss),
            Found::None => (None, Limit::None),
        };
        let to_drain = events_per_second.zip(drained).map(|(rate, drained)| rate / drained);
        Ok(Held { depth, events_per_second, limit, to_drain, trials })
    }

    /// Measures at fractions of a rate, with the kernel's time stamps in the events for the latency.
    ///
    /// # Errors
    /// A pipeline or the load failed.
    fn rates(&mut self, depth: Depth, rate: f64) -> Result<Vec<Rate>, Failure> {
        self.network.set_timestamps(true)?;
        let mut rates = Vec::new();
        for part in RATE_PARTS {
            self.live.start_step(format!("at {:.0} % of the rate held", part * 100.0));
            let outcome = self.trial(depth, Some(part * rate)).run(self.network, &self.live)?;
            let latency = Latency::of(&outcome.lag);
            rates.push(Rate { outcome, latency });
        }
        self.network.set_timestamps(false)?;
        Ok(rates)
    }
}

/// Returns the measurement of a depth with the main back end, which is the first of its depth.
fn find_depth(depths: &[Measured], depth: Depth) -> Option<&Measured> {
    depths.iter().find(|measured| measured.depth == depth)
}

/// Returns the notes that are needed to understand the figures.
fn notes(mut notes: Vec<String>, depths: &[Measured], held: &[Held], rates: &[Rate]) -> Vec<String> {
    let rounds = || depths.iter().flat_map(|measured| measured.rounds.iter().chain(&measured.beside));
    if rounds().any(Outcome::is_late) {
        notes.push("this machine cannot make the requested load: the rates are lower than requested".to_owned());
    }
    let others = held.iter().flat_map(|held| &held.trials).chain(rates.iter().map(|rate| &rate.outcome));
    let all: Vec<_> = rounds().chain(others).collect();
    let disagreed = all.iter().filter(|outcome| !outcome.agreed).count();
    let with_floor = || depths.iter().flat_map(|measured| &measured.beside);
    let lossy = with_floor().filter(|outcome| outcome.cpu.floor_ns.is_none()).count();
    if lossy > 0 {
        let trials = with_floor().count();
        notes.push(format!(
            "in {lossy} of {trials} trials beside the floor, the floor lost events: the ratio to it leaves them out"
        ));
    }
    if disagreed > 0 {
        let trials = all.len();
        notes.push(format!(
            "in {disagreed} of {trials} trials the kernel, the primary's cache and the replicas had different numbers of flows at the end"
        ));
    }
    notes
}

/// Returns the ratio of a trial's CPU time for each event to that of the floor in the same trial.
fn to_floor(outcome: &Outcome) -> Option<f64> {
    outcome.cpu.floor_ns.filter(|ns| *ns > 0.0).map(|floor| outcome.cpu.total_ns / floor)
}

/// Returns the kernel's figures. The cost of event delivery is the time that a flow takes longer with a listener,
/// divided by its events.
fn kernel_figures(depths: &[Measured], plan: &Bench) -> Kernel {
    let flows = |depth| {
        find_depth(depths, depth).map(|measured| measured.spread(|one| one.flows_per_second)).unwrap_or_default()
    };
    let (alone, drained) = (flows(Depth::Unheard), flows(Depth::Drain));
    let ns = |per_second: f64| Duration::from_secs(1).as_nanos() as f64 / per_second.max(1.0);
    let extra_ns = ns(drained.median) - ns(alone.median);
    Kernel {
        unheard_flows_per_second: alone,
        heard_flows_per_second: drained,
        delivery_ns_per_event: extra_ns / plan.load.events_per_flow(),
    }
}
