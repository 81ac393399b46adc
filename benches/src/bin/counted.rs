//! Holds the instructions that were counted against those that are recorded.
//!
//! ```text
//! cargo bench -p ctflow-benches --bench instructions -- --save-summary=json
//! cargo run -p ctflow-benches --bin counted            fails where a stage takes 5 % more than is recorded
//! cargo run -p ctflow-benches --bin counted record     records what was counted, to be committed with what changed it
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

/// What is recorded: instructions by stage.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");
/// Where gungraun leaves a folder for each stage.
const COUNTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/gungraun/ctflow-benches/instructions/stages");
/// Where a summary has the count.
const INSTRUCTIONS: &str = "/profiles/0/data/total/metrics/Ir/values/new";
/// So many percent more than is recorded are growth, and less are a reason to record anew.
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

/// Whether all is as recorded.
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

/// A line for each stage, and whether none has grown, gone or come.
fn compare(recorded: &Counts, counted: &Counts) -> (Vec<String>, bool) {
    let mut is_held = true;
    let mut stages: Vec<&String> = recorded.keys().chain(counted.keys()).collect();
    stages.sort_unstable();
    stages.dedup();
    let line = |stage: &String| {
        let (Some(before), Some(now)) = (recorded.get(stage), counted.get(stage)) else {
            is_held = false;
            return format!("{stage}: counted or recorded, not both: record it");
        };
        let change = *now as f64 / (*before).max(1) as f64 - 1.0;
        let verdict = if now * 100 > before * (100 + TOLERANCE_PERCENT) {
            is_held = false;
            "GROWN: mend it, or record it with the reason in the commit"
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
