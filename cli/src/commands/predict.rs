//! `wattfarm predict`: what a network will cost, layer by layer.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_cost::ModelSet;
use wattfarm_cost::model::{self, LayerPrediction, NetworkPrediction};

use crate::args::PredictArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Report};
use crate::render::number::{figure_or_none, giga, interval, mega, share};
use crate::render::table::{Column, table};
use crate::session::Session;
use crate::{farm, network};

/// One prediction for each batch; as JSON an object if it is one, and else an array.
#[derive(Serialize)]
#[serde(untagged)]
enum Predictions {
    One(Box<NetworkPrediction>),
    Many(Vec<NetworkPrediction>),
}

impl Report for Predictions {
    fn text(&self) -> String {
        match self {
            Self::One(prediction) => text(prediction),
            Self::Many(predictions) => predictions
                .iter()
                .map(text)
                .collect::<Vec<_>>()
                .join("\n\n"),
        }
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: PredictArgs,
) -> anyhow::Result<()> {
    let networks = network::build_batches(&args.network, &args.batch, args.dtype)?;
    let mut predictions = Vec::with_capacity(networks.len());
    match (&args.models, &args.platform) {
        (Some(path), _) => {
            let models = read_models(path)?;
            predictions.extend(
                networks
                    .iter()
                    .map(|network| model::predict(network, &models)),
            );
        }
        (None, platform) => {
            let platform = platform
                .as_deref()
                .expect("the command line has a platform where it has no models");
            let connection = session.designer().await?;
            for network in &networks {
                predictions.push(farm::predict(&connection, platform, network).await?);
            }
        }
    }
    output.show(&match <[NetworkPrediction; 1]>::try_from(predictions) {
        Ok([prediction]) => Predictions::One(Box::new(prediction)),
        Err(predictions) => Predictions::Many(predictions),
    })
}

/// A file that `wattfarm fetch` wrote.
fn read_models(path: &Path) -> anyhow::Result<ModelSet> {
    let unusable = || Failure::new(Exit::Usage, format!("read models from {}", path.display()));
    let text = fs::read_to_string(path).with_context(unusable)?;
    let models: ModelSet = serde_json::from_str(&text).with_context(unusable)?;
    models.check().with_context(unusable)?;
    Ok(models)
}

fn text(prediction: &NetworkPrediction) -> String {
    let total = &prediction.total;
    let mut lines = vec![
        format!(
            "{} at batch {} on {}",
            prediction.network, prediction.batch, prediction.platform
        ),
        String::new(),
        layer_table(&prediction.layers, total.runtime_ms),
        String::new(),
        format!(
            "total  {} ms ({})",
            figure_or_none(total.runtime_ms),
            interval(total.runtime_ms_low, total.runtime_ms_high)
        ),
    ];
    if let Some(power) = total.power_w {
        let per_item = figure_or_none(total.energy_mj_per_item);
        let energy = figure_or_none(total.energy_mj);
        lines.push(format!(
            "       {power:.1} W, {energy} mJ, {per_item} mJ an item"
        ));
    }
    lines.push(format!(
        "       {} GFLOPs, {} M parameters",
        giga(total.flops),
        mega(total.parameters)
    ));
    lines.extend(
        prediction
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    lines.join("\n")
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
        ]
    };
    table(columns, layers.iter().map(row))
}
