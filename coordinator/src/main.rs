//! `wattfarm-coordinator`: the farm's centre.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wattfarm_coordinator::config::{Config, LogFormat};
use wattfarm_coordinator::server::{Server, operator_key, write_whole};
use wattfarm_coordinator::store::SledStore;

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
    config.check()?;
    // Before anything is there to stop: a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let store = Arc::new(SledStore::open(&config.store)?);
    let key = operator_key(&config.store)?;
    let server = Server::start(store, &key, config.listen).await?;
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

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
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
