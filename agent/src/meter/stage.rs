//! What keeps the device busy or idle while a trace is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::recorder::{Offsets, Recorder, Timepiece};
use super::trace::Trace;
use crate::recipe::{Failure, Pulse};

/// A time during which the device was busy without a break, by the stage's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Busy {
    /// When the first call was launched, in s.
    pub from_s: f64,
    /// When the last call was done, in s.
    pub to_s: f64,
    /// Calls in it.
    pub calls: u64,
}

impl Busy {
    /// Its length in s.
    pub fn seconds(&self) -> f64 {
        self.to_s - self.from_s
    }
}

/// A device that can be kept busy or idle while it is read.
pub trait Stage {
    /// What reads it.
    fn recorder(&self) -> Recorder<'_>;

    /// Keeps it busy for about `seconds`, and with one call at least.
    ///
    /// # Errors
    /// When a call fails or the agent stops.
    fn busy(&mut self, seconds: f64, trace: &mut Trace) -> Result<Busy, Failure>;

    /// Keeps it idle.
    ///
    /// # Errors
    /// When the agent stops.
    fn idle(&mut self, seconds: f64, trace: &mut Trace) -> Result<(), Failure>;
}

/// Work that can go on for any time.
pub trait Work {
    /// Works without a break until `until` has passed; returns the number of calls, all of them done.
    ///
    /// # Errors
    /// When a call fails.
    fn run_until(&mut self, until: Instant) -> Result<u64, Failure>;
}

/// The machine's own clocks.
pub struct MachineTime(Instant);

impl MachineTime {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Timepiece for MachineTime {
    fn now_s(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    fn offsets(&self) -> Offsets {
        let monotonic_s = clock_s(libc::CLOCK_MONOTONIC);
        Offsets {
            boot_s: clock_s(libc::CLOCK_BOOTTIME) - monotonic_s,
            real_s: clock_s(libc::CLOCK_REALTIME) - monotonic_s,
        }
    }
}

fn clock_s(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec. Both clocks exist on every Linux since 2.6.39.
    #[expect(unsafe_code, reason = "the standard library has no offsets of clocks")]
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(status, 0, "clock {clock} can be read");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// How often power is polled: a change is known to half of this, 0.1 % of a window of a second.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// How often an idle stage looks whether the agent stops.
const IDLE_SLICE_S: f64 = 0.1;

/// The real stage: work on this thread, polls on another.
pub struct Bench<'a> {
    recorder: Recorder<'a>,
    work: &'a mut dyn Work,
    pulse: &'a Pulse,
    /// Where the polling thread may run.
    cores: &'a [usize],
}

impl<'a> Bench<'a> {
    /// A stage for `work`. The polling thread keeps to `cores`, off the one that launches.
    pub fn new(
        recorder: Recorder<'a>,
        work: &'a mut dyn Work,
        pulse: &'a Pulse,
        cores: &'a [usize],
    ) -> Self {
        Self {
            recorder,
            work,
            pulse,
            cores,
        }
    }

    /// Runs `act` while another thread polls.
    fn polled<T>(&mut self, trace: &mut Trace, act: impl FnOnce(&mut Self) -> T) -> T {
        let (recorder, cores) = (self.recorder, self.cores);
        let done = AtomicBool::new(false);
        let done = &done;
        thread::scope(|scope| {
            scope.spawn(move || {
                if let Err(error) = crate::device::pin(cores) {
                    tracing::warn!(%error, "could not keep the meter off the measuring core");
                }
                while !done.load(Ordering::Relaxed) {
                    recorder.poll(trace);
                    thread::sleep(POLL_EVERY);
                }
                recorder.poll(trace);
            });
            let acted = act(self);
            done.store(true, Ordering::Relaxed);
            acted
        })
    }
}

impl Stage for Bench<'_> {
    fn recorder(&self) -> Recorder<'_> {
        self.recorder
    }

    fn busy(&mut self, seconds: f64, trace: &mut Trace) -> Result<Busy, Failure> {
        self.pulse.beat()?;
        self.polled(trace, |bench| {
            let time = bench.recorder.time();
            let from_s = time.now_s();
            let calls = bench
                .work
                .run_until(Instant::now() + Duration::from_secs_f64(seconds))?;
            Ok(Busy {
                from_s,
                to_s: time.now_s(),
                calls,
            })
        })
    }

    fn idle(&mut self, seconds: f64, trace: &mut Trace) -> Result<(), Failure> {
        self.polled(trace, |bench| {
            let until_s = bench.recorder.time().now_s() + seconds;
            loop {
                bench.pulse.beat()?;
                let left_s = until_s - bench.recorder.time().now_s();
                if left_s <= 0.0 {
                    return Ok(());
                }
                thread::sleep(Duration::from_secs_f64(left_s.min(IDLE_SLICE_S)));
            }
        })
    }
}
