//! `wattfarm-agent`: enrols this machine's device with a coordinator and measures for it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wattfarm_agent::device::{self, Cores, Wish};
use wattfarm_agent::executor::{self, Executor, cuda};
use wattfarm_agent::identity::{Rotation, StateFolder};
use wattfarm_agent::meter::{Board, LockedClock, Session, Settings, Thoroughness, Tier};
use wattfarm_agent::recipe::{Monotonic, Scratch};
use wattfarm_agent::{additivity, worker};
use wattfarm_cost::network::zoo;
use wattfarm_cost::{Dtype, Platform};
use wattfarm_proto::connect::Connection;
use wattfarm_proto::tls::TlsArgs;

/// Measures layers and networks on this machine's device for a coordinator.
#[derive(Parser)]
#[command(name = "wattfarm-agent", version)]
struct Args {
    /// Where the coordinator listens. Several addresses, with commas between them, of coordinators over one database.
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
    /// What to measure: auto (the first GPU, or else the CPU), cpu, cuda:N.
    #[arg(long, env = "WATTFARM_DEVICE", default_value = "auto")]
    device: Wish,
    /// Days after which the agent changes its credential; 0 for never.
    #[arg(long, env = "WATTFARM_CREDENTIAL_DAYS", default_value_t = 7)]
    credential_days: u32,
    #[command(flatten)]
    gpu: GpuArgs,
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

/// How a GPU is run, and how its power is measured.
#[derive(clap::Args)]
struct GpuArgs {
    /// How thoroughly power is measured.
    #[arg(long, env = "WATTFARM_POWER", default_value = "light")]
    power: PowerChoice,
    /// The share of the layers whose power is measured; that takes seconds each.
    #[arg(long, default_value_t = 0.25)]
    power_share: f64,
    /// Probe the sensors in one minute rather than two.
    #[arg(long)]
    quick_probe: bool,
    /// The power sensor's reading over the truth, if you have measured it with an outside meter.
    #[arg(long)]
    sensor_gain: Option<f64>,
    /// Hold the GPU's clock here while measuring, in MHz, if the driver permits it.
    #[arg(long)]
    lock_clock_mhz: Option<u32>,
    /// Let cuDNN pick its algorithms by trying them.
    #[arg(long)]
    cudnn_benchmark: bool,
    /// Device memory that jobs may use, in MiB; four fifths of all by default.
    #[arg(long)]
    memory_mib: Option<u64>,
    /// libtorch's CUDA part.
    #[arg(
        long,
        env = "WATTFARM_LIBTORCH_CUDA",
        default_value = "libtorch_cuda.so"
    )]
    libtorch_cuda: OsString,
    /// A library with NVML's interface instead of the system's. With a CPU as the device, its first board meters the CPU:
    /// that is for tests with a simulated driver.
    #[arg(long, env = "WATTFARM_NVML_LIBRARY")]
    nvml_library: Option<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PowerChoice {
    /// Not at all.
    Off,
    /// One window of 3 s.
    Light,
    /// At least three windows of 5 s.
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> anyhow::Result<()> {
    executor::prepare_process();
    // SAFETY: no other thread is there yet. NVML counts boards in the order of the bus; CUDA shall too.
    #[expect(unsafe_code, reason = "the environment is shared with the C library")]
    unsafe {
        std::env::set_var("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    }
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
        Some(Command::Additivity { networks, batch }) => {
            print_additivity(&args, networks, *batch, &cores)
        }
        None => work(&args, &cores),
    }
}

/// Finds the device that was wished for, and all that measures it.
fn prepare(args: &Args, cores: &Cores) -> anyhow::Result<(Platform, worker::Bench)> {
    let gpu = &args.gpu;
    anyhow::ensure!(
        (0.0..=1.0).contains(&gpu.power_share),
        "--power-share has to be 0 to 1"
    );
    if let Some(gain) = gpu.sensor_gain {
        anyhow::ensure!(
            (0.1..=10.0).contains(&gain),
            "--sensor-gain has to be 0.1 to 10"
        );
    }
    let index = match args.device {
        Wish::Cpu => None,
        Wish::Auto => cuda::load_libtorch(&gpu.libtorch_cuda)
            .context("open libtorch's CUDA part (--device cpu does without)")?
            .then_some(0),
        Wish::Cuda(index) => {
            let has_gpu =
                cuda::load_libtorch(&gpu.libtorch_cuda).context("open libtorch's CUDA part")?;
            anyhow::ensure!(
                has_gpu,
                "libtorch finds no GPU: is this its CUDA build, and a driver there?"
            );
            Some(index)
        }
    };
    match index {
        None => {
            let meter = match &gpu.nvml_library {
                Some(library) => {
                    let board = Board::open(Some(library), 0).context("open the board")?;
                    session(args, cores, board)?
                }
                None => None,
            };
            let memory = device::memory()?;
            let bench = worker::Bench {
                executor: Box::new(move || Executor::new(memory)),
                meter,
                power_share: gpu.power_share,
            };
            Ok((device::cpu_platform()?, bench))
        }
        Some(index) => prepare_gpu(args, cores, index),
    }
}

fn prepare_gpu(
    args: &Args,
    cores: &Cores,
    index: usize,
) -> anyhow::Result<(Platform, worker::Bench)> {
    let gpu = &args.gpu;
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let nvml_index = device::nvml_index(index, visible.as_deref())?;
    let open = || Board::open(gpu.nvml_library.as_deref(), nvml_index);
    let mut board = open().context("open the board through NVML")?;
    board
        .adopt(|| cuda::begin(index))
        .context("list the processes on the board")?;
    cuda::set_cudnn_benchmark(gpu.cudnn_benchmark);
    let runtime = cuda::Runtime::find().context("find the CUDA runtime that libtorch uses")?;
    let description = board.describe().context("ask the board what it is")?;
    // Whether clocks may be locked is found by trying, so that the platform's name tells the truth.
    let locked_mhz = gpu.lock_clock_mhz.filter(|&mhz| {
        let held = LockedClock::hold(&board, mhz);
        let may = matches!(held, Ok(Some(_)));
        if !may {
            tracing::warn!(
                "the driver doesn't let this user lock clocks: they are the board's own choice"
            );
        }
        may
    });
    let platform = device::cuda_platform(
        &description,
        runtime.version()?,
        cuda::cudnn_version(),
        gpu.cudnn_benchmark,
        locked_mhz,
    )?;
    let watched = open().context("open the board through NVML")?;
    let memory = executor::Memory {
        limit: gpu.memory_mib.unwrap_or(description.memory_mib / 5 * 4) << 20,
        available: Box::new(move || watched.free_bytes().unwrap_or(u64::MAX)),
    };
    let bench = worker::Bench {
        executor: Box::new(move || Executor::on_cuda(index, runtime, memory)),
        meter: session(args, cores, board)?,
        power_share: gpu.power_share,
    };
    Ok((platform, bench))
}

/// The meter, if power is wanted.
fn session(args: &Args, cores: &Cores, board: Board) -> anyhow::Result<Option<Session>> {
    let gpu = &args.gpu;
    let tier = match gpu.power {
        PowerChoice::Off => return Ok(None),
        PowerChoice::Light => Tier::Light,
        PowerChoice::Full => Tier::Full,
    };
    let settings = Settings {
        tier,
        thoroughness: match gpu.quick_probe {
            true => Thoroughness::Quick,
            false => Thoroughness::Enrolment,
        },
        gain: gpu.sensor_gain,
        lock_mhz: gpu.lock_clock_mhz,
        state: args.state.clone(),
        cores: cores.others.clone(),
    };
    Session::new(board, settings).map(Some)
}

fn work(args: &Args, cores: &Cores) -> anyhow::Result<()> {
    let (platform, bench) = prepare(args, cores)?;
    tracing::info!(
        platform.slug = platform.slug(),
        core = cores.measuring,
        has_meter = bench.meter.is_some(),
        "measures this device"
    );
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
    let (rotation, identity, connection, spooled, mut terminate) = runtime.block_on(async {
        let state = StateFolder::open(&args.state)?;
        let name = args.name.clone().unwrap_or_else(device::host);
        let coordinator = args.tls.target(&args.coordinator)?;
        let identity = state
            .identify(&coordinator, args.token.as_deref(), &name, &platform)
            .await?;
        let connection = Connection::lazy(&coordinator, Some(&identity.credential))?;
        let days = u64::from(args.credential_days);
        let life = (days > 0).then(|| Duration::from_secs(days * 24 * 3600));
        let rotation = Rotation::new(state, coordinator, life);
        let spooled = worker::Spool::open(&args.state).context("open the spool of reports")?;
        let terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        anyhow::Ok((rotation, identity, connection, spooled, terminate))
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
            worker::measuring_thread(bench, &job_queue, &result_queue, &stopping);
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
        rotation,
        jobs,
        results,
        spooled,
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
fn print_additivity(
    args: &Args,
    networks: &[String],
    batch: u64,
    cores: &Cores,
) -> anyhow::Result<()> {
    let networks: Vec<_> = networks
        .iter()
        .map(|name| zoo::build(name, Some(batch), Dtype::F32))
        .collect::<Result<_, _>>()?;
    device::pin(&[cores.measuring]).context("pin to the measuring core")?;
    let (_, bench) = prepare(args, cores)?;
    let executor = (bench.executor)();
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
