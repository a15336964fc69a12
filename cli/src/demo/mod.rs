//! `wattfarm demo`: a whole farm on one machine, and how good its predictions are.
//!
//! Coordinator, agent and trainer run as processes of their own, as they do on a real farm. The demo asks for models,
//! lets layers be measured for a while, predicts networks none of whose layers were measured, measures those networks,
//! and shows both figures side by side.

mod campaign;
mod cores;
mod evaluate;
mod folder;
mod processes;
mod progress;
mod report;
mod setup;

use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::cores::Cores;
use self::evaluate::Contest;
use self::folder::Folder;
use self::processes::Processes;
use self::report::{Evaluation, Seconds};
use crate::args::DemoArgs;
use crate::exit::{Exit, Failure};
use crate::files;
use crate::output::{Output, note};

/// The networks to judge by, unless the command line names others: the paper's five, and three that the recipe for
/// measuring layers was not chosen on (`agent/src/recipe/cache.rs` names those that it was).
pub(crate) const NETWORKS: [&str; 8] = [
    "neuralpower/alexnet",
    "neuralpower/nin",
    "neuralpower/overfeat",
    "neuralpower/cifar10-6conv",
    "neuralpower/vgg16",
    "googlenet",
    "vgg19",
    "vit_b_16",
];

pub(crate) async fn run(output: Output, args: DemoArgs) -> anyhow::Result<()> {
    let contest = Contest::new(&args.networks)?;
    let folder = Folder::take(&args.dir, folder::PATIENCE).await?;
    let cores = Cores::split().context("keep to some of the cores")?;
    if cores.is_none() {
        note("with one core for everything, measurements will scatter");
    }
    let mut processes = Processes::find(folder, cores)?;
    let outcome = tokio::select! {
        outcome = demonstrate(&mut processes, &args, &contest) => outcome,
        interrupted = interrupted() => Err(interrupted),
    };
    let outcome = outcome.and_then(|evaluation| publish(&evaluation, output, &args.dir));
    processes.stop().await;
    outcome
}

async fn demonstrate(
    processes: &mut Processes,
    args: &DemoArgs,
    contest: &Contest,
) -> anyhow::Result<Evaluation> {
    let mut clock = Clock::start();
    note("starting a coordinator, an agent and a trainer");
    let farm = setup::start(processes, &args.dir).await?;
    // What earlier runs measured counts too, for the models know it: better to refuse now than after minutes.
    let before = processes.during(campaign::census(&farm, 0)).await?;
    contest.check(&before.layers)?;
    let setup = clock.lap();

    note(format!(
        "measuring layers on {} for {}; the {} layers of the {} networks to judge by are not among them",
        farm.platform,
        args.budget,
        contest.excluded.len(),
        contest.networks.len(),
    ));
    let campaign = processes
        .during(campaign::measure(
            &farm,
            args.budget.seconds,
            contest.excluded.keys(),
        ))
        .await?;
    processes.during(campaign::settle(&farm)).await?;
    let measuring = clock.lap();

    // Nothing is in an agent's hands any more: what is counted here is all that the models can know.
    note("fitting what was measured last");
    let census = campaign::census(&farm, campaign.created_at_ms);
    let census = processes.during(census).await?;
    contest.check(&census.layers)?;
    let models = processes.during(campaign::digest(&farm, &census)).await?;
    let fitting = clock.lap();

    note("predicting and measuring whole networks");
    let networks = evaluate::networks(&farm, contest, &models);
    let networks = processes.during(networks).await?;
    let networks_seconds = clock.lap();

    Ok(Evaluation {
        platform: farm.platform,
        finished_at: Timestamp::now(),
        measurements: census.measurements,
        layers: census.layers.len(),
        excluded_layers: contest.excluded.len(),
        kinds: evaluate::kinds(&models),
        networks,
        seconds: Seconds {
            setup,
            measuring,
            fitting,
            networks: networks_seconds,
            total: clock.total(),
        },
        duty_percent: 100.0 * census.busy_seconds / measuring,
    })
}

/// Shows the result, and writes it into files.
fn publish(evaluation: &Evaluation, output: Output, dir: &Path) -> anyhow::Result<()> {
    let (json, html) = (dir.join("report.json"), dir.join("report.html"));
    files::write(
        &json,
        format!("{}\n", serde_json::to_string_pretty(evaluation)?).as_bytes(),
    )?;
    files::write(&html, report::html(evaluation).as_bytes())?;
    output.show(evaluation)?;
    note(format!("also in {} and {}", html.display(), json.display()));
    Ok(())
}

/// Returns when somebody wants the demo to end: by Ctrl-C, by a signal, or by closing the terminal.
async fn interrupted() -> anyhow::Error {
    let wait = async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hangup.recv() => (),
        }
        Ok::<_, std::io::Error>(())
    };
    match wait.await {
        Ok(()) => {
            note("ending the farm: what was measured is kept");
            Failure::new(Exit::Interrupted, "interrupted").into()
        }
        Err(error) => anyhow::Error::from(error).context("listen for signals"),
    }
}

/// A stopwatch with laps, in seconds.
struct Clock {
    started: Instant,
    lap: Instant,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            lap: now,
        }
    }

    /// Since the last lap.
    fn lap(&mut self) -> f64 {
        let now = Instant::now();
        let lap = now.duration_since(std::mem::replace(&mut self.lap, now));
        lap.as_secs_f64()
    }

    /// Since the start.
    fn total(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
