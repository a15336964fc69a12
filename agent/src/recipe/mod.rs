//! How a subject is measured: the state of caches, warm-up, when to stop, and what is said of the samples.
//!
//! Recipes see a [`Workload`] and a [`Clock`], never libtorch: tests play recorded durations.

mod cache;
mod statistics;
mod stop;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wattfarm_cost::measurement::{Recipe, Runtime, SAMPLES_MAX};

pub use cache::Scratch;
pub use statistics::median_interval;
pub use stop::{StopRule, Verdict};

/// Something that can be called again and again.
pub trait Workload {
    /// Puts inputs and output buffer into the state that a layer before would leave them in. Not timed.
    fn write_inputs(&mut self) -> Result<(), Failure>;

    /// One call. When it returns, the work is done.
    fn call(&mut self) -> Result<(), Failure>;
}

/// Why there is no figure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// This platform cannot run it, now or later.
    #[error("{0}")]
    Infeasible(String),
    /// Something went wrong; another try may go better.
    #[error("{0}")]
    Failed(String),
    /// The agent was asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Where time comes from.
pub trait Clock {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock.
pub struct Monotonic(Instant);

impl Monotonic {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// What a recipe does, in numbers.
struct Procedure {
    /// Bytes walked over before each call, to push out what the call before left in the caches.
    walked_bytes: usize,
    /// Calls before the first timed one: the first builds the library's own caches of kernels.
    warmup: u32,
    /// When to stop.
    stop: StopRule,
}

fn procedure(recipe: Recipe) -> Procedure {
    match recipe {
        Recipe::LayerInNetwork1 => Procedure {
            walked_bytes: cache::NETWORK_BYTES,
            warmup: 2,
            stop: StopRule {
                repetitions_min: 7,
                repetitions_max: 64,
                half_width: 0.01,
                timed_max: Duration::from_millis(250),
            },
        },
        Recipe::WholeNetwork1 => Procedure {
            walked_bytes: 0,
            warmup: 3,
            stop: StopRule {
                repetitions_min: 9,
                repetitions_max: 100,
                half_width: 0.005,
                timed_max: Duration::from_secs(4),
            },
        },
    }
}

/// Measures one call of `workload` by `recipe`. `stopping` is looked at between calls.
pub fn measure(
    recipe: Recipe,
    workload: &mut dyn Workload,
    scratch: &mut Scratch,
    clock: &dyn Clock,
    stopping: &AtomicBool,
) -> Result<Runtime, Failure> {
    let procedure = procedure(recipe);
    for _ in 0..procedure.warmup {
        workload.write_inputs()?;
        workload.call()?;
    }
    let mut samples_ms: Vec<f64> = Vec::new();
    let mut timed = Duration::ZERO;
    loop {
        if stopping.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        scratch.walk(procedure.walked_bytes);
        workload.write_inputs()?;
        let start = clock.now();
        workload.call()?;
        let took = clock.now().saturating_sub(start);
        timed += took;
        samples_ms.push(took.as_secs_f64() * 1e3);
        if procedure.stop.verdict(&samples_ms, timed) != Verdict::Continue
            || samples_ms.len() == SAMPLES_MAX
        {
            break;
        }
    }
    let interval = median_interval(&samples_ms);
    if interval.median <= 0.0 {
        return Err(Failure::Failed(
            "a call took no time: the clock is too coarse".to_owned(),
        ));
    }
    Ok(Runtime {
        median_ms: interval.median,
        // A clock tick may be longer than a call: the interval's low end is a time all the same.
        low_ms: interval.low.max(f64::MIN_POSITIVE),
        high_ms: interval.high,
        repetitions: samples_ms.len() as u32,
        warmup: procedure.warmup,
        samples_ms: samples_ms
            .iter()
            .map(|&sample| (sample as f32).max(f32::MIN_POSITIVE))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::*;

    /// A device whose calls take recorded times.
    struct Recorded {
        time: Rc<Cell<Duration>>,
        calls: RefCell<Vec<u64>>,
        written: u32,
    }

    impl Clock for Rc<Cell<Duration>> {
        fn now(&self) -> Duration {
            self.get()
        }
    }

    impl Workload for Recorded {
        fn write_inputs(&mut self) -> Result<(), Failure> {
            self.written += 1;
            Ok(())
        }
        fn call(&mut self) -> Result<(), Failure> {
            let micros = self
                .calls
                .borrow_mut()
                .pop()
                .ok_or(Failure::Failed("played to the end".to_owned()))?;
            self.time
                .set(self.time.get() + Duration::from_micros(micros));
            Ok(())
        }
    }

    fn play(mut calls: Vec<u64>, stopping: bool) -> (Result<Runtime, Failure>, u32) {
        calls.reverse();
        let time = Rc::new(Cell::new(Duration::ZERO));
        let mut device = Recorded {
            time: time.clone(),
            calls: RefCell::new(calls),
            written: 0,
        };
        let mut scratch = Scratch::new(1 << 16);
        let found = measure(
            Recipe::LayerInNetwork1,
            &mut device,
            &mut scratch,
            &time,
            &AtomicBool::new(stopping),
        );
        (found, device.written)
    }

    #[test]
    fn warm_up_is_not_in_the_figure_and_a_steady_layer_ends_early() {
        let (found, written) = play([vec![90_000, 50_000], vec![1_000; 64]].concat(), false);
        let runtime = found.expect("steady");
        assert_eq!(
            (runtime.median_ms, runtime.repetitions, runtime.warmup),
            (1.0, 7, 2)
        );
        assert_eq!((runtime.low_ms, runtime.high_ms), (1.0, 1.0));
        assert_eq!(written, 9, "inputs are written before every call");
    }

    #[test]
    fn a_noisy_layer_is_measured_longer_and_says_so() {
        let noisy: Vec<u64> = (0..80).map(|i| 1_000 + 10 * (i * 37 % 101)).collect();
        let runtime = play(noisy, false).0.expect("noisy");
        assert_eq!(runtime.repetitions, 64);
        assert!(runtime.low_ms < runtime.median_ms || runtime.high_ms > runtime.median_ms);
    }

    #[test]
    fn faults_and_interruptions_yield_no_figure() {
        assert_eq!(
            play(vec![1_000; 4], false).0,
            Err(Failure::Failed("played to the end".to_owned()))
        );
        assert_eq!(play(vec![1_000; 40], true).0, Err(Failure::Interrupted));
        assert!(matches!(
            play(vec![0; 80], false).0,
            Err(Failure::Failed(_))
        ));
    }
}
