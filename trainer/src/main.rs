//! `wattfarm-trainer`: fits models to a coordinator's measurements, continuously.

mod commands;

use std::io::{ErrorKind, IsTerminal as _, stderr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wattfarm_proto::connect::Connection;
use wattfarm_proto::tls::TlsArgs;

/// How long the operator's key may be missing, and how often it is looked for.
const KEY_WAIT: Duration = Duration::from_secs(30);
const KEY_POLL: Duration = Duration::from_millis(500);

/// Decides which layers a farm measures, and fits models to what it measured.
///
/// Keeps nothing on disk: after a start it reads the coordinator's measurements anew.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judges models on a file of measured layers, without a coordinator.
    Evaluate(commands::EvaluateArgs),
    /// Fits models anew from the coordinator's measurements that they name, and says whether they are the same to the last
    /// bit. Exit code 1 if one is not.
    Rebuild(commands::RebuildArgs),
}

/// How to reach the coordinator.
#[derive(Debug, clap::Args)]
struct CoordinatorArgs {
    /// The coordinator's address. Several, with commas between them, of coordinators over one database.
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
    operator_key_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ServiceArgs {
    #[command(flatten)]
    coordinator: CoordinatorArgs,
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

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.command {
        Some(Command::Evaluate(args)) => commands::evaluate(&args),
        Some(Command::Rebuild(args)) => {
            let runtime = Runtime::new().context("start the runtime")?;
            runtime.block_on(commands::rebuild(&args))
        }
        None => {
            let runtime = Runtime::new().context("start the runtime")?;
            let followed = runtime.block_on(follow(args.service));
            // A fit under way is given up: nothing is lost with it.
            runtime.shutdown_background();
            followed
        }
    }
}

/// A coordinator that was started a moment ago, beside us, may not have written its key yet.
async fn operator_key(path: &Path) -> anyhow::Result<String> {
    let started = Instant::now();
    loop {
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && started.elapsed() < KEY_WAIT => {
                tracing::info!(path = %path.display(), "waiting for the operator's key");
                tokio::time::sleep(KEY_POLL).await;
            }
            read => return read.with_context(|| format!("read operator's key {}", path.display())),
        }
    }
}

impl CoordinatorArgs {
    /// A connection to the coordinator, with the operator's key.
    async fn connection(&self) -> anyhow::Result<Connection> {
        let path = self
            .operator_key_file
            .as_ref()
            .context("--operator-key-file is needed to follow a coordinator")?;
        let key = operator_key(path).await?;
        let target = self.tls.target(&self.coordinator)?;
        Ok(Connection::lazy(target, Some(key.trim()))?)
    }
}

async fn follow(args: ServiceArgs) -> anyhow::Result<()> {
    start_log(args.log_format);
    let connection = args.coordinator.connection().await?;
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
    tracing::info!(coordinator = args.coordinator.coordinator, "following");
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
