//! Compares the instructions counted for each stage with those recorded in `instructions.json`.
//!
//! ```text
//! cargo bench -p ctflow-benches --bench instructions -- --save-summary=json
//! cargo run -p ctflow-benches --bin counted            fails if a stage takes over 5 % more than recorded
//! cargo run -p ctflow-benches --bin counted record     records the counts, to commit with the change behind them
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

/// The file with the recorded instructions of each stage.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");
/// The folder where gungraun creates one for each stage.
const COUNTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/gungraun/ctflow-benches/instructions/stages");
/// The JSON pointer to the count in a summary.
const INSTRUCTIONS: &str = "/profiles/0/data/total/metrics/Ir/values/new";
/// The tolerance in percent: beyond it, more instructions are growth, and fewer a reason to record again.
const TOLERANCE_PERCENT: u64 = 5;

type Counts = BTreeMap<String, u64>;

fn main() -> ExitCode {
    let record = std::env::args().nth(1).is_some_and(|word| word == "record");
    match run(record) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!(
                "counted: {error}; count with `cargo bench -p ctflow-benches --bench instructions -- --save-summary=json`"
            );
            ExitCode::FAILURE
        }
    }
}

/// Records the counts, or compares them with the recorded ones; returns whether no stage has grown, is missing or is
/// new.
fn run(record: bool) -> Result<bool, Box<dyn Error>> {
    let counted = counted(Path::new(COUNTED))?;
    if record {
        fs::write(RECORDED, serde_json::to_string_pretty(&counted)? + "\n")?;
        return Ok(true);
    }
    let recorded: Counts = serde_json::from_str(&fs::read_to_string(RECORDED)?)?;
    let (lines, is_held) = compare(&recorded, &counted);
    lines.iter().for_each(|line| println!("{line}"));
    Ok(is_held)
}

/// Reads the counts of all stages from gungraun's summaries.
fn counted(folder: &Path) -> Result<Counts, Box<dyn Error>> {
    let mut counts = Counts::new();
    for stage in fs::read_dir(folder)? {
        let path = stage?.path().join("summary.json");
        let summary: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let count = summary.pointer(INSTRUCTIONS).and_then(Value::as_u64);
        let name = summary.get("function_name").and_then(Value::as_str);
        let (name, count) = name.zip(count).ok_or_else(|| format!("{} has no count", path.display()))?;
        counts.insert(name.to_owned(), count);
    }
    Ok(counts)
}

/// Returns a line for each stage, and whether no stage has grown, is missing or is new.
fn compare(recorded: &Counts, counted: &Counts) -> (Vec<String>, bool) {
    let mut is_held = true;
    let mut stages: Vec<&String> = recorded.keys().chain(counted.keys()).collect();
    stages.sort_unstable();
    stages.dedup();
    let line = |stage: &String| {
        let (Some(before), Some(now)) = (recorded.get(stage), counted.get(stage)) else {
            is_held = false;
            return format!("{stage}: not counted or not recorded; record it");
        };
        let change = *now as f64 / (*before).max(1) as f64 - 1.0;
        let verdict = if now * 100 > before * (100 + TOLERANCE_PERCENT) {
            is_held = false;
            "GROWN: fix it, or record it with the reason in the commit"
        } else if now * 100 < before * (100 - TOLERANCE_PERCENT) {
            "less: record it"
        } else {
            "held"
        };
        format!("{stage}: {now} instructions, {:+.1} % of {before}: {verdict}", 100.0 * change)
    };
    (stages.into_iter().map(line).collect(), is_held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> Counts {
        counts.iter().map(|(stage, count)| ((*stage).to_owned(), *count)).collect()
    }

    #[test]
    fn growth_or_a_missing_stage_fails() {
        let recorded = counts(&[("parse", 1_000), ("cache", 1_000)]);
        let held = |counted: &[(&str, u64)]| compare(&recorded, &counts(counted)).1;
        assert!(held(&[("parse", 1_050), ("cache", 500)]));
        assert!(!held(&[("parse", 1_051), ("cache", 1_000)]));
        assert!(!held(&[("parse", 1_000)]));
        assert!(!held(&[("parse", 1_000), ("cache", 1_000), ("seal", 1)]));
    }

    #[test]
    fn every_stage_is_recorded() {
        let recorded: Counts = serde_json::from_str(include_str!("../../instructions.json")).unwrap();
        let stages: Vec<&str> = recorded.keys().map(String::as_str).collect();
        assert_eq!(stages, ["apply", "cache", "delta", "parse", "seal"]);
    }
}
