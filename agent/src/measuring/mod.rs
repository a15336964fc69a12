//! The measuring process: it has the device to itself, and talks to nobody but the agent that started it.
//!
//! A call into libtorch that hangs can be ended by nothing but the end of its process, and one that crashes takes its
//! process along: so the agent that holds leases and spools reports is another one. Orders come in on stdin and words go
//! out on stdout, a line of JSON each; when stdin ends, so does the process.

mod company;
mod kept;
mod lines;
mod rig;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use wattfarm_cost::Platform;
use wattfarm_cost::measurement::{Reading, Recipe, Subject};

use crate::device;
use crate::recipe::Pulse;

pub use company::YIELDED;
pub(crate) use lines::encode;
pub use rig::Bench;
use rig::Rig;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A figure.
    Measured(Box<Reading>),
    /// This platform cannot run it.
    Infeasible(String),
    /// Something went wrong.
    Failed(String),
    /// It was not measured: the agent stops, or has not the device to itself.
    Returned,
}

/// What the measuring process says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It has found the device.
    Ready(Platform),
    /// Something has moved on since it last said so.
    Alive,
    /// It is done with the job of this lease.
    Done(u64, Outcome),
    /// The canary was measured: well, or the reason why the device is not itself.
    Canary(Option<String>),
}

/// How often the process says that it lives, if it does.
const ALIVE_EVERY: Duration = Duration::from_millis(500);

/// Measures what stdin asks for until it ends. To be called on the main thread, before anything has been written to
/// stdout; `prepare` finds the device.
///
/// # Errors
/// When there is no such device, or nobody reads what is said.
pub fn serve(
    core: usize,
    prepare: impl FnOnce() -> anyhow::Result<(Platform, Bench)>,
) -> anyhow::Result<()> {
    let speaker = lines::Speaker::take_stdout().context("take stdout for words alone")?;
    device::end_with_parent().context("tie this process to the agent")?;
    let (platform, bench) = prepare()?;
    speaker.say(&Word::Ready(platform))?;

    let pulse = Arc::new(Pulse::default());
    let (queue, jobs) = mpsc::channel();
    spawn("orders", {
        let pulse = Arc::clone(&pulse);
        move || {
            lines::hear(std::io::stdin().lock(), |job| queue.send(job).is_ok());
            pulse.stop();
        }
    })?;
    spawn("alive", {
        let (pulse, speaker) = (Arc::clone(&pulse), speaker.clone());
        move || {
            let mut last = None;
            loop {
                let beats = pulse.beats();
                // Nobody listens any more: this process ends by its stdin.
                if last != Some(beats) && speaker.say(&Word::Alive).is_err() {
                    return;
                }
                last = Some(beats);
                thread::sleep(ALIVE_EVERY);
            }
        }
    })?;
    if let Some(board) = bench.board.clone() {
        let pulse = Arc::clone(&pulse);
        spawn("company", move || {
            company::watch(|| board.company(), &pulse)
        })?;
    }

    if let Err(error) = device::pin(&[core]) {
        tracing::warn!(core, %error, "could not pin the measuring thread");
    }
    let mut rig = Rig::new(bench);
    rig.learn(&pulse);
    loop {
        let job = match jobs.recv_timeout(rig.patience()) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        pulse.at_work(true);
        if let Some(found) = rig.look_at_canary(&pulse) {
            speaker.say(&Word::Canary(found))?;
        }
        if let Some(job) = job {
            // A panic in here would be ours or the binding's: the job has failed, the process goes on.
            let outcome = catch_unwind(AssertUnwindSafe(|| rig.measure(&job, &pulse)));
            let outcome = outcome.unwrap_or(Outcome::Failed("the executor panicked".to_owned()));
            speaker.say(&Word::Done(job.lease, outcome))?;
        }
        pulse.at_work(false);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned
        .map(drop)
        .with_context(|| format!("start the thread `{name}`"))
}
