//! One trial: power and energy of a load that runs back to back.

use super::class::{Sensor, SensorClass};
use super::mean::{Mean, parts, steady_mean};
use super::stage::{Busy, Stage};
use super::trace::{Source, Trace, held_mean};
use super::void::{Clocks, Void, voids};
use crate::recipe::{Failure, mean_half_width};

/// How thoroughly power is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// One window of 3 s: 4 to 6 s in all.
    Light,
    /// Three to ten windows of 5 s, in a band of temperature: 20 to 25 s for a quiet board.
    Full,
}

impl Tier {
    /// Its name in a measurement, with its version.
    pub fn name(self) -> &'static str {
        match self {
            Self::Light => "power-light/1",
            Self::Full => "power-full/1",
        }
    }

    fn window_s(self) -> f64 {
        match self {
            Self::Light => 3.0,
            Self::Full => 5.0,
        }
    }

    /// Changes of the source that a window holds at least.
    fn ticks_min(self) -> usize {
        match self {
            Self::Light => 20,
            Self::Full => 45,
        }
    }

    fn windows(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Light => 1..=1,
            Self::Full => 3..=10,
        }
    }
}

/// What the owner of the board says about measuring it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How thoroughly.
    pub tier: Tier,
    /// The sensor's reading over the truth, by an outside meter of the owner's. Figures are divided by it.
    pub gain: Option<f64>,
    /// The clock that is held, in MHz.
    pub locked_mhz: Option<u32>,
}

/// The board at rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ground {
    /// Its power by the sensor, in W. `None` where no reading is there.
    pub idle_w: Option<f64>,
    /// Its temperature.
    pub temperature_c: Option<u32>,
    /// When that was, in s.
    pub at_s: f64,
}

/// What a trial found. Power is the board's, idle power in it, already divided by the owner's gain.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// How thoroughly.
    pub tier: Tier,
    /// By what.
    pub source: Source,
    /// What that is like.
    pub sensor: Sensor,
    /// Mean power in W.
    pub mean_w: f64,
    /// The mean's 95 % interval: how well it is known, apart from the sensor's gain.
    pub low_w: f64,
    /// Its upper end.
    pub high_w: f64,
    /// Power at rest, in W.
    pub idle_w: Option<f64>,
    /// Length of all windows in s.
    pub window_s: f64,
    /// Windows that the mean is of.
    pub windows: u32,
    /// Starting points within the sensor's period that they were spread over.
    pub phases: u32,
    /// Changes of the source in them.
    pub ticks: u32,
    /// Time of one call, back to back, in s.
    pub call_s: f64,
    /// Mean clock in MHz.
    pub clock_mhz: Option<f64>,
    /// The lowest.
    pub clock_min_mhz: Option<u32>,
    /// The clock was held here.
    pub locked_mhz: Option<u32>,
    /// Temperature before.
    pub temperature_before_c: Option<u32>,
    /// And after.
    pub temperature_c: Option<u32>,
    /// Reasons for lower clocks that were seen, as NVML's bits.
    pub reasons: u64,
    /// The owner's gain.
    pub gain: Option<f64>,
    /// The readings as they came: s since the first, and W.
    pub samples: Vec<(f32, f32)>,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoFigure {
    /// The conditions forbid it.
    #[error("void: {0}")]
    Void(#[from] Void),
    /// The work failed, or the agent stops.
    #[error("{0}")]
    Failure(#[from] Failure),
}

/// Warm-up lasts at least so many calls and s (rule 9), and never longer than the last.
const WARMUP_CALLS: u64 = 10;
const WARMUP_S: f64 = 0.5;
const WARMUP_S_MAX: f64 = 5.0;

/// A sensor that looks at less than this share of the time sees a part of each call only.
const WHOLLY_SAMPLED: f64 = 0.9;

/// ... which matters for calls longer than this, in s: of shorter ones it sees enough (rule 5).
const LONG_CALL_S: f64 = 0.005;

/// Starting points that are tried then.
const PHASES: u32 = 8;

/// Means of windows that differ by less than this (standard deviation over mean) agree.
const AGREEMENT: f64 = 0.02;

/// A thorough trial starts at most this far above the resting temperature, and waits so long for it, in s.
const BAND_C: u32 = 15;
const COOLING_S_MAX: f64 = 60.0;

/// Raw samples kept of a trial.
const SAMPLES_MAX: usize = 1024;

/// The board at rest, over `seconds` that it is left alone for.
///
/// # Errors
/// When somebody else is on it, or it doesn't answer.
pub fn idle_power(
    stage: &mut dyn Stage,
    class: &SensorClass,
    seconds: f64,
) -> Result<Ground, NoFigure> {
    let mut trace = Trace::default();
    let (source, sensor) = class.reading().unwrap_or((Source::Usage, NO_SENSOR));
    stage.idle(sensor.settle_s + seconds, &mut trace)?;
    let to_s = stage.recorder().time().now_s();
    let from_s = to_s - seconds;
    if let Some(void) = voids(&trace, Clocks::default(), from_s, to_s)
        .into_iter()
        .next()
    {
        return Err(void.into());
    }
    let watts = held_mean(&trace.power(source), from_s, to_s);
    Ok(Ground {
        idle_w: watts.filter(|watts| *watts > 0.0),
        temperature_c: trace
            .moments(from_s, to_s)
            .last()
            .and_then(|last| last.state.temperature_c),
        at_s: to_s,
    })
}

const NO_SENSOR: Sensor = Sensor {
    update_s: 0.1,
    window_s: 0.0,
    settle_s: 0.0,
};

/// Measures the power of the stage's work.
///
/// # Errors
/// A void with its reason, or the failure of the work.
pub fn power_trial(
    stage: &mut dyn Stage,
    class: &SensorClass,
    ground: &Ground,
    policy: &Policy,
) -> Result<Trial, NoFigure> {
    let (source, sensor) = class.source().ok_or_else(|| {
        Failure::Infeasible("the board has no usable reading of power".to_owned())
    })?;
    let mut trace = Trace::default();
    let trace = &mut trace;
    if policy.tier == Tier::Full {
        cool_down(stage, ground, trace)?;
    }
    let call_s = warm_up(stage, trace)?;
    let began_s = stage.recorder().time().now_s();
    let phases = match source {
        Source::Counter => 1,
        _ if sensor.sampled_share() < WHOLLY_SAMPLED && call_s > LONG_CALL_S => PHASES,
        _ => 1,
    };
    let clocks = Clocks {
        locked_mhz: policy.locked_mhz,
        highest_mhz: class.busy_clock_mhz,
    };
    let mut windows: Vec<Window> = Vec::new();
    let count = policy.tier.windows();
    while windows.len() < *count.end() {
        windows.push(window(
            stage,
            trace,
            source,
            &sensor,
            (policy.tier, phases, call_s),
            clocks,
        )?);
        let means: Vec<f64> = windows.iter().map(|window| window.mean_w).collect();
        if windows.len() >= *count.start() && scatter(&means) <= AGREEMENT {
            break;
        }
    }
    let ended_s = stage.recorder().time().now_s();
    // One window's parts tell how well it is known; of several, they themselves.
    let figures: Vec<f64> = match windows.as_slice() {
        [only] => only.parts.clone(),
        several => several.iter().map(|window| window.mean_w).collect(),
    };
    let mean_w = windows.iter().map(|window| window.mean_w).sum::<f64>() / windows.len() as f64;
    let half_w = mean_half_width(&figures);
    let gain = policy.gain.unwrap_or(1.0);
    let states: Vec<_> = trace
        .moments(began_s, ended_s)
        .map(|moment| &moment.state)
        .collect();
    let clock: Vec<u32> = states.iter().filter_map(|state| state.clock_mhz).collect();
    let (busy_s, calls) = windows.iter().fold((0.0, 0), |(seconds, calls), window| {
        (seconds + window.busy_s, calls + window.calls)
    });
    Ok(Trial {
        tier: policy.tier,
        source,
        sensor,
        mean_w: mean_w / gain,
        low_w: ((mean_w - half_w) / gain).max(f64::MIN_POSITIVE),
        high_w: (mean_w + half_w) / gain,
        idle_w: ground.idle_w.map(|watts| watts / gain),
        window_s: windows.iter().map(|window| window.seconds).sum(),
        windows: windows.len() as u32,
        phases,
        ticks: windows.iter().map(|window| window.ticks as u32).sum(),
        call_s: busy_s / calls as f64,
        clock_mhz: (!clock.is_empty())
            .then(|| clock.iter().map(|&mhz| f64::from(mhz)).sum::<f64>() / clock.len() as f64),
        clock_min_mhz: clock.iter().min().copied(),
        locked_mhz: policy.locked_mhz,
        temperature_before_c: states.first().and_then(|state| state.temperature_c),
        temperature_c: states.last().and_then(|state| state.temperature_c),
        reasons: states
            .iter()
            .fold(0, |reasons, state| reasons | state.reasons),
        gain: policy.gain,
        samples: samples(trace, source, began_s, ended_s),
    })
}

/// Waits until the board is no warmer than its band allows.
fn cool_down(stage: &mut dyn Stage, ground: &Ground, trace: &mut Trace) -> Result<(), NoFigure> {
    let Some(most_c) = ground.temperature_c.map(|resting_c| resting_c + BAND_C) else {
        return Ok(());
    };
    let began_s = stage.recorder().time().now_s();
    loop {
        stage.idle(0.5, trace)?;
        let now_s = stage.recorder().time().now_s();
        let temperature_c = trace
            .moments(began_s, now_s)
            .last()
            .and_then(|last| last.state.temperature_c);
        match temperature_c {
            Some(celsius) if celsius > most_c && now_s - began_s < COOLING_S_MAX => (),
            Some(celsius) if celsius > most_c => {
                return Err(NoFigure::Failure(Failure::Failed(format!(
                    "the board is at {celsius} °C and has not cooled to {most_c} °C in {COOLING_S_MAX:.0} s"
                ))));
            }
            _ => return Ok(()),
        }
    }
}

/// Warms up, and tells the time of one call, back to back.
fn warm_up(stage: &mut dyn Stage, trace: &mut Trace) -> Result<f64, NoFigure> {
    let began_s = stage.recorder().time().now_s();
    let (mut calls, mut call_s) = (0, 0.0);
    loop {
        let busy = stage.busy(WARMUP_S, trace)?;
        calls += busy.calls;
        if busy.calls > 0 {
            call_s = busy.seconds() / busy.calls as f64;
        }
        let took_s = busy.to_s - began_s;
        if calls >= WARMUP_CALLS || took_s >= WARMUP_S_MAX {
            return Ok(call_s);
        }
    }
}

/// A window, whole or in several busy times.
struct Window {
    mean_w: f64,
    parts: Vec<f64>,
    seconds: f64,
    ticks: usize,
    busy_s: f64,
    calls: u64,
}

/// Measures one window, begun at `phases` different moments of the sensor's period, one after the other.
fn window(
    stage: &mut dyn Stage,
    trace: &mut Trace,
    source: Source,
    sensor: &Sensor,
    (tier, phases, call_s): (Tier, u32, f64),
    clocks: Clocks,
) -> Result<Window, NoFigure> {
    let steady_s = (tier.window_s() / f64::from(phases)).max(call_s) + sensor.update_s;
    let mut pieces: Vec<(Busy, Mean)> = Vec::new();
    for phase in 0..phases {
        if phases > 1 {
            // A sensor that looks at a part of its period sees another part of the call when the call begins elsewhere.
            let cycle_s = call_s.min(sensor.update_s);
            let wanted_s = cycle_s * f64::from(phase) / f64::from(phases);
            stage.idle(until_phase(stage, trace, source, sensor, wanted_s), trace)?;
        }
        let busy = stage.busy(sensor.settle_s + steady_s, trace)?;
        if let Some(void) = voids(trace, clocks, busy.from_s, busy.to_s)
            .into_iter()
            .next()
        {
            return Err(void.into());
        }
        pieces.push((busy, steady_mean(trace, source, sensor, &busy)?));
    }
    let ticks = pieces.iter().map(|(_, mean)| mean.ticks).sum();
    if ticks < tier.ticks_min() {
        return Err(NoFigure::Void(Void::TooFewTicks {
            of: source,
            ticks,
            wanted: tier.ticks_min(),
        }));
    }
    let means: Vec<f64> = pieces.iter().map(|(_, mean)| mean.watts).collect();
    Ok(Window {
        mean_w: means.iter().sum::<f64>() / means.len() as f64,
        parts: match pieces.as_slice() {
            [(_, only)] => parts(trace, source, only),
            _ => means,
        },
        seconds: pieces.iter().map(|(_, mean)| mean.to_s - mean.from_s).sum(),
        ticks,
        busy_s: pieces.iter().map(|(busy, _)| busy.seconds()).sum(),
        calls: pieces.iter().map(|(busy, _)| busy.calls).sum(),
    })
}

/// How long to wait until the sensor's period has gone on by `wanted_s` since one of its changes.
fn until_phase(
    stage: &dyn Stage,
    trace: &Trace,
    source: Source,
    sensor: &Sensor,
    wanted_s: f64,
) -> f64 {
    let last_change_s = trace
        .changes(source)
        .last()
        .map_or(0.0, |change| change.at_s);
    let now_s = stage.recorder().time().now_s();
    (wanted_s - (now_s - last_change_s)).rem_euclid(sensor.update_s)
}

/// The standard deviation over the mean.
fn scatter(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (count - 1.0).max(1.0)).sqrt() / mean
}

/// The source's readings in W from `from_s` on; where there are too many, every second, third, ... of them.
fn samples(trace: &Trace, source: Source, from_s: f64, to_s: f64) -> Vec<(f32, f32)> {
    let within: Vec<_> = (trace.power(source).into_iter())
        .filter(|change| from_s <= change.at_s && change.at_s <= to_s)
        .collect();
    let step = within.len().div_ceil(SAMPLES_MAX).max(1);
    let sample =
        |change: &super::trace::Change| ((change.at_s - from_s) as f32, change.value as f32);
    within.iter().step_by(step).map(sample).collect()
}
