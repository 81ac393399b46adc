//! Everything that a benchmark found, as it goes into JSON; text and page are made of the same.
//!
//! One object; its keys are stable, new ones may come. Where nothing was measured there is null, or an empty list.
//!
//! ```text
//! format             1
//! ctflow             the version
//! machine            processor, cores, kernel, memory_bytes, load_average (of a minute, at the beginning)
//! settings           load, rate (events a second, null for as many as the machine makes), flows, seconds (a stretch), rounds,
//!                    workers, senders, backend, backends (where compared), replicas, min_age_ms, host, tolerance
//! stock              flows, primary_bytes_per_flow, backup_bytes_per_flow, memory ([flows, bytes] as they came),
//!                    primary_idle_percent, backup_idle_percent, kernel_resync_ms, peer_resync_ms, commit_ms, commit_refused
//! kernel             unheard_flows_per_second, heard_flows_per_second (by a listener that throws events away),
//!                    delivery_ns_per_event (what that costs the packet path)
//! depths             [{depth, backend, to_floor, rounds: [outcome]}]; to_floor: CPU an event beside the floor's, spread
//! held               [{depth, events_per_second, limit, to_floor, trials: [outcome]}]; limit: load, loss or none
//! rates              [{outcome, latency}], at parts of the rate held with replicas
//! notes              [text]
//!
//! outcome            depth (unheard, drain, capture, replicate), asked_per_second, seconds, flows_per_second, events_per_second, lost,
//!                    late (flows that the load could not make in time), agreed (all was equal in the end), cpu: {worker_ns,
//!                    control_ns, stage_ns, total_ns, backups_ns} an event, stages, wakeups_per_second, wire_bytes_per_flow
//! spread             median, min, max
//! latency            from the kernel's event to the replica: count, p50_us, p99_us, p999_us, max_us, distribution: [[us, count]]
//! ```

use ctflow_engine::replication::Lag;
use serde::Serialize;

use super::pipeline::Depth;
use super::stock::Stock;
use super::trial::Outcome;

/// Of [`Results::format`].
pub(super) const FORMAT: u32 = 1;

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) format: u32,
    pub(super) ctflow: &'static str,
    pub(super) machine: Machine,
    pub(super) settings: Told,
    pub(super) stock: Stock,
    pub(super) kernel: Kernel,
    pub(super) depths: Vec<Measured>,
    pub(super) held: Vec<Held>,
    pub(super) rates: Vec<Rate>,
    pub(super) notes: Vec<String>,
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) cores: usize,
    pub(super) kernel: String,
    pub(super) memory_bytes: u64,
    pub(super) load_average: f64,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Told {
    pub(super) load: String,
    pub(super) rate: Option<u32>,
    pub(super) flows: u32,
    pub(super) seconds: f64,
    pub(super) rounds: usize,
    pub(super) workers: u32,
    pub(super) senders: u32,
    pub(super) backend: String,
    pub(super) compare: bool,
    pub(super) replicas: usize,
    pub(super) min_age_ms: u64,
    pub(super) host: bool,
    pub(super) tolerance: f64,
}

/// What the kernel makes of the load by itself.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Kernel {
    pub(super) unheard_flows_per_second: Spread,
    pub(super) heard_flows_per_second: Spread,
    pub(super) delivery_ns_per_event: f64,
}

/// A depth by a back end, in several rounds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    pub(super) depth: Depth,
    pub(super) backend: String,
    pub(super) to_floor: Option<Spread>,
    pub(super) rounds: Vec<Outcome>,
}

/// The highest rate without loss.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Held {
    pub(super) depth: Depth,
    pub(super) events_per_second: Option<f64>,
    pub(super) limit: Limit,
    /// Beside the rate at which a listener that throws events away lets them come.
    pub(super) to_drain: Option<f64>,
    pub(super) trials: Vec<Outcome>,
}

/// What ended a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Limit {
    /// The load: more may be possible.
    Load,
    /// Losses above that rate.
    Loss,
    /// Nothing was held.
    None,
}

/// One of the rates at which latency was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Rate {
    pub(super) outcome: Outcome,
    pub(super) latency: Option<Latency>,
}

/// From the kernel's event to the replica, in microseconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) p999_us: u64,
    pub(super) max_us: u64,
    pub(super) distribution: Vec<(u64, u64)>,
}

impl Latency {
    /// What was counted; nothing where nothing was.
    pub(super) fn of(lag: &Lag) -> Option<Self> {
        let us = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let summary = lag.summary();
        (summary.count > 0).then(|| Self {
            count: summary.count,
            p50_us: us(summary.p50),
            p99_us: us(summary.p99),
            p999_us: us(summary.p999),
            max_us: us(summary.max),
            distribution: lag.distribution().map(|(time, count)| (us(time), count)).collect(),
        })
    }
}

/// Of several rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of these; nothing of none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min, max })
    }
}

impl Measured {
    /// Of some figure in all rounds.
    pub(super) fn spread(&self, of: impl Fn(&Outcome) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(of)).unwrap_or_default()
    }
}

impl Results {
    /// What was measured of a depth by the back end that was asked for.
    pub(super) fn depth(&self, depth: Depth) -> Option<&Measured> {
        self.depths.iter().find(|measured| measured.depth == depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_or_what_is_between_the_two_in_the_middle() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(of(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    }
}
