//! `wattfarm validate`: how right predictions are, in the NeuralPower paper's own tables.
//!
//! Networks are measured whole and layer by layer on a platform's agents, and both are held against what the coordinator
//! predicts. The sum of measured layers tells what a prediction owes to its models, and what to adding up.

mod html;
mod judge;

use std::collections::BTreeMap;

use serde::Serialize;
use wattfarm_cost::model::NetworkPrediction;
use wattfarm_cost::{Hash, Measurement, Network, Subject};

use judge::{Accuracy, Errors, Judged, KindErrors, Triple};

use crate::args::ValidateArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Report, cell, csv_of, note};
use crate::predictor::Predictor;
use crate::render::number::{figure_or_none, signed_percent};
use crate::render::table::{Column, table};
use crate::session::Session;
use crate::{farm, network};

/// Layers in one request.
const SUBJECTS_MAX: usize = 100;

/// What was predicted and measured of some networks on one platform.
#[derive(Serialize)]
struct Validation {
    platform: String,
    /// Of layers, each counted once.
    kinds: Vec<KindErrors>,
    networks: Vec<Judged>,
    /// Root mean square of the networks' relative errors, in percent.
    rmspe_percent: Errors,
    /// 100 less that: as the paper counts.
    accuracy_percent: Accuracy,
    /// What could not be measured.
    warnings: Vec<String>,
}

impl Validation {
    fn new(platform: String, networks: Vec<Judged>, warnings: Vec<String>) -> Self {
        let rmspe_percent = Errors::of(&networks);
        Self {
            platform,
            kinds: judge::by_kind(&networks),
            accuracy_percent: Accuracy::of(&rmspe_percent),
            rmspe_percent,
            networks,
            warnings,
        }
    }

    /// The figures of all networks, with their names, and the unit.
    fn figures(&self) -> [(&'static str, Vec<(&Judged, Triple)>); 3] {
        let all = |of: fn(&Judged) -> Triple| {
            let networks = self.networks.iter();
            networks.map(|judged| (judged, of(judged))).collect()
        };
        [
            ("ms", all(|judged| judged.runtime_ms)),
            ("W", all(|judged| judged.power_w)),
            ("mJ", all(|judged| judged.energy_mj)),
        ]
    }
}

impl Report for Validation {
    fn text(&self) -> String {
        let mut parts = vec![self.platform.clone(), kind_table(&self.kinds)];
        for (unit, figures) in self.figures() {
            if figures.iter().any(|(_, triple)| triple.measured.is_some()) {
                parts.push(format!(
                    "{}, {unit}\n\n{}",
                    title(unit),
                    figure_table(&figures)
                ));
            }
        }
        parts.push(self.accuracy_percent.text());
        let warnings = self.warnings.iter();
        let warnings: Vec<String> = warnings.map(|told| format!("warning: {told}")).collect();
        if !warnings.is_empty() {
            parts.push(warnings.join("\n"));
        }
        parts.join("\n\n")
    }

    fn csv(&self) -> anyhow::Result<String> {
        let headings = [
            "network",
            "batch",
            "layer",
            "kind",
            "runtime_ms_predicted",
            "runtime_ms_measured",
            "power_w_predicted",
            "power_w_measured",
        ];
        let records = self.networks.iter().flat_map(|network| {
            network.layers.iter().map(|layer| {
                [
                    network.network.clone(),
                    network.batch.to_string(),
                    layer.layer.clone(),
                    layer.kind.to_string(),
                    cell(layer.runtime_ms_predicted),
                    cell(layer.runtime_ms_measured),
                    cell(layer.power_w_predicted),
                    cell(layer.power_w_measured),
                ]
            })
        });
        csv_of(headings, records)
    }

    fn html(&self) -> anyhow::Result<String> {
        Ok(html::html(self))
    }
}

/// What a unit is of.
fn title(unit: &str) -> &'static str {
    match unit {
        "ms" => "Runtime of a call",
        "W" => "Mean power",
        _ => "Energy of a call",
    }
}

fn kind_table(kinds: &[KindErrors]) -> String {
    let columns = [
        Column::Left("kind"),
        Column::Right("layers"),
        Column::Right("runtime RMSPE %"),
        Column::Right("power RMSPE %"),
    ];
    let row = |kind: &KindErrors| {
        [
            kind.kind.to_string(),
            kind.layers.to_string(),
            figure_or_none(kind.runtime_rmspe_percent),
            figure_or_none(kind.power_rmspe_percent),
        ]
    };
    table(columns, kinds.iter().map(row))
}

fn figure_table(figures: &[(&Judged, Triple)]) -> String {
    let columns = [
        Column::Left("network"),
        Column::Right("batch"),
        Column::Right("predicted"),
        Column::Right("error %"),
        Column::Right("measured layers"),
        Column::Right("error %"),
        Column::Right("measured"),
    ];
    let row = |(judged, triple): &(&Judged, Triple)| {
        [
            judged.network.clone(),
            judged.batch.to_string(),
            figure_or_none(triple.predicted),
            signed_percent(triple.predicted_error_percent()),
            figure_or_none(triple.layers),
            signed_percent(triple.layers_error_percent()),
            figure_or_none(triple.measured),
        ]
    };
    table(columns, figures.iter().map(row))
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: ValidateArgs,
) -> anyhow::Result<()> {
    let mut networks = Vec::new();
    for name in &args.networks {
        let loaded = network::load(name, &args.sizes)?.into_iter();
        networks.extend(loaded.map(|loaded| loaded.network));
    }
    let predictor = Predictor::of_farm(session, &args.platform).await?;
    let mut predictions = Vec::with_capacity(networks.len());
    for network in &networks {
        predictions.push(predictor.predict(network).await?);
    }
    let (measurements, warnings) = measure(session, &args.platform, &networks).await?;
    let judged = networks.iter().zip(&predictions);
    let judged =
        judged.map(|(network, prediction)| Judged::new(network, prediction, &measurements));
    let validation = Validation::new(platform(&predictions, &args), judged.collect(), warnings);
    output.show(&validation)?;
    let unmeasured = |judged: &&Judged| judged.runtime_ms.measured.is_none();
    match validation.networks.iter().find(unmeasured) {
        Some(judged) => {
            let message = format!("{} was not measured", judged.network);
            Err(Failure::new(Exit::Unfinished, message).into())
        }
        None => Ok(()),
    }
}

fn platform(predictions: &[NetworkPrediction], args: &ValidateArgs) -> String {
    let first = predictions.first();
    first.map_or_else(|| args.platform.clone(), |first| first.platform.clone())
}

/// Newest measurements of networks and of their layers, by hash, and what could not be measured. What costs nothing is
/// not measured.
async fn measure(
    session: &Session,
    platform: &str,
    networks: &[Network],
) -> anyhow::Result<(BTreeMap<Hash, Measurement>, Vec<String>)> {
    let mut subjects: BTreeMap<Hash, (String, Subject)> = BTreeMap::new();
    for network in networks {
        let whole = Subject::Network(network.clone());
        subjects.insert(whole.hash(), (network.name().to_owned(), whole));
        for (name, layer) in network.layers().filter(|(_, layer)| !layer.is_view()) {
            let title = format!("`{name}` of {}", network.name());
            let subject = Subject::Layer(layer.clone());
            subjects.entry(subject.hash()).or_insert((title, subject));
        }
    }
    let connection = session.designer().await?;
    let all = subjects.values().map(|(_, subject)| subject.clone());
    let (whole, layers): (Vec<Subject>, Vec<Subject>) =
        all.partition(|subject| matches!(subject, Subject::Network(_)));
    // A network's graph can be long: each has a request of its own.
    let parts: Vec<&[Subject]> = whole.chunks(1).chain(layers.chunks(SUBJECTS_MAX)).collect();
    let mut measurements = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut begun = 0;
    for part in parts {
        begun += part.len();
        note(format!("measuring {begun} of {}", subjects.len()));
        let waiting = |because: &str| note(format!("waiting: {because}"));
        let measured = farm::measure_subjects(&connection, platform, part, 1, waiting).await?;
        for subject in part {
            let hash = subject.hash();
            if let Some(newest) = measured.newest(hash) {
                measurements.insert(hash, newest.clone());
            }
        }
        for (hash, because) in &measured.failures {
            let title = subjects.get(hash).map_or("", |(title, _)| title.as_str());
            warnings.push(format!("{title} was not measured: {because}"));
        }
    }
    Ok((measurements, warnings))
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Kind;

    use super::judge::JudgedLayer;
    use super::*;

    fn validation() -> Validation {
        let layer = |name: &str, kind, predicted: f64, measured: f64| JudgedLayer {
            layer: name.to_owned(),
            kind,
            hash: Hash::of(name),
            runtime_ms_predicted: Some(predicted),
            runtime_ms_low: Some(0.9 * predicted),
            runtime_ms_high: Some(1.1 * predicted),
            runtime_ms_measured: Some(measured),
            power_w_predicted: Some(50.0),
            power_w_measured: Some(40.0),
        };
        let triple = |predicted, layers, measured| Triple {
            predicted: Some(predicted),
            layers: Some(layers),
            measured: Some(measured),
        };
        let judged = Judged {
            network: "two".to_owned(),
            batch: 8,
            runtime_ms: triple(11.0, 9.0, 10.0),
            power_w: triple(50.0, 40.0, 40.0),
            energy_mj: triple(550.0, 360.0, 400.0),
            layers: vec![
                layer("conv", Kind::Conv2d, 9.0, 8.0),
                layer("relu", Kind::Relu, 2.0, 1.0),
            ],
        };
        let warnings = vec!["`norm` of two was not measured: out of memory".to_owned()];
        Validation::new("test-gpu".to_owned(), vec![judged], warnings)
    }

    #[test]
    fn text_is_golden() {
        insta::assert_snapshot!(validation().text());
    }

    #[test]
    fn page_is_golden() {
        let page = html::html(&validation()).replace(crate::render::page::STYLE, "");
        insta::assert_snapshot!(page.replace("><", ">\n<"));
    }
}
