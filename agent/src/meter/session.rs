//! A board over many jobs: its sensor class, found once and kept on disk, and its power at rest, measured now and then.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use wattfarm_cost::measurement::{Conditions, Power, PowerTrial};

use super::board::{Board, Description};
use super::class::SensorClass;
use super::clocks::LockedClock;
use super::probe::{Thoroughness, probe};
use super::recorder::Recorder;
use super::stage::{Bench, MachineTime, Work};
use super::trial::{Ground, NoFigure, Policy, Tier, Trial, idle_power, power_trial};
use super::void::Void;
use crate::recipe::{Failure, Pulse, Workload};

/// How power is to be measured on this board.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How thoroughly.
    pub tier: Tier,
    /// How long the probe may take.
    pub thoroughness: Thoroughness,
    /// The sensor's reading over the truth, by an outside meter of the owner's.
    pub gain: Option<f64>,
    /// The clock to hold while measuring, in MHz, where that is permitted.
    pub lock_mhz: Option<u32>,
    /// Where the sensor class is kept.
    pub state: PathBuf,
    /// Cores for the thread that polls.
    pub cores: Vec<usize>,
}

/// What was found of one job: power with its conditions, or why there is none.
pub enum Found {
    /// Power.
    Power(Box<Trial>),
    /// Power could not be told; the rest of the job stands.
    NoPower(Void),
}

/// Power at rest is measured anew when it is older than this, in s ...
const GROUND_AGE_S: f64 = 120.0;

/// ... for so long.
const GROUND_S: f64 = 1.0;

/// A board that is ready to be measured.
pub struct Session {
    board: Arc<Board>,
    description: Description,
    class: Option<SensorClass>,
    settings: Settings,
    time: MachineTime,
    ground: Cell<Option<Ground>>,
}

impl Session {
    /// Prepares `board`: reads its sensor class from the state folder.
    ///
    /// # Errors
    /// When the board doesn't answer or a stored class can't be read.
    pub fn new(board: Arc<Board>, settings: Settings) -> anyhow::Result<Self> {
        LockedClock::put_back_leftover(&board);
        let description = board.describe().context("ask the board what it is")?;
        let class = stored(&settings.state)?
            .filter(|class| class.uuid == description.uuid && class.driver == description.driver);
        Ok(Self {
            board,
            description,
            class,
            settings,
            time: MachineTime::start(),
            ground: Cell::new(None),
        })
    }

    /// What the board is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Its sensor class, once it is known.
    pub fn class(&self) -> Option<&SensorClass> {
        self.class.as_ref()
    }

    /// Holds the clock, if the settings want it and the driver permits it, for as long as the answer lives.
    pub fn hold_clock(&self) -> Option<LockedClock<'_>> {
        let mhz = self.settings.lock_mhz?;
        match LockedClock::hold(&self.board, mhz) {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(%error, "could not lock the clock");
                None
            }
        }
    }

    /// Finds out what the board's sensors are like unless that is known, with `workload` as its load.
    ///
    /// # Errors
    /// When the conditions forbid it, the work fails, or the class cannot be stored.
    pub fn learn(&mut self, workload: &mut dyn Workload, pulse: &Pulse) -> Result<(), NoFigure> {
        if self.class.is_some() {
            return Ok(());
        }
        tracing::info!("probing the board's sensors");
        let mut work = BackToBack { workload, pulse };
        let recorder = Recorder::new(&self.board, &self.time);
        let mut bench = Bench::new(recorder, &mut work, pulse, &self.settings.cores);
        let class = probe(&mut bench, self.settings.thoroughness)?;
        tracing::info!("{}", class.summary());
        if let Err(error) = store(&self.settings.state, &class) {
            tracing::warn!(%error, "the sensor class is not kept: it is found anew next time");
        }
        self.class = Some(class);
        Ok(())
    }

    /// Measures the power of `workload`.
    ///
    /// # Errors
    /// A void that spoils the whole job, or the failure of the work.
    pub fn measure(
        &self,
        workload: &mut dyn Workload,
        locked_mhz: Option<u32>,
        pulse: &Pulse,
    ) -> Result<Option<Found>, NoFigure> {
        let Some(class) = &self.class else {
            return Ok(None);
        };
        let mut work = BackToBack { workload, pulse };
        let recorder = Recorder::new(&self.board, &self.time);
        let mut bench = Bench::new(recorder, &mut work, pulse, &self.settings.cores);
        let policy = Policy {
            tier: self.settings.tier,
            gain: self.settings.gain,
            locked_mhz,
        };
        let now_s = recorder.time().now_s();
        let is_fresh = |ground: &Ground| now_s - ground.at_s < GROUND_AGE_S;
        let ground = match self.ground.get().filter(is_fresh) {
            Some(ground) => Ok(ground),
            None => idle_power(&mut bench, class, GROUND_S),
        };
        let found = ground.and_then(|ground| {
            self.ground.set(Some(ground));
            power_trial(&mut bench, class, &ground, &policy)
        });
        match found {
            Ok(trial) => Ok(Some(Found::Power(Box::new(trial)))),
            Err(NoFigure::Void(void)) if !void.spoils_runtime() => Ok(Some(Found::NoPower(void))),
            Err(error) => Err(error),
        }
    }
}

impl Trial {
    /// The trial as the farm keeps it.
    pub fn into_power(self, conditions: &mut Conditions) -> (Power, PowerTrial) {
        conditions.clock_mhz = self.clock_mhz;
        conditions.temperature_c = self.temperature_c.map(f64::from);
        conditions.throttle_reasons = self.reasons;
        let power = Power {
            mean_w: self.mean_w,
            idle_w: self.idle_w,
            sensor: self.source.name().to_owned(),
            window_s: self.window_s,
        };
        let (samples_s, samples_w) = self.samples.into_iter().unzip();
        let trial = PowerTrial {
            procedure: self.tier.name().to_owned(),
            low_w: self.low_w,
            high_w: self.high_w,
            gain: self.gain,
            windows: self.windows,
            ticks: self.ticks,
            phases: self.phases,
            call_ms: self.call_s * 1e3,
            clock_min_mhz: self.clock_min_mhz.map(f64::from),
            locked_mhz: self.locked_mhz.map(f64::from),
            temperature_before_c: self.temperature_before_c.map(f64::from),
            samples_s,
            samples_w,
        };
        (power, trial)
    }
}

/// A workload, call after call, with the device's queue never empty.
struct BackToBack<'a> {
    workload: &'a mut dyn Workload,
    pulse: &'a Pulse,
}

/// Calls are launched for about this long before they are waited for: the wait leaves the device idle for some
/// microseconds, so it shall be rare; and the queue shall be short, so that a load ends when it should.
const BURST_S: f64 = 0.025;

impl Work for BackToBack<'_> {
    fn run_until(&mut self, until: Instant) -> Result<u64, Failure> {
        let (mut calls, mut burst) = (0, 1u32);
        while calls == 0 || Instant::now() < until {
            self.pulse.beat()?;
            let began = Instant::now();
            for _ in 0..burst {
                self.workload.launch()?;
            }
            self.workload.finish()?;
            calls += u64::from(burst);
            let call_s = began.elapsed().as_secs_f64() / f64::from(burst);
            let left_s = until.saturating_duration_since(Instant::now());
            let next_s = left_s.min(Duration::from_secs_f64(BURST_S)).as_secs_f64();
            burst = (next_s / call_s.max(1e-7)).clamp(1.0, 10_000.0) as u32;
        }
        Ok(calls)
    }
}

const CLASS_FILE: &str = "sensor-class.json";

fn stored(state: &Path) -> anyhow::Result<Option<SensorClass>> {
    let path = state.join(CLASS_FILE);
    match fs::read(&path) {
        Ok(text) => {
            let what = || format!("read {} (delete it to probe anew)", path.display());
            serde_json::from_slice(&text).with_context(what).map(Some)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Written beside and renamed, so that a crash leaves none or a whole one.
fn store(state: &Path, class: &SensorClass) -> std::io::Result<()> {
    let path = state.join(CLASS_FILE);
    let beside = path.with_extension("json.new");
    fs::create_dir_all(state)?;
    fs::write(&beside, serde_json::to_vec_pretty(class)?)?;
    fs::rename(&beside, &path)
}
