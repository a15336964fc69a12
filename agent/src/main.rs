//! `wattfarm-agent`: enrols this machine's device with a coordinator and measures for it.

mod commands;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::EnvFilter;
use wattfarm_agent::device::{self, Cores, Wish};
use wattfarm_agent::executor::{self, Executor, cuda};
use wattfarm_agent::identity::{Rotation, StateFolder};
use wattfarm_agent::measuring::{self, Bench, Word};
use wattfarm_agent::meter::{Board, LockedClock, Session, Settings, Thoroughness, Tier};
use wattfarm_agent::worker::{self, Hours, Keeper};
use wattfarm_cost::Platform;
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
    /// The hours of the day during which the device is lent, by this machine's own time: 22-7, or 22:30-7:15.
    #[arg(long, env = "WATTFARM_HOURS")]
    hours: Option<Hours>,
    /// A job of which no call ends for so many seconds is given up, with the process that measures it.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    call_limit: u64,
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
    Additivity(commands::AdditivityArgs),
    /// Measures a spread of layers twice in random order, and says how well they repeat and whether their intervals knew.
    SelfCheck(commands::SelfCheckArgs),
    /// The measuring process: what an agent starts, and nobody else.
    #[command(hide = true)]
    Measure,
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
    /// Memory of the device that jobs may use, in MiB; four fifths of all by default. What needs more is infeasible here.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..1 << 30))]
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
        Some(Command::Additivity(wanted)) => {
            let (platform, executor) = alone(&args, &cores)?;
            commands::additivity(&platform.slug(), &executor, wanted)
        }
        Some(Command::SelfCheck(wanted)) => {
            let (platform, executor) = alone(&args, &cores)?;
            commands::self_check(&platform.slug(), &executor, wanted)
        }
        Some(Command::Measure) => measure(&args, &cores),
        None => work(&args, &cores),
    }
}

/// The device for a command that needs no coordinator.
fn alone(args: &Args, cores: &Cores) -> anyhow::Result<(Platform, Executor)> {
    device::pin(&[cores.measuring]).context("pin to the measuring core")?;
    let (platform, bench) = prepare(args, cores)?;
    Ok((platform, (bench.executor)()))
}

/// The measuring process.
fn measure(args: &Args, cores: &Cores) -> anyhow::Result<()> {
    // Everything that this thread starts stays off the measuring core; it goes there itself when it begins to measure.
    if let Err(error) = device::pin(&cores.others) {
        tracing::warn!(%error, "could not keep off the measuring core");
    }
    measuring::serve(cores.measuring, || prepare(args, cores))
}

/// Finds the device that was wished for, and all that measures it.
fn prepare(args: &Args, cores: &Cores) -> anyhow::Result<(Platform, Bench)> {
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
        Wish::Auto => {
            let has_gpu = cuda::load_libtorch(&gpu.libtorch_cuda)
                .context("open libtorch's CUDA part (--device cpu does without)")?;
            if !has_gpu && device::has_nvidia_driver() {
                tracing::warn!(
                    "there is an NVIDIA driver here, and no CUDA part of libtorch: set LD_LIBRARY_PATH to the lib folder of \
                     torch's CUDA build to measure the GPU; measuring the CPU"
                );
            }
            has_gpu.then_some(0)
        }
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
            let board = match &gpu.nvml_library {
                Some(library) => {
                    let board = Board::open(Some(library), 0).context("open the board")?;
                    Some(Arc::new(board))
                }
                None => None,
            };
            let mut memory = device::memory()?;
            if let Some(mib) = gpu.memory_mib {
                memory.limit = memory.limit.min(mib << 20);
            }
            let meter = board.clone().map(|board| session(args, cores, board));
            let bench = Bench {
                executor: Box::new(move || Executor::new(memory)),
                meter: meter.transpose()?.flatten(),
                board,
                power_share: gpu.power_share,
                state: args.state.clone(),
            };
            Ok((device::cpu_platform()?, bench))
        }
        Some(index) => prepare_gpu(args, cores, index),
    }
}

fn prepare_gpu(args: &Args, cores: &Cores, index: usize) -> anyhow::Result<(Platform, Bench)> {
    let gpu = &args.gpu;
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let nvml_index = device::nvml_index(index, visible.as_deref())?;
    let open = || Board::open(gpu.nvml_library.as_deref(), nvml_index);
    let mut board = open().context("open the board through NVML")?;
    // Whoever is there before us wants the board more than we do.
    while let Some(process) = board.company() {
        tracing::info!(process, "the board is somebody else's: waiting");
        std::thread::sleep(Duration::from_secs(10));
    }
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
    let board = Arc::new(board);
    let watched = open().context("open the board through NVML")?;
    let memory = executor::Memory {
        limit: gpu.memory_mib.unwrap_or(description.memory_mib / 5 * 4) << 20,
        available: Box::new(move || watched.free_bytes().unwrap_or(u64::MAX)),
    };
    let bench = Bench {
        executor: Box::new(move || Executor::on_cuda(index, runtime, memory)),
        meter: session(args, cores, Arc::clone(&board))?,
        board: Some(board),
        power_share: gpu.power_share,
        state: args.state.clone(),
    };
    Ok((platform, bench))
}

/// The meter, if power is wanted.
fn session(args: &Args, cores: &Cores, board: Arc<Board>) -> anyhow::Result<Option<Session>> {
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
    // Everything that this process does stays off the measuring core, which its child keeps to.
    if let Err(error) = device::pin(&cores.others) {
        tracing::warn!(%error, "could not keep off the measuring core");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut stop = std::pin::pin!(async move {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = tokio::signal::ctrl_c() => (),
            }
            tracing::info!("stopping");
        });
        let state = StateFolder::open(&args.state)?;
        let (jobs, job_queue) = mpsc::channel(1);
        let (words, mut news) = mpsc::channel(64);
        let (wish, wishes) = watch::channel(worker::Wish::Measure);
        let keeper = Keeper {
            command: Box::new(measuring_command()?),
            silence_max: Duration::from_secs(args.call_limit),
        };
        let keeping = tokio::spawn(keeper.keep(job_queue, words, wishes));
        let first = tokio::select! {
            first = news.recv() => first,
            () = &mut stop => return Ok(()),
        };
        let Some(Word::Ready(platform)) = first else {
            keeping.await.context("keep the measuring process")??;
            anyhow::bail!("the measuring process did not say what device it has");
        };
        tracing::info!(
            platform.slug = platform.slug(),
            core = cores.measuring,
            "measures this device"
        );
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
        tracing::info!(agent.id = %identity.agent, "ready");
        let process = worker::Process {
            jobs,
            news,
            wish,
            hours: args.hours.unwrap_or(Hours::ALWAYS),
        };
        let done = worker::run(connection, rotation, process, &platform, spooled, stop).await;
        // A keeper that failed is why the worker did.
        match keeping.await.context("keep the measuring process")? {
            Ok(()) => done,
            Err(error) => Err(error),
        }
    })
}

/// This binary once more, as the measuring process.
fn measuring_command() -> anyhow::Result<impl Fn() -> tokio::process::Command + Send + Sync> {
    let binary = std::env::current_exe().context("find this binary")?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    Ok(move || {
        let mut command = tokio::process::Command::new(&binary);
        command.args(&arguments).arg("measure");
        command
    })
}
