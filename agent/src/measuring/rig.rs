//! Everything that measures: executor, recipes, meter, and the device's canary.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wattfarm_cost::measurement::{self, Conditions, Reading, Runtime, Subject};

use super::kept::Kept;
use super::{Job, Outcome};
use crate::canary::{self, Canary, Verdict};
use crate::executor::{self, Executor};
use crate::meter::{Board, Found, LockedClock, NoFigure, Session, Void};
use crate::recipe::{
    Clock, Confidence, Failure, Interval, Measured, Monotonic, Pulse, Scratch, measure_canary,
    measure_with_launch,
};
use crate::{VERSION, device};

/// A job of at least this many bytes leaves its memory to others when it is done.
const RELEASE_BYTES: u64 = 256 << 20;

/// The device, ready to be measured.
pub struct Bench {
    /// Builds what is measured. Made on the measuring thread, because libtorch's settings belong to a thread.
    pub executor: Box<dyn FnOnce() -> Executor + Send>,
    /// The board's meter, where there is one and power is wanted.
    pub meter: Option<Session>,
    /// The board, where there is one.
    pub board: Option<Arc<Board>>,
    /// Where the canary's history is kept.
    pub state: PathBuf,
    /// The share of the layers whose power is measured, picked by their hash so that it is the same ones everywhere.
    pub power_share: f64,
}

/// Everything that the measuring thread measures with.
pub(super) struct Rig {
    executor: Executor,
    meter: Option<Session>,
    board: Option<Arc<Board>>,
    power_share: f64,
    scratch: Scratch,
    clock: Monotonic,
    host: String,
    canary: Canary,
    /// What the canary said last.
    is_itself: bool,
    kept: Kept,
}

impl Rig {
    /// To be called on the measuring thread.
    pub(super) fn new(bench: Bench) -> Self {
        let subject = Subject::Layer(executor::canary_layer());
        let kept = Kept::in_folder(&bench.state, subject.hash());
        Self {
            executor: (bench.executor)(),
            meter: bench.meter,
            board: bench.board,
            power_share: bench.power_share,
            scratch: Scratch::for_recipes(),
            clock: Monotonic::start(),
            host: device::host(),
            canary: Canary::new(kept.read()),
            is_itself: true,
            kept,
        }
    }

    /// How long to wait for a job before the canary is looked at without one.
    pub(super) fn patience(&self) -> Duration {
        match self.is_itself {
            true => canary::EVERY,
            false => CONVALESCENCE,
        }
    }

    /// Measures a job.
    pub(super) fn measure(&mut self, job: &Job, pulse: &Pulse) -> Outcome {
        let outcome = match self.run(job, pulse) {
            Ok(reading) => Outcome::Measured(Box::new(reading)),
            Err(Failure::Infeasible(reason)) => Outcome::Infeasible(reason),
            Err(Failure::Failed(reason)) => Outcome::Failed(reason),
            Err(Failure::Interrupted) => Outcome::Returned,
        };
        self.canary.count_job();
        if matches!(outcome, Outcome::Returned) || bytes(&job.subject) >= RELEASE_BYTES {
            self.executor.release_memory();
        }
        outcome
    }

    /// Measures the canary as often as its rule wants it. `None`: it was not due, or could not be measured to an end.
    /// Otherwise all is well, or the reason why the device is not itself.
    pub(super) fn look_at_canary(&mut self, pulse: &Pulse) -> Option<Option<String>> {
        let mut found = None;
        while self.canary.is_due(self.clock.now()) {
            let median_ms = match self.canary_ms(pulse) {
                Ok(median_ms) => median_ms,
                Err(error) => {
                    if error != Failure::Interrupted {
                        tracing::warn!(%error, "the canary could not be measured");
                    }
                    return None;
                }
            };
            let verdict = self.canary.judge(median_ms, self.clock.now());
            self.kept.write(self.canary.history());
            match verdict {
                Verdict::Good => {
                    self.is_itself = true;
                    tracing::debug!(median_ms, "the canary is well");
                    found = Some(None);
                }
                Verdict::Again(pause) => {
                    tracing::info!(median_ms, ?pause, "the canary is off: once more");
                    let until = Instant::now() + pause;
                    while Instant::now() < until {
                        if pulse.rest().is_err() {
                            return None;
                        }
                        std::thread::sleep(COMPANY_PAUSE);
                    }
                }
                Verdict::Bad(because) => {
                    self.is_itself = false;
                    tracing::error!("this device is not itself: {because}");
                    return Some(Some(because));
                }
            }
        }
        found
    }

    fn canary_ms(&mut self, pulse: &Pulse) -> std::result::Result<f64, Failure> {
        self.wait_until_alone(pulse)?;
        let subject = Subject::Layer(executor::canary_layer());
        let mut workload = self.executor.build(&subject)?;
        let _held = self.meter.as_ref().and_then(Session::hold_clock);
        measure_canary(workload.as_mut(), &mut self.scratch, &self.clock, pulse)
    }

    /// Probes the sensors, unless they are known. A board whose sensors could not be learnt is measured without power.
    pub(super) fn learn(&mut self, pulse: &Pulse) {
        let Some(meter) = &mut self.meter else {
            return;
        };
        let learnt = (self.executor.build(&executor::probe_load()))
            .map_err(NoFigure::from)
            .and_then(|mut load| meter.learn(load.as_mut(), pulse));
        if let Err(error) = learnt {
            tracing::warn!(%error, "the board's sensors could not be probed: no power");
        }
    }

    fn company(&self) -> Option<u32> {
        self.board.as_ref().and_then(|board| board.company())
    }

    /// Waits while somebody else uses the board. Our memory on it goes back meanwhile.
    fn wait_until_alone(&self, pulse: &Pulse) -> std::result::Result<(), Failure> {
        let Some(process) = self.company() else {
            return Ok(());
        };
        tracing::info!(process, "the board is somebody else's: waiting");
        self.executor.release_memory();
        while self.company().is_some() {
            pulse.rest()?;
            std::thread::sleep(COMPANY_PAUSE);
        }
        // Whoever watches the board may not have seen yet that they have gone.
        pulse.want_elsewhere(false);
        Ok(())
    }

    fn run(&mut self, job: &Job, pulse: &Pulse) -> std::result::Result<Reading, Failure> {
        self.wait_until_alone(pulse)?;
        pulse.beat()?;
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
            board: shared,
            scratch,
            clock,
            canary,
            ..
        } = self;
        let meter = meter.as_ref();
        // The clock goes back when this job is done, whatever becomes of it.
        let held = meter.and_then(Session::hold_clock);
        let Measured {
            mut runtime,
            launch_ms,
        } = measure_with_launch(job.recipe, workload.as_mut(), scratch, clock, pulse)?;
        include_scatter(&mut runtime, canary.scatter());
        let mut power = None;
        if let Some(meter) = meter {
            let description = meter.description();
            conditions.driver = Some(description.driver.clone());
            let mut board = measurement::Board {
                uuid: description.uuid.clone(),
                launch_ms,
                ..measurement::Board::default()
            };
            let locked_mhz = held.as_ref().map(LockedClock::mhz);
            let found = match wants_power {
                true => meter.measure(workload.as_mut(), locked_mhz, pulse)?,
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
        if let Some(process) = shared.as_ref().and_then(|board| board.company()) {
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

/// Widens a runtime's 95 % interval by what the device scatters by between repeats.
fn include_scatter(runtime: &mut Runtime, scatter: f64) {
    let interval = Interval {
        median: runtime.median_ms,
        low: runtime.low_ms,
        high: runtime.high_ms,
    };
    let interval = interval.with_scatter(scatter, Confidence::P95);
    runtime.low_ms = interval.low.max(f64::MIN_POSITIVE);
    runtime.high_ms = interval.high;
}

/// How often a device that was not itself is looked at: it gets jobs again when it is.
const CONVALESCENCE: Duration = Duration::from_secs(20);

/// How often a board that somebody else uses is looked at again.
const COMPANY_PAUSE: Duration = Duration::from_millis(500);

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
