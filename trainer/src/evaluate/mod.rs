//! How well models predict layers that they did not see, on a file of measured layers: ours, the published method's, and
//! two that only count work.

mod analytic;
mod neuralpower;
mod split;
mod table;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::{ModelKey, Target};
use wattfarm_cost::{Hash, Layer};

use crate::fit::{self, Origin, Sample};
pub use split::{Split, SplitError};
pub use table::{Row, Table, TableError};

/// A model that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// Ours.
    Wattfarm,
    /// The published method.
    NeuralPower,
    /// Operations, then bytes.
    Paleo,
    /// Operations or bytes, whichever take longer.
    Roofline,
}

impl Contender {
    /// Every contender.
    pub const ALL: [Self; 4] = [
        Self::Wattfarm,
        Self::NeuralPower,
        Self::Paleo,
        Self::Roofline,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wattfarm => "wattfarm",
            Self::NeuralPower => "neuralpower",
            Self::Paleo => "paleo",
            Self::Roofline => "roofline",
        }
    }
}

/// How to evaluate.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Who is judged.
    pub contenders: Vec<Contender>,
    /// What is held out.
    pub split: Split,
    /// Seeds of the folds; figures are means over them. At least one.
    pub seeds: Vec<u64>,
    /// Threads for a fit.
    pub threads: usize,
}

/// Figures over held-out rows; shares and errors in percent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Figures {
    /// Root mean square of the relative error.
    pub rmspe: f64,
    /// Mean absolute relative error.
    pub mape: f64,
    /// Median absolute relative error.
    pub medape: f64,
    /// Terms of a fit, the mean over fits.
    pub terms: f64,
    /// Held-out rows predicted at or below zero, before any floor.
    pub nonpositive: f64,
    /// Rows within their 90 % interval; `None` for models that give none.
    pub coverage90: Option<f64>,
    /// The least share of rows within their interval in any tenth of the rows by their layers' operations, and then bytes.
    pub coverage90_worst_tenth: Option<f64>,
    /// Time of one fit.
    pub seconds: f64,
}

/// What a file said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// The file, as the caller named it.
    pub file: String,
    /// What was predicted.
    pub target: Target,
    /// Rows with a value.
    pub rows: usize,
    /// Different layers among them.
    pub distinct: usize,
    /// Figures of each contender; none where it has no model for the kind and target.
    pub models: BTreeMap<Contender, Option<Figures>>,
}

/// Why a file can't be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// The rows can't be held out as asked.
    #[error("part the rows")]
    Split(#[source] SplitError),
    /// Our model could not be fitted.
    #[error("fit our model")]
    Fit(#[source] fit::FitError),
}

/// Judges the contenders on a table.
pub fn evaluate(
    file: &str,
    table: &Table,
    options: &Options,
) -> Result<Evaluation, EvaluationError> {
    let mut models = BTreeMap::new();
    for &contender in &options.contenders {
        models.insert(contender, figures(contender, table, options)?);
    }
    Ok(Evaluation {
        file: file.to_owned(),
        target: table.target,
        rows: table.rows.len(),
        distinct: table.distinct(),
        models,
    })
}

/// One held-out row's prediction.
struct Prediction {
    /// Operations and bytes of the layer.
    size: (u64, u64),
    measured: f64,
    predicted: f64,
    is_positive: bool,
    interval: Option<(f64, f64)>,
}

fn figures(
    contender: Contender,
    table: &Table,
    options: &Options,
) -> Result<Option<Figures>, EvaluationError> {
    let mut sum = Figures::default();
    for &seed in &options.seeds {
        let parts = options
            .split
            .parts(table, seed)
            .map_err(EvaluationError::Split)?;
        let (mut predictions, mut terms, mut seconds) = (Vec::new(), 0, 0.0);
        for part in &parts {
            let started = Instant::now();
            let Some(fitted) = Fitted::fit(contender, table, &part.fitted, options.threads)? else {
                return Ok(None);
            };
            seconds += started.elapsed().as_secs_f64();
            terms += fitted.size();
            predictions.extend(
                part.judged
                    .iter()
                    .map(|&row| fitted.predict(&table.rows[row])),
            );
        }
        let count = parts.len() as f64;
        sum.add(&summary(
            &predictions,
            terms as f64 / count,
            seconds / count,
        ));
    }
    Ok(Some(sum.over(options.seeds.len() as f64)))
}

impl Figures {
    fn add(&mut self, other: &Self) {
        let add = |sum: Option<f64>, more: Option<f64>| more.map(|more| sum.unwrap_or(0.0) + more);
        self.rmspe += other.rmspe;
        self.mape += other.mape;
        self.medape += other.medape;
        self.terms += other.terms;
        self.nonpositive += other.nonpositive;
        self.coverage90 = add(self.coverage90, other.coverage90);
        self.coverage90_worst_tenth =
            add(self.coverage90_worst_tenth, other.coverage90_worst_tenth);
        self.seconds += other.seconds;
    }

    fn over(self, count: f64) -> Self {
        Self {
            rmspe: self.rmspe / count,
            mape: self.mape / count,
            medape: self.medape / count,
            terms: self.terms / count,
            nonpositive: self.nonpositive / count,
            coverage90: self.coverage90.map(|share| share / count),
            coverage90_worst_tenth: self.coverage90_worst_tenth.map(|share| share / count),
            seconds: self.seconds / count,
        }
    }
}

fn summary(predictions: &[Prediction], terms: f64, seconds: f64) -> Figures {
    let count = predictions.len() as f64;
    let mut errors: Vec<f64> = predictions
        .iter()
        .map(|one| 100.0 * (one.predicted / one.measured - 1.0).abs())
        .collect();
    errors.sort_by(f64::total_cmp);
    let square: f64 = errors.iter().map(|error| error * error).sum();
    Figures {
        rmspe: (square / count).sqrt(),
        mape: errors.iter().sum::<f64>() / count,
        medape: fit::quantile(&errors, 0.5),
        terms,
        nonpositive: predictions.iter().filter(|one| !one.is_positive).count() as f64,
        coverage90: coverage(predictions.iter()),
        coverage90_worst_tenth: worst_tenth(predictions),
        seconds,
    }
}

/// Rows within their interval, in percent.
fn coverage<'a>(predictions: impl Iterator<Item = &'a Prediction>) -> Option<f64> {
    let (mut within, mut count) = (0, 0);
    for one in predictions {
        let (low, high) = one.interval?;
        within += u32::from((low..=high).contains(&one.measured));
        count += 1;
    }
    (count > 0).then(|| 100.0 * f64::from(within) / f64::from(count))
}

fn worst_tenth(predictions: &[Prediction]) -> Option<f64> {
    let mut by_size: Vec<&Prediction> = predictions.iter().collect();
    by_size.sort_by_key(|one| one.size);
    let tenths = by_size.chunks(by_size.len().div_ceil(10));
    let shares = tenths.map(|tenth| coverage(tenth.iter().copied()));
    shares
        .collect::<Option<Vec<f64>>>()?
        .into_iter()
        .min_by(f64::total_cmp)
}

/// A contender, fitted.
enum Fitted {
    Wattfarm(Box<wattfarm_cost::model::Model>),
    NeuralPower(neuralpower::Model),
    Paleo(analytic::Paleo),
    Roofline(analytic::Roofline),
}

impl Fitted {
    /// `None` if the contender has no model for the table's kind and target.
    fn fit(
        contender: Contender,
        table: &Table,
        rows: &[usize],
        threads: usize,
    ) -> Result<Option<Self>, EvaluationError> {
        let layers: Vec<&Layer> = rows.iter().map(|&row| &table.rows[row].layer).collect();
        let values: Vec<f64> = rows.iter().map(|&row| table.rows[row].value).collect();
        // A device doesn't draw more for having more to do, so work alone says nothing of power.
        let counts_work = table.target != Target::PowerW;
        Ok(match contender {
            Contender::Wattfarm => Some(Self::Wattfarm(Box::new(ours(table, rows, threads)?))),
            Contender::NeuralPower => {
                neuralpower::Model::fit(table.target, &layers, &values, threads)
                    .map(Self::NeuralPower)
            }
            Contender::Paleo => {
                counts_work.then(|| Self::Paleo(analytic::Paleo::fit(&layers, &values)))
            }
            Contender::Roofline => {
                counts_work.then(|| Self::Roofline(analytic::Roofline::fit(&layers, &values)))
            }
        })
    }

    fn size(&self) -> usize {
        match self {
            Self::Wattfarm(model) => model.size(),
            Self::NeuralPower(model) => model.size(),
            Self::Paleo(_) => 2,
            Self::Roofline(_) => 3,
        }
    }

    fn predict(&self, row: &Row) -> Prediction {
        let layer = &row.layer;
        let (predicted, is_positive, interval) = match self {
            Self::Wattfarm(model) => {
                let estimate = model.estimate(layer);
                (
                    estimate.value,
                    estimate.value > 0.0,
                    Some((estimate.low, estimate.high)),
                )
            }
            Self::NeuralPower(model) => (model.predict(layer), model.polynomial(layer) > 0.0, None),
            Self::Paleo(model) => (model.predict(layer), model.predict(layer) > 0.0, None),
            Self::Roofline(model) => (model.predict(layer), model.predict(layer) > 0.0, None),
        };
        let work = layer.work();
        Prediction {
            size: (work.flops, work.bytes()),
            measured: row.value,
            predicted,
            is_positive,
            interval,
        }
    }
}

fn ours(
    table: &Table,
    rows: &[usize],
    threads: usize,
) -> Result<wattfarm_cost::model::Model, EvaluationError> {
    let samples: Vec<Sample> = rows
        .iter()
        .map(|&row| Sample {
            layer: table.rows[row].layer.clone(),
            value: table.rows[row].value,
            runtime_ms: table.rows[row].runtime_ms,
            agent: None,
        })
        .collect();
    let key = ModelKey {
        platform: Hash::of("a file"),
        kind: table.kind,
        dtype: table.dtype,
        target: table.target,
    };
    let origin = Origin {
        recipe: Recipe::LayerInNetwork1,
        through_sequence: 0,
    };
    fit::fit(key, &samples, origin, threads).map_err(EvaluationError::Fit)
}
