//! The results as one page: nothing is fetched, nothing runs. Readable on a phone, in light and dark.

mod plot;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::pipeline::Depth;
use super::results::{Limit, Results};
use super::table::{self, count, decimal, hundredths, name};

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub(super) fn page(results: &Results, json: &str) -> String {
    let title =
        format!("ctflow bench: {} load, {} flows", results.settings.load, count(f64::from(results.settings.flows)));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    @for line in table::head(results).lines() { p { (line) } }
                    @for note in &results.notes { p class="note" { (note) } }
                }
                main {
                    (kernel(results))
                    (depths(results))
                    (figure("What an event takes, by step", plot::steps(results), &steps_legend(results)))
                    (held(results))
                    (figure("Rate against loss", plot::loss(results), &plot::legend(&plot::loss_series(results))))
                    @if !results.rates.is_empty() { (rates(results)) }
                    @if results.rates.iter().any(|rate| rate.latency.is_some()) {
                        (figure("From the kernel's event to the replica: how many took no longer", plot::latency(results),
                            &plot::legend(&plot::latency_series(results))))
                    }
                    (stock(results))
                    (figure("Memory against flows", plot::memory(results), &html! {}))
                    details {
                        summary { "Everything, as JSON" }
                        pre { (json) }
                    }
                }
            }
        }
    }
    .into_string()
}

/// A plot with its title, and what its colours mean.
fn figure(title: &str, svg: Option<String>, legend: &Markup) -> Markup {
    html! {
        @if let Some(svg) = svg {
            figure {
                figcaption { (title) }
                div class="plot" role="img" aria-label=(title) { (PreEscaped(svg)) }
                (legend)
            }
        }
    }
}

fn section(title: &str, head: &[&str], rows: &[Vec<String>]) -> Markup {
    html! {
        section {
            h2 { (title) }
            div class="wide" {
                table {
                    thead { tr { @for cell in head { th { (cell) } } } }
                    tbody {
                        @for row in rows { tr { @for cell in row { td { (cell) } } } }
                    }
                }
            }
        }
    }
}

fn kernel(results: &Results) -> Markup {
    let kernel = &results.kernel;
    let rows = [
        vec!["nobody listens".to_owned(), count(kernel.unheard_flows_per_second.median)],
        vec!["events thrown away".to_owned(), count(kernel.heard_flows_per_second.median)],
        vec!["delivery, ns an event".to_owned(), count(kernel.delivery_ns_per_event)],
    ];
    section("The kernel alone", &["", "flows/s"], &rows)
}

fn depths(results: &Results) -> Markup {
    let heard = results.depths.iter().filter(|measured| measured.depth != Depth::Unheard);
    let rows: Vec<_> = heard
        .map(|measured| {
            let floor = measured.to_floor.map_or_else(String::new, |spread| format!("{:.2}", spread.median));
            vec![
                format!("{}, {}", name(measured.depth), measured.backend),
                count(measured.spread(|one| one.events_per_second).median),
                count(measured.rounds.iter().map(|one| one.lost).sum::<u64>() as f64),
                count(measured.spread(|one| one.cpu.total_ns).median),
                count(measured.spread(|one| one.cpu.backups_ns).median),
                floor,
                count(measured.spread(|one| one.wakeups_per_second).median),
            ]
        })
        .collect();
    let head = ["", "events/s", "lost", "CPU ns/event", "backups", "beside floor", "wake-ups/s"];
    section("Events", &head, &rows)
}

fn steps_legend(results: &Results) -> Markup {
    let named = results.steps.named();
    let shown: Vec<_> = named
        .iter()
        .enumerate()
        .filter(|(_, (_, ns))| *ns >= 0.5)
        .map(|(index, (name, ns))| (index, format!("{name}: {} ns", count(*ns))))
        .collect();
    plot::legend(&shown)
}

fn held(results: &Results) -> Markup {
    let rows: Vec<_> = results
        .held
        .iter()
        .map(|held| {
            let limit = match held.limit {
                Limit::Load => "the load",
                Limit::Loss => "loss",
                Limit::None => "nothing was held",
            };
            let rate = held.events_per_second.map_or_else(|| "-".to_owned(), count);
            let part = held.to_drain.map_or_else(String::new, |part| format!("{part:.2}"));
            vec![name(held.depth).to_owned(), rate, part, limit.to_owned()]
        })
        .collect();
    section("Highest rate without loss", &["", "events/s", "of drained", "limited by"], &rows)
}

fn rates(results: &Results) -> Markup {
    let rows: Vec<_> = results
        .rates
        .iter()
        .map(|rate| {
            let ms = |of: fn(&super::results::Latency) -> u64| {
                rate.latency.as_ref().map_or_else(String::new, |latency| decimal(of(latency) as f64 / 1e3))
            };
            vec![
                count(rate.outcome.events_per_second),
                count(rate.outcome.cpu.total_ns),
                ms(|latency| latency.p50_us),
                ms(|latency| latency.p99_us),
                ms(|latency| latency.p999_us),
                ms(|latency| latency.max_us),
            ]
        })
        .collect();
    section("At a steady rate", &["events/s", "CPU ns/event", "p50 ms", "p99", "p99.9", "max"], &rows)
}

fn stock(results: &Results) -> Markup {
    let stock = &results.stock;
    let backup = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), show);
    let row = |name: &str, primary: String, backup: String| vec![name.to_owned(), primary, backup];
    let rows = [
        row("bytes a flow", decimal(stock.primary_bytes_per_flow), backup(stock.backup_bytes_per_flow, decimal)),
        row("% of a core", hundredths(stock.primary_idle_percent), backup(stock.backup_idle_percent, hundredths)),
        row("known again, ms", decimal(stock.kernel_resync_ms), backup(stock.peer_resync_ms, decimal)),
        row("bytes told a flow", backup(stock.told_bytes_per_flow, decimal), "-".to_owned()),
        row("committed, ms", "-".to_owned(), backup(stock.commit_ms, decimal)),
    ];
    section(&format!("{} flows, idle", count(stock.flows as f64)), &["", "primary", "backup"], &rows)
}
