//! `wattfarm measure`: what a network costs indeed.

use serde::Serialize;
use wattfarm_cost::{Measurement, Network};

use crate::args::MeasureArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Report, note};
use crate::render::number::{figure, figure_or_none, short, time};
use crate::render::table::{Column, table};
use crate::session::Session;
use crate::{farm, network};

/// A measurement of a whole network, without its raw samples: `wattfarm export --format ndjson` has those.
#[derive(Serialize)]
struct Row {
    network: String,
    batch: u64,
    platform: String,
    runtime_ms: f64,
    runtime_ms_low: f64,
    runtime_ms_high: f64,
    repetitions: u32,
    power_w: Option<f64>,
    energy_mj: Option<f64>,
    agent: String,
    sequence: u64,
    measured_at_ms: u64,
}

impl Row {
    fn new(network: &Network, platform: &str, measurement: &Measurement) -> Self {
        let reading = &measurement.reading;
        Self {
            network: network.name().to_owned(),
            batch: network.batch(),
            platform: platform.to_owned(),
            runtime_ms: reading.runtime.median_ms,
            runtime_ms_low: reading.runtime.low_ms,
            runtime_ms_high: reading.runtime.high_ms,
            repetitions: reading.runtime.repetitions,
            power_w: reading.power.as_ref().map(|power| power.mean_w),
            energy_mj: reading.energy_mj(),
            agent: measurement.agent.to_string(),
            sequence: measurement.sequence,
            measured_at_ms: reading.conditions.measured_at_ms,
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Rows(Vec<Row>);

impl Report for Rows {
    fn text(&self) -> String {
        let columns = [
            Column::Left("network"),
            Column::Right("batch"),
            Column::Right("median ms"),
            Column::Right("95 % interval"),
            Column::Right("repetitions"),
            Column::Right("W"),
            Column::Right("mJ"),
            Column::Left("agent"),
            Column::Left("measured"),
        ];
        let row = |row: &Row| {
            [
                row.network.clone(),
                row.batch.to_string(),
                figure(row.runtime_ms),
                format!(
                    "{} .. {}",
                    figure(row.runtime_ms_low),
                    figure(row.runtime_ms_high)
                ),
                row.repetitions.to_string(),
                figure_or_none(row.power_w),
                figure_or_none(row.energy_mj),
                short(&row.agent).to_owned(),
                time(row.measured_at_ms),
            ]
        };
        table(columns, self.0.iter().map(row))
    }
}

pub(super) async fn run(
    session: &Session,
    output: Output,
    args: MeasureArgs,
) -> anyhow::Result<()> {
    let networks = network::build_batches(&args.network, &args.batch, args.dtype)?;
    let connection = session.designer().await?;
    let waiting = |because: &str| note(format!("waiting: {because}"));
    let measured = farm::measure(
        &connection,
        &args.platform,
        &networks,
        args.replicas,
        waiting,
    )
    .await?;
    let mut rows = Vec::new();
    let mut unmeasured = Vec::new();
    for network in &networks {
        let newest_first = measured.of(network).into_iter().rev();
        // Without a number of its own, 0 asks for all that there are.
        let shown = if args.replicas == 0 {
            usize::MAX
        } else {
            args.replicas as usize
        };
        rows.extend(
            newest_first
                .take(shown)
                .map(|found| Row::new(network, &args.platform, found)),
        );
        if let Some(because) = measured.failure(network) {
            unmeasured.push(format!(
                "{} at batch {}: {because}",
                network.name(),
                network.batch()
            ));
        }
    }
    output.show(&Rows(rows))?;
    if unmeasured.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(Exit::Unfinished, unmeasured.join("; ")).into())
    }
}
