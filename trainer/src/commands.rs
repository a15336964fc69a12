//! Subcommands.

use std::fs::File;
use std::io::{BufReader, Write as _, stdout};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table as Printed, presets};
use wattfarm_cost::ModelSet;
use wattfarm_cost::model::Target;
use wattfarm_trainer::evaluate::{self, Contender, Evaluation, Figures, Options, Split, Table};
use wattfarm_trainer::rebuild::{self, Outcome};

use crate::CoordinatorArgs;

/// Judges ours, the published method and two counts of work by layers that they did not see.
#[derive(Debug, clap::Args)]
pub(crate) struct EvaluateArgs {
    /// A layer CSV: `kind`, the kind's fields, and the target's column.
    file: PathBuf,
    /// What is predicted: `runtime_ms`, `power_w` or `energy_mj`.
    #[arg(long)]
    target: Target,
    /// Folds; all rows of one layer are in one.
    #[arg(long, default_value_t = 10)]
    folds: usize,
    /// Instead of folds: the `large`st or `small`est fifth of the layers by operations, or `net=COLUMN`, the rows of each
    /// of that column's values by turns.
    #[arg(long)]
    split: Option<Extrapolation>,
    /// Seeds that deal layers to folds, from 1 on: figures are means over them.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Whom to judge; all by default.
    #[arg(long, value_delimiter = ',')]
    models: Vec<ContenderArg>,
    /// Threads for a fit.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Clone)]
enum Extrapolation {
    Large,
    Small,
    Net(String),
}

impl FromStr for Extrapolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.split_once('=')) {
            ("large", _) => Ok(Self::Large),
            ("small", _) => Ok(Self::Small),
            (_, Some(("net", column))) if !column.is_empty() => Ok(Self::Net(column.to_owned())),
            _ => Err("not `large`, `small` or `net=COLUMN`".to_owned()),
        }
    }
}

#[derive(Debug, Clone)]
struct ContenderArg(Contender);

impl FromStr for ContenderArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Contender::ALL
            .into_iter()
            .find(|contender| contender.name() == text);
        found.map(Self).ok_or_else(|| {
            let names = Contender::ALL.map(Contender::name).join(", ");
            format!("not one of {names}")
        })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RebuildArgs {
    #[command(flatten)]
    coordinator: CoordinatorArgs,
    /// The models: a file that `wattfarm fetch` wrote, at whatever time.
    #[arg(long, value_name = "PATH")]
    models: PathBuf,
    /// Threads for a fit.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Prints how each model of a file compares with one fitted anew.
pub(crate) async fn rebuild(args: &RebuildArgs) -> anyhow::Result<()> {
    let name = args.models.display().to_string();
    let text = std::fs::read_to_string(&args.models).with_context(|| format!("read {name}"))?;
    let set: ModelSet = serde_json::from_str(&text).with_context(|| format!("read {name}"))?;
    set.check().with_context(|| format!("read {name}"))?;
    let connection = args.coordinator.connection().await?;
    let outcomes = rebuild::rebuild(&connection, &set.models, args.threads).await?;
    let mut out = stdout().lock();
    let mut others = 0;
    for (model, outcome) in set.models.iter().zip(outcomes) {
        others += u32::from(!matches!(outcome, Outcome::Same));
        let (key, provenance) = (&model.key, &model.provenance);
        let told = match outcome {
            Outcome::Same => "the same to the last bit".to_owned(),
            Outcome::Differs { field } => format!("differs, first in {field}"),
            Outcome::OtherTrainer { version } => {
                format!("fitted by trainer {version}, not by this")
            }
            Outcome::NoFit(error) => format!("makes no model: {:#}", anyhow::Error::from(error)),
        };
        writeln!(
            out,
            "{} {} {} version {} from {} measurements up to {}: {told}",
            key.target,
            key.dtype,
            key.kind,
            model.version,
            provenance.samples,
            provenance.through_sequence
        )
        .context("write the answer")?;
    }
    if others > 0 {
        bail!("{others} of {} models are not the same", set.models.len());
    }
    Ok(())
}

/// Prints what a file says of the contenders.
pub(crate) fn evaluate(args: &EvaluateArgs) -> anyhow::Result<()> {
    if args.seeds == 0 {
        bail!("--seeds is at least 1");
    }
    let (split, label) = match &args.split {
        None => (Split::Folds(args.folds), None),
        Some(Extrapolation::Large) => (Split::Large, None),
        Some(Extrapolation::Small) => (Split::Small, None),
        Some(Extrapolation::Net(column)) => (Split::Labels, Some(column.as_str())),
    };
    let name = args.file.display().to_string();
    let file = File::open(&args.file).with_context(|| format!("open {name}"))?;
    let table = Table::read(BufReader::new(file), args.target, label)
        .with_context(|| format!("read {name}"))?;
    let contenders = match args.models.as_slice() {
        [] => Contender::ALL.to_vec(),
        some => some.iter().map(|contender| contender.0).collect(),
    };
    let options = Options {
        contenders,
        split,
        seeds: (1..=args.seeds).collect(),
        threads: args.threads,
    };
    let evaluation =
        evaluate::evaluate(&name, &table, &options).with_context(|| format!("evaluate {name}"))?;
    let text = match args.format {
        Format::Table => printed(&evaluation),
        Format::Json => serde_json::to_string(&evaluation)?,
    };
    writeln!(stdout().lock(), "{text}").context("write the answer")
}

fn printed(evaluation: &Evaluation) -> String {
    let Evaluation {
        file,
        target,
        rows,
        distinct,
        models,
    } = evaluation;
    let mut table = Printed::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "model",
        "RMSPE %",
        "mean %",
        "median %",
        "terms",
        "<= 0",
        "in 90 % interval",
        "worst tenth",
        "seconds a fit",
    ]);
    let share =
        |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.1}"));
    for (contender, figures) in models {
        let name = contender.name().to_owned();
        let mut cells = vec![name];
        match figures {
            None => cells.push("no model".to_owned()),
            Some(Figures {
                rmspe,
                mape,
                medape,
                terms,
                nonpositive,
                coverage90,
                coverage90_worst_tenth,
                seconds,
            }) => {
                cells.extend([rmspe, mape, medape].map(|error| format!("{error:.2}")));
                cells.extend([
                    format!("{terms:.0}"),
                    format!("{nonpositive:.0}"),
                    share(*coverage90),
                    share(*coverage90_worst_tenth),
                    format!("{seconds:.2}"),
                ]);
            }
        }
        table.add_row(cells);
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if place > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!(
        "{file}: {target}, {rows} rows of {distinct} layers\n\n{}",
        table.trim_fmt()
    )
}
