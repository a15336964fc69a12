//! What a board's sensors are like: found out, stored, and judged; never looked up.

use serde::{Deserialize, Serialize};

use super::trace::{Change, Source};

/// One reading of power.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensor {
    /// How often it changes, in s.
    pub update_s: f64,
    /// Over how long it averages, in s: twice the area above its rise after a step.
    pub window_s: f64,
    /// How long after a step it is still more than 2 % short of it, in s, and one update more.
    pub settle_s: f64,
}

impl Sensor {
    /// The share of the time that it looks at.
    pub fn sampled_share(&self) -> f64 {
        (self.window_s / self.update_s).min(1.0)
    }
}

/// The counter's agreement with integrated power.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// Energy by the counter over energy by integrated power, under load. `None` where there is no reading to compare with.
    pub against_power: Option<f64>,
    /// The same at idle, where counters are known to disagree.
    pub against_idle_power: Option<f64>,
}

/// The counter and integrated power may differ by this share (rule 1).
const AGREEMENT: f64 = 0.03;

impl Counter {
    /// Whether it may be measured by.
    pub fn is_usable(&self) -> bool {
        self.against_power
            .is_none_or(|ratio| (ratio - 1.0).abs() <= AGREEMENT)
    }
}

/// What a board's sensors are like. Holds for one board under one driver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorClass {
    /// The board.
    pub uuid: String,
    /// The driver.
    pub driver: String,
    /// How it was probed.
    pub thoroughness: super::Thoroughness,
    /// Every source that the board has, the best first, as far as they react at all.
    pub sensors: Vec<(Source, Sensor)>,
    /// The counter, if there is one.
    pub counter: Option<Counter>,
    /// Power when idle, in W.
    pub idle_w: Option<f64>,
    /// The highest clock seen under load, in MHz.
    pub busy_clock_mhz: Option<u32>,
}

impl SensorClass {
    /// The source to measure by: the counter where it has been found right, then the instant reading, then averages.
    pub fn source(&self) -> Option<(Source, Sensor)> {
        let usable = |&&(source, _): &&(Source, Sensor)| {
            source != Source::Counter || self.counter.is_some_and(|counter| counter.is_usable())
        };
        self.sensors.iter().find(usable).copied()
    }

    /// The best reading of power, for what the counter is not good at: idle power.
    pub(super) fn reading(&self) -> Option<(Source, Sensor)> {
        let is_reading = |(source, _): &&(Source, Sensor)| *source != Source::Counter;
        self.sensors
            .iter()
            .find(is_reading)
            .or(self.sensors.first())
            .copied()
    }

    /// For people: source, update period, window, settling.
    pub fn summary(&self) -> String {
        let sensor = |(source, sensor): &(Source, Sensor)| {
            format!(
                "{}: changes every {:.0} ms, averages {:.0} ms, settles in {:.0} ms",
                source.name(),
                sensor.update_s * 1e3,
                sensor.window_s * 1e3,
                sensor.settle_s * 1e3
            )
        };
        let mut lines: Vec<String> = self.sensors.iter().map(sensor).collect();
        if let Some(counter) = &self.counter {
            let ratio = |ratio: Option<f64>| {
                ratio.map_or("unknown".to_owned(), |ratio| format!("{ratio:.3}"))
            };
            lines.push(format!(
                "counter against integrated power: {} under load, {} idle; {}",
                ratio(counter.against_power),
                ratio(counter.against_idle_power),
                if counter.is_usable() {
                    "used"
                } else {
                    "not used"
                }
            ));
        }
        lines.join("\n")
    }
}

/// How often a reading changes, in s: the shortest distance between two changes that isn't rare, made exact by all
/// distances, each as the multiple of it that it is. `None` for fewer than five changes.
pub(super) fn update_period(changes: &[Change]) -> Option<f64> {
    let mut distances: Vec<f64> = changes
        .windows(2)
        .map(|pair| pair[1].at_s - pair[0].at_s)
        .collect();
    if distances.len() < 5 {
        return None;
    }
    distances.sort_by(f64::total_cmp);
    let shortest = distances[distances.len() / 5];
    let periods: f64 = distances
        .iter()
        .map(|distance| (distance / shortest).round())
        .sum();
    Some(distances.iter().sum::<f64>() / periods)
}

/// A reading's way from idle to busy after one step: how long after the step each change came, and how much of the way
/// it had gone.
pub(super) type Rise = Vec<(f64, f64)>;

/// The rise of a reading after a step at `step_s` until `until_s`, from `idle_w` to `busy_w`.
pub(super) fn rise(
    changes: &[Change],
    step_s: f64,
    until_s: f64,
    idle_w: f64,
    busy_w: f64,
) -> Rise {
    let within = |change: &&Change| step_s < change.at_s && change.at_s <= until_s;
    let share = |change: &Change| {
        (
            change.at_s - step_s,
            (change.value - idle_w) / (busy_w - idle_w),
        )
    };
    changes.iter().filter(within).map(share).collect()
}

/// How long after their steps many rises, taken together, have gone the whole way but for the share `short`, in s. Each
/// `width_s` is judged by its mean: single readings scatter. A dip later on is the load's, not the sensor's: from there on
/// the whole has to be settled, and three quarters of its parts.
pub(super) fn settled_after(rises: &[Rise], width_s: f64, short: f64) -> f64 {
    let mut bins: Vec<(f64, u32)> = Vec::new();
    for &(after_s, share) in rises.iter().flatten() {
        let bin = ((after_s / width_s) as usize).min(BINS_MAX);
        bins.resize(bins.len().max(bin + 1), (0.0, 0));
        bins[bin] = (bins[bin].0 + share, bins[bin].1 + 1);
    }
    let is_short = |&(sum, count): &(f64, u32)| count > 0 && sum < (1.0 - short) * f64::from(count);
    let is_settled = |from: usize| {
        let rest = &bins[from..];
        let whole = rest
            .iter()
            .fold((0.0, 0), |whole, bin| (whole.0 + bin.0, whole.1 + bin.1));
        let dips = rest.iter().filter(|bin| is_short(bin)).count();
        !rest.first().is_some_and(is_short) && !is_short(&whole) && 4 * dips <= rest.len()
    };
    // The empty rest is settled: that of a reading which never is.
    let from = (0..=bins.len()).find(|&from| is_settled(from));
    from.unwrap_or(bins.len()) as f64 * width_s
}

/// Bins of a rise at most: far more than any sensor takes.
const BINS_MAX: usize = 10_000;

/// The window of an averaging sensor from the rises of many steps, each elsewhere in its period: twice the area above
/// the rise, up to where it has settled. For an exponential average that is twice its time constant.
pub(super) fn window(rises: &[Rise], settled_s: f64) -> f64 {
    let mut points: Rise = rises.iter().flatten().copied().collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut area, mut before) = (0.0, (0.0, 0.0));
    for &(after_s, share) in points
        .iter()
        .take_while(|(after_s, _)| *after_s <= settled_s)
    {
        let share = share.clamp(0.0, 1.0);
        area += (after_s - before.0) * (1.0 - f64::midpoint(share, before.1));
        before = (after_s, share);
    }
    2.0 * area
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(times: impl IntoIterator<Item = f64>) -> Vec<Change> {
        let change = |(index, at_s): (usize, f64)| Change {
            at_s,
            value: index as f64,
        };
        times.into_iter().enumerate().map(change).collect()
    }

    #[test]
    fn a_period_is_found_though_some_changes_stay_unseen() {
        // Every 20 ms, found up to a millisecond late, two in five unseen.
        let seen = (0..100).filter(|index| index % 5 < 3);
        let times = seen.map(|index| f64::from(index) * 0.02 + f64::from(index * 7 % 3) * 5e-4);
        let period = update_period(&changes(times)).expect("enough");
        assert!((period - 0.02).abs() < 2e-4, "{period}");
        assert_eq!(update_period(&changes([0.0, 0.1, 0.2])), None);
    }

    #[test]
    fn windows_are_twice_the_area_above_the_rise() {
        // A window of 25 ms, looked at every 100 ms, by steps that come elsewhere in its period each time.
        let rises: Vec<Rise> = (0..40)
            .map(|index| {
                let first = f64::from(index) * 0.1 / 40.0 + 1e-4;
                (0..3)
                    .map(|tick| first + 0.1 * f64::from(tick))
                    .map(|after_s| (after_s, (after_s / 0.025).min(1.0)))
                    .collect()
            })
            .collect();
        let settled_s = settled_after(&rises, 0.1, 0.02);
        assert_eq!(settled_s, 0.1);
        let window = window(&rises, settled_s);
        assert!((window - 0.025).abs() < 0.002, "{window}");
    }

    #[test]
    fn a_load_that_dips_does_not_make_its_sensor_slow() {
        let rise = |dips: &'static [u32]| -> Rise {
            let share = move |tick: u32| match dips.contains(&tick) {
                true => 0.6,
                false => (f64::from(tick) / 10.0).min(1.0),
            };
            (0..50)
                .map(|tick| (f64::from(tick) * 0.1 + 0.05, share(tick)))
                .collect()
        };
        let settled_s = |rise| settled_after(&[rise], 0.1, 0.1);
        assert!((settled_s(rise(&[])) - 0.9).abs() < 1e-9);
        assert!((settled_s(rise(&[22, 48])) - 0.9).abs() < 1e-9);
        // One that never gets there is not settled anywhere.
        let never: Rise = (0..50)
            .map(|tick| (f64::from(tick) * 0.1 + 0.05, 0.5))
            .collect();
        assert!((settled_s(never) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn a_wrong_counter_is_not_used() {
        let counter = |ratio| Counter {
            against_power: ratio,
            against_idle_power: None,
        };
        assert!(counter(Some(1.02)).is_usable() && counter(None).is_usable());
        assert!(!counter(Some(0.95)).is_usable());
    }
}
