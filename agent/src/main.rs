//! `wattfarm-agent`: enrols this machine's device with a coordinator and measures for it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wattfarm_agent::device::{self, Cores};
use wattfarm_agent::executor::{self, Executor};
use wattfarm_agent::identity::StateFolder;
use wattfarm_agent::recipe::{Monotonic, Scratch};
use wattfarm_agent::{additivity, worker};
use wattfarm_cost::Dtype;
use wattfarm_cost::network::zoo;
use wattfarm_proto::connect::Connection;
use wattfarm_proto::tls::TlsArgs;

/// Measures layers and networks on this machine's device for a coordinator.
#[derive(Parser)]
#[command(name = "wattfarm-agent", version)]
struct Args {
    /// Where the coordinator listens.
    #[arg(long, env = "WATTFARM_COORDINATOR", default_value = "127.0.0.1:7461")]
    coordinator: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// A one-time token of `wattfarm token create`; needed only for the first start.
    #[arg(long, env = "WATTFARM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The folder that holds this agent's identity.
    #[arg(
        long,
        env = "WATTFARM_AGENT_STATE",
        default_value = "wattfarm-agent-state"
    )]
    state: PathBuf,
    /// What to measure. GPUs are not measured yet: `auto` is the CPU.
    #[arg(long, env = "WATTFARM_DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// The core that measures; the last of this process's by default.
    #[arg(long, env = "WATTFARM_CORE")]
    core: Option<usize>,
    /// A name for people; the host's by default.
    #[arg(long)]
    name: Option<String>,
    /// How the log on stderr is written.
    #[arg(long, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Compares networks measured whole with the sum of their layers measured alone, on this device, without a
    /// coordinator.
    Additivity {
        /// Built-in networks.
        #[arg(required = true)]
        networks: Vec<String>,
        /// Items in a batch.
        #[arg(long, default_value_t = 1)]
        batch: u64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviceChoice {
    Auto,
    Cpu,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> anyhow::Result<()> {
    executor::prepare_process();
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let cores = Cores::split(args.core)?;
    match &args.command {
        Some(Command::Additivity { networks, batch }) => print_additivity(networks, *batch, &cores),
        None => work(&args, &cores),
    }
}

fn work(args: &Args, cores: &Cores) -> anyhow::Result<()> {
    let platform = match args.device {
        // One and the same as long as there is nothing else to find.
        DeviceChoice::Auto | DeviceChoice::Cpu => device::cpu_platform()?,
    };
    tracing::info!(
        platform.slug = platform.slug(),
        core = cores.measuring,
        "measures this CPU"
    );
    let memory = device::memory()?;
    // Everything that this thread starts, the runtime's threads among it, stays off the measuring core.
    if let Err(error) = device::pin(&cores.others) {
        tracing::warn!(%error, "could not keep off the measuring core");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the runtime")?;
    // Who this agent is comes first: without an identity there is nothing to measure, and no thread to end.
    let (_state, identity, connection, mut terminate) = runtime.block_on(async {
        let state = StateFolder::open(&args.state)?;
        let name = args.name.clone().unwrap_or_else(device::host);
        let coordinator = args.tls.target(&args.coordinator)?;
        let identity = state
            .identify(&coordinator, args.token.as_deref(), &name, &platform)
            .await?;
        let connection = Connection::lazy(coordinator, Some(&identity.credential))?;
        let terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        anyhow::Ok((state, identity, connection, terminate))
    })?;

    let stopping = Arc::new(AtomicBool::new(false));
    let (jobs, job_queue) = mpsc::sync_channel(1);
    let (result_queue, results) = tokio::sync::mpsc::channel(64);
    let measuring = thread::Builder::new().name("measuring".to_owned()).spawn({
        let (stopping, core) = (Arc::clone(&stopping), cores.measuring);
        move || {
            if let Err(error) = device::pin(&[core]) {
                tracing::warn!(core, %error, "could not pin the measuring thread");
            }
            worker::measuring_thread(memory, &job_queue, &result_queue, &stopping);
        }
    });
    let measuring = measuring.context("start the measuring thread")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = tokio::signal::ctrl_c() => (),
        }
        tracing::info!("stopping");
    };
    tracing::info!(agent.id = %identity.agent, "ready");
    let done = runtime.block_on(worker::run(
        connection,
        jobs,
        results,
        Arc::clone(&stopping),
        stop,
    ));
    stopping.store(true, Ordering::Relaxed);
    // A call of a large network can take longer than anybody waits for an agent to end: it ends with the process then.
    let patience = Instant::now() + Duration::from_secs(2);
    while !measuring.is_finished() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(10));
    }
    if !measuring.is_finished() {
        leave(&done);
    }
    if measuring.join().is_err() {
        anyhow::bail!("the measuring thread panicked");
    }
    done
}

/// Ends the process at once: libtorch's destructors must not run under a thread that is still in it.
fn leave(done: &anyhow::Result<()>) -> ! {
    if let Err(error) = done {
        tracing::error!("{error:#}");
    }
    // SAFETY: ends the process, and returns to nobody. The log on stderr is not buffered.
    #[expect(
        unsafe_code,
        reason = "the standard library only ends a process with its destructors"
    )]
    unsafe {
        libc::_exit(i32::from(done.is_err()))
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print_additivity(networks: &[String], batch: u64, cores: &Cores) -> anyhow::Result<()> {
    let networks: Vec<_> = networks
        .iter()
        .map(|name| zoo::build(name, Some(batch), Dtype::F32))
        .collect::<Result<_, _>>()?;
    device::pin(&[cores.measuring]).context("pin to the measuring core")?;
    let executor = Executor::new(device::memory()?);
    let (mut scratch, clock) = (Scratch::for_recipes(), Monotonic::start());
    println!(
        "{:28} {:>5} {:>10} {:>10} {:>8} {:>8}",
        "network", "batch", "whole ms", "layers ms", "gap %", "drift %"
    );
    let mut squares = 0.0;
    for network in &networks {
        let gap = additivity::gap(network, &executor, &mut scratch, &clock)?;
        executor.release_memory();
        squares += gap.percent().powi(2);
        let whole = f64::midpoint(gap.whole_before_ms, gap.whole_after_ms);
        let (percent, drift) = (gap.percent(), gap.drift_percent());
        println!(
            "{:28} {batch:>5} {whole:>10.3} {:>10.3} {percent:>+8.1} {drift:>+8.1}",
            gap.network, gap.layers_ms
        );
    }
    println!("RMSPE {:.2} %", (squares / networks.len() as f64).sqrt());
    Ok(())
}
