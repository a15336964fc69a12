//! A prediction as a page: where time and energy go, what bounds each layer, and what it rests on.

use maud::{Markup, html};
use wattfarm_cost::model::LayerPrediction;

use super::breakdown::{Part, by_limit};
use super::{Predicted, limit};
use crate::render::chart::{Bar, Stack, bars, colours, stacks};
use crate::render::number::{figure, figure_or_none, giga, interval, mega, share};
use crate::render::page::page;

/// How many layers have a bar: the costliest.
const SHOWN_LAYERS: usize = 40;

/// The page of one network's predictions, one for each batch.
pub(super) fn html(predictions: &[Predicted]) -> String {
    let first = &predictions[0].prediction;
    let title = format!("{} on {}", first.network, first.platform);
    let body = html! {
        h1 { (title) }
        @if predictions.len() > 1 { (batches(predictions)) }
        @for predicted in predictions { (network(predicted)) }
    };
    page(&title, &body)
}

fn batches(predictions: &[Predicted]) -> Markup {
    let row = |predicted: &Predicted| {
        let (batch, total) = (predicted.prediction.batch, &predicted.prediction.total);
        html! {
            tr {
                td { (batch) } td { (figure_or_none(total.runtime_ms)) }
                td { (interval(total.runtime_ms_low, total.runtime_ms_high)) }
                td { (figure_or_none(total.items_per_s)) } td { (figure_or_none(total.power_w)) }
                td { (figure_or_none(total.energy_mj_per_item)) } td { (mega(total.peak_activation_bytes)) }
            }
        }
    };
    html! {
        section {
            table {
                tr {
                    th { "batch" } th { "ms" } th { "90 % interval" } th { "items a second" } th { "W" }
                    th { "mJ an item" } th { "MB of activations" }
                }
                @for predicted in predictions { (row(predicted)) }
            }
        }
    }
}

fn network(predicted: &Predicted) -> Markup {
    html! {
        (summary(predicted))
        (kinds(predicted))
        (stages(predicted))
        (costliest(predicted))
        (layers(predicted))
    }
}

fn summary(predicted: &Predicted) -> Markup {
    let prediction = &predicted.prediction;
    let total = &prediction.total;
    let range = total.runtime_ms_low.zip(total.runtime_ms_high);
    html! {
        section {
            h2 { "One call at batch " (prediction.batch) }
            p.headline {
                strong { (figure_or_none(total.runtime_ms)) " ms" }
                @if let Some((low, high)) = range { " (" (figure(low)) " .. " (figure(high)) ")" }
                @if let Some(items) = total.items_per_s { ", " (figure(items)) " items a second" }
                @if let Some(power) = total.power_w { ", " (figure(power)) " W" }
                @if let Some(energy) = total.energy_mj_per_item { ", " (figure(energy)) " mJ an item" }
            }
            p.faint {
                (giga(total.flops)) " GFLOPs, " (mega(total.parameters)) " M parameters, "
                (mega(total.peak_activation_bytes)) " MB of activations at most. The interval is the sum of the layers' 90 % intervals."
                @if let Some(coverage) = &predicted.coverage {
                    " Of " (coverage.nodes) " nodes of the file " (coverage.costed) " are costed and " (coverage.free)
                    " are free: " (format!("{:.1}", 100.0 * coverage.flops_share())) " % of FLOPs, "
                    (format!("{:.1}", 100.0 * coverage.bytes_share())) " % of bytes."
                }
            }
            @if !prediction.warnings.is_empty() {
                details open[prediction.warnings.len() <= 3] {
                    summary { "Warnings (" (prediction.warnings.len()) ")" }
                    ul { @for warning in &prediction.warnings { li { (warning) } } }
                }
            }
        }
    }
}

fn stack(name: &str, parts: &[Part], size: impl Fn(&Part) -> f64, unit: &'static str) -> Stack {
    let parts = parts.iter().map(|part| (part.name.clone(), size(part)));
    Stack::new(name.to_owned(), parts.collect(), unit)
}

/// The shares of kinds in time, energy and work. The first alone tells the colours.
fn kind_stacks(predicted: &Predicted) -> Vec<Stack> {
    let kinds = &predicted.kinds;
    let mut shown = vec![stack("time", kinds, |part| part.runtime_ms, "ms")];
    if kinds.iter().all(|part| part.energy_mj.is_some()) {
        let energy = |part: &Part| part.energy_mj.unwrap_or(0.0);
        shown.push(stack("energy", kinds, energy, "mJ"));
    }
    shown.push(stack(
        "operations",
        kinds,
        |part| part.flops as f64 / 1e9,
        "GFLOPs",
    ));
    shown.push(stack(
        "bytes moved",
        kinds,
        |part| part.bytes as f64 / 1e6,
        "MB",
    ));
    shown
}

fn kinds(predicted: &Predicted) -> Markup {
    let limits = by_limit(&predicted.prediction.layers);
    html! {
        section {
            h2 { "By kind of layer" }
            (stacks(&kind_stacks(predicted)))
            (parts(&predicted.kinds, "kind", predicted))
        }
        section {
            h2 { "What the time is bound by" }
            p.faint { "By the largest part of each layer's cost: operations, bytes moved, or being called at all." }
            (stacks(&[stack("time", &limits, |part| part.runtime_ms, "ms")]))
        }
    }
}

fn stages(predicted: &Predicted) -> Markup {
    let bar = |part: &Part| Bar {
        name: part.name.clone(),
        value: part.energy_mj.unwrap_or(part.runtime_ms),
        range: None,
        colour: 0,
        label: match part.energy_mj {
            Some(energy) => format!(
                "{} mJ, {} %",
                figure(energy),
                share(Some(energy), predicted.prediction.layers_mj())
            ),
            None => format!(
                "{} ms, {} %",
                figure(part.runtime_ms),
                share(Some(part.runtime_ms), predicted.prediction.layers_ms())
            ),
        },
    };
    // Bars in one unit: of energy where all is known, else of time.
    let whole = predicted.stages.iter().all(|part| part.energy_mj.is_some());
    let timed = |part: &Part| Part {
        energy_mj: part.energy_mj.filter(|_| whole),
        ..part.clone()
    };
    let shown: Vec<Bar> = predicted
        .stages
        .iter()
        .map(|part| bar(&timed(part)))
        .collect();
    let of = if whole { "Energy" } else { "Time" };
    html! {
        @if shown.len() > 1 {
            section.long {
                h2 { (of) " by stage" }
                (bars(&shown, &format!("{of} of each stage")))
            }
        }
    }
}

fn parts(parts: &[Part], heading: &str, predicted: &Predicted) -> Markup {
    html! {
        table {
            tr {
                th { (heading) } th { "layers" } th { "ms" } th { "share %" } th { "mJ" } th { "share %" } th { "GFLOPs" } th { "MB moved" }
            }
            @for part in parts {
                tr {
                    td { (part.name) } td { (part.layers) } td { (figure(part.runtime_ms)) }
                    td { (share(Some(part.runtime_ms), predicted.prediction.layers_ms())) }
                    td { (figure_or_none(part.energy_mj)) } td { (share(part.energy_mj, predicted.prediction.layers_mj())) }
                    td { (giga(part.flops)) } td { (mega(part.bytes)) }
                }
            }
        }
    }
}

fn costliest(predicted: &Predicted) -> Markup {
    let prediction = &predicted.prediction;
    let kinds = colours(&kind_stacks(predicted));
    let mut shown: Vec<&LayerPrediction> = prediction.layers.iter().collect();
    let time = |layer: &LayerPrediction| layer.runtime_ms.unwrap_or(0.0);
    shown.sort_by(|one, other| time(other).total_cmp(&time(one)));
    shown.truncate(SHOWN_LAYERS);
    let all = shown.len() == prediction.layers.len();
    let bar = |layer: &&LayerPrediction| Bar {
        name: layer.name.clone(),
        value: time(layer),
        range: layer.runtime_ms_low.zip(layer.runtime_ms_high),
        colour: kinds
            .iter()
            .position(|kind| kind == layer.kind.name())
            .unwrap_or(usize::MAX),
        label: format!("{} ms, {}", figure_or_none(layer.runtime_ms), limit(layer)),
    };
    html! {
        section.long {
            h2 { @if all { "The layers, costliest first" } @else { "The " (shown.len()) " costliest layers" } }
            p.faint { "Colours are the kinds' above; the line is the 90 % interval; behind it stands what bounds the layer." }
            (bars(&shown.iter().map(bar).collect::<Vec<_>>(), "Time of each layer"))
        }
    }
}

fn layers(predicted: &Predicted) -> Markup {
    let prediction = &predicted.prediction;
    html! {
        section.long {
            h2 { "Every layer, in the order of execution" }
            div.wide {
                table {
                    thead {
                        tr {
                            th { "layer" } th.word { "kind" } th { "ms" } th { "90 % interval" } th { "share %" } th { "W" } th { "mJ" }
                            th { "GFLOPs" } th { "MB" } th.word { "bound by" }
                        }
                    }
                    @for layer in &prediction.layers {
                        tr {
                            td { (layer.name) } td.word { (layer.kind) } td { (figure_or_none(layer.runtime_ms)) }
                            td { (interval(layer.runtime_ms_low, layer.runtime_ms_high)) }
                            td { (share(layer.runtime_ms, prediction.layers_ms())) }
                            td { (figure_or_none(layer.power_w)) } td { (figure_or_none(layer.energy_mj)) }
                            td { (giga(layer.flops)) } td { (mega(layer.bytes)) } td.word { (limit(layer)) }
                        }
                    }
                }
            }
        }
    }
}
