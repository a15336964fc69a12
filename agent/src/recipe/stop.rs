//! When a measurement has gone on for long enough: a pure judgement over the samples so far.

use std::time::Duration;

use super::{Confidence, median_interval};

/// Stops when the median is known well enough, or when it has cost enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StopRule {
    /// Fewer samples never do.
    pub repetitions_min: usize,
    /// More samples are never taken.
    pub repetitions_max: usize,
    /// Half the width of the median's 95 % interval, relative to the median, that is good enough.
    pub half_width: f64,
    /// Time spent in timed calls after which the minimum of samples is enough.
    pub timed_max: Duration,
    /// Time spent in all, warm-up and preparing calls included, after which [`SAMPLES_LEAST`] are enough.
    pub spent_max: Duration,
}

/// However long they take, so many samples are taken: two can't tell which of them was the exception.
pub(super) const SAMPLES_LEAST: usize = 3;

/// Time spent on a subject so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// In timed calls.
    pub timed: Duration,
    /// In all: warm-up, preparing calls, calls.
    pub all: Duration,
}

/// What the rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another sample.
    Continue,
    /// The median is known well enough.
    Steady,
    /// It is not, and the time or the samples are used up. Its interval says how noisy it was.
    Exhausted,
}

impl StopRule {
    /// Judges the samples so far, in ms, and the time that they took.
    pub fn verdict(&self, samples_ms: &[f64], spent: Spent) -> Verdict {
        if spent.all >= self.spent_max && samples_ms.len() >= SAMPLES_LEAST {
            return Verdict::Exhausted;
        }
        if samples_ms.len() < self.repetitions_min {
            return Verdict::Continue;
        }
        let interval = median_interval(samples_ms, Confidence::P95);
        if interval.high - interval.low <= 2.0 * self.half_width * interval.median {
            Verdict::Steady
        } else if samples_ms.len() >= self.repetitions_max || spent.timed >= self.timed_max {
            Verdict::Exhausted
        } else {
            Verdict::Continue
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_stops_for_steadiness_time_or_count() {
        let rule = StopRule {
            repetitions_min: 5,
            repetitions_max: 9,
            half_width: 0.01,
            timed_max: Duration::from_secs(1),
            spent_max: Duration::from_secs(5),
        };
        let verdict = |samples: &[f64], timed, all| {
            let spent = Spent {
                timed: Duration::from_secs(timed),
                all: Duration::from_secs(all),
            };
            rule.verdict(samples, spent)
        };
        let noisy = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0];
        assert_eq!(verdict(&[1.0; 4], 4, 4), Verdict::Continue);
        assert_eq!(verdict(&[1.0; 5], 0, 0), Verdict::Steady);
        assert_eq!(verdict(&noisy[..6], 0, 0), Verdict::Continue);
        assert_eq!(verdict(&noisy[..6], 1, 1), Verdict::Exhausted);
        assert_eq!(verdict(&noisy, 0, 0), Verdict::Exhausted);
        assert_eq!(verdict(&noisy[..3], 0, 5), Verdict::Exhausted);
        assert_eq!(verdict(&noisy[..2], 0, 5), Verdict::Continue);
    }
}
