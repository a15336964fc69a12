//! What was read from a board, as it came: raw samples, and what they say of each source of power.

use serde::{Deserialize, Serialize};

use super::board::{Fault, Readings, State};
use super::recorder::Offsets;

/// Where a figure of power comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The counter of total energy.
    Counter,
    /// The reading of power at the moment (field 186).
    Instant,
    /// The reading of power averaged over a while (field 185).
    Average,
    /// `nvmlDeviceGetPowerUsage`.
    Usage,
}

impl Source {
    /// Every source, the best first.
    pub const ALL: [Self; 4] = [Self::Counter, Self::Instant, Self::Average, Self::Usage];

    /// Its name in a measurement.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "nvml-total-energy",
            Self::Instant => "nvml-instant-power",
            Self::Average => "nvml-average-power",
            Self::Usage => "nvml-power-usage",
        }
    }
}

/// A poll at which some reading had changed. Times are in s by the stage's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Poll {
    /// When the readings were there.
    at_s: f64,
    /// When the poll before it was: the change lies between the two.
    since_s: f64,
    readings: Readings,
}

/// The conditions at a moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moment {
    pub(super) at_s: f64,
    pub(super) state: State,
    pub(super) offsets: Offsets,
}

/// A change of a reading: from this moment on it is this.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    pub(super) at_s: f64,
    /// The new value: W, or for the counter mJ.
    pub(super) value: f64,
}

/// Samples are kept where something changed; a poll in between says that nothing has.
#[derive(Debug, Default)]
pub struct Trace {
    polls: Vec<Poll>,
    moments: Vec<Moment>,
    last_poll_s: Option<f64>,
    /// Times without polls, longer than [`GAP_S`].
    gaps: Vec<(f64, f64)>,
    fault: Option<(f64, Fault)>,
}

/// Changes kept at most: an hour of readings that change every 20 ms. Later ones are dropped, and the gap says so.
const POLLS_MAX: usize = 1 << 18;

/// Polls further apart than this, in s, leave a hole in which anything may have happened.
const GAP_S: f64 = 1.0;

impl Trace {
    /// Takes what a poll at `at_s` said.
    pub(super) fn take(&mut self, at_s: f64, readings: Result<Readings, Fault>) {
        let since_s = self.last_poll_s.unwrap_or(at_s);
        if at_s - since_s > GAP_S {
            self.gaps.push((since_s, at_s));
        }
        match readings {
            Err(fault) => {
                self.fault.get_or_insert((at_s, fault));
            }
            Ok(readings) if self.polls.len() < POLLS_MAX => {
                self.last_poll_s = Some(at_s);
                let changed = (self.polls.last()).is_none_or(|last| last.readings != readings);
                if changed {
                    self.polls.push(Poll {
                        at_s,
                        since_s,
                        readings,
                    });
                }
            }
            Ok(_) => (),
        }
    }

    /// Takes the conditions at `at_s`.
    pub(super) fn take_state(&mut self, at_s: f64, state: Result<State, Fault>, offsets: Offsets) {
        match state {
            Ok(state) => self.moments.push(Moment {
                at_s,
                state,
                offsets,
            }),
            Err(fault) => {
                self.fault.get_or_insert((at_s, fault));
            }
        }
    }

    pub(super) fn last_state_s(&self) -> Option<f64> {
        self.moments.last().map(|moment| moment.at_s)
    }

    /// The first fault.
    pub(super) fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref().map(|(_, fault)| fault)
    }

    /// The longest hole between two polls that touches a span, in s.
    pub(super) fn gap_s(&self, from_s: f64, to_s: f64) -> Option<f64> {
        let touching = self
            .gaps
            .iter()
            .filter(|(from, to)| *from < to_s && *to > from_s);
        touching.map(|(from, to)| to - from).reduce(f64::max)
    }

    /// The conditions from `from_s` to `to_s`.
    pub(super) fn moments(&self, from_s: f64, to_s: f64) -> impl Iterator<Item = &Moment> {
        let within = move |moment: &&Moment| from_s <= moment.at_s && moment.at_s <= to_s;
        self.moments.iter().filter(within)
    }

    /// Whether the board has a source.
    pub(super) fn has(&self, source: Source) -> bool {
        self.polls
            .iter()
            .any(|poll| value(&poll.readings, source).is_some())
    }

    /// The changes of a reading, in order; the first value is one. A change lies in the middle of the two polls that
    /// found it.
    pub(super) fn changes(&self, source: Source) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for poll in &self.polls {
            let Some(value) = value(&poll.readings, source) else {
                continue;
            };
            if changes.last().is_none_or(|last| last.value != value) {
                changes.push(Change {
                    at_s: f64::midpoint(poll.since_s, poll.at_s),
                    value,
                });
            }
        }
        changes
    }

    /// The changes of a source in W: the counter's as mean power since its change before.
    pub(super) fn power(&self, source: Source) -> Vec<Change> {
        let changes = self.changes(source);
        match source {
            Source::Instant | Source::Average | Source::Usage => changes,
            Source::Counter => {
                let steps = changes
                    .windows(2)
                    .filter(|pair| pair[0].value < pair[1].value);
                let power = |pair: &[Change]| Change {
                    at_s: pair[1].at_s,
                    value: (pair[1].value - pair[0].value) / 1e3 / (pair[1].at_s - pair[0].at_s),
                };
                steps.map(power).collect()
            }
        }
    }
}

fn value(readings: &Readings, source: Source) -> Option<f64> {
    match source {
        Source::Counter => readings.energy_mj.map(|energy| energy as f64),
        Source::Instant => readings.instant_w,
        Source::Average => readings.average_w,
        Source::Usage => readings.usage_w,
    }
}

/// The mean of a reading that holds between its changes, from `from_s` to `to_s`, in its own unit. `None` where nothing
/// was known yet at `from_s`.
pub(super) fn held_mean(changes: &[Change], from_s: f64, to_s: f64) -> Option<f64> {
    let first = changes
        .partition_point(|change| change.at_s <= from_s)
        .checked_sub(1)?;
    let mut sum = 0.0;
    for (index, change) in changes.iter().enumerate().skip(first) {
        let begins = change.at_s.max(from_s);
        let ends = changes
            .get(index + 1)
            .map_or(to_s, |next| next.at_s.min(to_s));
        if begins >= to_s {
            break;
        }
        sum += change.value * (ends - begins);
    }
    Some(sum / (to_s - from_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(trace: &mut Trace, at_s: f64, instant_w: f64, energy_mj: u64) {
        let readings = Readings {
            energy_mj: Some(energy_mj),
            instant_w: Some(instant_w),
            ..Readings::default()
        };
        trace.take(at_s, Ok(readings));
    }

    #[test]
    fn changes_lie_between_two_polls_and_repetitions_are_not_kept() {
        let mut trace = Trace::default();
        for (at_s, watts, energy) in [
            (0.0, 60.0, 0),
            (0.1, 60.0, 0),
            (0.2, 60.0, 12_000),
            (0.3, 90.0, 12_000),
            (0.4, 90.0, 30_000),
        ] {
            poll(&mut trace, at_s, watts, energy);
        }
        let instant = trace.changes(Source::Instant);
        assert_eq!(instant.len(), 2);
        assert!((instant[1].at_s - 0.25).abs() < 1e-12);
        let counter = trace.power(Source::Counter);
        assert_eq!(counter.len(), 2);
        assert!((counter[1].value - 18.0 / 0.2).abs() < 1e-9);
        assert!(!trace.has(Source::Usage));
        // 60 W until 0.25 s, 90 W from then on.
        assert_eq!(held_mean(&instant, 0.15, 0.35), Some(75.0));
        assert_eq!(held_mean(&instant, -1.0, 0.35), None);
    }

    #[test]
    fn a_hole_between_polls_is_found_by_whom_it_touches() {
        let mut trace = Trace::default();
        for at_s in [0.0, 0.1, 5.0, 5.1] {
            poll(&mut trace, at_s, 60.0, 0);
        }
        assert!(trace.gap_s(0.0, 0.1).is_none());
        assert!(trace.gap_s(4.0, 6.0).is_some_and(|gap| gap > 4.8));
    }
}
