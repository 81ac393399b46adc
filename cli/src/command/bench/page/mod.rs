//! The results as one page: nothing is fetched, nothing runs. Readable on a phone, in light and dark.

mod plot;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::results::Results;
use super::sections::{About, Section, count, depth_name, head, sections};

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
                    @for line in head(results) { p { (line) } }
                    @for note in &results.notes { p class="note" { (note) } }
                }
                main {
                    @for section in sections(results) {
                        @let alone = matches!(section.about, About::Kernel | About::Depths);
                        section class=[alone.then_some("alone")] {
                            h2 { (section.title) }
                            @if section.about != About::Steps { (table(&section)) } // which are in their plot's legend
                            (plot(results, section.about))
                        }
                    }
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

fn table(section: &Section) -> Markup {
    let remarks = section.rows.iter().any(|row| !row.remark.is_empty());
    html! {
        div class="wide" {
            table {
                thead { tr { th {} @for column in &section.columns { th { (column) } } @if remarks { th {} } } }
                tbody {
                    @for row in &section.rows {
                        tr {
                            td { (row.name) }
                            @for cell in &row.cells { td { (cell) } }
                            @if remarks { td class="remark" { (row.remark) } }
                        }
                    }
                }
            }
        }
    }
}

/// What there is to see besides a table.
fn plot(results: &Results, about: About) -> Markup {
    match about {
        About::Kernel | About::Depths => html! {},
        About::Steps => {
            figure("What an event takes: each step, and the floor", plot::steps(results), &steps_legend(results))
        }
        About::Held => figure("Rate against loss", plot::loss(results), &plot::legend(&plot::loss_series(results))),
        About::Rates => {
            let title = "From the kernel's event to the replica: how many took no longer";
            let measured = results.rates.iter().any(|rate| rate.latency.is_some());
            let svg = measured.then(|| plot::latency(results)).flatten();
            figure(title, svg, &plot::legend(&plot::latency_series(results)))
        }
        About::Stock => figure("Memory against flows", plot::memory(results), &html! {}),
    }
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

fn steps_legend(results: &Results) -> Markup {
    let shown = results.steps.significant().map(|(place, name, ns)| (place, format!("{name}: {} ns", count(ns))));
    plot::legend(&shown.collect::<Vec<_>>())
}
