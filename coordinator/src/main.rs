//! `wattfarm-coordinator`: the farm's centre.

use std::fs::{self, File};
use std::io::{BufReader, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wattfarm_coordinator::certs::Certificates;
use wattfarm_coordinator::config::{Command, Config, LogFormat};
use wattfarm_coordinator::draft::{Draft, write_whole};
use wattfarm_coordinator::server::{self, Server, Settings, operator_key};
use wattfarm_coordinator::store::{DurableStore, dump, verify};

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    log_to_stderr(config.log_format);
    match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    match config.command.clone() {
        None => serve(config).await,
        Some(command) => chore(&config.store, command),
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    config.check()?;
    let tls = match &config.tls {
        Some(folder) => Some(server::tls(
            &Certificates::within(folder),
            config.mutual_tls,
        )?),
        None => None,
    };
    // Before anything is there to stop: a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let store = Arc::new(DurableStore::in_folder(&config.store)?);
    let settings = Settings {
        operator_key: operator_key(&config.store)?,
        listen: config.listen,
        tls,
        anonymous: config.anonymous_role(),
    };
    let server = Server::start(store, settings).await?;
    if let Some(path) = &config.ready_file {
        write_whole(path, &server.address().to_string())?;
    }
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    };
    server.run_until(stop).await
}

/// Does a chore. Blocking is fine: nothing else runs.
fn chore(folder: &Path, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Export { output } => {
            let store = existing(folder)?;
            let mut draft = Draft::create(&output)?;
            let changes = dump::write(&store, &mut draft)?;
            draft.finish()?;
            tracing::info!(changes, file = %output.display(), "exported");
        }
        Command::Import { file } => {
            ensure!(
                !folder.join("db").exists(),
                "`{}` holds a store already",
                folder.display()
            );
            let from = File::open(&file).with_context(|| format!("open `{}`", file.display()))?;
            // A store that has a part of the dump must not be taken for a whole one.
            let part = folder.with_added_extension("part");
            ensure!(
                !part.exists(),
                "`{}` is left from an import that failed: remove it",
                part.display()
            );
            let changes = {
                let store = DurableStore::in_folder(&part)?;
                let changes = dump::read(&store, &mut BufReader::with_capacity(1 << 20, from))
                    .with_context(|| format!("import `{}`", file.display()))?;
                verify(&store)?;
                changes
            };
            if folder.exists() {
                fs::remove_dir(folder).with_context(|| {
                    format!(
                        "`{}` is to be the store, and is not empty",
                        folder.display()
                    )
                })?;
            }
            fs::rename(&part, folder)
                .with_context(|| format!("name the store `{}`", folder.display()))?;
            tracing::info!(changes, store = %folder.display(), "imported");
        }
        Command::Verify => {
            let found = verify(&existing(folder)?)?;
            tracing::info!(
                found.agents,
                found.jobs,
                found.measurements,
                found.campaigns,
                found.models,
                "the store is sound"
            );
        }
        Command::Certs { output, name } => {
            Certificates::within(&output).make(&name)?;
            tracing::info!(folder = %output.display(), "certificates made");
        }
    }
    Ok(())
}

/// A store that is there: looking for one must not make one.
fn existing(folder: &Path) -> anyhow::Result<DurableStore> {
    ensure!(
        folder.join("db").exists(),
        "`{}` holds no store",
        folder.display()
    );
    Ok(DurableStore::in_folder(folder)?)
}

fn log_to_stderr(format: LogFormat) {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Below this level it writes down the headers of calls, and with them credentials.
    for quiet in ["h2=info", "hyper=info", "rustls=info"] {
        filter = filter.add_directive(quiet.parse().expect("a directive"));
    }
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
