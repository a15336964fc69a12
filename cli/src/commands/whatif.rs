//! `wattfarm whatif`: what a network would cost with some of its layers changed.

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_cost::Network;
use wattfarm_cost::layer::Layer;
use wattfarm_cost::model::{LayerPrediction, NetworkPrediction, Total};
use wattfarm_cost::network::Change;
use wattfarm_onnx::Coverage;

use crate::args::WhatifArgs;
use crate::network;
use crate::output::{Output, Report, cell, csv_of};
use crate::predictor::Predictor;
use crate::render::number::{NONE, figure, figure_or_none, giga, mega, signed_percent};
use crate::render::table::{Column, table};
use crate::session::Session;

/// A layer before and after the change.
#[derive(Serialize)]
struct ChangedLayer {
    layer: String,
    /// Fields that differ, such as `out_channels=256 -> 192`.
    change: String,
    runtime_ms_before: Option<f64>,
    runtime_ms_after: Option<f64>,
    energy_mj_before: Option<f64>,
    energy_mj_after: Option<f64>,
}

/// A network before and after the change.
#[derive(Serialize)]
struct Comparison {
    network: String,
    batch: u64,
    platform: String,
    before: Total,
    after: Total,
    /// The layers that differ: those that were changed, and those that follow.
    layers: Vec<ChangedLayer>,
    warnings: Vec<String>,
}

impl Comparison {
    fn new(
        (before, after): (&Network, &Network),
        predicted: NetworkPrediction,
        changed: NetworkPrediction,
        told: Vec<String>,
    ) -> Self {
        let layers = before.layers().zip(after.layers());
        let predictions = predicted.layers.iter().zip(&changed.layers);
        let layers = layers
            .zip(predictions)
            .filter(|(((_, was), (_, is)), _)| was != is)
            .map(|(((_, was), (_, is)), (predicted, changed))| {
                ChangedLayer::new((was, is), predicted, changed)
            })
            .collect();
        // Warnings on both say nothing of the change; those that only one has are what it brought or took.
        let brought = changed.warnings.into_iter();
        let brought = brought.filter(|warning| !predicted.warnings.contains(warning));
        Self {
            network: predicted.network,
            batch: predicted.batch,
            platform: predicted.platform,
            before: predicted.total,
            after: changed.total,
            layers,
            warnings: told.into_iter().chain(brought).collect(),
        }
    }
}

impl ChangedLayer {
    fn new((was, is): (&Layer, &Layer), before: &LayerPrediction, after: &LayerPrediction) -> Self {
        let mut changes = Vec::new();
        if was.kind() != is.kind() {
            changes.push(format!("{} -> {}", was.kind(), is.kind()));
        }
        let is_fields = is.fields();
        for (name, was) in was.fields() {
            let is = is_fields.iter().find(|(own, _)| *own == name);
            if let Some((_, is)) = is.filter(|(_, is)| *is != was) {
                changes.push(format!("{name}={was} -> {is}"));
            }
        }
        Self {
            layer: before.name.clone(),
            change: changes.join(", "),
            runtime_ms_before: before.runtime_ms,
            runtime_ms_after: after.runtime_ms,
            energy_mj_before: before.energy_mj,
            energy_mj_after: after.energy_mj,
        }
    }
}

/// One comparison for each batch.
#[derive(Serialize)]
#[serde(transparent)]
struct Comparisons(Vec<Comparison>);

impl Report for Comparisons {
    fn text(&self) -> String {
        let texts: Vec<String> = self.0.iter().map(text).collect();
        texts.join("\n\n")
    }

    fn csv(&self) -> anyhow::Result<String> {
        let headings = [
            "network",
            "batch",
            "platform",
            "layer",
            "change",
            "runtime_ms_before",
            "runtime_ms_after",
            "energy_mj_before",
            "energy_mj_after",
        ];
        let record = |of: &Comparison, layer: &ChangedLayer| {
            [
                of.network.clone(),
                of.batch.to_string(),
                of.platform.clone(),
                layer.layer.clone(),
                layer.change.clone(),
                cell(layer.runtime_ms_before),
                cell(layer.runtime_ms_after),
                cell(layer.energy_mj_before),
                cell(layer.energy_mj_after),
            ]
        };
        let records = self.0.iter();
        csv_of(
            headings,
            records.flat_map(|of| of.layers.iter().map(move |layer| record(of, layer))),
        )
    }
}

pub(super) async fn run(session: &Session, output: Output, args: WhatifArgs) -> anyhow::Result<()> {
    let loaded = network::load(&args.network, &args.sizes)?;
    let change = Change {
        layers: args.layer,
        set: args
            .set
            .into_iter()
            .map(|set| (set.field, set.value))
            .collect(),
    };
    let mut networks = Vec::with_capacity(loaded.len());
    for loaded in loaded {
        let doing = || format!("change {}", loaded.network.name());
        let changed = loaded.network.changed(&change).with_context(doing)?;
        networks.push((loaded, changed));
    }
    let predictor = Predictor::open(session, &args.predictor).await?;
    let mut comparisons = Vec::with_capacity(networks.len());
    for (loaded, changed) in networks {
        let predicted = predictor.predict(&loaded.network).await?;
        let after = predictor.predict(&changed.network).await?;
        let told = changed.notes.into_iter();
        let told = told.chain(loaded.coverage.iter().flat_map(Coverage::warnings));
        comparisons.push(Comparison::new(
            (&loaded.network, &changed.network),
            predicted,
            after,
            told.collect(),
        ));
    }
    output.show(&Comparisons(comparisons))
}

fn text(comparison: &Comparison) -> String {
    let Comparison { before, after, .. } = comparison;
    let mut lines = vec![
        format!(
            "{} at batch {} on {}",
            comparison.network, comparison.batch, comparison.platform
        ),
        String::new(),
    ];
    let columns = [
        Column::Left("layer"),
        Column::Right("ms"),
        Column::Right("then"),
        Column::Right("change %"),
        Column::Left("what changes"),
    ];
    let row = |layer: &ChangedLayer| {
        let (was, is) = (layer.runtime_ms_before, layer.runtime_ms_after);
        [
            layer.layer.clone(),
            figure_or_none(was),
            figure_or_none(is),
            signed_percent(relative(was, is)),
            layer.change.clone(),
        ]
    };
    lines.push(match comparison.layers.is_empty() {
        true => "No layer changes.".to_owned(),
        false => table(columns, comparison.layers.iter().map(row)),
    });
    lines.push(String::new());
    let columns = [
        Column::Left("whole network"),
        Column::Right("now"),
        Column::Right("then"),
        Column::Right("saved"),
        Column::Right("change %"),
    ];
    let figures = [
        ("ms", before.runtime_ms, after.runtime_ms),
        ("items a second", before.items_per_s, after.items_per_s),
        ("W", before.power_w, after.power_w),
        ("mJ", before.energy_mj, after.energy_mj),
        (
            "mJ an item",
            before.energy_mj_per_item,
            after.energy_mj_per_item,
        ),
    ];
    let mut rows: Vec<[String; 5]> = figures
        .into_iter()
        .filter(|(_, was, is)| was.is_some() || is.is_some())
        .map(|(name, was, is)| {
            let saved = was.zip(is).map(|(was, is)| was - is);
            [
                name.to_owned(),
                figure_or_none(was),
                figure_or_none(is),
                match name {
                    "items a second" => NONE.to_owned(),
                    _ => saved.map_or_else(|| NONE.to_owned(), figure),
                },
                signed_percent(relative(was, is)),
            ]
        })
        .collect();
    let count = |name: &str, shown: fn(u64) -> String, was: u64, is: u64| {
        let sign = if is > was { "-" } else { "" };
        [
            name.to_owned(),
            shown(was),
            shown(is),
            format!("{sign}{}", shown(was.abs_diff(is))),
            signed_percent(relative(Some(was as f64), Some(is as f64))),
        ]
    };
    rows.extend([
        count("GFLOPs", giga, before.flops, after.flops),
        count("M parameters", mega, before.parameters, after.parameters),
        count(
            "MB of activations at most",
            mega,
            before.peak_activation_bytes,
            after.peak_activation_bytes,
        ),
    ]);
    lines.push(table(columns, rows));
    lines.extend(
        comparison
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    lines.join("\n")
}

/// How much more or less the second is, in percent.
fn relative(was: Option<f64>, is: Option<f64>) -> Option<f64> {
    was.zip(is)
        .filter(|(was, _)| *was > 0.0)
        .map(|(was, is)| 100.0 * (is - was) / was)
}
