//! The coordinator's clock.

use std::time::{Duration, Instant, SystemTime};

use crate::farm::Timestamp;

/// A clock that tells the time of day at its start plus what has passed since: setting the machine's clock neither ends
/// leases nor makes time go backwards.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_at: Timestamp,
}

impl Clock {
    /// A clock set by the machine's.
    pub fn start() -> Self {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            started: Instant::now(),
            started_at: Timestamp(since_1970.as_millis() as u64),
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.started_at.plus(self.started.elapsed())
    }

    /// How long until then; zero if it is past.
    pub fn until(&self, then: Timestamp) -> Duration {
        then.since(self.now())
    }
}
