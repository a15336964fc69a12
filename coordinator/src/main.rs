//! `wattfarm-coordinator`: the farm's centre.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wattfarm_coordinator::certs::Certificates;
use wattfarm_coordinator::config::{Command, Config, LogFormat};
use wattfarm_coordinator::draft::{Draft, write_whole};
use wattfarm_coordinator::server::{self, Peers, Server, Settings, operator_key};
use wattfarm_coordinator::store::{DurableStore, Place, Store as _, dump, verify};

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
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    };
    tokio::pin!(stop);
    let settings = Settings {
        operator_key: operator_key(&config.operator_key_file())?,
        listen: config.listen,
        tls,
        anonymous: config.anonymous_role(),
    };
    let server = tokio::select! {
        server = start(&config, settings) => server?,
        () = &mut stop => return Ok(()),
    };
    if let Some(path) = &config.ready_file {
        write_whole(path, &server.address().to_string())?;
    }
    server.run_until(stop).await
}

async fn start(config: &Config, settings: Settings) -> anyhow::Result<Server> {
    match config.store.clone() {
        Place::Folder(folder) => {
            let store = tokio::task::spawn_blocking(move || DurableStore::in_folder(&folder));
            Server::start(Arc::new(store.await??), settings).await
        }
        Place::Database(database) => {
            let tls = config.tls.as_deref().map(Certificates::within);
            let peers = Peers {
                advertise: config.advertise.clone(),
                tls: tls.as_ref().map(server::peers_tls).transpose()?,
            };
            Server::start_beside(database, peers, settings).await
        }
    }
}

/// Does a chore. Blocking is fine: nothing else runs.
fn chore(place: &Place, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Export { output } => {
            let store = place.existing()?;
            let mut draft = Draft::create(&output)?;
            let changes = dump::write_copy(|sink| store.copy(sink), &mut draft)?;
            draft.finish()?;
            tracing::info!(changes, file = %output.display(), "exported");
        }
        Command::Import { file } => {
            let from = File::open(&file).with_context(|| format!("open `{}`", file.display()))?;
            let changes = place.make(|store| {
                let changes = dump::read(store, &mut BufReader::with_capacity(1 << 20, from))
                    .with_context(|| format!("import `{}`", file.display()))?;
                verify(store)?;
                Ok(changes)
            })?;
            tracing::info!(changes, store = %place, "imported");
        }
        Command::Migrate { to } => {
            let from = place.existing()?;
            let found = to.make(|store| {
                from.copy(&mut |changes| store.commit(changes).map_err(io::Error::other))?;
                let (found, before) = (verify(store)?, from.verify()?);
                ensure!(found == before, "{found:?} were brought over of {before:?}");
                Ok(found)
            })?;
            tracing::info!(found.jobs, found.measurements, store = %to, "migrated");
        }
        Command::Verify => {
            let found = place.existing()?.verify()?;
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
