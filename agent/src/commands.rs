//! What the agent's binary does without a coordinator: looks at how good its own figures are.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;
use wattfarm_agent::additivity::{self, Books, Gap};
use wattfarm_agent::executor::Executor;
use wattfarm_agent::recipe::{Monotonic, Scratch};
use wattfarm_agent::self_check::{self, Report, Spread};
use wattfarm_cost::Dtype;
use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::Additivity;
use wattfarm_cost::network::zoo;

/// How a command answers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(clap::Args)]
pub(crate) struct AdditivityArgs {
    /// Built-in networks; by default twelve that no recipe was tuned to. `none` measures nothing: with --keep, what the file
    /// holds is shown.
    networks: Vec<String>,
    /// Items in a batch.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    batch: Vec<u64>,
    /// A file that gaps are added to, a line of JSON each. The table is then of the newest gap of each network and batch
    /// that it holds of this platform and recipe.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// How the answer is written.
    #[arg(long, default_value = "table")]
    format: Format,
}

#[derive(clap::Args)]
pub(crate) struct SelfCheckArgs {
    /// How many layers, each measured twice.
    #[arg(long, default_value_t = 150)]
    layers: usize,
    /// Another seed takes other layers in another order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How the answer is written.
    #[arg(long, default_value = "table")]
    format: Format,
}

/// Measures gaps, and says what they are.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn additivity(
    platform: &str,
    executor: &Executor,
    args: &AdditivityArgs,
) -> anyhow::Result<()> {
    let names: Vec<&str> = match args.networks.as_slice() {
        [] => additivity::JUDGES.to_vec(),
        [none] if none == "none" => Vec::new(),
        names => names.iter().map(String::as_str).collect(),
    };
    let mut networks = Vec::new();
    for &batch in &args.batch {
        for name in &names {
            networks.push(zoo::build(name, Some(batch), Dtype::F32)?);
        }
    }
    let mut books = args.keep.as_deref().map(Books::open).transpose()?;
    let (mut scratch, clock) = (Scratch::for_recipes(), Monotonic::start());
    let mut found = Vec::new();
    for network in &networks {
        let gap = additivity::gap(platform, network, executor, &mut scratch, &clock)
            .with_context(|| format!("measure {} at batch {}", network.name(), network.batch()))?;
        executor.release_memory();
        tracing::info!(
            network = gap.network,
            batch = gap.batch,
            percent = gap.percent()
        );
        match &mut books {
            Some(books) => books.add(gap)?,
            None => found.push(gap),
        }
    }
    let is_ours = |gap: &Gap| gap.platform == platform && gap.recipe == Recipe::LAYER;
    let gaps: Vec<&Gap> = match &books {
        Some(books) => books.newest(is_ours),
        None => found.iter().collect(),
    };
    match args.format {
        Format::Json => println!("{}", serde_json::to_string(&gaps)?),
        Format::Table => print!("{}", table(platform, &gaps)),
    }
    Ok(())
}

fn table(platform: &str, gaps: &[&Gap]) -> String {
    let mut lines = vec![
        format!("{platform}, {}", Recipe::LAYER),
        String::new(),
        format!(
            "{:28} {:>5} {:>10} {:>10} {:>7} {:>9} {:>9}",
            "network", "batch", "whole ms", "layers ms", "gap %", "noise %", "layers' %"
        ),
    ];
    for gap in gaps {
        lines.push(format!(
            "{:28} {:>5} {:>10.3} {:>10.3} {:>+7.1} {:>+9.1} {:>+9.1}",
            gap.network,
            gap.batch,
            gap.whole_mean_ms(),
            gap.layers_mean_ms(),
            gap.percent(),
            gap.noise_percent(),
            gap.layers_noise_percent()
        ));
    }
    let mut batches: Vec<u64> = gaps.iter().map(|gap| gap.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    lines.push(String::new());
    for batch in batches {
        let of_batch: Vec<&Gap> = gaps
            .iter()
            .filter(|gap| gap.batch == batch)
            .copied()
            .collect();
        let gap = additivity::rms(of_batch.iter().map(|gap| gap.percent()));
        let noise = additivity::rms(of_batch.iter().map(|gap| gap.noise_percent()));
        if let (Some(gap), Some(noise)) = (gap, noise) {
            lines.push(format!(
                "batch {batch}: RMSPE {gap:.2} % over {} networks, whose own noise is {noise:.2} %",
                of_batch.len()
            ));
        }
        if let Some(found) = Additivity::of(of_batch.iter().map(|gap| gap.log_ratio())) {
            lines.push(format!(
                "each corrected by the mean of the others: {:.2} %",
                100.0 * found.corrected_rms()
            ));
        }
        lines.push(String::new());
        lines.push(format!(
            "{:24} {:>7} {:>16} {:>16}",
            "kind", "layers", "gap % of it", "% of networks"
        ));
        for kind in additivity::by_kind(&of_batch) {
            lines.push(format!(
                "{:24} {:>7} {:>+16.1} {:>+16.2}",
                kind.kind, kind.count, kind.of_kind_percent, kind.of_network_percent
            ));
        }
        lines.push(String::new());
    }
    lines.join("\n")
}

/// Measures a spread of layers twice, and says how well they repeat.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn self_check(
    platform: &str,
    executor: &Executor,
    args: &SelfCheckArgs,
) -> anyhow::Result<()> {
    let layers = self_check::spread(args.layers, args.seed);
    let (mut scratch, clock) = (Scratch::for_recipes(), Monotonic::start());
    let pairs = self_check::run(&layers, args.seed, executor, &mut scratch, &clock)
        .context("measure the layers")?;
    let report = Report::new(platform.to_owned(), pairs).context("--layers has to be 1 or more")?;
    match args.format {
        Format::Json => println!("{}", serde_json::to_string(&report)?),
        Format::Table => print!("{}", spreads(&report)),
    }
    Ok(())
}

fn spreads(report: &Report) -> String {
    let mut lines = vec![
        format!("{}, {}", report.platform, report.recipe),
        String::new(),
        format!(
            "{:24} {:>6} {:>9} {:>9} {:>9} {:>10} {:>9}",
            "layers measured twice",
            "pairs",
            "median %",
            "90th %",
            "worst %",
            "allowed %",
            "+-99 %"
        ),
    ];
    let line = |name: &str, spread: &Spread| {
        format!(
            "{name:24} {:>6} {:>9.2} {:>9.2} {:>9.2} {:>10.1} {:>9.2}",
            spread.pairs,
            spread.median_percent,
            spread.p90_percent,
            spread.worst_percent,
            spread.allowed_percent,
            spread.half_width_percent
        )
    };
    lines.push(line("all", &report.all));
    for group in [&report.by_time, &report.by_kind] {
        lines.push(String::new());
        lines.extend(group.iter().map(|(name, spread)| line(name, spread)));
    }
    lines.push(String::new());
    lines.join("\n")
}
