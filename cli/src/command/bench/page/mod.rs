//! The results as one HTML page. It fetches nothing, runs no script, and is readable on a phone, in light and dark.

mod plot;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::results::Results;
use super::sections::{About, Section, count, depth_name, head, sections};

const STYLE: &str = include_str!("page.css");

/// Returns the whole page. `json` is shown in it.
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
                            @if section.about != About::Steps { (table(&section)) } // the plot's legend has the steps
                            (plot(results, section.about))
                        }
                    }
                    details {
                        summary { "All results, as JSON" }
                        pre { (json) }
                    }
                }
            }
        }
    }
    .into_string()
}

/// Returns a section as a table.
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

/// Returns the plot of a section, if it has one.
fn plot(results: &Results, about: About) -> Markup {
    match about {
        About::Kernel | About::Depths => html! {},
        About::Steps => {
            figure("CPU time of an event: each step, and the floor", plot::steps(results), &steps_legend(results))
        }
        About::Held => figure("Rate against loss", plot::loss(results), &plot::legend(&plot::loss_series(results))),
        About::Rates => {
            let title = "Latency from the kernel's event to the replica: share that took no longer";
            let measured = results.rates.iter().any(|rate| rate.latency.is_some());
            let svg = measured.then(|| plot::latency(results)).flatten();
            figure(title, svg, &plot::legend(&plot::latency_series(results)))
        }
        About::Stock => figure("Memory against flows", plot::memory(results), &html! {}),
    }
}

/// Returns a plot with its title and legend; nothing without a plot.
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

/// Returns the legend of the steps' plot, with the CPU time of each step.
fn steps_legend(results: &Results) -> Markup {
    let names = results.steps.significant().map(|(index, name, ns)| (index, format!("{name}: {} ns", count(ns))));
    plot::legend(&names.collect::<Vec<_>>())
}
