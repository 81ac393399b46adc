//! The results of a benchmark, as they are serialized to JSON; the text and the page are made from the same values.
//! `BENCH.md` describes each key, and a test checks that it does.

use ctflow_engine::replication::Lag;
use serde::Serialize;

use super::idle::IdleFigures;
use super::pipeline::Depth;
use super::run::{Outcome, Steps};

/// The version of the JSON's format, in [`Results::format`].
pub(super) const FORMAT: u32 = 1;

/// All results of a benchmark.
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

/// The machine that the benchmark ran on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) cores: usize,
    pub(super) kernel: String,
    pub(super) memory_bytes: u64,
    pub(super) load_average: f64,
}

/// The settings of the benchmark.
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

/// The kernel's part in the cost of events.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Kernel {
    /// Flows a second without a listener.
    pub(super) unheard_flows_per_second: Spread,
    /// Flows a second at depth drained.
    pub(super) heard_flows_per_second: Spread,
    /// How much longer a flow takes with a listener, divided by its events, in nanoseconds.
    pub(super) delivery_ns_per_event: f64,
}

/// A depth with a back end, in several rounds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    pub(super) depth: Depth,
    pub(super) backend: String,
    /// The ratio of CPU time for each event to the floor's, in the trials with the floor.
    pub(super) to_floor: Option<Spread>,
    /// Trials without the floor, one for each round.
    pub(super) rounds: Vec<Outcome>,
    /// Trials with the floor at the same time, one for each round.
    pub(super) beside: Vec<Outcome>,
}

/// The highest rate without loss of a depth.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Held {
    pub(super) depth: Depth,
    /// The rate; null if no rate was held.
    pub(super) events_per_second: Option<f64>,
    /// What limits the rate.
    pub(super) limit: Limit,
    /// The ratio to the rate of depth drained.
    pub(super) to_drain: Option<f64>,
    /// The trials of the search.
    pub(super) trials: Vec<Outcome>,
}

/// What limits the highest rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Limit {
    /// The load: a higher rate may be possible.
    Load,
    /// Events are lost at higher rates.
    Loss,
    /// No rate was held.
    None,
}

/// A measurement at one of the steady rates.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Rate {
    pub(super) outcome: Outcome,
    pub(super) latency: Option<Latency>,
}

/// The latency from the kernel's event to the replica, in microseconds.
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
    /// Returns the summary of the latencies; `None` if none was measured.
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

/// Median and range of a figure over several rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Returns the spread of the values; `None` if there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min, max })
    }
}

impl Measured {
    /// Returns the spread of a figure over all rounds.
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
