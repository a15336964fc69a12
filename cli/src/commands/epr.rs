//! `wattfarm epr`: what a network's accuracy costs in energy, and which network of several has it cheapest.

use anyhow::Context as _;
use serde::Serialize;
use wattfarm_cost::epr::{ErrorRate, energy_precision_ratio};
use wattfarm_cost::model::NetworkPrediction;

use crate::args::EprArgs;
use crate::exit::{Exit, Failure};
use crate::network;
use crate::output::{Output, Report, csv_of};
use crate::predictor::Predictor;
use crate::render::number::{NONE, figure};
use crate::render::table::{Column, table};
use crate::session::Session;

/// A network with its error and its energy.
struct Classifier {
    name: String,
    /// `None` if its energy was given.
    batch: Option<u64>,
    error: ErrorRate,
    energy_mj_per_item: f64,
}

/// One network's ratio for one weight.
#[derive(Debug, Clone, Serialize)]
struct Ratio {
    alpha: f64,
    network: String,
    batch: Option<u64>,
    error: ErrorRate,
    energy_mj_per_item: f64,
    /// error^alpha times energy_mj_per_item, in mJ.
    epr_mj: f64,
}

/// Ratios by weight, and the best first.
#[derive(Serialize)]
#[serde(transparent)]
struct Ratios(Vec<Ratio>);

impl Ratios {
    fn of(classifiers: &[Classifier], alphas: &[f64]) -> Self {
        let mut ratios: Vec<Ratio> = Vec::with_capacity(classifiers.len() * alphas.len());
        for &alpha in alphas {
            let begin = ratios.len();
            ratios.extend(classifiers.iter().map(|of| Ratio {
                alpha,
                network: of.name.clone(),
                batch: of.batch,
                error: of.error,
                energy_mj_per_item: of.energy_mj_per_item,
                epr_mj: energy_precision_ratio(of.error, alpha, of.energy_mj_per_item),
            }));
            ratios[begin..].sort_by(|one, other| one.epr_mj.total_cmp(&other.epr_mj));
        }
        Self(ratios)
    }
}

impl Report for Ratios {
    fn text(&self) -> String {
        let columns = [
            Column::Right("alpha"),
            Column::Left("network"),
            Column::Right("batch"),
            Column::Right("error"),
            Column::Right("mJ an item"),
            Column::Right("EPR mJ"),
        ];
        let row = |ratio: &Ratio| {
            [
                ratio.alpha.to_string(),
                ratio.network.clone(),
                ratio
                    .batch
                    .map_or_else(|| NONE.to_owned(), |batch| batch.to_string()),
                ratio.error.to_string(),
                figure(ratio.energy_mj_per_item),
                figure(ratio.epr_mj),
            ]
        };
        table(columns, self.0.iter().map(row))
    }

    fn csv(&self) -> anyhow::Result<String> {
        let headings = [
            "alpha",
            "network",
            "batch",
            "error",
            "energy_mj_per_item",
            "epr_mj",
        ];
        let record = |ratio: &Ratio| {
            [
                ratio.alpha.to_string(),
                ratio.network.clone(),
                ratio
                    .batch
                    .map_or_else(String::new, |batch| batch.to_string()),
                ratio.error.fraction().to_string(),
                ratio.energy_mj_per_item.to_string(),
                ratio.epr_mj.to_string(),
            ]
        };
        csv_of(headings, self.0.iter().map(record))
    }
}

pub(super) async fn run(session: &Session, output: Output, args: EprArgs) -> anyhow::Result<()> {
    check(&args)?;
    let mut classifiers = Vec::new();
    if args.energy_mj.is_empty() {
        let predictor = Predictor::open(session, &args.predictor).await?;
        for (name, &error) in args.networks.iter().zip(&args.error) {
            for loaded in network::load(name, &args.sizes)? {
                let prediction = predictor.predict(&loaded.network).await?;
                classifiers.push(Classifier {
                    energy_mj_per_item: energy_of(&prediction)?,
                    name: prediction.network,
                    batch: Some(prediction.batch),
                    error,
                });
            }
        }
    } else {
        let given = args.networks.iter().zip(&args.error).zip(&args.energy_mj);
        classifiers.extend(
            given.map(|((name, &error), &energy_mj_per_item)| Classifier {
                name: name.clone(),
                batch: None,
                error,
                energy_mj_per_item,
            }),
        );
    }
    output.show(&Ratios::of(&classifiers, &args.alpha))
}

fn check(args: &EprArgs) -> Result<(), Failure> {
    let wrong = |message: String| Err(Failure::new(Exit::Usage, message));
    let networks = args.networks.len();
    for (given, of) in [
        (args.error.len(), "--error"),
        (args.energy_mj.len(), "--energy-mj"),
    ] {
        if given != networks && !(of == "--energy-mj" && given == 0) {
            return wrong(format!("{of} has {given} values for {networks} networks"));
        }
    }
    if let Some(alpha) = args
        .alpha
        .iter()
        .find(|alpha| !(0.0..=100.0).contains(*alpha))
    {
        return wrong(format!("--alpha {alpha} is not between 0 and 100"));
    }
    match args
        .energy_mj
        .iter()
        .find(|mj| !(mj.is_finite() && **mj > 0.0))
    {
        Some(energy) => wrong(format!("--energy-mj {energy} is not positive")),
        None => Ok(()),
    }
}

/// The predicted energy of one item; an error that says whose models are missing.
fn energy_of(prediction: &NetworkPrediction) -> anyhow::Result<f64> {
    let missing = || {
        let mut kinds: Vec<&str> = prediction
            .layers
            .iter()
            .filter(|layer| layer.energy_mj.is_none())
            .map(|layer| layer.kind.name())
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        let message = format!(
            "the energy of {} on {} is not known: there is no model of power or energy for {}",
            prediction.network,
            prediction.platform,
            kinds.join(", ")
        );
        Failure::new(Exit::Unfinished, message)
    };
    prediction.total.energy_mj_per_item.with_context(missing)
}
