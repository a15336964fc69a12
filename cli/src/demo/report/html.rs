//! The report as one page that needs nothing else.

use std::collections::BTreeMap;

use maud::{Markup, html};
use wattfarm_cost::Kind;

use super::Evaluation;
use crate::demo::evaluate::NetworkResult;
use crate::render::chart::{Pair, Stack, pairs, stacks};
use crate::render::number::{NONE, figure, figure_or_none, interval, signed_percent};
use crate::render::page::page;

/// The page.
pub(in crate::demo) fn html(evaluation: &Evaluation) -> String {
    let title = format!("Wattfarm on {}", evaluation.platform);
    let body = html! {
        (summary(evaluation))
        (comparison(evaluation))
        (breakdown(evaluation))
        (kinds(evaluation))
        (layers(evaluation))
    };
    page(&title, &body)
}

fn summary(evaluation: &Evaluation) -> Markup {
    let seconds = &evaluation.seconds;
    html! {
        section {
            h1 { "Predicted and measured on " (evaluation.platform) }
            p.headline {
                "Root mean square error over " (evaluation.judged()) ": "
                strong { (evaluation.runtime_rmspe_percent().map_or_else(|| NONE.to_owned(), figure)) " %" }
            }
            p { (evaluation.fairness()) }
            p.faint {
                (evaluation.finished_at.strftime("%Y-%m-%d %H:%M UTC").to_string()) ". "
                (format!("{:.0} s", seconds.total)) " in all: set-up " (format!("{:.0} s", seconds.setup))
                ", measuring layers " (format!("{:.0} s", seconds.measuring))
                " (the agent was busy for " (format!("{:.1} %", evaluation.duty_percent)) " of it), last fit "
                (format!("{:.0} s", seconds.fitting)) ", whole networks " (format!("{:.0} s", seconds.networks)) "."
            }
        }
    }
}

fn comparison(evaluation: &Evaluation) -> Markup {
    html! {
        section {
            h2 { "Networks, one forward pass" }
            p.faint { "Grey: measured. Blue: predicted, with the sum of its layers' 90 % intervals." }
            (pairs(&evaluation.networks.iter().map(pair).collect::<Vec<_>>(), "Predicted and measured time of each network"))
            div.wide {
                table {
                    tr {
                        th { "network" } th { "batch" } th { "predicted ms" } th { "90 % interval" }
                        th { "measured ms" } th { "95 % interval" } th { "repetitions" } th { "error %" }
                    }
                    @for network in &evaluation.networks { (row(network)) }
                }
            }
            @for network in &evaluation.networks { (remarks(network)) }
        }
    }
}

/// What a reader of one network's row must know.
fn remarks(network: &NetworkResult) -> Markup {
    let (name, warnings) = (&network.prediction.network, &network.prediction.warnings);
    html! {
        @if let Err(because) = &network.measured { p { (name) " was not measured: " (because) } }
        @if !warnings.is_empty() {
            details {
                summary { "warnings on " (name) " (" (warnings.len()) ")" }
                ul { @for warning in warnings { li { (warning) } } }
            }
        }
    }
}

fn pair(network: &NetworkResult) -> Pair {
    let total = &network.prediction.total;
    let error = network
        .error_percent()
        .map_or_else(String::new, |error| format!(" ({error:+.1} %)"));
    Pair {
        name: network.prediction.network.clone(),
        measured: network.measured.as_ref().ok().map(|time| time.median_ms),
        predicted: total.runtime_ms,
        range: total.runtime_ms_low.zip(total.runtime_ms_high),
        label: format!("{} ms{error}", figure_or_none(total.runtime_ms)),
    }
}

fn row(network: &NetworkResult) -> Markup {
    let (total, measured) = (&network.prediction.total, network.measured.as_ref().ok());
    html! {
        tr {
            td { (network.prediction.network) }
            td { (network.prediction.batch) }
            td { (figure_or_none(total.runtime_ms)) }
            td { (interval(total.runtime_ms_low, total.runtime_ms_high)) }
            td { (figure_or_none(measured.map(|time| time.median_ms))) }
            td { (interval(measured.map(|time| time.low_ms), measured.map(|time| time.high_ms))) }
            td { (measured.map_or_else(|| NONE.to_owned(), |time| time.repetitions.to_string())) }
            td { (signed_percent(network.error_percent())) }
        }
    }
}

fn breakdown(evaluation: &Evaluation) -> Markup {
    html! {
        section {
            h2 { "Where the time goes, by layer kind" }
            p.faint { "Shares of each network's predicted time." }
            (stacks(&evaluation.networks.iter().map(stack).collect::<Vec<_>>()))
        }
    }
}

fn stack(network: &NetworkResult) -> Stack {
    let mut parts: BTreeMap<Kind, f64> = BTreeMap::new();
    for layer in &network.prediction.layers {
        if let Some(runtime) = layer.runtime_ms {
            *parts.entry(layer.kind).or_default() += runtime;
        }
    }
    let parts = parts.into_iter().map(|(kind, ms)| (kind.to_string(), ms));
    Stack::new(network.prediction.network.clone(), parts.collect(), "ms")
}

fn kinds(evaluation: &Evaluation) -> Markup {
    html! {
        section {
            h2 { "The models" }
            p.faint { "Errors are cross-validated: over layers that the fit had not seen." }
            table {
                tr { th { "kind" } th { "samples" } th { "terms" } th { "RMSPE %" } th { "median error %" } }
                @for kind in &evaluation.kinds {
                    tr {
                        td { (kind.kind) } td { (kind.samples) } td { (kind.terms) }
                        td { (figure(kind.rmspe)) } td { (figure(kind.medape)) }
                    }
                }
            }
        }
    }
}

fn layers(evaluation: &Evaluation) -> Markup {
    html! {
        @if let Some(shown) = evaluation.shown() {
            section {
                h2 { "Every layer of " (shown.prediction.network) }
                div.wide {
                    table {
                        tr { th { "layer" } th { "kind" } th { "ms" } th { "90 % interval" } }
                        @for layer in &shown.prediction.layers {
                            tr {
                                td { (layer.name) } td { (layer.kind) } td { (figure_or_none(layer.runtime_ms)) }
                                td { (interval(layer.runtime_ms_low, layer.runtime_ms_high)) }
                            }
                        }
                    }
                }
            }
        }
    }
}
