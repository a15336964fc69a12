//! The measuring thread: it has the device to itself, and talks to nobody but the worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use wattfarm_cost::measurement::{Conditions, Reading, Recipe, Runtime, Subject};

use crate::executor::{Executor, Memory};
use crate::recipe::{Clock, Failure, Monotonic, Scratch, measure};
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

/// Measures jobs until the channel closes. Runs on its own thread, pinned by the caller; libtorch's settings are made in
/// here, because they belong to a thread.
pub fn measuring_thread(
    memory: Memory,
    jobs: &std::sync::mpsc::Receiver<Job>,
    results: &tokio::sync::mpsc::Sender<Result>,
    stopping: &AtomicBool,
) {
    let executor = Executor::new(memory);
    let mut scratch = Scratch::for_recipes();
    let clock = Monotonic::start();
    let host = device::host();
    while let Ok(job) = jobs.recv() {
        // A panic in here would be ours or the binding's: the job has failed, the agent goes on.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            if stopping.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
            let started = Instant::now();
            let mut workload = executor.build(&job.subject)?;
            let built = clock.now();
            let runtime = measure(
                job.recipe,
                workload.as_mut(),
                &mut scratch,
                &clock,
                stopping,
            )?;
            let seconds = clock.now().saturating_sub(built).as_secs_f64();
            tracing::debug!(
                job.id,
                subject = %name(&job.subject),
                median_ms = runtime.median_ms,
                seconds,
                build_seconds = started.elapsed().as_secs_f64() - seconds,
                "measured"
            );
            Ok((runtime, seconds))
        }));
        let outcome = match ran
            .unwrap_or_else(|_| Err(Failure::Failed("the executor panicked".to_owned())))
        {
            Ok((runtime, seconds)) => Outcome::Measured(Box::new(reading(runtime, seconds, &host))),
            Err(Failure::Infeasible(reason)) => Outcome::Infeasible(reason),
            Err(Failure::Failed(reason)) => Outcome::Failed(reason),
            Err(Failure::Interrupted) => Outcome::Returned,
        };
        if bytes(&job.subject) >= RELEASE_BYTES {
            executor.release_memory();
        }
        if results.blocking_send(Result { job, outcome }).is_err() {
            return;
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

/// A reading without power: a CPU box has no meter.
fn reading(runtime: Runtime, seconds: f64, host: &str) -> Reading {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let conditions = Conditions {
        agent_version: VERSION.to_owned(),
        host: host.to_owned(),
        measured_at_ms: now.as_millis() as u64,
        seconds,
        ..Conditions::default()
    };
    Reading {
        runtime,
        power: None,
        conditions,
    }
}
