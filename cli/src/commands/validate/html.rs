//! A validation as a page: the tables, and each layer's bars as in the paper's figures 4 and 5.

use maud::{Markup, html};

use super::judge::{Judged, JudgedLayer, Triple};
use super::{Validation, title};
use crate::render::chart::{Pair, pairs};
use crate::render::number::{figure_or_none, signed_percent};
use crate::render::page::page;

/// How many layers have bars: the costliest.
const SHOWN_LAYERS: usize = 40;

pub(super) fn html(validation: &Validation) -> String {
    let title = format!("Predicted and measured on {}", validation.platform);
    let body = html! {
        h1 { (title) }
        (accuracy(validation))
        (networks(validation))
        (kinds(validation))
        @for judged in &validation.networks { (layers(judged)) }
        @if !validation.warnings.is_empty() {
            section {
                h2 { "Not measured" }
                ul { @for warning in &validation.warnings { li { (warning) } } }
            }
        }
    };
    page(&title, &body)
}

fn accuracy(validation: &Validation) -> Markup {
    html! {
        section {
            h2 { "Accuracy" }
            p.faint { "100 less the root mean square of the networks' relative errors, in percent." }
            table {
                tr { th { "of" } th { "here" } th { "NeuralPower, five networks on a Titan X" } }
                @for [of, here, papers] in validation.accuracy_percent.rows() {
                    tr { td { (of) } td { (here) } td { (papers) } }
                }
            }
        }
    }
}

fn networks(validation: &Validation) -> Markup {
    let row = |(judged, triple): &(&Judged, Triple)| {
        html! {
            tr {
                td { (judged.network) } td { (judged.batch) } td { (figure_or_none(triple.predicted)) }
                td { (signed_percent(triple.predicted_error_percent())) } td { (figure_or_none(triple.layers)) }
                td { (signed_percent(triple.layers_error_percent())) } td { (figure_or_none(triple.measured)) }
            }
        }
    };
    html! {
        @for (unit, figures) in validation.figures() {
            @if figures.iter().any(|(_, triple)| triple.measured.is_some()) {
                section {
                    h2 { (title(unit)) ", " (unit) }
                    table {
                        tr {
                            th { "network" } th { "batch" } th { "predicted" } th { "error %" } th { "measured layers" }
                            th { "error %" } th { "measured" }
                        }
                        @for figure in &figures { (row(figure)) }
                    }
                }
            }
        }
    }
}

fn kinds(validation: &Validation) -> Markup {
    html! {
        section {
            h2 { "By kind of layer" }
            table {
                tr { th { "kind" } th { "layers" } th { "runtime RMSPE %" } th { "power RMSPE %" } }
                @for kind in &validation.kinds {
                    tr {
                        td { (kind.kind) } td { (kind.layers) } td { (figure_or_none(kind.runtime_rmspe_percent)) }
                        td { (figure_or_none(kind.power_rmspe_percent)) }
                    }
                }
            }
        }
    }
}

fn layers(judged: &Judged) -> Markup {
    let mut costliest: Vec<usize> = (0..judged.layers.len()).collect();
    let time = |index: &usize| judged.layers[*index].runtime_ms_measured.unwrap_or(0.0);
    costliest.sort_by(|one, other| time(other).total_cmp(&time(one)));
    costliest.truncate(SHOWN_LAYERS);
    // In the order of execution, as the paper has them.
    costliest.sort_unstable();
    let shown: Vec<&JudgedLayer> = costliest
        .iter()
        .map(|&index| &judged.layers[index])
        .collect();
    let runtimes = shown.iter().map(|layer| Pair {
        name: layer.layer.clone(),
        measured: layer.runtime_ms_measured,
        predicted: layer.runtime_ms_predicted,
        range: layer.runtime_ms_low.zip(layer.runtime_ms_high),
        label: label(layer.runtime_ms_predicted, layer.runtime_ms_measured, "ms"),
    });
    let powers = shown.iter().map(|layer| Pair {
        name: layer.layer.clone(),
        measured: layer.power_w_measured,
        predicted: layer.power_w_predicted,
        range: None,
        label: label(layer.power_w_predicted, layer.power_w_measured, "W"),
    });
    html! {
        section.long {
            h2 { "Layers of " (judged.network) " at batch " (judged.batch) }
            p.faint { "Grey: measured. Blue: predicted, with its 90 % interval. The costliest, in the order of execution." }
            (pairs(&runtimes.collect::<Vec<_>>(), "Predicted and measured time of each layer"))
            @if shown.iter().any(|layer| layer.power_w_measured.is_some()) {
                (pairs(&powers.collect::<Vec<_>>(), "Predicted and measured power of each layer"))
            }
        }
    }
}

fn label(predicted: Option<f64>, measured: Option<f64>, unit: &str) -> String {
    let error = predicted.zip(measured);
    let error = error.map(|(predicted, measured)| 100.0 * (predicted - measured) / measured);
    let error = error.map_or_else(String::new, |error| format!(" ({error:+.1} %)"));
    format!("{} {unit}{error}", figure_or_none(predicted))
}
