//! The timed calls of a measurement: those that had the device to themselves, and the others.

use std::time::Duration;

use wattfarm_cost::measurement::SAMPLES_MAX;

use super::stop::SAMPLES_LEAST;
use super::{Spent, StopRule, Verdict};

/// A call is disturbed when its thread was without a core for more than this share of it.
const DISTURBED_SHARE: f64 = 0.01;

/// ... and for more than this: both clocks take time to read.
const DISTURBED_MIN: Duration = Duration::from_micros(3);

/// Disturbed calls are replaced by others at most this many times the calls that the stop rule allows. A device that is
/// never ours alone yields the time that calls had of it, without the time that others did.
const DISTURBED_MAX: usize = 3;

/// The timed calls so far, in ms: those that had the device to themselves, and the others.
#[derive(Default)]
pub(super) struct Calls {
    alone_ms: Vec<f64>,
    disturbed_ms: Vec<f64>,
    timed: Duration,
}

impl Calls {
    pub(super) fn push(&mut self, took: Duration, without_core: Duration) {
        self.timed += took;
        let disturbed = without_core > took.mul_f64(DISTURBED_SHARE).max(DISTURBED_MIN);
        let (list, counted) = match disturbed {
            true => (&mut self.disturbed_ms, took.saturating_sub(without_core)),
            false => (&mut self.alone_ms, took),
        };
        list.push(counted.as_secs_f64() * 1e3);
    }

    /// Whether they are enough, after so much time in all.
    pub(super) fn are_enough(&self, stop: &StopRule, all: Duration) -> bool {
        let count = self.alone_ms.len() + self.disturbed_ms.len();
        let timed = self.timed;
        let given_up = count >= stop.repetitions_max * DISTURBED_MAX
            || (count >= stop.repetitions_min && timed >= stop.timed_max * DISTURBED_MAX as u32)
            || (count >= SAMPLES_LEAST && all >= stop.spent_max);
        given_up
            || stop.verdict(&self.alone_ms, Spent { timed, all }) != Verdict::Continue
            || count >= SAMPLES_MAX
    }

    /// The undisturbed samples, or all of them where too few were undisturbed, and the number of disturbed calls. What was
    /// disturbed counts less the time without the core: a layer of 50 ms is hardly ever undisturbed, and was seen to take
    /// twice as long by the clock.
    pub(super) fn into_samples(mut self, stop: &StopRule) -> (Vec<f64>, u32) {
        let disturbed = self.disturbed_ms.len() as u32;
        if self.alone_ms.len() < stop.repetitions_min {
            self.alone_ms.append(&mut self.disturbed_ms);
        }
        (self.alone_ms, disturbed)
    }
}
