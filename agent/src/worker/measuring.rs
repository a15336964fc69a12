//! The measuring thread: it has the device to itself, and talks to nobody but the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wattfarm_cost::measurement::{Board, Conditions, Reading, Recipe, Subject};

use crate::executor::{self, Executor};
use crate::meter::{Found, LockedClock, NoFigure, Session, Void};
use crate::recipe::{Clock, Failure, Measured, Monotonic, Scratch, measure_with_launch};
use crate::{VERSION, device};

/// A job of at least this many bytes leaves its memory to others when it is done.
const RELEASE_BYTES: u64 = 256 << 20;

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Job {
    /// The job's id, as the coordinator wrote it.
    pub id: String,
    /// The lease it is measured under.
    pub lease: u64,
    /// The layer or network.
    pub subject: Subject,
    /// How.
    pub recipe: Recipe,
    /// Whether its power is wanted too.
    pub want_power: bool,
}

/// What came of a job.
#[derive(Debug)]
pub enum Outcome {
    /// A figure.
    Measured(Box<Reading>),
    /// This platform cannot run it.
    Infeasible(String),
    /// Something went wrong.
    Failed(String),
    /// It was not measured, because the agent stops.
    Returned,
}

/// A job that the measuring thread is done with.
#[derive(Debug)]
pub struct Result {
    /// The job.
    pub job: Job,
    /// What came of it.
    pub outcome: Outcome,
}

/// The device as the measuring thread has it.
pub struct Bench {
    /// Builds what is measured. Made on the measuring thread, because libtorch's settings belong to a thread.
    pub executor: Box<dyn FnOnce() -> Executor + Send>,
    /// The board's meter, where there is one.
    pub meter: Option<Session>,
    /// The share of the layers whose power is measured, picked by their hash so that it is the same ones everywhere.
    pub power_share: f64,
}

/// Measures jobs until the channel closes. Runs on its own thread, pinned by the caller.
pub fn measuring_thread(
    bench: Bench,
    jobs: &std::sync::mpsc::Receiver<Job>,
    results: &tokio::sync::mpsc::Sender<Result>,
    stopping: &AtomicBool,
) {
    let mut rig = Rig {
        executor: (bench.executor)(),
        meter: bench.meter,
        power_share: bench.power_share,
        scratch: Scratch::for_recipes(),
        clock: Monotonic::start(),
        host: device::host(),
    };
    rig.learn(stopping);
    while let Ok(job) = jobs.recv() {
        // A panic in here would be ours or the binding's: the job has failed, the agent goes on.
        let ran = catch_unwind(AssertUnwindSafe(|| rig.run(&job, stopping)));
        let outcome = match ran
            .unwrap_or_else(|_| Err(Failure::Failed("the executor panicked".to_owned())))
        {
            Ok(reading) => Outcome::Measured(Box::new(reading)),
            Err(Failure::Infeasible(reason)) => Outcome::Infeasible(reason),
            Err(Failure::Failed(reason)) => Outcome::Failed(reason),
            Err(Failure::Interrupted) => Outcome::Returned,
        };
        if bytes(&job.subject) >= RELEASE_BYTES {
            rig.executor.release_memory();
        }
        if results.blocking_send(Result { job, outcome }).is_err() {
            return;
        }
    }
}

/// Everything that the measuring thread measures with.
struct Rig {
    executor: Executor,
    meter: Option<Session>,
    power_share: f64,
    scratch: Scratch,
    clock: Monotonic,
    host: String,
}

impl Rig {
    /// Probes the sensors, unless they are known. A board whose sensors could not be learnt is measured without power.
    fn learn(&mut self, stopping: &AtomicBool) {
        let Some(meter) = &mut self.meter else {
            return;
        };
        let learnt = (self.executor.build(&executor::probe_load()))
            .map_err(NoFigure::from)
            .and_then(|mut load| meter.learn(load.as_mut(), stopping));
        if let Err(error) = learnt {
            tracing::warn!(%error, "the board's sensors could not be probed: no power");
        }
    }

    /// Waits while somebody else uses the board. Our memory on it goes back meanwhile.
    fn wait_until_alone(&self, stopping: &AtomicBool) -> std::result::Result<(), Failure> {
        let company = || self.meter.as_ref().and_then(Session::company);
        if let Some(process) = company() {
            tracing::info!(process, "the board is somebody else's: waiting");
            self.executor.release_memory();
        }
        while company().is_some() {
            if stopping.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
            std::thread::sleep(COMPANY_PAUSE);
        }
        Ok(())
    }

    fn run(&mut self, job: &Job, stopping: &AtomicBool) -> std::result::Result<Reading, Failure> {
        if stopping.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        self.wait_until_alone(stopping)?;
        let started = Instant::now();
        let mut workload = self.executor.build(&job.subject)?;
        let built = self.clock.now();
        let wants_power = job.want_power && is_picked(&job.subject, self.power_share);
        let mut conditions = Conditions {
            agent_version: VERSION.to_owned(),
            host: self.host.clone(),
            ..Conditions::default()
        };
        let Self {
            meter,
            scratch,
            clock,
            ..
        } = self;
        let meter = meter.as_ref();
        // The clock goes back when this job is done, whatever becomes of it.
        let held = meter.and_then(Session::hold_clock);
        let Measured { runtime, launch_ms } =
            measure_with_launch(job.recipe, workload.as_mut(), scratch, clock, stopping)?;
        let mut power = None;
        if let Some(meter) = meter {
            let description = meter.description();
            conditions.driver = Some(description.driver.clone());
            let mut board = Board {
                uuid: description.uuid.clone(),
                launch_ms,
                ..Board::default()
            };
            let locked_mhz = held.as_ref().map(LockedClock::mhz);
            let found = match wants_power {
                true => meter.measure(workload.as_mut(), locked_mhz, stopping)?,
                false => None,
            };
            match found {
                Some(Found::Power(trial)) => {
                    let (found, trial) = trial.into_power(&mut conditions);
                    power = Some(found);
                    board.trial = Some(trial);
                }
                Some(Found::NoPower(void)) => board.power_void = Some(void.to_string()),
                None => (),
            }
            conditions.board = Some(board);
        }
        drop(held);
        if let Some(process) = meter.and_then(Session::company) {
            tracing::info!(
                process,
                "somebody else has come onto the board: the job is measured again"
            );
            return Err(Failure::Interrupted);
        }
        conditions.seconds = clock.now().saturating_sub(built).as_secs_f64();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        conditions.measured_at_ms = now.as_millis() as u64;
        tracing::debug!(
            job.id,
            subject = %name(&job.subject),
            median_ms = runtime.median_ms,
            power_w = power.as_ref().map(|power| power.mean_w),
            seconds = conditions.seconds,
            build_seconds = started.elapsed().as_secs_f64() - conditions.seconds,
            "measured"
        );
        Ok(Reading {
            runtime,
            power,
            conditions,
        })
    }
}

/// How often a board that somebody else uses is looked at again.
const COMPANY_PAUSE: Duration = Duration::from_secs(2);

/// Whether a subject is among those whose power is measured: networks always are.
fn is_picked(subject: &Subject, share: f64) -> bool {
    match subject {
        Subject::Layer(layer) => f64::from(layer.hash().as_bytes()[0]) < share * 256.0,
        Subject::Network(_) => share > 0.0,
    }
}

impl From<NoFigure> for Failure {
    /// A void trial may go better another time; one that was void because somebody else came is nobody's failure.
    fn from(error: NoFigure) -> Self {
        match error {
            NoFigure::Void(Void::Foreign(_)) => Self::Interrupted,
            NoFigure::Void(void) => Self::Failed(format!("void: {void}")),
            NoFigure::Failure(failure) => failure,
        }
    }
}

fn bytes(subject: &Subject) -> u64 {
    match subject {
        Subject::Layer(layer) => layer.work().bytes(),
        Subject::Network(network) => network
            .layers()
            .map(|(_, layer)| layer.work().bytes())
            .sum(),
    }
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Layer(layer) => layer.to_string(),
        Subject::Network(network) => network.name().to_owned(),
    }
}
