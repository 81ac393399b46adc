//! The plots of the page. Colours are placeholders, which the style sheet replaces for light and dark.

use std::error::Error;

use maud::{Markup, html};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::count;
use crate::command::bench::pipeline::Depth;
use crate::command::bench::results::Results;

/// Size in pixels: as wide as a page on a phone, so that letters there are as large as the text.
const SIZE: (u32, u32) = (320, 220);
/// Font and size of all letters.
const LETTERS: (&str, u32) = ("sans-serif", 12);
/// The placeholder for the colour of text and axes.
const INK: RGBColor = RGBColor(0, 0, 1);
/// The placeholder for the colour of grid lines.
const LINE: RGBColor = RGBColor(0, 0, 2);
/// The number of colours. More series use them again.
const SERIES: u8 = 7;

type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;
type DrawResult = Result<(), Box<dyn Error>>;

/// Returns the placeholder for the colour of a series.
fn series_colour(index: usize) -> RGBColor {
    RGBColor(0, 0, 0x10 + u8::try_from(index % usize::from(SERIES)).unwrap_or(0))
}

/// Returns the names of the series of a plot, with their colours.
pub(super) fn legend(names: &[(usize, String)]) -> Markup {
    html! {
        ul class="legend" {
            @for (index, name) in names {
                li { i class=(format!("s{}", index % usize::from(SERIES))) {} (name) }
            }
        }
    }
}

/// Returns a plot as SVG; `None` if it cannot be drawn, since the tables have all figures.
fn draw_svg(draw: impl FnOnce(&Area<'_>) -> DrawResult) -> Option<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let done = draw(&area).and_then(|()| Ok(area.present()?));
    drop(area);
    done.ok().map(|()| svg)
}

/// An axis that starts at 0.
struct Axis<'a> {
    name: &'a str,
    max: f64,
    /// Returns the label of a value.
    label: &'a dyn Fn(&f64) -> String,
}

/// Draws lines through points, with their axes.
fn draw_lines(area: &Area<'_>, x: &Axis<'_>, y: &Axis<'_>, series_of: &[(usize, Vec<(f64, f64)>)]) -> DrawResult {
    let mut chart = ChartBuilder::on(area);
    let chart = chart.margin(8).margin_right(24).x_label_area_size(36).y_label_area_size(52);
    let mut chart = chart.build_cartesian_2d(0.0..x.max, 0.0..y.max)?;
    chart
        .configure_mesh()
        .x_desc(x.name)
        .y_desc(y.name)
        .x_labels(4)
        .y_labels(5)
        .x_label_formatter(x.label)
        .y_label_formatter(y.label)
        .label_style(LETTERS.into_font().color(&INK))
        .axis_desc_style(LETTERS.into_font().color(&INK))
        .axis_style(INK)
        .bold_line_style(LINE)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (index, points) in series_of {
        let colour = series_colour(*index);
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 2, colour.filled())))?;
    }
    Ok(())
}

/// Returns the end of an axis: 5 % above the greatest value, so that no point touches the edge, and at least `least`.
fn axis_max(values: impl Iterator<Item = f64>, least: f64) -> f64 {
    (values.fold(0.0, f64::max) * 1.05).max(least)
}

/// Returns points of events a second and of the share lost in percent, of all trials of a depth.
fn losses(results: &Results, depth: Depth) -> Vec<(f64, f64)> {
    let rounds = results.depths.iter().filter(|measured| measured.depth == depth).flat_map(|measured| &measured.rounds);
    let trials = results.held.iter().filter(|held| held.depth == depth).flat_map(|held| &held.trials);
    let rates = results.rates.iter().map(|rate| &rate.outcome).filter(|outcome| outcome.depth == depth);
    let mut points: Vec<(f64, f64)> = rounds
        .chain(trials)
        .chain(rates)
        .map(|outcome| {
            let events = outcome.events_per_second * outcome.seconds;
            (outcome.events_per_second, 100.0 * outcome.lost as f64 / (events + outcome.lost as f64).max(1.0))
        })
        .collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points
}

/// The depths in the plot of losses.
const CAPTURED: [Depth; 2] = [Depth::Capture, Depth::Replicate];

/// Returns the names of the series in the plot of losses.
pub(super) fn loss_series(results: &Results) -> Vec<(usize, String)> {
    let shown = CAPTURED.iter().enumerate().filter(|(_, depth)| !losses(results, **depth).is_empty());
    shown.map(|(index, depth)| (index, super::depth_name(*depth).to_owned())).collect()
}

/// Returns the plot of losses against the rate.
pub(super) fn loss(results: &Results) -> Option<String> {
    let points: Vec<(usize, Vec<(f64, f64)>)> = CAPTURED
        .iter()
        .map(|depth| losses(results, *depth))
        .enumerate()
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let all = || points.iter().flat_map(|(_, points)| points);
    let x = Axis { name: "events a second", max: axis_max(all().map(|point| point.0), 1.0), label: &thousands };
    let percent = |value: &f64| format!("{value:.1}");
    let y = Axis { name: "% lost", max: axis_max(all().map(|point| point.1), 1.0), label: &percent };
    draw_svg(|area| draw_lines(area, &x, &y, &points))
}

/// Returns the names of the series in the plot of latencies.
pub(super) fn latency_series(results: &Results) -> Vec<(usize, String)> {
    let shown = results.rates.iter().enumerate().filter(|(_, rate)| rate.latency.is_some());
    shown.map(|(index, rate)| (index, format!("{} events/s", count(rate.outcome.events_per_second)))).collect()
}

/// Returns the plot of latencies: the share of changes that took no longer than a time.
pub(super) fn latency(results: &Results) -> Option<String> {
    let curve = |distribution: &[(u64, u64)]| {
        let all: u64 = distribution.iter().map(|(_, count)| count).sum();
        let mut so_far = 0;
        let points = distribution.iter().map(|(us, count)| {
            so_far += count;
            (*us as f64 / 1e3, 100.0 * so_far as f64 / (all as f64).max(1.0))
        });
        points.collect::<Vec<_>>()
    };
    let points: Vec<(usize, Vec<(f64, f64)>)> = results
        .rates
        .iter()
        .enumerate()
        .filter_map(|(index, rate)| Some((index, curve(&rate.latency.as_ref()?.distribution))))
        .collect();
    let longest = axis_max(points.iter().flat_map(|(_, points)| points).map(|point| point.0), 1.0);
    let (ms, percent) = (|value: &f64| format!("{value:.1}"), |value: &f64| format!("{value:.0}"));
    let x = Axis { name: "milliseconds", max: longest, label: &ms };
    let y = Axis { name: "% of changes", max: 100.0, label: &percent };
    draw_svg(|area| draw_lines(area, &x, &y, &points))
}

/// Returns the plot of memory against flows.
pub(super) fn memory(results: &Results) -> Option<String> {
    let points: Vec<(f64, f64)> =
        results.stock.memory.iter().map(|(flows, bytes)| (*flows as f64, *bytes as f64 / f64::from(1 << 20))).collect();
    let x = Axis { name: "flows", max: axis_max(points.iter().map(|point| point.0), 1.0), label: &thousands };
    let mebibytes = |value: &f64| format!("{value:.1}");
    let y = Axis { name: "MiB", max: axis_max(points.iter().map(|point| point.1), 1.0), label: &mebibytes };
    draw_svg(|area| draw_lines(area, &x, &y, &[(0, points)]))
}

/// Returns the plot of the steps: a bar for the floor, and one for capturing or replicating, divided into steps.
pub(super) fn steps(results: &Results) -> Option<String> {
    let floor = results.depths.iter().find(|measured| measured.depth == Depth::Drain)?;
    let floor = floor.spread(|one| one.cpu.total_ns).median;
    let named = results.steps.named();
    let all: f64 = named.iter().map(|(_, ns)| ns).sum();
    let longest = axis_max([floor, all].into_iter(), 1.0);
    draw_svg(|area| {
        let mut chart = ChartBuilder::on(area);
        let mut chart = chart
            .margin(8)
            .margin_right(24)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..longest, 0.0..2.0)?;
        let bar = |value: &f64| match value {
            value if (value - 0.5).abs() < 0.01 => "floor".to_owned(),
            value if (value - 1.5).abs() < 0.01 => "by step".to_owned(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .x_desc("nanoseconds an event")
            .x_labels(4)
            .y_labels(5)
            .x_label_formatter(&thousands)
            .y_label_formatter(&bar)
            .label_style(LETTERS.into_font().color(&INK))
            .axis_desc_style(LETTERS.into_font().color(&INK))
            .axis_style(INK)
            .bold_line_style(LINE)
            .light_line_style(TRANSPARENT)
            .disable_y_mesh()
            .draw()?;
        chart.draw_series([Rectangle::new([(0.0, 0.2), (floor, 0.8)], series_colour(0).filled())])?;
        let mut from = 0.0;
        for (index, (_, ns)) in named.iter().enumerate() {
            let to = from + ns;
            chart.draw_series([Rectangle::new([(from, 1.2), (to, 1.8)], series_colour(index).filled())])?;
            from = to;
        }
        Ok(())
    })
}

/// Returns the label of a value with commas between the thousands.
fn thousands(value: &f64) -> String {
    count(*value)
}
