//! `bench`: `ctflow bench` by itself, for what it says of the pipeline beside the floor of only receiving, of large tables, and of
//! what a least age saves.
//!
//! Three benchmarks: questions and connections as fast as they come; the same at a steady rate with and without a least age that
//! three of four flows never reach, in turns; and tables of 100,000 flows and of a million, changed at a steady rate by requests,
//! in turns. The rate is the same for both sizes, for the kernel makes fewer events of a large table, which come to the pipeline
//! in smaller batches. Ratios to the floor are those of the same trial.

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
/// Beside which the large table is held.
const FEW_FLOWS: u32 = 100_000;
/// Rounds of a benchmark for each that was asked for: a trial is short, and noise shows in each.
const ROUNDS: usize = 3;
/// Events a second at which a least age is looked at.
const STEADY: &str = "100000";
/// Longer than a question lives.
const LEAST_AGE_MS: &str = "1000";
/// No benchmark takes longer.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(1_800);

/// CPU an event, in percent of the floor's.
const CAPTURED: f64 = 130.0;
const REPLICATED: f64 = 170.0;
/// Of the rate with a listener that throws events away, in percent.
const RATE_PERCENT: f64 = 95.0;
const MEMORY_BYTES: f64 = 128.0;
const WIRE_BYTES: f64 = 48.0;
/// CPU an event, of a million flows beside 100,000.
const GROWTH: f64 = 1.15;
/// Of what it is without a least age.
const AGED: f64 = 1.0 / 3.0;
/// Of a core.
const IDLE_PERCENT: f64 = 0.5;

/// What every benchmark here measures.
const DEPTHS: [&str; 3] = ["drain", "capture", "replicate"];

/// Runs it.
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
    let full = bench("as fast as it goes", rounds, &[])?;
    let few_flows = FEW_FLOWS.min(flows);
    let (few, many) = (few_flows.to_string(), flows.to_string());
    let (mut young, mut aged, mut with_few, mut with_many) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let steady = |what, arguments: &[&str]| bench(what, ROUNDS, &[&["--rate", STEADY][..], arguments].concat());
        young.push(steady("told at once", &[])?);
        aged.push(steady("told when older than questions get", &["--min-age", LEAST_AGE_MS])?);
        with_few.push(steady("few flows", &["--load", "netlink", "--flows", &few])?);
        with_many.push(steady("many flows", &["--load", "netlink", "--flows", &many])?);
    }
    let mut rows = pipeline(&full);
    rows.extend(tables(&with_few, &with_many, few_flows));
    rows.extend(least_age(&young, &aged));
    let title = format!("bench: ctflow bench, {rounds} rounds; the large table has {} flows", super::count(flows));
    let mut notes: Vec<String> = note.into_iter().collect();
    notes.extend([&young, &aged, &with_few, &with_many].into_iter().flatten().chain([&full]).flat_map(collect_notes));
    notes.sort();
    notes.dedup();
    Ok(Table { title, names: [ours.name.clone(), String::new()], rows, notes })
}

/// What has to be known of a benchmark: its own notes, and whether a steady rate was too much.
fn collect_notes(results: &Value) -> Vec<String> {
    let notes = results["notes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let rate = &results["settings"]["rate"];
    let lost = DEPTHS.map(|name| rounds(slice::from_ref(results), name, |round| json_number(&round["lost"])).max);
    let losing =
        (rate.is_u64() && lost.iter().any(|lost| *lost > 0.0)).then(|| format!("events were lost at {rate} a second"));
    notes.map(str::to_owned).chain(losing).collect()
}

fn run_bench(program: &Program, arguments: &[&str]) -> Result<Value, Failure> {
    let arguments = [&["bench", "--json"][..], arguments].concat();
    let ended = Process::start(program, &arguments)?.run_to_end(LONGEST)?;
    let results: Option<Value> = serde_json::from_slice(&ended.output).ok();
    let is_whole = |results: &Value| DEPTHS.iter().all(|name| depth(results, name)["rounds"][0].is_object());
    results.filter(is_whole).ok_or_else(|| Failure::Unreadable("the benchmark's JSON".to_owned()))
}

/// What a benchmark says under `key` of one of [`DEPTHS`].
fn find_depth<'v>(results: &'v Value, key: &str, name: &str) -> &'v Value {
    let mut all = results[key].as_array().into_iter().flatten();
    all.find(|one| one["depth"] == name).unwrap_or(&Value::Null)
}

/// One of [`DEPTHS`].
fn depth<'v>(results: &'v Value, name: &str) -> &'v Value {
    find_depth(results, "depths", name)
}

/// A figure of all rounds of a depth of some benchmarks.
fn rounds(benchmarks: &[Value], name: &str, of: impl Fn(&Value) -> f64) -> Summary {
    let all = benchmarks.iter().flat_map(|results| depth(results, name)["rounds"].as_array().into_iter().flatten());
    Summary::of(all.map(of))
}

/// A spread of ratios, in percent.
fn percent(value: &Value) -> Summary {
    let of = |name: &str| 100.0 * json_number(&value[name]);
    Summary { min: of("min"), median: of("median"), max: of("max") }
}

fn one(value: f64) -> Summary {
    Summary::of([value])
}

/// What the pipeline costs beside the floor, and whether it keeps up.
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
    // None where no rate was held.
    let held = |name| 100.0 * find_depth(full, "held", name)["to_drain"].as_f64().unwrap_or_default();
    let lost = |name| rounds(slice::from_ref(full), name, |round| json_number(&round["lost"]));
    vec![
        ratio("capture", CAPTURED),
        ratio("replicate", REPLICATED),
        Row::single("capture, by step: % of receiving", one(100.0 * captured / receive)),
        Row::single("replicate, by step: % of receiving", one(100.0 * replicated / receive)),
        Row::single("highest rate without loss, captured, % of that drained", one(held("capture")))
            .with_goal(|ours| Goal::new(format!("≥ {RATE_PERCENT}"), ours.median >= RATE_PERCENT)),
        Row::single("likewise, replicated", one(held("replicate"))),
        Row::single("events lost, captured", lost("capture")).with_goal(Goal::zero),
        Row::single("events lost, replicated", lost("replicate")).with_goal(Goal::zero),
    ]
}

/// What a large table costs, beside one of `few_flows`.
fn tables(few: &[Value], many: &[Value], few_flows: u32) -> Vec<Row> {
    let cpu = |results| rounds(results, "capture", |round| json_number(&round["cpu"]["total_ns"]));
    let step = |results: &[Value]| Summary::of(results.iter().map(|one| json_number(&one["steps"]["cache_ns"])));
    let stock = |name: &str| Summary::of(many.iter().map(|one| json_number(&one["stock"][name])));
    let idle = |side: &str| {
        Row::single(format!("idle {side} with the large table, % of a core"), stock(&format!("{side}_idle_percent")))
            .with_goal(|ours| Goal::new(format!("< {IDLE_PERCENT}"), ours.median < IDLE_PERCENT))
    };
    let captured = format!("captured, large table beside {} flows: CPU an event, ns", super::count(few_flows));
    vec![
        Row::both(captured, [many, few].map(cpu)).with_goal_of_reference(GROWTH),
        Row::both("likewise, of that into the shard", [many, few].map(step)),
        Row::single("memory a flow, primary, bytes", stock("primary_bytes_per_flow"))
            .with_goal(|ours| Goal::at_most(MEMORY_BYTES, ours)),
        Row::single("memory a flow, backup, bytes", stock("backup_bytes_per_flow"))
            .with_goal(|ours| Goal::at_most(MEMORY_BYTES, ours)),
        Row::single("bytes of datagrams a flow, in full batches", stock("told_bytes_per_flow"))
            .with_goal(|ours| Goal::at_most(WIRE_BYTES, ours)),
        idle("primary"),
        idle("backup"),
        Row::single("flows known again from the kernel, ms", stock("kernel_resync_ms")),
        Row::single("flows told to a new backup, ms", stock("peer_resync_ms")),
        Row::single("flows committed, ms", stock("commit_ms")),
    ]
}

/// What a least age saves.
fn least_age(young: &[Value], aged: &[Value]) -> Vec<Row> {
    let both = |of: fn(&Value) -> f64| [aged, young].map(|results| rounds(results, "replicate", of));
    vec![
        Row::both(
            "a second's least age beside none: bytes of datagrams a flow",
            both(|round| json_number(&round["wire_bytes_per_flow"])),
        )
        .with_goal_of_reference(AGED),
        Row::both("likewise: CPU of the backup an event, ns", both(|round| json_number(&round["cpu"]["backups_ns"])))
            .with_goal_of_reference(AGED),
    ]
}
