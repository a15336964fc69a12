//! A comparison as a page, with the front drawn.

use maud::{Markup, html};

use super::{Comparison, Row, front};
use crate::render::number::{NONE, figure_or_none, giga, interval, mega};
use crate::render::page::page;
use crate::render::scatter::{Point, scatter};

pub(super) fn html(comparison: &Comparison) -> String {
    let title = "Networks compared";
    let body = html! {
        h1 { (title) }
        (chart(comparison))
        (rows(comparison))
        (remarks(comparison))
    };
    page(title, &body)
}

fn chart(comparison: &Comparison) -> Markup {
    let all = &comparison.rows;
    let mut platforms: Vec<String> = all.iter().map(|row| row.platform.clone()).collect();
    platforms.sort();
    platforms.dedup();
    // What is the same in all rows needs no mention.
    let several_batches = all.iter().any(|row| row.batch != all[0].batch);
    let label = |row: &Row| match several_batches {
        true => format!("{}@{}", row.network, row.batch),
        false => row.network.clone(),
    };
    let points = all.iter().filter_map(|row| {
        let (x, y) = row.point(comparison.against)?;
        Some(Point {
            label: label(row),
            x,
            y,
            series: platforms.binary_search(&row.platform).unwrap_or(0),
            on_front: row.on_front == Some(true),
        })
    });
    let points: Vec<Point> = points.collect();
    html! {
        section {
            h2 { "Time of a call and " (comparison.against.title()) }
            @if points.is_empty() {
                p { "Nothing can be compared: of no row both are known." }
            } @else {
                p.faint { "Lower is better in both. Filled: no other is at least as good in both and better in one." }
                (scatter(&points, &platforms, "time of a call, ms", comparison.against.title()))
            }
        }
    }
}

fn rows(comparison: &Comparison) -> Markup {
    let has_errors = comparison.rows.iter().any(|row| row.error.is_some());
    html! {
        section.long {
            h2 { "All" }
            div.wide {
                table {
                    thead {
                        tr {
                            th { "network" } th { "batch" } th.word { "platform" } th { "ms" } th { "90 % interval" } th { "items/s" }
                            th { "W" } th { "mJ an item" } @if has_errors { th { "error" } } th { "GFLOPs" } th { "M parameters" } th { "front" }
                        }
                    }
                    @for row in &comparison.rows {
                        tr {
                            td { (row.network) } td { (row.batch) } td.word { (row.platform) } td { (figure_or_none(row.runtime_ms)) }
                            td { (interval(row.runtime_ms_low, row.runtime_ms_high)) }
                            td { (figure_or_none(row.items_per_s)) } td { (figure_or_none(row.power_w)) }
                            td { (figure_or_none(row.energy_mj_per_item)) }
                            @if has_errors { td { (row.error.map_or_else(|| NONE.to_owned(), |error| error.to_string())) } }
                            td { (giga(row.flops)) } td { (mega(row.parameters)) } td { (front(row)) }
                        }
                    }
                }
            }
        }
    }
}

fn remarks(comparison: &Comparison) -> Markup {
    let remarks = comparison.remarks();
    html! {
        @if !remarks.is_empty() {
            section {
                h2 { "To know" }
                ul { @for remark in &remarks { li { (remark) } } }
            }
        }
    }
}
