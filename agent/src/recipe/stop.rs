//! When a measurement has gone on for long enough: a pure judgement over the samples so far.

use std::time::Duration;

use super::median_interval;

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
    /// Judges the samples so far, in ms, and the time spent in timed calls.
    pub fn verdict(&self, samples_ms: &[f64], timed: Duration) -> Verdict {
        if samples_ms.len() < self.repetitions_min {
            return Verdict::Continue;
        }
        let interval = median_interval(samples_ms);
        if interval.high - interval.low <= 2.0 * self.half_width * interval.median {
            Verdict::Steady
        } else if samples_ms.len() >= self.repetitions_max || timed >= self.timed_max {
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
        };
        let noisy = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0];
        assert_eq!(
            rule.verdict(&[1.0; 4], Duration::from_secs(9)),
            Verdict::Continue
        );
        assert_eq!(rule.verdict(&[1.0; 5], Duration::ZERO), Verdict::Steady);
        assert_eq!(rule.verdict(&noisy[..6], Duration::ZERO), Verdict::Continue);
        assert_eq!(
            rule.verdict(&noisy[..6], Duration::from_secs(1)),
            Verdict::Exhausted
        );
        assert_eq!(rule.verdict(&noisy, Duration::ZERO), Verdict::Exhausted);
    }
}
