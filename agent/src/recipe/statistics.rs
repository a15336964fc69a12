//! The median and how well it is known.

/// A median with an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The median.
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The interval with what the device itself scatters by between repeats, a share of the median: calls within one second
    /// know nothing of that. Both are taken for independent.
    pub fn with_scatter(self, scatter: f64, confidence: Confidence) -> Self {
        let reach = confidence.normal() * scatter * self.median;
        Self {
            median: self.median,
            low: self.median - (self.median - self.low).hypot(reach),
            high: self.median + (self.high - self.median).hypot(reach),
        }
    }
}

/// How often an interval holds what it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// 95 %: what measurements carry.
    P95,
    /// 99 %: what repeats are judged by.
    P99,
}

impl Confidence {
    /// The probability of lying beyond one end.
    fn tail(self) -> f64 {
        match self {
            Self::P95 => 0.025,
            Self::P99 => 0.005,
        }
    }

    /// The same as a quantile of the standard normal distribution.
    fn normal(self) -> f64 {
        match self {
            Self::P95 => 1.960,
            Self::P99 => 2.576,
        }
    }
}

/// The median of samples and its interval by order statistics, which assume no distribution: the r-th smallest and
/// r-th largest of n samples hold the median with a probability of 1 - 2 * P(Binomial(n, 1/2) < r). Below six samples
/// (eight for 99 %) even the extremes hold it less often than that, and are given all the same.
///
/// # Panics
/// Without samples.
pub fn median_interval(samples: &[f64], confidence: Confidence) -> Interval {
    assert!(!samples.is_empty(), "no samples have no median");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let median = if n % 2 == 1 {
        sorted[n / 2]
    } else {
        f64::midpoint(sorted[n / 2 - 1], sorted[n / 2])
    };
    let rank = rank(n, confidence);
    Interval {
        median,
        low: sorted[rank],
        high: sorted[n - 1 - rank],
    }
}

/// The largest r with P(Binomial(n, 1/2) <= r - 1) no more than the tail, as an index from 0.
fn rank(n: usize, confidence: Confidence) -> usize {
    let mut probability = 0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut cumulative = probability;
    let mut r = 0;
    // With very many samples the first probabilities vanish in floating point: the normal approximation serves then.
    if probability == 0.0 {
        let half = n as f64 / 2.0;
        return (half - confidence.normal() * half.sqrt() / std::f64::consts::SQRT_2) as usize;
    }
    while cumulative <= confidence.tail() && 2 * r + 1 < n {
        probability *= (n - r) as f64 / (r + 1) as f64;
        r += 1;
        cumulative += probability;
    }
    r.saturating_sub(1)
}

/// 97.5 % points of Student's t distribution for 1, 2, ... degrees of freedom; beyond the last the normal one's 1.96 is
/// less than 7 % off.
const STUDENT: [f64; 15] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131,
];

/// Half the width of the 95 % interval of a mean of values that scatter normally; infinite for fewer than two.
pub fn mean_half_width(values: &[f64]) -> f64 {
    let freedom = values.len().saturating_sub(1);
    if freedom == 0 {
        return f64::INFINITY;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let student = STUDENT.get(freedom - 1).copied().unwrap_or(2.0);
    student * (squares / freedom as f64 / count).sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 4 % by its calls and 3 % by the device, both at 95 %, are 5 %.
    #[test]
    fn a_devices_scatter_widens_an_interval() {
        let calls = Interval {
            median: 2.0,
            low: 1.92,
            high: 2.0,
        };
        let found = calls.with_scatter(0.03 / 1.960, Confidence::P95);
        assert!((found.low - 1.9).abs() < 1e-12 && (found.high - 2.06).abs() < 1e-12);
        assert_eq!(calls.with_scatter(0.0, Confidence::P95), calls);
    }

    /// Ranks of the published tables for the sign test's interval of a median: n and the rank counted from 1.
    #[test]
    fn ranks_are_those_of_the_sign_test() {
        for (n, published) in [(8, 1), (10, 1), (15, 3), (20, 4), (25, 6), (50, 16)] {
            assert_eq!(rank(n, Confidence::P99) + 1, published, "n = {n}");
        }
        for (n, published) in [
            (6, 1),
            (8, 1),
            (9, 2),
            (10, 2),
            (12, 3),
            (15, 4),
            (20, 6),
            (25, 8),
            (50, 18),
            (100, 40),
        ] {
            assert_eq!(rank(n, Confidence::P95) + 1, published, "n = {n}");
        }
    }

    #[test]
    fn median_of_even_and_odd_counts() {
        assert_eq!(
            median_interval(&[3.0, 1.0, 2.0], Confidence::P95),
            Interval {
                median: 2.0,
                low: 1.0,
                high: 3.0
            }
        );
        assert_eq!(
            median_interval(&[4.0, 1.0, 2.0, 3.0], Confidence::P95).median,
            2.5
        );
    }

    /// Values and the t table of any textbook: 9, 10, 11 have a deviation of 1, so half of it is 4.303 / sqrt(3).
    #[test]
    fn the_mean_has_students_interval() {
        assert!((mean_half_width(&[9.0, 10.0, 11.0]) - 4.303 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(mean_half_width(&[5.0; 4]), 0.0);
        assert_eq!(mean_half_width(&[5.0]), f64::INFINITY);
    }

    proptest! {
        #[test]
        fn the_interval_holds_its_median(samples in prop::collection::vec(1e-6..1e6f64, 1..2000)) {
            let interval = median_interval(&samples, Confidence::P95);
            prop_assert!(interval.low <= interval.median && interval.median <= interval.high);
            let wide = median_interval(&samples, Confidence::P99);
            prop_assert!(wide.low <= interval.low && interval.high <= wide.high);
        }
    }
}
