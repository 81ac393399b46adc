//! Everything that a benchmark found, as it goes into JSON; text and page are made of the same. `BENCH.md` describes each key; a test compares.

use ctflow_engine::replication::Lag;
use serde::Serialize;

use super::idle::IdleFigures;
use super::pipeline::Depth;
use super::run::{Outcome, Steps};

/// Of [`Results::format`].
pub(super) const FORMAT: u32 = 1;

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) format: u32,
    pub(super) ctflow: &'static str,
    pub(super) machine: Machine,
    pub(super) settings: BenchSettings,
    pub(super) stock: IdleFigures,
    pub(super) kernel: Kernel,
    pub(super) depths: Vec<Measured>,
    pub(super) steps: Steps,
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
pub(super) struct BenchSettings {
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
    /// CPU an event beside the floor's, of the trials that have it beside.
    pub(super) to_floor: Option<Spread>,
    pub(super) rounds: Vec<Outcome>,
    pub(super) beside: Vec<Outcome>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_or_the_mean_of_the_middle_two() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(of(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    }
}
