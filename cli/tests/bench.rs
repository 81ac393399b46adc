//! A small `ctflow bench`: it has every figure, and JSON and page are as BENCH.md describes them. Alone in its test
//! program, so that no other test takes its cores.
#![allow(clippy::unwrap_used, clippy::panic)] // tests and their helpers may fail by both

use std::fs;
use std::path::Path;
use std::process::Command;

use ctflow_lab::or_skip;
use serde_json::Value;

const DESCRIPTION: &str = include_str!("../../BENCH.md");
/// Widths of the page in pixels: on a phone and on a desktop.
const WIDTHS: [u32; 2] = [360, 1280];

fn bench(report: &Path) -> Value {
    let small =
        ["bench", "--load", "tcp", "--flows", "200", "--rate", "1000", "--seconds", "1", "--rounds", "1", "--json"];
    let output = Command::new(env!("CARGO_BIN_EXE_ctflow")).args(small).arg("--report").arg(report).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_unwritable_report_is_refused_before_measuring() {
    let folder = tempfile::tempdir().unwrap();
    let small = ["bench", "--load", "netlink", "--flows", "1", "--seconds", "1", "--rounds", "1", "--replicas", "0"];
    let output = Command::new(env!("CARGO_BIN_EXE_ctflow")).args(small).arg("--report").arg(folder.path()).output();
    let output = output.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cannot write the report"), "{stderr}");
    assert!(output.stdout.is_empty() && output.status.code() == Some(1));
}

/// Appends every key of a document, at any depth, to `found`.
fn keys(document: &Value, found: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.push(key.clone());
                keys(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

fn median(spread: &Value) -> f64 {
    spread["median"].as_f64().unwrap()
}

#[test]
fn a_small_benchmark_reports_every_figure() {
    or_skip!(ctflow_lab::probe());
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let results = bench(&report);

    let mut found = Vec::new();
    keys(&results, &mut found);
    let words: Vec<&str> = DESCRIPTION.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
    let unknown: Vec<&String> = found.iter().filter(|key| !words.contains(&key.as_str())).collect();
    assert!(unknown.is_empty(), "BENCH.md does not describe {unknown:?}");

    let depths = results["depths"].as_array().unwrap();
    let names: Vec<&str> = depths.iter().map(|depth| depth["depth"].as_str().unwrap()).collect();
    assert_eq!(names, ["unheard", "drain", "capture", "replicate"]);
    for depth in &depths[2..] {
        assert!((0.5..20.0).contains(&median(&depth["to_floor"])), "{depth}");
    }
    for depth in &depths[1..] {
        let round = &depth["rounds"][0];
        assert_eq!((&round["lost"], &round["agreed"]), (&0.into(), &true.into()), "{depth}");
        let rate = round["events_per_second"].as_f64().unwrap() + round["late"].as_f64().unwrap() * 7.0;
        assert!((700.0..1_300.0).contains(&rate), "{rate} of 1,000: {depth}");
        assert!(round["cpu"]["total_ns"].as_f64().unwrap() > 0.0, "{depth}");
    }
    let replicated = &depths[3]["rounds"][0];
    assert!(replicated["wire_bytes_per_flow"].as_f64().unwrap() > 20.0, "{replicated}");
    assert!(replicated["cpu"]["backups_ns"].as_f64().unwrap() > 0.0, "{replicated}");
    let stock = &results["stock"];
    assert_eq!(stock["flows"], 200);
    assert_eq!(stock["commit_refused"], 0);
    for figure in ["primary_bytes_per_flow", "kernel_resync_ms", "peer_resync_ms", "commit_ms"] {
        assert!(stock[figure].as_f64().unwrap() > 0.0, "{figure}: {stock}");
    }
    let steps = results["steps"].as_object().unwrap();
    assert!(steps.len() == 7 && steps.values().all(|ns| ns.as_f64().unwrap() > 0.0), "{steps:?}");
    let held = results["held"].as_array().unwrap();
    assert_eq!(held.iter().map(|held| &held["limit"]).collect::<Vec<_>>(), ["load", "load"]);
    let latency = &results["rates"][2]["latency"];
    assert!(latency["count"].as_u64().unwrap() > 100 && latency["p50_us"].as_u64() <= latency["max_us"].as_u64());
    check_page(&report, folder.path());
}

/// Returns what the script in the page measures in a browser of this width, with a dark or a light scheme, or why there
/// is no browser.
fn page_metrics(page: &Path, width: u32, dark: bool) -> Result<Value, String> {
    let profile = tempfile::tempdir().unwrap();
    let flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom"];
    let quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"];
    let scheme =
        if dark { "--blink-settings=preferredColorScheme=0" } else { "--blink-settings=preferredColorScheme=1" };
    let output = Command::new("chromium")
        .args(flags)
        .args(quiet)
        .arg(scheme)
        .arg(format!("--window-size={width},800"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .map_err(|error| format!("chromium: {error}"))?;
    let dom = String::from_utf8(output.stdout).unwrap();
    let seen = dom.split_once("data-seen=\"").and_then(|(_, rest)| rest.split_once('"'));
    let (seen, _) = seen.unwrap_or_else(|| panic!("the browser returns no measurements: {dom}"));
    Ok(serde_json::from_str(&seen.replace('~', "\"")).unwrap())
}

/// Checks the page's layout and colours in a browser.
fn check_page(report: &Path, folder: &Path) {
    // The page has no script; this one is added for the test and measures the layout.
    const MEASURE: &str = r#"<script>
        const style = (element, name) => getComputedStyle(element)[name];
        const plots = [...document.querySelectorAll('.plot svg')].map(svg => svg.getBoundingClientRect());
        const text = document.querySelector('.plot svg text');
        const seen = [
            document.documentElement.scrollWidth, innerWidth, plots.length, Math.min(...plots.map(plot => plot.width)),
            Math.min(...plots.map(plot => plot.height)), text.getBoundingClientRect().height,
            style(document.body, 'backgroundColor'), style(document.body, 'color'), style(text, 'fill'),
            performance.getEntriesByType('resource').length,
        ];
        document.body.dataset.seen = JSON.stringify(seen).replaceAll('"', '~');
    </script>"#;
    let watched = folder.join("watched.html");
    let page = fs::read_to_string(report).unwrap();
    let foreign = ["<script", "src=", "href="].into_iter().find(|word| page.contains(word));
    assert_eq!(foreign, None, "the page fetches nothing and runs no script");
    fs::write(&watched, page.replace("</body>", &format!("{MEASURE}</body>"))).unwrap();
    for (width, dark) in WIDTHS.into_iter().flat_map(|width| [(width, false), (width, true)]) {
        let seen = or_skip!(page_metrics(&watched, width, dark));
        let number = |at: usize| seen[at].as_f64().unwrap();
        assert!(number(0) <= number(1), "the page is wider than the window of {width}: {seen}");
        assert_eq!((number(2), number(9)), (4.0, 0.0), "four plots, nothing fetched: {seen}");
        assert!(number(3) > 250.0 && number(4) > 150.0 && number(5) >= 9.0, "plots are readable at {width}: {seen}");
        let (paper, ink, letters) = (luminance(&seen[6]), luminance(&seen[7]), luminance(&seen[8]));
        assert_eq!(dark, paper < ink, "{seen}");
        assert!(contrast(paper, ink) > 7.0 && contrast(paper, letters) > 7.0, "{seen}");
    }
}

/// Relative luminance of `rgb(r, g, b)` (WCAG 2.1).
fn luminance(colour: &Value) -> f64 {
    let text = colour.as_str().unwrap();
    let numbers = text.trim_start_matches("rgb(").trim_end_matches(')').split(", ");
    let linear = numbers
        .map(|number| number.parse::<f64>().unwrap() / 255.0)
        .map(|part| if part <= 0.03928 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) });
    linear.zip([0.2126, 0.7152, 0.0722]).map(|(part, weight)| part * weight).sum()
}

fn contrast(one: f64, other: f64) -> f64 {
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}
