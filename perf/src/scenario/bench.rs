//! `bench`: `ctflow bench` alone. Its figures compare the pipeline with the floor of receiving and discarding, large
//! tables with small ones, and a least age with none.
//!
//! It runs three benchmarks: DNS queries and TCP connections as fast as possible; the same load at a steady rate, with
//! and without a least age that three of four flows never reach, in turns; and tables of 100,000 and of a million
//! flows, changed by requests at a steady rate, in turns. The rate is the same for both sizes: at full speed the kernel
//! makes fewer events of a large table, and they reach the pipeline in smaller batches. Each ratio to the floor is from
//! the same trial.

use std::slice;

use serde_json::Value;

use crate::failure::Failure;
use crate::options::Options;
use crate::process::Process;
use crate::program::{Program, Programs};
use crate::report::{Goal, Row, Table};
use crate::statistics::Summary;
use crate::suite::json_number;

const FLOWS: u32 = 1_000_000;
/// The size of the small table that the large one is compared with.
const FEW_FLOWS: u32 = 100_000;
/// Rounds of a benchmark for each requested round, since a trial is short and noisy.
const ROUNDS: usize = 3;
/// Events a second of the benchmarks at a steady rate.
const STEADY: &str = "100000";
/// The least age, in milliseconds: longer than the flow of a DNS query lives.
const LEAST_AGE_MS: &str = "1000";
/// How long a benchmark may run.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(1_800);

/// The goal of a capture's CPU an event, in percent of the floor's.
const CAPTURED: f64 = 130.0;
/// The goal of the CPU an event with replication, in percent of the floor's.
const REPLICATED: f64 = 170.0;
/// The goal of a capture's highest rate without loss, in percent of the floor's.
const RATE_PERCENT: f64 = 95.0;
/// The goal of the memory a flow.
const MEMORY_BYTES: f64 = 128.0;
/// The goal of the bytes sent a flow, in full batches.
const WIRE_BYTES: f64 = 48.0;
/// The goal of the CPU an event with the large table, as a share of that with the small table.
const GROWTH: f64 = 1.15;
/// The goal of bytes and CPU with a least age, as a share of those without.
const AGED: f64 = 1.0 / 3.0;
/// The goal of the CPU of an idle daemon, in percent of a core.
const IDLE_PERCENT: f64 = 0.5;

/// The depths that every benchmark here measures.
const DEPTHS: [&str; 3] = ["drain", "capture", "replicate"];

/// Runs the scenario.
///
/// # Errors
/// When the program fails.
pub(super) fn run(options: &Options, programs: &Programs) -> Result<Table, Failure> {
    let (flows, note) = super::fit_flows(options, FLOWS)?;
    let ours = &programs.ours;
    let bench = |what: &str, rounds: usize, arguments: &[&str]| {
        eprintln!("bench: {what}");
        run_bench(ours, &[&["--seconds", "1", "--rounds", &rounds.to_string()][..], arguments].concat())
    };
    let rounds = ROUNDS * options.rounds;
    let full = bench("at full speed", rounds, &[])?;
    let few_flows = FEW_FLOWS.min(flows);
    let (few, many) = (few_flows.to_string(), flows.to_string());
    let (mut without_age, mut with_age, mut with_few, mut with_many) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let steady = |what, arguments: &[&str]| bench(what, ROUNDS, &[&["--rate", STEADY][..], arguments].concat());
        without_age.push(steady("without a least age", &[])?);
        with_age.push(steady("with a least age", &["--min-age", LEAST_AGE_MS])?);
        with_few.push(steady("few flows", &["--load", "netlink", "--flows", &few])?);
        with_many.push(steady("many flows", &["--load", "netlink", "--flows", &many])?);
    }
    let mut rows = pipeline(&full);
    rows.extend(tables(&with_few, &with_many, few_flows));
    rows.extend(least_age(&without_age, &with_age));
    let title = format!("bench: ctflow bench, {rounds} rounds; the large table has {} flows", super::count(flows));
    let mut notes: Vec<String> = note.into_iter().collect();
    notes.extend(
        [&without_age, &with_age, &with_few, &with_many].into_iter().flatten().chain([&full]).flat_map(collect_notes),
    );
    notes.sort();
    notes.dedup();
    Ok(Table { title, names: [ours.name.clone(), String::new()], rows, notes })
}

/// The notes of a benchmark: its own, and whether events were lost at its steady rate.
fn collect_notes(results: &Value) -> Vec<String> {
    let notes = results["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let rate = &results["settings"]["rate"];
    let lost = DEPTHS.map(|name| rounds(slice::from_ref(results), name, |round| json_number(&round["lost"])).max);
    let losing =
        (rate.is_u64() && lost.iter().any(|lost| *lost > 0.0)).then(|| format!("events were lost at {rate} a second"));
    notes.map(str::to_owned).chain(losing).collect()
}

/// Runs `ctflow bench` with these arguments, and returns its JSON document.
fn run_bench(program: &Program, arguments: &[&str]) -> Result<Value, Failure> {
    let arguments = [&["bench", "--json"][..], arguments].concat();
    let ended = Process::start(program, &arguments)?.run_to_end(LONGEST)?;
    let results: Option<Value> = serde_json::from_slice(&ended.output).ok();
    let is_whole = |results: &Value| DEPTHS.iter().all(|name| depth(results, name)["rounds"][0].is_object());
    results.filter(is_whole).ok_or_else(|| Failure::Unreadable("the benchmark's JSON".to_owned()))
}

/// The entry of the depth `name` in the list `key` of a benchmark's document.
fn find_depth<'v>(results: &'v Value, key: &str, name: &str) -> &'v Value {
    let mut all = results[key].as_array().into_iter().flatten();
    all.find(|one| one["depth"] == name).unwrap_or(&Value::Null)
}

/// The measurements of the depth `name`, one of [`DEPTHS`].
fn depth<'v>(results: &'v Value, name: &str) -> &'v Value {
    find_depth(results, "depths", name)
}

/// The summary of one figure over all rounds of a depth, in several benchmarks.
fn rounds(benchmarks: &[Value], name: &str, of: impl Fn(&Value) -> f64) -> Summary {
    let all = benchmarks.iter().flat_map(|results| depth(results, name)["rounds"].as_array().into_iter().flatten());
    Summary::of(all.map(of))
}

/// Converts a spread of ratios to percent.
fn percent(value: &Value) -> Summary {
    let of = |name: &str| 100.0 * json_number(&value[name]);
    Summary { min: of("min"), median: of("median"), max: of("max") }
}

/// The summary of a single value.
fn one(value: f64) -> Summary {
    Summary::of([value])
}

/// The rows that compare the pipeline's cost and highest rate with the floor's.
fn pipeline(full: &Value) -> Vec<Row> {
    let ratio = |name: &str, limit| {
        Row::single(format!("{name}, CPU an event, % of the floor"), percent(&depth(full, name)["to_floor"]))
            .with_goal(|ours| Goal::at_most(limit, ours))
    };
    let steps = &full["steps"];
    let sum = |names: &[&str]| names.iter().map(|name| json_number(&steps[*name])).sum::<f64>();
    let receive = sum(&["receive_ns"]);
    let captured = sum(&["receive_ns", "parse_ns", "cache_ns"]);
    let replicated = captured + sum(&["delta_ns", "seal_ns", "send_ns"]);
    // The ratio is missing where no rate was held without loss.
    let held = |name| 100.0 * find_depth(full, "held", name)["to_drain"].as_f64().unwrap_or_default();
    let lost = |name| rounds(slice::from_ref(full), name, |round| json_number(&round["lost"]));
    vec![
        ratio("capture", CAPTURED),
        ratio("replicate", REPLICATED),
        Row::single("capture, by step: % of receiving", one(100.0 * captured / receive)),
        Row::single("replicate, by step: % of receiving", one(100.0 * replicated / receive)),
        Row::single("capture, highest rate without loss, % of the floor", one(held("capture")))
            .with_goal(|ours| Goal::new(format!("≥ {RATE_PERCENT}"), ours.median >= RATE_PERCENT)),
        Row::single("replicate, highest rate without loss, % of the floor", one(held("replicate"))),
        Row::single("capture, events lost", lost("capture")).with_goal(Goal::zero),
        Row::single("replicate, events lost", lost("replicate")).with_goal(Goal::zero),
    ]
}

/// The rows of a large table, compared with a table of `few_flows`.
fn tables(few: &[Value], many: &[Value], few_flows: u32) -> Vec<Row> {
    let cpu = |results| rounds(results, "capture", |round| json_number(&round["cpu"]["total_ns"]));
    let step = |results: &[Value]| Summary::of(results.iter().map(|one| json_number(&one["steps"]["cache_ns"])));
    let idle_figure = |name: &str| Summary::of(many.iter().map(|one| json_number(&one["stock"][name])));
    let idle = |side: &str| {
        let figure = idle_figure(&format!("{side}_idle_percent"));
        Row::single(format!("idle {side} with the large table, % of a core"), figure)
            .with_goal(|ours| Goal::new(format!("< {IDLE_PERCENT}"), ours.median < IDLE_PERCENT))
    };
    let sizes = format!("capture, large table vs {} flows", super::count(few_flows));
    vec![
        Row::both(format!("{sizes}: CPU an event, ns"), [many, few].map(cpu)).with_goal_of_reference(GROWTH),
        Row::both(format!("{sizes}: shard's part of it, ns"), [many, few].map(step)),
        Row::single("memory a flow, primary, bytes", idle_figure("primary_bytes_per_flow"))
            .with_goal(|ours| Goal::at_most(MEMORY_BYTES, ours)),
        Row::single("memory a flow, backup, bytes", idle_figure("backup_bytes_per_flow"))
            .with_goal(|ours| Goal::at_most(MEMORY_BYTES, ours)),
        Row::single("bytes sent a flow, in full batches", idle_figure("told_bytes_per_flow"))
            .with_goal(|ours| Goal::at_most(WIRE_BYTES, ours)),
        idle("primary"),
        idle("backup"),
        Row::single("kernel resync, ms", idle_figure("kernel_resync_ms")),
        Row::single("bulk send to a new backup, ms", idle_figure("peer_resync_ms")),
        Row::single("commit, ms", idle_figure("commit_ms")),
    ]
}

/// The rows that compare a least age with none.
fn least_age(without_age: &[Value], with_age: &[Value]) -> Vec<Row> {
    let both = |of: fn(&Value) -> f64| [with_age, without_age].map(|results| rounds(results, "replicate", of));
    vec![
        Row::both("least age 1 s vs none: bytes sent a flow", both(|round| json_number(&round["wire_bytes_per_flow"])))
            .with_goal_of_reference(AGED),
        Row::both(
            "least age 1 s vs none: backup's CPU an event, ns",
            both(|round| json_number(&round["cpu"]["backups_ns"])),
        )
        .with_goal_of_reference(AGED),
    ]
}
