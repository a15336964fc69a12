//! How a subject is measured: the state of caches, warm-up, when to stop, and what is said of the samples.
//!
//! Recipes see a [`Workload`] and a [`Clock`], never libtorch: tests play recorded durations.

mod cache;
mod calls;
mod clock;
mod pulse;
mod statistics;
mod stop;

use std::time::Duration;

use wattfarm_cost::measurement::{Recipe, Runtime};

pub(crate) use cache::LINE;
pub use cache::Scratch;
use calls::Calls;
pub use clock::{Clock, Monotonic};
pub use pulse::Pulse;
pub use statistics::{Confidence, Interval, mean_half_width, median_interval};
pub use stop::{Spent, StopRule, Verdict};

/// Something that can be called again and again.
pub trait Workload {
    /// Puts inputs into the state that a layer before would leave them in. Not timed.
    fn write_inputs(&mut self) -> Result<(), Failure>;

    /// Writes the buffer that the output will get, as if a layer had freed it just before, if it has no more than `bytes_max`
    /// bytes. Not timed.
    fn write_output(&mut self, _bytes_max: usize) -> Result<(), Failure> {
        Ok(())
    }

    /// One call. When it returns, the work is done.
    fn call(&mut self) -> Result<(), Failure>;

    /// From now on inputs hold values as in networks, where those decide how long a call takes.
    fn use_likely_values(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Puts a layer's parameters where the rest of a network leaves them: in memory. Not timed.
    fn flush_weights(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Goes to the next of `count` places in memory that hold the same values: where its tensors lie decides a part of a
    /// call's time, and is chance. Not timed.
    fn next_place(&mut self, _count: usize) -> Result<(), Failure> {
        Ok(())
    }

    /// Pushes out of the caches what the call before left there, by touching `bytes` of something else. Not timed.
    fn evict(&mut self, scratch: &mut Scratch, bytes: usize) -> Result<(), Failure> {
        scratch.walk(bytes);
        Ok(())
    }

    /// One call, timed. A device with a queue of its own times itself.
    fn timed_call(&mut self, clock: &dyn Clock) -> Result<Timed, Failure> {
        // The time of a call is read innermost, so that it holds nothing but the call.
        let busy = clock.busy();
        let start = clock.now();
        self.call()?;
        let took = clock.now().saturating_sub(start);
        let busy = clock.busy().saturating_sub(busy);
        Ok(Timed {
            took,
            without_core: took.saturating_sub(busy),
            launch: None,
        })
    }

    /// One call that tells when each of its steps is done, by the step's number: a network's are its nodes, a layer has one.
    fn call_in_steps(&mut self, done: &mut dyn FnMut(usize)) -> Result<(), Failure> {
        self.call()?;
        done(0);
        Ok(())
    }

    /// Begins a call, which may still go on when this returns.
    fn launch(&mut self) -> Result<(), Failure> {
        self.call()
    }

    /// Waits until every call that was begun is done.
    fn finish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// How long a call took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// From its beginning to its end.
    pub took: Duration,
    /// Of that, without a core of the machine although one was needed.
    pub without_core: Duration,
    /// How long the host took to launch it, on a device with a queue of its own.
    pub launch: Option<Duration>,
}

/// What was measured: one call's runtime, and the median time to launch it, in ms, on a device with a queue of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// One call's runtime.
    pub runtime: Runtime,
    /// The host's part.
    pub launch_ms: Option<f64>,
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

/// What a recipe does, in numbers.
struct Procedure {
    /// Bytes walked over before each call, to push out what the call before left in the caches.
    walked_bytes: usize,
    /// Whether the layer's parameters are in no cache at all when a call begins.
    flushes_weights: bool,
    /// An output's buffer of up to so many bytes was just written when a call begins; a longer one, with what runs before its
    /// memory is used again, is more than a second-level cache holds.
    output_written_max: usize,
    /// Whether inputs hold values as in networks, rather than normal ones, where that matters.
    has_likely_values: bool,
    /// Places in memory that calls take turns at.
    places: usize,
    /// Calls before the first timed one: the first builds the library's own caches of kernels. Fewer, but one, once the
    /// time is spent.
    warmup: u32,
    /// When to stop.
    stop: StopRule,
}

fn procedure(recipe: Recipe) -> Procedure {
    match recipe {
        Recipe::LayerInNetwork1 => Procedure {
            walked_bytes: cache::NETWORK_BYTES,
            flushes_weights: false,
            output_written_max: usize::MAX,
            has_likely_values: false,
            places: 1,
            warmup: 2,
            stop: StopRule {
                repetitions_min: 7,
                repetitions_max: 64,
                half_width: 0.01,
                timed_max: Duration::from_millis(250),
                spent_max: Duration::MAX,
            },
        },
        // Where calls scatter by a quarter, as on virtual machines, an interval of 1 % takes hundreds of them, and models
        // are off by ten times that: the time is better spent on more layers.
        Recipe::LayerInNetwork2 => Procedure {
            stop: StopRule {
                repetitions_min: 7,
                repetitions_max: 20,
                half_width: 0.025,
                timed_max: Duration::from_millis(100),
                spent_max: Duration::from_secs(1),
            },
            ..self::procedure(Recipe::LayerInNetwork1)
        },
        Recipe::LayerInNetwork3 => Procedure {
            flushes_weights: true,
            output_written_max: cache::REUSED_BYTES,
            has_likely_values: true,
            places: 2,
            ..self::procedure(Recipe::LayerInNetwork2)
        },
        Recipe::WholeNetwork1 => Procedure {
            walked_bytes: 0,
            flushes_weights: false,
            output_written_max: 0,
            has_likely_values: false,
            places: 1,
            warmup: 3,
            stop: StopRule {
                repetitions_min: 9,
                repetitions_max: 100,
                half_width: 0.005,
                timed_max: Duration::from_secs(2),
                spent_max: Duration::MAX,
            },
        },
        Recipe::WholeNetwork2 => Procedure {
            stop: StopRule {
                repetitions_min: 9,
                repetitions_max: 100,
                half_width: 0.005,
                timed_max: Duration::from_secs(2),
                spent_max: Duration::from_secs(10),
            },
            ..self::procedure(Recipe::WholeNetwork1)
        },
    }
}

/// The canary's figure: the lower decile of warm calls, in ms. It is to tell of the device, so nothing is done to its caches,
/// and what strangers add to some of the calls is left out.
pub fn measure_canary(
    workload: &mut dyn Workload,
    scratch: &mut Scratch,
    clock: &dyn Clock,
    pulse: &Pulse,
) -> Result<f64, Failure> {
    let procedure = Procedure {
        warmup: 10,
        stop: StopRule {
            repetitions_min: 60,
            repetitions_max: 150,
            half_width: 0.003,
            timed_max: Duration::from_millis(300),
            spent_max: Duration::from_secs(2),
        },
        ..procedure(Recipe::WholeNetwork1)
    };
    let found = measure_by(&procedure, workload, scratch, clock, pulse)?;
    let mut samples = found.runtime.samples_ms;
    samples.sort_by(f32::total_cmp);
    Ok(samples[samples.len() / 10].into())
}

/// Measures one call of `workload` by `recipe`. `pulse` is felt between calls.
pub fn measure(
    recipe: Recipe,
    workload: &mut dyn Workload,
    scratch: &mut Scratch,
    clock: &dyn Clock,
    pulse: &Pulse,
) -> Result<Runtime, Failure> {
    measure_with_launch(recipe, workload, scratch, clock, pulse).map(|found| found.runtime)
}

/// As [`measure`], with the host's part of a call beside it.
pub fn measure_with_launch(
    recipe: Recipe,
    workload: &mut dyn Workload,
    scratch: &mut Scratch,
    clock: &dyn Clock,
    pulse: &Pulse,
) -> Result<Measured, Failure> {
    measure_by(&procedure(recipe), workload, scratch, clock, pulse)
}

fn measure_by(
    procedure: &Procedure,
    workload: &mut dyn Workload,
    scratch: &mut Scratch,
    clock: &dyn Clock,
    pulse: &Pulse,
) -> Result<Measured, Failure> {
    let began = clock.now();
    let spent = || clock.now().saturating_sub(began);
    let mut warmup = 0;
    if procedure.has_likely_values {
        workload.use_likely_values()?;
    }
    while warmup == 0 || (warmup < procedure.warmup && spent() < procedure.stop.spent_max) {
        pulse.beat()?;
        workload.next_place(procedure.places)?;
        workload.write_inputs()?;
        workload.call()?;
        warmup += 1;
    }
    let mut calls = Calls::default();
    let mut launches_ms = Vec::new();
    loop {
        pulse.beat()?;
        workload.next_place(procedure.places)?;
        workload.evict(scratch, procedure.walked_bytes)?;
        if procedure.flushes_weights {
            workload.flush_weights()?;
        }
        workload.write_output(procedure.output_written_max)?;
        workload.write_inputs()?;
        let timed = workload.timed_call(clock)?;
        calls.push(timed.took, timed.without_core);
        launches_ms.extend(timed.launch.map(|launch| launch.as_secs_f64() * 1e3));
        if calls.are_enough(&procedure.stop, spent()) {
            break;
        }
    }
    let (samples_ms, disturbed) = calls.into_samples(&procedure.stop);
    let interval = median_interval(&samples_ms, Confidence::P95);
    if interval.median <= 0.0 {
        return Err(Failure::Failed(
            "a call took no time: the clock is too coarse".to_owned(),
        ));
    }
    let runtime = Runtime {
        median_ms: interval.median,
        // A clock tick may be longer than a call: the interval's low end is a time all the same.
        low_ms: interval.low.max(f64::MIN_POSITIVE),
        high_ms: interval.high,
        repetitions: samples_ms.len() as u32,
        warmup,
        disturbed,
        samples_ms: samples_ms
            .iter()
            .map(|&sample| (sample as f32).max(f32::MIN_POSITIVE))
            .collect(),
    };
    Ok(Measured {
        runtime,
        launch_ms: (!launches_ms.is_empty())
            .then(|| median_interval(&launches_ms, Confidence::P95).median),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A device whose calls take recorded times, with a part of each for somebody else.
    struct Recorded {
        clock: Played,
        calls: Vec<(u64, u64)>,
        preparation: Duration,
        written: u32,
    }

    #[derive(Clone, Default)]
    struct Played {
        time: Rc<Cell<Duration>>,
        busy: Rc<Cell<Duration>>,
    }

    impl Played {
        fn pass(&self, took: Duration, lost: Duration) {
            self.time.set(self.time.get() + took);
            self.busy.set(self.busy.get() + took - lost);
        }
    }

    impl Clock for Played {
        fn now(&self) -> Duration {
            self.time.get()
        }
        fn busy(&self) -> Duration {
            self.busy.get()
        }
    }

    impl Workload for Recorded {
        fn write_inputs(&mut self) -> Result<(), Failure> {
            self.written += 1;
            self.clock.pass(self.preparation, Duration::ZERO);
            Ok(())
        }
        fn call(&mut self) -> Result<(), Failure> {
            let (took, lost) = self
                .calls
                .pop()
                .ok_or(Failure::Failed("played to the end".to_owned()))?;
            let [took, lost] = [took, lost].map(Duration::from_micros);
            self.clock.pass(took, lost);
            Ok(())
        }
    }

    fn play(
        calls: impl DoubleEndedIterator<Item = (u64, u64)>,
        stopping: bool,
    ) -> (Result<Runtime, Failure>, u32) {
        play_by(Recipe::LAYER, Duration::ZERO, calls, stopping)
    }

    fn play_by(
        recipe: Recipe,
        preparation: Duration,
        calls: impl DoubleEndedIterator<Item = (u64, u64)>,
        stopping: bool,
    ) -> (Result<Runtime, Failure>, u32) {
        let clock = Played::default();
        let mut device = Recorded {
            clock: clock.clone(),
            calls: calls.rev().collect(),
            preparation,
            written: 0,
        };
        let mut scratch = Scratch::new(1 << 16);
        let pulse = Pulse::default();
        if stopping {
            pulse.stop();
        }
        let found = measure(recipe, &mut device, &mut scratch, &clock, &pulse);
        (found, device.written)
    }

    fn steady(count: usize, micros: u64) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        std::iter::repeat_n((micros, 0), count)
    }

    #[test]
    fn warm_up_is_not_in_the_figure_and_a_steady_layer_ends_early() {
        let (found, written) = play(
            [(90_000, 0), (50_000, 0)]
                .into_iter()
                .chain(steady(64, 1_000)),
            false,
        );
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
        let noisy = (0..80).map(|i| (1_000 + 10 * (i * 37 % 101), 0));
        let runtime = play(noisy, false).0.expect("noisy");
        assert_eq!(runtime.repetitions, 20);
        assert!(runtime.low_ms < runtime.median_ms || runtime.high_ms > runtime.median_ms);
    }

    #[test]
    fn calls_that_shared_the_core_are_replaced() {
        let calls = (0..80).map(|i| if i % 2 == 0 { (1_000, 0) } else { (1_700, 700) });
        let runtime = play(calls, false).0.expect("half of it is good");
        assert_eq!(
            (runtime.median_ms, runtime.high_ms, runtime.repetitions),
            (1.0, 1.0, 7)
        );
        assert_eq!(runtime.disturbed, 6);
    }

    #[test]
    fn a_core_that_is_always_shared_yields_what_it_has() {
        let calls = (0..300).map(|i| (1_700 + i % 7, 700));
        let runtime = play(calls, false).0.expect("a figure all the same");
        assert_eq!((runtime.repetitions, runtime.disturbed), (60, 60));
        assert!(
            (runtime.median_ms - 1.003).abs() < 1e-9,
            "what calls had of it"
        );
    }

    /// A device that notes what is done before each call.
    #[derive(Default)]
    struct Noting {
        clock: Played,
        walks: Vec<usize>,
        flushes: usize,
        outputs: Vec<usize>,
        places: Vec<usize>,
        is_likely: bool,
    }

    impl Workload for Noting {
        fn write_inputs(&mut self) -> Result<(), Failure> {
            Ok(())
        }
        fn call(&mut self) -> Result<(), Failure> {
            self.clock.pass(Duration::from_millis(1), Duration::ZERO);
            Ok(())
        }
        fn use_likely_values(&mut self) -> Result<(), Failure> {
            self.is_likely = true;
            Ok(())
        }
        fn flush_weights(&mut self) -> Result<(), Failure> {
            self.flushes += 1;
            Ok(())
        }
        fn write_output(&mut self, bytes_max: usize) -> Result<(), Failure> {
            self.outputs.push(bytes_max);
            Ok(())
        }
        fn next_place(&mut self, count: usize) -> Result<(), Failure> {
            self.places.push(count);
            Ok(())
        }
        fn evict(&mut self, _scratch: &mut Scratch, bytes: usize) -> Result<(), Failure> {
            self.walks.push(bytes);
            Ok(())
        }
    }

    /// What the versions of the layer's recipe do differently before a call.
    #[test]
    fn each_version_makes_the_state_that_it_says() {
        let noted = |recipe| {
            let clock = Played::default();
            let mut device = Noting {
                clock: clock.clone(),
                ..Noting::default()
            };
            let mut scratch = Scratch::new(64);
            measure(recipe, &mut device, &mut scratch, &clock, &Pulse::default()).expect("steady");
            assert_eq!((device.walks.len(), device.places.len()), (7, 9));
            let before = (device.walks[0], device.places[0]);
            (before, device.flushes, device.outputs[0], device.is_likely)
        };
        let walked = cache::NETWORK_BYTES;
        assert_eq!(
            noted(Recipe::LayerInNetwork2),
            ((walked, 1), 0, usize::MAX, false)
        );
        assert_eq!(
            noted(Recipe::LayerInNetwork3),
            ((walked, 2), 7, cache::REUSED_BYTES, true)
        );
    }

    /// What is prepared counts too: a layer whose inputs take long to write, a network whose calls do.
    #[test]
    fn a_subject_that_takes_long_ends_with_fewer_calls() {
        let noisy = || (0..80).map(|i| (1_000 + 10 * (i * 37 % 101), 0));
        let found = play_by(Recipe::LAYER, Duration::from_millis(150), noisy(), false);
        let runtime = found.0.expect("noisy");
        assert_eq!((runtime.warmup, runtime.repetitions), (2, 5));
        let long = steady(20, 12_000_000);
        let found = play_by(Recipe::NETWORK, Duration::ZERO, long, false);
        let runtime = found.0.expect("long");
        assert_eq!((runtime.warmup, runtime.repetitions), (1, 3));
        assert_eq!(found.1, 4);
    }

    #[test]
    fn faults_and_interruptions_yield_no_figure() {
        let failed = Failure::Failed("played to the end".to_owned());
        assert_eq!(play(steady(4, 1_000), false).0, Err(failed));
        assert_eq!(play(steady(40, 1_000), true).0, Err(Failure::Interrupted));
        assert!(matches!(
            play(steady(80, 0), false).0,
            Err(Failure::Failed(_))
        ));
    }
}
