//! `wattfarm predict`: what a network will cost, layer by layer.

mod breakdown;
mod html;

use serde::Serialize;
use wattfarm_cost::model::{LayerPrediction, Limit, NetworkPrediction};
use wattfarm_onnx::Coverage;

use breakdown::{Part, by_kind, by_stage};

use crate::args::PredictArgs;
use crate::exit::{Exit, Failure};
use crate::network;
use crate::output::{Output, Report, cell, csv_of};
use crate::predictor::Predictor;
use crate::render::number::{figure, figure_or_none, giga, interval, mega, share};
use crate::render::table::{Column, table};
use crate::session::Session;

/// A network's prediction, with how much of its file is in it.
#[derive(Serialize)]
struct Predicted {
    #[serde(flatten)]
    prediction: NetworkPrediction,
    /// What the kinds of layers cost, costliest first.
    kinds: Vec<Part>,
    /// What the network's stages cost, in the order of execution.
    stages: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coverage: Option<Coverage>,
}

/// One prediction for each batch; as JSON an object if it is one, and else an array.
#[derive(Serialize)]
#[serde(untagged)]
enum Predictions {
    One(Box<Predicted>),
    Many(Vec<Predicted>),
}

impl Predictions {
    fn all(&self) -> &[Predicted] {
        match self {
            Self::One(predicted) => std::slice::from_ref(predicted),
            Self::Many(all) => all,
        }
    }
}

impl Report for Predictions {
    fn text(&self) -> String {
        let texts: Vec<String> = self.all().iter().map(text).collect();
        texts.join("\n\n")
    }

    fn html(&self) -> anyhow::Result<String> {
        Ok(html::html(self.all()))
    }

    fn csv(&self) -> anyhow::Result<String> {
        let all = self.all().iter().map(|predicted| &predicted.prediction);
        csv_of(
            COLUMNS,
            all.flat_map(|prediction| {
                prediction
                    .layers
                    .iter()
                    .map(|layer| cells(prediction, layer))
            }),
        )
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: PredictArgs,
) -> anyhow::Result<()> {
    let loaded = network::load(&args.network, &args.sizes)?;
    let predictor = Predictor::open(session, &args.predictor).await?;
    let mut predictions = Vec::with_capacity(loaded.len());
    for loaded in &loaded {
        predictions.push(predictor.predict(&loaded.network).await?);
    }
    let predicted = predictions.into_iter().zip(loaded);
    let predicted: Vec<Predicted> = predicted
        .map(|(mut prediction, loaded)| {
            let told = loaded.coverage.iter().flat_map(Coverage::warnings);
            prediction.warnings.extend(told);
            Predicted {
                kinds: by_kind(&prediction.layers),
                stages: by_stage(&prediction.layers),
                prediction,
                coverage: loaded.coverage,
            }
        })
        .collect();
    let predictions = match <[Predicted; 1]>::try_from(predicted) {
        Ok([predicted]) => Predictions::One(Box::new(predicted)),
        Err(predicted) => Predictions::Many(predicted),
    };
    output.show(&predictions)?;
    for predicted in predictions.all() {
        check_budget(&predicted.prediction, args.budget_ms, args.budget_mj)?;
    }
    Ok(())
}

/// An error if a prediction is over a budget, or if nobody can tell because layers have no model.
fn check_budget(
    prediction: &NetworkPrediction,
    budget_ms: Option<f64>,
    budget_mj: Option<f64>,
) -> Result<(), Failure> {
    let total = &prediction.total;
    let whole = total.items_per_s.is_some();
    let budgets = [
        (budget_ms, total.runtime_ms, "ms", whole),
        (budget_mj, total.energy_mj, "mJ", total.energy_mj.is_some()),
    ];
    for (budget, predicted, unit, whole) in budgets {
        let Some(budget) = budget else { continue };
        let of = format!("{} at batch {}", prediction.network, prediction.batch);
        match predicted {
            Some(predicted) if predicted > budget => {
                let message = format!(
                    "{of} takes {} {unit}, over the budget of {budget}",
                    figure(predicted)
                );
                return Err(Failure::new(Exit::OverBudget, message));
            }
            Some(_) if whole => (),
            _ => {
                let message = format!(
                    "whether {of} is within {budget} {unit} cannot be told: not all of its layers have a model"
                );
                return Err(Failure::new(Exit::Unfinished, message));
            }
        }
    }
    Ok(())
}

/// Columns of the CSV: a row for each layer of each batch.
const COLUMNS: [&str; 14] = [
    "network",
    "batch",
    "platform",
    "layer",
    "kind",
    "runtime_ms",
    "runtime_ms_low",
    "runtime_ms_high",
    "power_w",
    "energy_mj",
    "flops",
    "bytes",
    "limit",
    "hash",
];

fn cells(prediction: &NetworkPrediction, layer: &LayerPrediction) -> [String; COLUMNS.len()] {
    [
        prediction.network.clone(),
        prediction.batch.to_string(),
        prediction.platform.clone(),
        layer.name.clone(),
        layer.kind.to_string(),
        cell(layer.runtime_ms),
        cell(layer.runtime_ms_low),
        cell(layer.runtime_ms_high),
        cell(layer.power_w),
        cell(layer.energy_mj),
        layer.flops.to_string(),
        layer.bytes.to_string(),
        limit(layer).to_owned(),
        layer.hash.to_string(),
    ]
}

fn limit(layer: &LayerPrediction) -> &'static str {
    layer.limit.map_or("", Limit::name)
}

fn text(predicted: &Predicted) -> String {
    let prediction = &predicted.prediction;
    let total = &prediction.total;
    let mut lines = vec![
        format!(
            "{} at batch {} on {}",
            prediction.network, prediction.batch, prediction.platform
        ),
        String::new(),
        layer_table(&prediction.layers, prediction.layers_ms()),
        String::new(),
        part_table(&predicted.kinds, "kind", prediction),
        String::new(),
    ];
    if !predicted.stages.is_empty() {
        lines.extend([
            part_table(&predicted.stages, "stage", prediction),
            String::new(),
        ]);
    }
    lines.push(format!(
        "total  {} ms ({})",
        figure_or_none(total.runtime_ms),
        interval(total.runtime_ms_low, total.runtime_ms_high)
    ));
    if let Some(items) = total.items_per_s {
        lines.push(format!("       {} items a second", figure(items)));
    }
    if let Some(power) = total.power_w {
        let per_item = figure_or_none(total.energy_mj_per_item);
        let energy = figure_or_none(total.energy_mj);
        lines.push(format!(
            "       {power:.1} W, {energy} mJ, {per_item} mJ an item"
        ));
    }
    lines.push(format!(
        "       {} GFLOPs, {} M parameters, {} MB of activations at most",
        giga(total.flops),
        mega(total.parameters),
        mega(total.peak_activation_bytes)
    ));
    if let Some(coverage) = &predicted.coverage {
        lines.push(format!(
            "       {} nodes: {} costed, {} free; {:.1} % of FLOPs, {:.1} % of bytes costed",
            coverage.nodes,
            coverage.costed,
            coverage.free,
            100.0 * coverage.flops_share(),
            100.0 * coverage.bytes_share()
        ));
    }
    lines.extend(
        prediction
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    lines.join("\n")
}

/// Parts of a network with what each costs, and its shares.
fn part_table(parts: &[Part], heading: &'static str, prediction: &NetworkPrediction) -> String {
    let columns = [
        Column::Left(heading),
        Column::Right("layers"),
        Column::Right("ms"),
        Column::Right("share %"),
        Column::Right("mJ"),
        Column::Right("share %"),
    ];
    let row = |part: &Part| {
        [
            part.name.clone(),
            part.layers.to_string(),
            figure(part.runtime_ms),
            share(Some(part.runtime_ms), prediction.layers_ms()),
            figure_or_none(part.energy_mj),
            share(part.energy_mj, prediction.layers_mj()),
        ]
    };
    table(columns, parts.iter().map(row))
}

/// Layers with what each costs, and its share of their sum, `total_ms`.
fn layer_table(layers: &[LayerPrediction], total_ms: Option<f64>) -> String {
    let columns = [
        Column::Left("layer"),
        Column::Left("kind"),
        Column::Right("ms"),
        Column::Right("90 % interval"),
        Column::Right("share %"),
        Column::Right("W"),
        Column::Right("mJ"),
        Column::Right("GFLOPs"),
        Column::Left("bound by"),
    ];
    let row = |layer: &LayerPrediction| {
        [
            layer.name.clone(),
            layer.kind.to_string(),
            figure_or_none(layer.runtime_ms),
            interval(layer.runtime_ms_low, layer.runtime_ms_high),
            share(layer.runtime_ms, total_ms),
            figure_or_none(layer.power_w),
            figure_or_none(layer.energy_mj),
            giga(layer.flops),
            limit(layer).to_owned(),
        ]
    };
    table(columns, layers.iter().map(row))
}
