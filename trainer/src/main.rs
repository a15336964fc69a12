//! `wattfarm-trainer`: fits models to a coordinator's measurements, continuously.

use std::io::{IsTerminal as _, stderr};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wattfarm_proto::connect::Connection;
use wattfarm_proto::tls::TlsArgs;

/// Decides which layers a farm measures, and fits models to what it measured.
///
/// Keeps nothing on disk: after a start it reads the coordinator's measurements anew.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The coordinator's address.
    #[arg(
        long,
        env = "WATTFARM_COORDINATOR",
        default_value = "http://127.0.0.1:7461"
    )]
    coordinator: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// File with the operator's key.
    #[arg(long, env = "WATTFARM_OPERATOR_KEY_FILE")]
    operator_key_file: PathBuf,
    /// Form of the log on stderr. `RUST_LOG` sets what is logged.
    #[arg(long, env = "WATTFARM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Threads for a fit. One leaves the other cores of a shared machine to what is measured there.
    #[arg(long, env = "WATTFARM_TRAINER_THREADS", default_value_t = 1)]
    threads: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    start_log(args.log_format);
    let path = args.operator_key_file.display();
    let key = std::fs::read_to_string(&args.operator_key_file)
        .with_context(|| format!("read operator's key {path}"))?;
    let connection = Connection::lazy(args.tls.target(&args.coordinator)?, Some(key.trim()))?;
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let shutdown = async {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    };
    tracing::info!(coordinator = args.coordinator, "following");
    wattfarm_trainer::service::run(connection, args.threads, shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
