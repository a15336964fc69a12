//! What the demo found: as text, as JSON and as a page. All three are functions of one value.

mod html;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use wattfarm_cost::Kind;
use wattfarm_cost::model::LayerPrediction;

use super::evaluate::{BATCHES, KindResult, NetworkResult};
use crate::output::Report;
use crate::render::number::{NONE, figure, figure_or_none, interval, share, signed_percent};
use crate::render::table::{Column, table};

pub(super) use html::html;

/// The network whose layers the text shows, if it is among them.
const SHOWN: &str = "googlenet";
/// How many of its layers: the costliest.
const SHOWN_LAYERS: usize = 12;

/// Everything that the demo found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Evaluation {
    pub(super) platform: String,
    pub(super) finished_at: Timestamp,
    /// Measurements of layers that the models rest on, earlier runs included.
    pub(super) measurements: u64,
    /// Different layers among them.
    pub(super) layers: usize,
    /// Layers that were not to be sampled.
    pub(super) excluded_layers: usize,
    pub(super) kinds: Vec<KindResult>,
    pub(super) networks: Vec<NetworkResult>,
    pub(super) seconds: Seconds,
    /// Share of the measuring's wall time in which the agent was busy with jobs.
    pub(super) duty_percent: f64,
}

/// How long each part of the demo took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Seconds {
    pub(super) setup: f64,
    pub(super) measuring: f64,
    pub(super) fitting: f64,
    pub(super) networks: f64,
    pub(super) total: f64,
}

impl Evaluation {
    /// Root mean square of the relative error over the networks that were measured, in percent. A network with layers
    /// that no model covers counts like any other.
    pub(super) fn runtime_rmspe_percent(&self) -> Option<f64> {
        let errors: Vec<f64> = self.errors_percent().collect();
        let squares: f64 = errors.iter().map(|error| error.powi(2)).sum();
        (!errors.is_empty()).then(|| (squares / errors.len() as f64).sqrt())
    }

    /// The errors of the networks that were measured.
    fn errors_percent(&self) -> impl Iterator<Item = f64> {
        self.networks
            .iter()
            .filter_map(NetworkResult::error_percent)
    }

    /// Over what the error is: `7 of 8 networks`, where one could not be measured.
    fn judged(&self) -> String {
        match (self.errors_percent().count(), self.networks.len()) {
            (1, 1) => "1 network".to_owned(),
            (judged, all) if judged == all => format!("{all} networks"),
            (judged, all) => format!("{judged} of {all} networks"),
        }
    }

    /// The network whose layers are shown.
    fn shown(&self) -> Option<&NetworkResult> {
        self.networks
            .iter()
            .find(|network| network.prediction.network == SHOWN)
            .or(self.networks.first())
    }

    /// That no layer of the networks was measured by itself. It has been checked, or there would be no evaluation.
    fn fairness(&self) -> String {
        let [judged, other] = BATCHES;
        format!(
            "None of the {} layers that these networks have at batch {judged} and {other} is among the {} layers that \
             were measured ({} measurements).",
            self.excluded_layers, self.layers, self.measurements
        )
    }
}

/// `report.json`.
#[derive(Serialize)]
struct Json<'a> {
    platform: &'a str,
    measurements: u64,
    networks: Vec<JsonNetwork<'a>>,
    runtime_rmspe_percent: Option<f64>,
    seconds: Seconds,
    duty_percent: f64,
}

/// A network in `report.json`.
#[derive(Serialize)]
struct JsonNetwork<'a> {
    name: &'a str,
    batch: u64,
    predicted_ms: Option<f64>,
    measured_ms: Option<f64>,
    error_percent: Option<f64>,
}

impl<'a> From<&'a NetworkResult> for JsonNetwork<'a> {
    fn from(network: &'a NetworkResult) -> Self {
        Self {
            name: &network.prediction.network,
            batch: network.prediction.batch,
            predicted_ms: network.prediction.total.runtime_ms,
            measured_ms: network.measured.as_ref().ok().map(|time| time.median_ms),
            error_percent: network.error_percent(),
        }
    }
}

impl Serialize for Evaluation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = Json {
            platform: &self.platform,
            measurements: self.measurements,
            networks: self.networks.iter().map(JsonNetwork::from).collect(),
            runtime_rmspe_percent: self.runtime_rmspe_percent(),
            seconds: self.seconds,
            duty_percent: self.duty_percent,
        };
        json.serialize(serializer)
    }
}

impl Report for Evaluation {
    fn text(&self) -> String {
        let columns = [
            Column::Left("network"),
            Column::Right("batch"),
            Column::Right("predicted ms"),
            Column::Right("90 % interval"),
            Column::Right("measured ms"),
            Column::Right("95 % interval"),
            Column::Right("error %"),
        ];
        let row = |network: &NetworkResult| {
            let total = &network.prediction.total;
            let measured = network.measured.as_ref().ok();
            [
                network.prediction.network.clone(),
                network.prediction.batch.to_string(),
                figure_or_none(total.runtime_ms),
                interval(total.runtime_ms_low, total.runtime_ms_high),
                figure_or_none(measured.map(|time| time.median_ms)),
                interval(
                    measured.map(|time| time.low_ms),
                    measured.map(|time| time.high_ms),
                ),
                signed_percent(network.error_percent()),
            ]
        };
        let mut text = format!(
            "{}\n\n{}\n",
            self.platform,
            table(columns, self.networks.iter().map(row))
        );
        for network in &self.networks {
            for remark in remarks(network) {
                text.push_str(&format!(
                    "warning: {}: {remark}\n",
                    network.prediction.network
                ));
            }
        }
        let rmspe = self
            .runtime_rmspe_percent()
            .map_or_else(|| NONE.to_owned(), figure);
        text.push_str(&format!(
            "\nroot mean square error over {}: {rmspe} %\n{}\n",
            self.judged(),
            self.fairness()
        ));
        if let Some(shown) = self.shown() {
            text.push_str(&format!("\n{}", costliest(shown)));
        }
        text
    }
}

/// What a reader of one network's row must know. The page has each warning in full.
fn remarks(network: &NetworkResult) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Err(because) = &network.measured {
        remarks.push(format!("not measured: {because}"));
    }
    let layers = &network.prediction.layers;
    let unmodelled: BTreeSet<Kind> = layers
        .iter()
        .filter(|layer| layer.runtime_ms.is_none())
        .map(|layer| layer.kind)
        .collect();
    if !unmodelled.is_empty() {
        let kinds: Vec<&str> = unmodelled.into_iter().map(Kind::name).collect();
        remarks.push(format!(
            "not in the prediction, for want of a model: {}",
            kinds.join(", ")
        ));
    }
    match network.prediction.warnings.len() {
        0 => (),
        1 => remarks.push("1 warning, which report.html has".to_owned()),
        count => remarks.push(format!("{count} warnings, which report.html has")),
    }
    remarks
}

/// A network's costliest layers, and what the others cost together.
fn costliest(network: &NetworkResult) -> String {
    let prediction = &network.prediction;
    let mut layers: Vec<&LayerPrediction> = prediction.layers.iter().collect();
    layers.sort_by(|one, other| {
        other
            .runtime_ms
            .unwrap_or(0.0)
            .total_cmp(&one.runtime_ms.unwrap_or(0.0))
    });
    let (first, others) = layers.split_at(layers.len().min(SHOWN_LAYERS));
    let rest: f64 = others.iter().filter_map(|layer| layer.runtime_ms).sum();
    let columns = [
        Column::Left("layer"),
        Column::Left("kind"),
        Column::Right("predicted ms"),
        Column::Right("90 % interval"),
        Column::Right("share %"),
    ];
    let row = |layer: &&LayerPrediction| {
        [
            layer.name.clone(),
            layer.kind.to_string(),
            figure_or_none(layer.runtime_ms),
            interval(layer.runtime_ms_low, layer.runtime_ms_high),
            share(layer.runtime_ms, prediction.layers_ms()),
        ]
    };
    format!(
        "where the time of {} goes, by its costliest layers:\n\n{}\nand {} more layers, {} ms",
        prediction.network,
        table(columns, first.iter().map(row)),
        others.len(),
        figure(rest),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::evaluate::MeasuredTime;
    use wattfarm_cost::Hash;
    use wattfarm_cost::model::{NetworkPrediction, Total};

    fn layer(name: &str, kind: Kind, runtime_ms: Option<f64>) -> LayerPrediction {
        LayerPrediction {
            name: name.to_owned(),
            kind,
            hash: Hash::of(name),
            runtime_ms,
            runtime_ms_low: runtime_ms.map(|ms| 0.9 * ms),
            runtime_ms_high: runtime_ms.map(|ms| 1.1 * ms),
            power_w: None,
            energy_mj: None,
            flops: 1_000_000,
            bytes: 1_000,
            limit: None,
        }
    }

    fn network(
        name: &str,
        layers: Vec<LayerPrediction>,
        warnings: Vec<String>,
    ) -> NetworkPrediction {
        let runtime_ms = layers.iter().filter_map(|layer| layer.runtime_ms).sum();
        NetworkPrediction {
            network: name.to_owned(),
            batch: 1,
            platform: "test-cpu".to_owned(),
            total: Total {
                runtime_ms: Some(runtime_ms),
                runtime_ms_low: Some(0.9 * runtime_ms),
                runtime_ms_high: Some(1.1 * runtime_ms),
                power_w: None,
                energy_mj: None,
                energy_mj_per_item: None,
                flops: 2_000_000,
                parameters: 3_000,
                items_per_s: None,
                peak_activation_bytes: 0,
            },
            layers,
            warnings,
        }
    }

    fn evaluation() -> Evaluation {
        let first = vec![
            layer("conv1", Kind::Conv2d, Some(9.0)),
            layer("relu1", Kind::Relu, Some(1.0)),
        ];
        let second = vec![
            layer("fc", Kind::Linear, Some(4.0)),
            layer("gelu", Kind::Gelu, None),
        ];
        let measured = MeasuredTime {
            median_ms: 12.5,
            low_ms: 12.0,
            high_ms: 13.0,
            repetitions: 40,
        };
        Evaluation {
            platform: "test-cpu".to_owned(),
            finished_at: Timestamp::UNIX_EPOCH,
            measurements: 120,
            layers: 110,
            excluded_layers: 8,
            kinds: vec![
                KindResult {
                    kind: Kind::Conv2d,
                    samples: 80,
                    terms: 12,
                    rmspe: 8.25,
                    medape: 4.5,
                },
                KindResult {
                    kind: Kind::Linear,
                    samples: 40,
                    terms: 5,
                    rmspe: 12.0,
                    medape: 6.0,
                },
            ],
            networks: vec![
                NetworkResult {
                    prediction: network("resnet18", first, vec![]),
                    measured: Ok(measured),
                },
                NetworkResult {
                    prediction: network(
                        "mlp",
                        second,
                        vec!["no model for gelu: `gelu` not in the total".to_owned()],
                    ),
                    measured: Err("out of memory".to_owned()),
                },
            ],
            seconds: Seconds {
                setup: 2.0,
                measuring: 300.0,
                fitting: 4.0,
                networks: 20.0,
                total: 326.0,
            },
            duty_percent: 97.5,
        }
    }

    #[test]
    fn text_is_golden() {
        insta::assert_snapshot!(evaluation().text(), @r"
        test-cpu

        network   batch  predicted ms   90 % interval  measured ms   95 % interval  error %
        resnet18      1         10.00  9.000 .. 11.00        12.50  12.00 .. 13.00    -20.0
        mlp           1         4.000  3.600 .. 4.400            -               -        -
        warning: mlp: not measured: out of memory
        warning: mlp: not in the prediction, for want of a model: gelu
        warning: mlp: 1 warning, which report.html has

        root mean square error over 1 of 2 networks: 20.00 %
        None of the 8 layers that these networks have at batch 1 and 8 is among the 110 layers that were measured (120 measurements).

        where the time of resnet18 goes, by its costliest layers:

        layer  kind    predicted ms    90 % interval  share %
        conv1  conv2d         9.000   8.100 .. 9.900     90.0
        relu1  relu           1.000  0.9000 .. 1.100     10.0
        and 0 more layers, 0 ms
        ");
    }

    #[test]
    fn json_is_golden() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&evaluation()).expect("serializes"), @r#"
        {
          "platform": "test-cpu",
          "measurements": 120,
          "networks": [
            {
              "name": "resnet18",
              "batch": 1,
              "predicted_ms": 10.0,
              "measured_ms": 12.5,
              "error_percent": -20.0
            },
            {
              "name": "mlp",
              "batch": 1,
              "predicted_ms": 4.0,
              "measured_ms": null,
              "error_percent": null
            }
          ],
          "runtime_rmspe_percent": 20.0,
          "seconds": {
            "setup": 2.0,
            "measuring": 300.0,
            "fitting": 4.0,
            "networks": 20.0,
            "total": 326.0
          },
          "duty_percent": 97.5
        }
        "#);
    }

    #[test]
    fn page_is_golden() {
        // One element a line, and without the style sheet: a change shows as a diff to read.
        let page = html(&evaluation())
            .replace(crate::render::page::STYLE, "")
            .replace("><", ">\n<");
        insta::assert_snapshot!(page);
    }

    #[test]
    fn page_needs_nothing_from_elsewhere() {
        let page = html(&evaluation());
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
