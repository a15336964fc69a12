//! Finds out what a board's sensors are like, by a load that goes on and off in square waves.

use serde::{Deserialize, Serialize};

use super::class::{
    Counter, Rise, Sensor, SensorClass, rise, settled_after, update_period, window,
};
use super::stage::{Busy, Stage};
use super::trace::{Source, Trace, held_mean};
use super::trial::NoFigure;
use super::void::{Clocks, Void, voids};
use crate::recipe::Failure;

/// How long a probe may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thoroughness {
    /// About two minutes: 16 square waves, the counter against 30 s of power.
    Enrolment,
    /// About a minute, for short campaigns: 8 square waves, the counter against 10 s of power.
    Quick,
}

impl Thoroughness {
    fn waves(self) -> u32 {
        match self {
            Self::Enrolment => 16,
            Self::Quick => 8,
        }
    }

    fn agreement_s(self) -> f64 {
        match self {
            Self::Enrolment => 30.0,
            Self::Quick => 10.0,
        }
    }
}

/// How long the device rests before it is probed, and at its end, in s: longer than any sensor looks back.
const REST_S: f64 = 3.0;

/// How long the one long step lasts, in s, and the end of it that is its plateau.
const STEP_S: f64 = 5.0;
const PLATEAU_S: f64 = 1.0;

/// How often the load goes on and off at uneven times while update periods are sought, and for how long each, in s.
const FLICKERS: u32 = 60;
const FLICKER_S: (f64, f64) = (0.012, 0.06);

/// A rise within this share of the whole way has settled: over many steps, and over one, whose readings scatter.
const SETTLED: f64 = 0.02;
const ROUGHLY_SETTLED: f64 = 0.1;

/// A source that moves by less than this between idle and busy, in W and as a share, doesn't follow the load.
const SWING_W: f64 = 2.0;
const SWING_SHARE: f64 = 0.03;

/// Probes the sensors. The stage's work should be one that draws much.
///
/// # Errors
/// A void for what makes any trial worthless: company, MIG, a slowdown; a failure where the work fails.
pub fn probe(stage: &mut dyn Stage, thoroughness: Thoroughness) -> Result<SensorClass, NoFigure> {
    let mut trace = Trace::default();
    let trace = &mut trace;
    // The first calls build what later ones use.
    stage.busy(0.5, trace)?;
    stage.idle(REST_S, trace)?;
    let began_s = stage.recorder().time().now_s();

    let flicker_from_s = began_s;
    for index in 0..FLICKERS {
        // Multiples of the golden ratio fall evenly and never in step with a period.
        let share = (f64::from(index) * 0.618_034).fract();
        let seconds = FLICKER_S.0 + share * (FLICKER_S.1 - FLICKER_S.0);
        stage.busy(seconds, trace)?;
        stage.idle(FLICKER_S.0 + FLICKER_S.1 - seconds, trace)?;
    }
    let flicker_to_s = stage.recorder().time().now_s();

    stage.idle(REST_S, trace)?;
    let step = stage.busy(STEP_S, trace)?;
    let sources: Vec<(Source, f64, Step)> = Source::ALL
        .into_iter()
        .filter(|&source| trace.has(source))
        .filter_map(|source| {
            let within = |at_s: f64| flicker_from_s <= at_s && at_s <= flicker_to_s;
            let changes: Vec<_> = (trace.changes(source).into_iter())
                .filter(|change| within(change.at_s))
                .collect();
            Some((
                source,
                update_period(&changes)?,
                Step::of(trace, source, &step)?,
            ))
        })
        .collect();
    let slowest_s = sources
        .iter()
        .map(|(_, _, step)| step.settled_s)
        .fold(0.0, f64::max);
    let longest_s = sources
        .iter()
        .map(|(_, update_s, _)| *update_s)
        .fold(0.0, f64::max);
    let half_s = (1.4 * slowest_s + 3.0 * longest_s).clamp(0.2, STEP_S);
    let mut waves: Vec<Busy> = Vec::new();
    for wave in 0..thoroughness.waves() {
        // Each step comes elsewhere in the sensors' period.
        let shift_s = longest_s * (f64::from(wave) * 0.618_034).fract();
        stage.idle(half_s + shift_s, trace)?;
        waves.push(stage.busy(half_s, trace)?);
    }

    let load = stage.busy(thoroughness.agreement_s() + slowest_s, trace)?;
    stage.idle(2.0 * REST_S, trace)?;
    let ended_s = stage.recorder().time().now_s();

    if let Some(void) = voids(trace, Clocks::default(), began_s, ended_s)
        .into_iter()
        .next()
    {
        return Err(NoFigure::Void(void));
    }
    let mut sensors = Vec::new();
    for &(source, update_s, step) in &sources {
        let changes = trace.power(source);
        let rises: Vec<Rise> = waves
            .iter()
            .map(|wave| rise(&changes, wave.from_s, wave.to_s, step.idle_w, step.busy_w))
            .collect();
        let settled_s = settled_after(&rises, update_s, SETTLED);
        let sensor = Sensor {
            update_s,
            window_s: window(&rises, settled_s),
            settle_s: settled_s + update_s,
        };
        sensors.push((source, sensor));
    }
    let description = stage.recorder().board().describe().map_err(Void::Fault)?;
    let busy_clock_mhz = trace
        .moments(load.from_s, load.to_s)
        .filter_map(|moment| moment.state.clock_mhz)
        .max();
    let mut class = SensorClass {
        uuid: description.uuid,
        driver: description.driver,
        thoroughness,
        sensors,
        counter: None,
        idle_w: None,
        busy_clock_mhz,
    };
    let rest = (ended_s - REST_S, ended_s);
    class.idle_w = class.reading().and_then(|(source, _)| {
        held_mean(&trace.power(source), rest.0, rest.1).filter(|watts| *watts > 0.0)
    });
    class.counter = trace.has(Source::Counter).then(|| Counter {
        against_power: agreement(trace, &class, load.from_s + slowest_s, load.to_s),
        against_idle_power: agreement(trace, &class, rest.0, rest.1),
    });
    if class.sensors.is_empty() {
        return Err(NoFigure::Failure(Failure::Infeasible(
            "the board has no reading of power that follows its load".to_owned(),
        )));
    }
    Ok(class)
}

/// A source before and at the end of the long step.
#[derive(Debug, Clone, Copy)]
struct Step {
    idle_w: f64,
    busy_w: f64,
    /// How long it took, in s.
    settled_s: f64,
}

impl Step {
    /// `None` for a source that doesn't follow the load.
    fn of(trace: &Trace, source: Source, busy: &Busy) -> Option<Self> {
        let power = trace.power(source);
        let idle_w = held_mean(&power, busy.from_s - PLATEAU_S, busy.from_s)?;
        let busy_w = held_mean(&power, busy.to_s - PLATEAU_S, busy.to_s)?;
        let swing_w = busy_w - idle_w;
        if swing_w < SWING_W || swing_w < SWING_SHARE * busy_w {
            return None;
        }
        let rise = rise(&power, busy.from_s, busy.to_s, idle_w, busy_w);
        let settled_s = settled_after(&[rise], 0.1, ROUGHLY_SETTLED);
        Some(Self {
            idle_w,
            busy_w,
            settled_s,
        })
    }
}

/// Energy by the counter over energy by the best reading of power, between two ticks of the counter.
fn agreement(trace: &Trace, class: &SensorClass, from_s: f64, to_s: f64) -> Option<f64> {
    let (source, _) = class
        .reading()
        .filter(|(source, _)| *source != Source::Counter)?;
    let ticks: Vec<_> = (trace.changes(Source::Counter).into_iter())
        .filter(|change| from_s <= change.at_s && change.at_s <= to_s)
        .collect();
    let (first, last) = (ticks.first()?, ticks.last()?);
    let watts = held_mean(&trace.power(source), first.at_s, last.at_s)?;
    (last.at_s > first.at_s)
        .then(|| (last.value - first.value) / 1e3 / (last.at_s - first.at_s) / watts)
}
