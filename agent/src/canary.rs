//! Is this device still the one that it was? One layer that never changes, measured now and then: the rule that says when,
//! and what its figure means. Pure; the measuring thread does what it says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// It is measured after so many jobs ...
pub const JOBS: u32 = 50;

/// ... or after so long, whichever comes first ...
pub const EVERY: Duration = Duration::from_secs(15 * 60);

/// ... but not so soon that it takes more of the device than a fiftieth: fifty small layers are measured in three seconds.
pub const EVERY_MIN: Duration = Duration::from_secs(25);

/// Repeats that a new device begins with: what it is judged against from then on ...
const REFERENCES: usize = 8;

/// ... each after so many jobs: repeats within one second say little of how a device scatters.
const REFERENCE_JOBS: u32 = 5;

/// So many figures in a row beyond the tolerance are the device, each after a longer pause than the one before: a stranger's
/// work passes.
const DOUBTS: u32 = 4;

/// The first of these pauses; each is so many times as long as the one before.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_GROWTH: u32 = 5;

/// Later good figures that are kept: what the device scatters by.
const KEPT: usize = 64;

/// A difference below this is none, however steady the device is.
const TOLERANCE_MIN: f64 = 0.03;

/// A difference of so many standard deviations of the device's own repeats is none either.
const DEVIATIONS: f64 = 4.0;

/// What a device's canary took so far, in ms. Kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// The first repeats: the level. It never moves, so that a device that slows down by and by is found out too.
    references_ms: Vec<f64>,
    /// The last good ones: the scatter.
    good_ms: Vec<f64>,
}

/// What a figure of the canary means.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The device is itself.
    Good,
    /// It is not, or this one figure is wrong: once more, after a pause.
    Again(Duration),
    /// It is not: the reason, for the operator.
    Bad(String),
}

/// One device's canary.
#[derive(Debug, Clone, PartialEq)]
pub struct Canary {
    history: History,
    /// Since the last good one. `None`: not once since the agent started.
    since: Option<Since>,
    /// Figures in a row that were beyond the tolerance.
    doubts: u32,
}

/// What was done since a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Since {
    at: Duration,
    jobs: u32,
}

impl Canary {
    /// Goes on with what an earlier run left.
    pub fn new(history: History) -> Self {
        Self {
            history,
            since: None,
            doubts: 0,
        }
    }

    /// What is worth keeping.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// A job has been measured.
    pub fn count_job(&mut self) {
        if let Some(since) = &mut self.since {
            since.jobs += 1;
        }
    }

    /// Whether the canary is to be measured before the next job.
    pub fn is_due(&self, now: Duration) -> bool {
        let (jobs, soonest) = match self.history.references_ms.len() < REFERENCES {
            true => (REFERENCE_JOBS, Duration::ZERO),
            false => (JOBS, EVERY_MIN),
        };
        self.since.is_none_or(|since| {
            let since_at = now.saturating_sub(since.at);
            (since.jobs >= jobs && since_at >= soonest) || since_at >= EVERY
        })
    }

    /// What the device may differ by, as a share: the larger of 3 % and four standard deviations of its own repeats.
    pub fn tolerance(&self) -> f64 {
        (DEVIATIONS * self.scatter()).max(TOLERANCE_MIN)
    }

    /// The standard deviation of the device's own repeats, as a share; 0 while there are fewer than two.
    pub fn scatter(&self) -> f64 {
        scatter(&self.history.good_ms)
    }

    /// Takes a figure, in ms, measured at `now`.
    pub fn judge(&mut self, median_ms: f64, now: Duration) -> Verdict {
        if self.history.references_ms.len() < REFERENCES {
            self.history.references_ms.push(median_ms);
            self.keep(median_ms, now);
            return Verdict::Good;
        }
        let level_ms = median(&self.history.references_ms);
        let difference = median_ms / level_ms - 1.0;
        let tolerance = self.tolerance();
        if difference.abs() <= tolerance {
            self.keep(median_ms, now);
            return Verdict::Good;
        }
        self.doubts += 1;
        if self.doubts < DOUBTS {
            return Verdict::Again(PAUSE * PAUSE_GROWTH.pow(self.doubts - 1));
        }
        self.doubts = 0;
        self.since = None;
        Verdict::Bad(format!(
            "its canary took {median_ms:.4} ms, beyond {:.1} % of the {level_ms:.4} ms that it is known by, {DOUBTS} times in a \
             row ({:+.1} %)",
            tolerance * 100.0,
            difference * 100.0
        ))
    }

    fn keep(&mut self, median_ms: f64, now: Duration) {
        let good_ms = &mut self.history.good_ms;
        good_ms.push(median_ms);
        let surplus = good_ms.len().saturating_sub(KEPT);
        good_ms.drain(..surplus);
        self.doubts = 0;
        self.since = Some(Since { at: now, jobs: 0 });
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The standard deviation relative to the mean; 0 for fewer than two.
pub fn scatter(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    if values.len() < 2 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (count - 1.0)).sqrt() / mean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A device that scatters by `sigma` (the sum of twelve uniform numbers, less six, is nearly normal).
    struct Device {
        random: StdRng,
        sigma: f64,
        level_ms: f64,
        now: Duration,
        canary: Canary,
    }

    impl Device {
        fn new(seed: u64, sigma: f64) -> Self {
            Self {
                random: StdRng::seed_from_u64(seed),
                sigma,
                level_ms: 2.0,
                now: Duration::ZERO,
                canary: Canary::new(History::default()),
            }
        }

        fn figure(&mut self) -> f64 {
            let sum: f64 = (0..12).map(|_| self.random.random_range(0.0..1.0)).sum();
            self.level_ms * (1.0 + self.sigma * (sum - 6.0))
        }

        /// Measures the canary for as long as it is due. The verdict that ended it.
        fn look(&mut self) -> Verdict {
            let mut last = Verdict::Good;
            while self.canary.is_due(self.now) {
                let figure = self.figure();
                last = self.canary.judge(figure, self.now);
                if matches!(last, Verdict::Bad(_)) {
                    break;
                }
            }
            last
        }

        /// The device's first jobs, until it has its references.
        fn enrol(&mut self) {
            while self.canary.history.references_ms.len() < REFERENCES {
                assert_eq!(self.look(), Verdict::Good);
                (0..REFERENCE_JOBS).for_each(|_| self.canary.count_job());
            }
            let figure = self.figure();
            self.canary.judge(figure, self.now);
        }

        /// An hour of jobs of 20 s each. Whether the device was found bad.
        fn hour(&mut self) -> bool {
            (0..180).any(|_| {
                self.now += MINUTE / 3;
                self.canary.count_job();
                matches!(self.look(), Verdict::Bad(_))
            })
        }
    }

    #[test]
    fn it_is_due_after_fifty_jobs_or_a_quarter_of_an_hour() {
        let mut device = Device::new(1, 0.0);
        assert!(device.canary.is_due(device.now), "a new device");
        device.enrol();
        assert_eq!(device.canary.history().references_ms.len(), REFERENCES);
        assert!(!device.canary.is_due(device.now + EVERY - MINUTE));
        assert!(device.canary.is_due(device.now + EVERY));
        let soonest = device.now + EVERY_MIN;
        for _ in 0..JOBS {
            assert!(!device.canary.is_due(soonest));
            device.canary.count_job();
        }
        assert!(!device.canary.is_due(device.now), "fifty small layers");
        assert!(device.canary.is_due(soonest));
        let again = Canary::new(device.canary.history().clone());
        assert!(again.is_due(device.now), "an agent that has just started");
    }

    #[test]
    fn one_figure_that_is_off_is_repeated_and_four_are_the_device() {
        let mut device = Device::new(1, 0.0);
        device.enrol();
        let mut judge = |ms| device.canary.judge(ms, MINUTE);
        let again = |seconds| Verdict::Again(Duration::from_secs(seconds));
        assert_eq!(judge(2.07), again(1));
        assert_eq!(judge(2.0), Verdict::Good);
        for seconds in [1, 5, 25] {
            assert_eq!(judge(1.5), again(seconds), "faster is as wrong as slower");
        }
        let Verdict::Bad(because) = judge(1.5) else {
            panic!("four times in a row")
        };
        assert!(
            because.contains("1.5000 ms") && because.contains("-25.0 %"),
            "{because}"
        );
        assert!(
            device.canary.is_due(MINUTE),
            "nothing is trusted until it is good again"
        );
    }

    /// A noisy device is allowed its noise, and a steady one is not.
    #[test]
    fn the_tolerance_is_the_devices_own() {
        let mut steady = Device::new(3, 0.002);
        let mut noisy = Device::new(3, 0.05);
        steady.enrol();
        noisy.enrol();
        assert_eq!(steady.canary.tolerance(), TOLERANCE_MIN);
        assert!((0.1..0.4).contains(&noisy.canary.tolerance()));
    }

    #[test]
    fn a_healthy_device_is_left_alone_for_a_week() {
        for sigma in [0.0, 0.005, 0.02, 0.06] {
            for seed in 0..4 {
                let mut device = Device::new(seed, sigma);
                device.enrol();
                assert!((0..168).all(|_| !device.hour()), "{sigma} {seed}");
            }
        }
    }

    #[test]
    fn a_device_that_slows_down_at_once_or_by_and_by_is_found() {
        for seed in 0..8 {
            let mut device = Device::new(seed, 0.005);
            device.enrol();
            assert!(!device.hour());
            device.level_ms *= 1.05;
            assert!(device.hour(), "at once");

            let mut device = Device::new(seed, 0.005);
            device.enrol();
            let hours = (0..48).position(|_| {
                device.level_ms *= 1.002;
                device.hour()
            });
            assert!(
                hours.is_some_and(|hours| hours < 30),
                "by and by: {hours:?}"
            );
        }
    }

    proptest! {
        /// Whatever it is told, it is bad only after being doubted in a row; what is kept is bounded.
        #[test]
        fn any_figures_are_judged(figures in prop::collection::vec(0.1..10.0f64, 1..300)) {
            let mut canary = Canary::new(History::default());
            let mut doubts = 0;
            for figure in figures {
                match canary.judge(figure, MINUTE) {
                    Verdict::Good => doubts = 0,
                    Verdict::Again(_) => doubts += 1,
                    Verdict::Bad(_) => {
                        prop_assert_eq!(doubts, DOUBTS - 1);
                        doubts = 0;
                    }
                }
                prop_assert!(doubts < DOUBTS && canary.history.good_ms.len() <= KEPT);
            }
        }
    }
}
