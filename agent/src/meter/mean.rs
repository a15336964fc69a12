//! Mean power over a steady window.

use super::class::Sensor;
use super::stage::Busy;
use super::trace::{Change, Source, Trace, held_mean};
use super::void::Void;

/// Mean power over a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// In W.
    pub watts: f64,
    /// When the window begins, in s: at a change of the source where that can be seen.
    pub from_s: f64,
    /// When it ends.
    pub to_s: f64,
    /// Changes of the source in it.
    pub ticks: usize,
}

/// Parts that a window is cut into: how much they differ is how well its mean is known.
const PARTS: usize = 6;

/// The mean of a source over a busy time, without the time that the sensor takes to settle.
///
/// # Errors
/// When the window is too short for a single change of the source, or the counter stood still or went back.
pub(super) fn steady_mean(
    trace: &Trace,
    source: Source,
    sensor: &Sensor,
    busy: &Busy,
) -> Result<Mean, Void> {
    let to_s = busy.to_s;
    let from_s = whole_calls_from(busy, busy.from_s + sensor.settle_s);
    let changes = trace.changes(source);
    match source {
        Source::Counter => counted(&changes, from_s, to_s),
        Source::Instant | Source::Average | Source::Usage => {
            // Whole periods: each reading then counts once, wherever in a period the window begins.
            let periods = ((to_s - from_s) / sensor.update_s + 1e-6).floor().max(0.0);
            let from_s = to_s - periods * sensor.update_s;
            let ticks = periods as usize;
            match held_mean(&changes, from_s, to_s) {
                Some(watts) if ticks > 0 => Ok(Mean {
                    watts,
                    from_s,
                    to_s,
                    ticks,
                }),
                _ => Err(Void::TooFewTicks {
                    of: source,
                    ticks,
                    wanted: 1,
                }),
            }
        }
    }
}

/// When the first call began that lies wholly after `from_s`: a part of a long call may draw more or less than the whole.
/// `from_s` itself where no call does, or calls are many.
fn whole_calls_from(busy: &Busy, from_s: f64) -> f64 {
    let call_s = busy.seconds() / busy.calls.max(1) as f64;
    let whole = ((busy.to_s - from_s) / call_s).floor();
    match (1.0..CALLS_MANY).contains(&whole) {
        true => busy.to_s - whole * call_s,
        false => from_s,
    }
}

/// Of so many calls a part of one is less than half a percent.
const CALLS_MANY: f64 = 200.0;

/// Energy between the first and the last change of the counter in a window: aligned to ticks at both ends.
fn counted(changes: &[Change], from_s: f64, to_s: f64) -> Result<Mean, Void> {
    let within: Vec<&Change> = changes
        .iter()
        .filter(|change| from_s <= change.at_s && change.at_s <= to_s)
        .collect();
    let (Some(first), Some(last)) = (within.first(), within.last()) else {
        return Err(Void::CounterStuck);
    };
    if within.len() < 2 {
        return Err(Void::CounterStuck);
    }
    if last.value <= first.value {
        return Err(Void::CounterReset);
    }
    Ok(Mean {
        watts: (last.value - first.value) / 1e3 / (last.at_s - first.at_s),
        from_s: first.at_s,
        to_s: last.at_s,
        ticks: within.len() - 1,
    })
}

/// The means of equal parts of a window, in W.
pub(super) fn parts(trace: &Trace, source: Source, mean: &Mean) -> Vec<f64> {
    let changes = trace.changes(source);
    let length_s = (mean.to_s - mean.from_s) / PARTS as f64;
    let part = |index: usize| {
        let from_s = mean.from_s + length_s * index as f64;
        let to_s = from_s + length_s;
        match source {
            // A tick at the edge of a part may be found by one poll more or less.
            Source::Counter => {
                let near = |at_s: f64| {
                    let index = changes.partition_point(|change| change.at_s < at_s - 1e-9);
                    changes.get(index)
                };
                let (first, last) = (near(from_s)?, near(to_s.min(mean.to_s))?);
                (last.at_s > first.at_s)
                    .then(|| (last.value - first.value) / 1e3 / (last.at_s - first.at_s))
            }
            Source::Instant | Source::Average | Source::Usage => held_mean(&changes, from_s, to_s),
        }
    };
    (0..PARTS).filter_map(part).collect()
}
