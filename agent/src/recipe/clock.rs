//! Where time comes from, and how much of it was ours.

use std::time::{Duration, Instant};

/// Where time comes from.
pub trait Clock {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;

    /// Time that the calling thread has had a core for. Less than [`Clock::now`] has moved on: somebody else had it.
    fn busy(&self) -> Duration;
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

    fn busy(&self) -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel writes one timespec. The clock exists on every Linux.
        #[expect(
            unsafe_code,
            reason = "the standard library has no clock of a thread's own time"
        )]
        let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        debug_assert_eq!(status, 0, "the thread's own clock can be read");
        Duration::new(
            time.tv_sec.unsigned_abs(),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    }
}
