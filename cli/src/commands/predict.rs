//! `wattfarm predict`: what a network will cost, layer by layer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_cost::model::{self, LayerPrediction, Limit, NetworkPrediction};
use wattfarm_cost::{Kind, ModelSet};
use wattfarm_onnx::Coverage;

use crate::args::PredictArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Report};
use crate::render::number::{figure, figure_or_none, giga, interval, mega, share};
use crate::render::table::{Column, table};
use crate::session::Session;
use crate::{farm, network};

/// A network's prediction, with how much of its file is in it.
#[derive(Serialize)]
struct Predicted {
    #[serde(flatten)]
    prediction: NetworkPrediction,
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

    fn csv(&self) -> anyhow::Result<String> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(COLUMNS)?;
        for predicted in self.all() {
            for layer in &predicted.prediction.layers {
                writer.write_record(cells(&predicted.prediction, layer))?;
            }
        }
        let text = String::from_utf8(writer.into_inner()?)?;
        Ok(text.trim_end().to_owned())
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: PredictArgs,
) -> anyhow::Result<()> {
    let loaded = network::load(&args.network, &args.batch, &args.input, args.dtype)?;
    let mut predictions = Vec::with_capacity(loaded.len());
    match (&args.models, &args.platform) {
        (Some(path), _) => {
            let models = read_models(path)?;
            predictions.extend(
                loaded
                    .iter()
                    .map(|loaded| model::predict(&loaded.network, &models)),
            );
        }
        (None, platform) => {
            let platform = platform
                .as_deref()
                .expect("the command line has a platform where it has no models");
            let connection = session.designer().await?;
            for loaded in &loaded {
                predictions.push(farm::predict(&connection, platform, &loaded.network).await?);
            }
        }
    }
    let predicted = predictions.into_iter().zip(loaded);
    let predicted: Vec<Predicted> = predicted
        .map(|(mut prediction, loaded)| {
            let told = loaded.coverage.iter().flat_map(Coverage::warnings);
            prediction.warnings.extend(told);
            Predicted {
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
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    [
        prediction.network.clone(),
        prediction.batch.to_string(),
        prediction.platform.clone(),
        layer.name.clone(),
        layer.kind.to_string(),
        number(layer.runtime_ms),
        number(layer.runtime_ms_low),
        number(layer.runtime_ms_high),
        number(layer.power_w),
        number(layer.energy_mj),
        layer.flops.to_string(),
        layer.bytes.to_string(),
        limit(layer).to_owned(),
        layer.hash.to_string(),
    ]
}

fn limit(layer: &LayerPrediction) -> &'static str {
    layer.limit.map_or("", Limit::name)
}

/// A file that `wattfarm fetch` wrote.
pub(super) fn read_models(path: &Path) -> anyhow::Result<ModelSet> {
    let unusable = || Failure::new(Exit::Usage, format!("read models from {}", path.display()));
    let text = fs::read_to_string(path).with_context(unusable)?;
    let models: ModelSet = serde_json::from_str(&text).with_context(unusable)?;
    models.check().with_context(unusable)?;
    Ok(models)
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
        layer_table(&prediction.layers, total.runtime_ms),
        String::new(),
        kind_table(&prediction.layers, total.runtime_ms),
        String::new(),
        format!(
            "total  {} ms ({})",
            figure_or_none(total.runtime_ms),
            interval(total.runtime_ms_low, total.runtime_ms_high)
        ),
    ];
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

/// Kinds with what their layers cost together, costliest first.
fn kind_table(layers: &[LayerPrediction], total_ms: Option<f64>) -> String {
    let mut kinds: BTreeMap<Kind, (usize, f64, Option<f64>)> = BTreeMap::new();
    for layer in layers {
        let (count, runtime, energy) = kinds.entry(layer.kind).or_insert((0, 0.0, Some(0.0)));
        *count += 1;
        *runtime += layer.runtime_ms.unwrap_or(0.0);
        *energy = energy
            .zip(layer.energy_mj)
            .map(|(sum, energy)| sum + energy);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|(_, a), (_, b)| b.1.total_cmp(&a.1));
    let columns = [
        Column::Left("kind"),
        Column::Right("layers"),
        Column::Right("ms"),
        Column::Right("share %"),
        Column::Right("mJ"),
    ];
    let row = |(kind, (count, runtime, energy)): (Kind, (usize, f64, Option<f64>))| {
        [
            kind.to_string(),
            count.to_string(),
            figure(runtime),
            share(Some(runtime), total_ms),
            figure_or_none(energy),
        ]
    };
    table(columns, kinds.into_iter().map(row))
}

/// Layers with what each costs, and its share of their network's `total_ms`.
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
