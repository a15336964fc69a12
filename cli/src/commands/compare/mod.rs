//! `wattfarm compare`: networks on platforms beside each other, and which of them no other beats.

mod html;

use serde::Serialize;
use wattfarm_cost::epr::ErrorRate;
use wattfarm_cost::model::NetworkPrediction;
use wattfarm_cost::pareto;
use wattfarm_onnx::Coverage;

use crate::args::{CompareArgs, PredictorsArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Output, Report, cell, csv_of};
use crate::predictor::Predictor;
use crate::render::number::{NONE, figure_or_none, giga, interval, mega};
use crate::render::table::{Column, table};
use crate::session::Session;
use crate::{network, shelf};

/// What is held against the time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Against {
    /// The energy of an item.
    EnergyMjPerItem,
    /// The network's error.
    Error,
}

impl Against {
    /// For people, with the unit.
    fn title(self) -> &'static str {
        match self {
            Self::EnergyMjPerItem => "energy, mJ an item",
            Self::Error => "error, %",
        }
    }
}

/// One network at one batch on one platform.
#[derive(Debug, Clone, Serialize)]
struct Row {
    network: String,
    batch: u64,
    platform: String,
    runtime_ms: Option<f64>,
    runtime_ms_low: Option<f64>,
    runtime_ms_high: Option<f64>,
    items_per_s: Option<f64>,
    power_w: Option<f64>,
    energy_mj_per_item: Option<f64>,
    error: Option<ErrorRate>,
    flops: u64,
    parameters: u64,
    peak_activation_bytes: u64,
    /// Whether no other row is at least as good in both figures and better in one; `None` where one of them is not known.
    on_front: Option<bool>,
    warnings: Vec<String>,
}

impl Row {
    fn new(prediction: NetworkPrediction, error: Option<ErrorRate>) -> Self {
        let total = prediction.total;
        Self {
            network: prediction.network,
            batch: prediction.batch,
            platform: prediction.platform,
            runtime_ms: total.runtime_ms,
            runtime_ms_low: total.runtime_ms_low,
            runtime_ms_high: total.runtime_ms_high,
            items_per_s: total.items_per_s,
            power_w: total.power_w,
            energy_mj_per_item: total.energy_mj_per_item,
            error,
            flops: total.flops,
            parameters: total.parameters,
            peak_activation_bytes: total.peak_activation_bytes,
            on_front: None,
            warnings: prediction.warnings,
        }
    }

    /// Time of a call in ms and what it is held against, if both are known of the whole network.
    fn point(&self, against: Against) -> Option<(f64, f64)> {
        let runtime = self.runtime_ms.filter(|_| self.items_per_s.is_some())?;
        let other = match against {
            Against::EnergyMjPerItem => self.energy_mj_per_item?,
            Against::Error => 100.0 * self.error?.fraction(),
        };
        Some((runtime, other))
    }

    fn title(&self) -> String {
        format!(
            "{} at batch {} on {}",
            self.network, self.batch, self.platform
        )
    }
}

/// Rows in the order in which they were asked for.
#[derive(Serialize)]
struct Comparison {
    /// What the front holds against `runtime_ms`.
    against: Against,
    rows: Vec<Row>,
}

impl Comparison {
    fn new(mut rows: Vec<Row>, against: Against) -> Self {
        let points: Vec<(usize, (f64, f64))> = rows
            .iter()
            .enumerate()
            .filter_map(|(index, row)| Some((index, row.point(against)?)))
            .collect();
        let figures: Vec<(f64, f64)> = points.iter().map(|(_, point)| *point).collect();
        for ((index, _), on_front) in points.iter().zip(pareto::front(&figures)) {
            rows[*index].on_front = Some(on_front);
        }
        Self { against, rows }
    }

    /// What a reader must know before trusting the front.
    fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = self
            .rows
            .iter()
            .filter(|row| row.on_front.is_none())
            .map(|row| {
                let reason = match row.items_per_s {
                    None => "not all of its layers have a model of time",
                    Some(_) => "not all of its layers have a model of power or energy",
                };
                format!("{} is not compared: {reason}", row.title())
            })
            .collect();
        let compared = self.rows.iter().filter(|row| row.on_front.is_some());
        let told = compared.filter(|row| !row.warnings.is_empty());
        remarks.extend(told.map(|row| {
            let count = row.warnings.len();
            let plural = if count == 1 { "" } else { "s" };
            format!(
                "{}: {count} warning{plural}, which `wattfarm predict` tells",
                row.title()
            )
        }));
        remarks
    }
}

impl Report for Comparison {
    fn text(&self) -> String {
        let columns = [
            Column::Left("network"),
            Column::Right("batch"),
            Column::Left("platform"),
            Column::Right("ms"),
            Column::Right("90 % interval"),
            Column::Right("items/s"),
            Column::Right("W"),
            Column::Right("mJ an item"),
            Column::Right("error"),
            Column::Right("GFLOPs"),
            Column::Right("M parameters"),
            Column::Left("front"),
        ];
        let row = |row: &Row| {
            [
                row.network.clone(),
                row.batch.to_string(),
                row.platform.clone(),
                figure_or_none(row.runtime_ms),
                interval(row.runtime_ms_low, row.runtime_ms_high),
                figure_or_none(row.items_per_s),
                figure_or_none(row.power_w),
                figure_or_none(row.energy_mj_per_item),
                row.error
                    .map_or_else(|| NONE.to_owned(), |error| error.to_string()),
                giga(row.flops),
                mega(row.parameters),
                front(row).to_owned(),
            ]
        };
        let mut lines = vec![
            table(columns, self.rows.iter().map(row)),
            String::new(),
            format!(
                "front: what no other row beats in ms and {}",
                self.against.title()
            ),
        ];
        let remarks = self.remarks().into_iter();
        lines.extend(remarks.map(|remark| format!("warning: {remark}")));
        lines.join("\n")
    }

    fn csv(&self) -> anyhow::Result<String> {
        let headings = [
            "network",
            "batch",
            "platform",
            "runtime_ms",
            "runtime_ms_low",
            "runtime_ms_high",
            "items_per_s",
            "power_w",
            "energy_mj_per_item",
            "error",
            "flops",
            "parameters",
            "peak_activation_bytes",
            "on_front",
        ];
        let record = |row: &Row| {
            [
                row.network.clone(),
                row.batch.to_string(),
                row.platform.clone(),
                cell(row.runtime_ms),
                cell(row.runtime_ms_low),
                cell(row.runtime_ms_high),
                cell(row.items_per_s),
                cell(row.power_w),
                cell(row.energy_mj_per_item),
                cell(row.error.map(ErrorRate::fraction)),
                row.flops.to_string(),
                row.parameters.to_string(),
                row.peak_activation_bytes.to_string(),
                row.on_front
                    .map_or_else(String::new, |on_front| u8::from(on_front).to_string()),
            ]
        };
        csv_of(headings, self.rows.iter().map(record))
    }

    fn html(&self) -> anyhow::Result<String> {
        Ok(html::html(self))
    }
}

/// How a table marks a row.
fn front(row: &Row) -> &'static str {
    match row.on_front {
        Some(true) => "yes",
        Some(false) => "",
        None => NONE,
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: CompareArgs,
) -> anyhow::Result<()> {
    let errors = args.error.len();
    if errors != 0 && errors != args.networks.len() {
        let message = format!(
            "--error has {errors} values for {} networks",
            args.networks.len()
        );
        return Err(Failure::new(Exit::Usage, message).into());
    }
    let mut networks = Vec::new();
    for (index, name) in args.networks.iter().enumerate() {
        let loaded = network::load(name, &args.sizes)?.into_iter();
        networks.extend(loaded.map(|loaded| (loaded, args.error.get(index).copied())));
    }
    let mut rows = Vec::new();
    for predictor in predictors(session, &args.predictors).await? {
        for (loaded, error) in &networks {
            let mut prediction = predictor.predict(&loaded.network).await?;
            let told = loaded.coverage.iter().flat_map(Coverage::warnings);
            prediction.warnings.extend(told);
            rows.push(Row::new(prediction, *error));
        }
    }
    let against = match errors {
        0 => Against::EnergyMjPerItem,
        _ => Against::Error,
    };
    output.show(&Comparison::new(rows, against))
}

async fn predictors(session: &Session, args: &PredictorsArgs) -> anyhow::Result<Vec<Predictor>> {
    let shelf = shelf::folders(args.shelf.shelf.as_deref());
    let mut predictors = Vec::new();
    for platform in &args.of.platforms {
        predictors.push(Predictor::of_platform(session, platform, &shelf).await?);
    }
    for path in &args.of.models {
        predictors.push(Predictor::of_file(path, &shelf)?);
    }
    Ok(predictors)
}
