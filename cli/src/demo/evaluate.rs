//! Judging the models: networks none of whose layers were measured, predicted, and then measured as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use tokio::time::timeout;
use wattfarm_cost::model::{self, ModelSet, NetworkPrediction, Target};
use wattfarm_cost::{Dtype, Hash, Kind, Network};

use super::setup::Farm;
use crate::output::note;
use crate::render::number::{figure, figure_or_none};
use crate::{farm, network};

/// How long one network may take to be measured.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often each network is measured.
const ROUNDS: usize = 3;

/// The batch that networks are judged at, and another whose layers are not sampled either: they are those of the first
/// but for their batch, and would make it too easy.
pub(super) const BATCHES: [u64; 2] = [1, 8];

/// The networks to judge by.
pub(super) struct Contest {
    /// At the batch that they are judged at.
    pub(super) networks: Vec<Network>,
    /// The layers that may not be sampled, and where each was met first.
    pub(super) excluded: BTreeMap<Hash, String>,
}

impl Contest {
    pub(super) fn new(names: &[String]) -> anyhow::Result<Self> {
        let [judged, _] = BATCHES;
        let mut contest = Self {
            networks: Vec::new(),
            excluded: BTreeMap::new(),
        };
        for name in names {
            contest
                .networks
                .push(network::build(name, Some(judged), Dtype::F32)?);
            for network in network::build_batches(name, &BATCHES, Dtype::F32)? {
                for (layer_name, layer) in network.layers() {
                    let met = || {
                        let batch = network.batch();
                        format!("layer `{layer_name}` of {name} at batch {batch}, {layer},")
                    };
                    contest.excluded.entry(layer.hash()).or_insert_with(met);
                }
            }
        }
        Ok(contest)
    }

    /// Refuses models that have seen a layer they are to be judged by.
    pub(super) fn check(&self, measured: &BTreeSet<Hash>) -> anyhow::Result<()> {
        let mut excluded = self.excluded.iter();
        match excluded.find(|(layer, _)| measured.contains(layer)) {
            Some((_, met)) => bail!(
                "the comparison would not be fair: {met} has been measured by itself. `make demo-clean` forgets what \
                 earlier runs measured"
            ),
            None => Ok(()),
        }
    }
}

/// A network's time as measured, in ms.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MeasuredTime {
    pub(super) median_ms: f64,
    /// Ends of the median's 95 % interval.
    pub(super) low_ms: f64,
    pub(super) high_ms: f64,
    pub(super) repetitions: u32,
}

/// A network's prediction beside its measurement.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NetworkResult {
    pub(super) prediction: NetworkPrediction,
    /// Or why there is none.
    pub(super) measured: Result<MeasuredTime, String>,
}

impl NetworkResult {
    /// By how much the prediction is off, in percent of what was measured.
    pub(super) fn error_percent(&self) -> Option<f64> {
        let measured = self.measured.as_ref().ok()?.median_ms;
        Some(100.0 * (self.prediction.total.runtime_ms? - measured) / measured)
    }
}

/// How good a kind's model is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KindResult {
    pub(super) kind: Kind,
    /// Measurements that it was fitted to.
    pub(super) samples: u64,
    pub(super) terms: usize,
    /// Cross-validated, in percent.
    pub(super) rmspe: f64,
    pub(super) medape: f64,
}

/// The runtime models, in the kinds' order.
pub(super) fn kinds(models: &ModelSet) -> Vec<KindResult> {
    let found = |kind| {
        models
            .model(kind, Dtype::F32, Target::RuntimeMs)
            .map(|model| (kind, model))
    };
    let result = |(kind, model): (Kind, &wattfarm_cost::Model)| KindResult {
        kind,
        samples: model.provenance.samples,
        terms: model.terms.len(),
        rmspe: model.validation.rmspe,
        medape: model.validation.medape,
    };
    Kind::ALL
        .into_iter()
        .filter_map(found)
        .map(result)
        .collect()
}

/// Predicts every network, then measures each in [`ROUNDS`] rounds. Its time is the middle one: a machine that others share
/// drifts from minute to minute, and now and then where a network's memory comes to lie makes it several times slower.
///
/// The models are those that the report shows: whatever the trainer may publish meanwhile.
pub(super) async fn networks(
    farm: &Farm,
    contest: &Contest,
    models: &ModelSet,
) -> anyhow::Result<Vec<NetworkResult>> {
    let networks = contest.networks.iter();
    let predictions: Vec<NetworkPrediction> = networks
        .map(|network| model::predict(network, models))
        .collect();

    let mut rounds: Vec<Vec<Result<MeasuredTime, String>>> =
        vec![Vec::new(); contest.networks.len()];
    for _ in 0..ROUNDS {
        for (network, times) in contest.networks.iter().zip(&mut rounds) {
            times.push(match timeout(PATIENCE, measure(farm, network)).await {
                Ok(measured) => measured?,
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            });
        }
    }
    let mut results = Vec::with_capacity(contest.networks.len());
    for (prediction, times) in predictions.into_iter().zip(rounds) {
        let predicted = figure_or_none(prediction.total.runtime_ms);
        let measured = middle(times);
        let told = match &measured {
            Ok((time, all)) => format!("measured {} ms ({all})", figure(time.median_ms)),
            Err(because) => format!("not measured: {because}"),
        };
        note(format!(
            "{}: predicted {predicted} ms, {told}",
            prediction.network
        ));
        results.push(NetworkResult {
            prediction,
            measured: measured.map(|(time, _)| time),
        });
    }
    Ok(results)
}

/// The middle of the rounds' times, with all of them as text; or why a round has none.
fn middle(rounds: Vec<Result<MeasuredTime, String>>) -> Result<(MeasuredTime, String), String> {
    let mut times = rounds.into_iter().collect::<Result<Vec<_>, _>>()?;
    let all: Vec<String> = times.iter().map(|time| figure(time.median_ms)).collect();
    times.sort_by(|a, b| a.median_ms.total_cmp(&b.median_ms));
    let middle = times.swap_remove(times.len() / 2);
    Ok((middle, all.join(", ")))
}

/// Measures a network once more than it has been.
async fn measure(farm: &Farm, network: &Network) -> anyhow::Result<Result<MeasuredTime, String>> {
    let networks = std::slice::from_ref(network);
    let waiting = |because: &str| note(format!("{} waits: {because}", network.name()));
    let there = farm::measure(&farm.connection, &farm.platform, networks, 0, waiting)
        .await?
        .of(network)
        .len();
    let wanted = u32::try_from(there)?.saturating_add(1);
    let measured =
        farm::measure(&farm.connection, &farm.platform, networks, wanted, waiting).await?;
    let because = || {
        measured
            .failure(network)
            .unwrap_or("the coordinator sent no measurement")
            .to_owned()
    };
    Ok(match measured.of(network).get(there..) {
        Some([.., newest]) => {
            let runtime = &newest.reading.runtime;
            Ok(MeasuredTime {
                median_ms: runtime.median_ms,
                low_ms: runtime.low_ms,
                high_ms: runtime.high_ms,
                repetitions: runtime.repetitions,
            })
        }
        Some([]) | None => Err(because()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_round_counts_and_a_failed_round_is_told() {
        let time = |median_ms| {
            Ok(MeasuredTime {
                median_ms,
                low_ms: median_ms,
                high_ms: median_ms,
                repetitions: 9,
            })
        };
        let (middle_time, all) =
            middle(vec![time(60.0), time(223.0), time(61.0)]).expect("all measured");
        assert_eq!(
            (middle_time.median_ms, all.as_str()),
            (61.0, "60.00, 223.0, 61.00")
        );
        let failed = middle(vec![time(60.0), Err("out of memory".to_owned())]);
        assert_eq!(failed.expect_err("one failed"), "out of memory");
    }

    #[test]
    fn both_batches_are_excluded_and_one_is_judged() {
        let contest = Contest::new(&["resnet18".to_owned()]).expect("built in");
        for batch in BATCHES {
            let network = network::build("resnet18", Some(batch), Dtype::F32).expect("built in");
            assert!(
                network
                    .layers()
                    .all(|(_, layer)| contest.excluded.contains_key(&layer.hash()))
            );
        }
        assert_eq!(contest.networks.len(), 1);
        assert_eq!(contest.networks[0].batch(), 1);
    }

    #[test]
    fn a_measured_layer_spoils_the_contest() {
        let contest = Contest::new(&["resnet18".to_owned()]).expect("built in");
        assert!(contest.check(&BTreeSet::new()).is_ok());
        for batch in BATCHES {
            let network = network::build("resnet18", Some(batch), Dtype::F32).expect("built in");
            let (_, layer) = network.layers().next().expect("has layers");
            let error = contest
                .check(&BTreeSet::from([layer.hash()]))
                .expect_err("it has been measured");
            let met = format!("layer `conv1` of resnet18 at batch {batch}");
            assert!(error.to_string().contains(&met), "{error}");
        }
    }
}
