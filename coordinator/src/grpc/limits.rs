//! How often each caller may call: what one asks too much, no other waits for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::farm::SecretHash;

/// Calls a second that a caller may make for long, and at once.
const CALLS_A_SECOND: f64 = 1000.0;
const CALLS_AT_ONCE: f64 = 2000.0;

/// Callers that are remembered. Beyond that, those who have been quiet for a while are forgotten: they would start anew as
/// they stand.
const CALLERS_MAX: usize = 20_000;

/// Who calls: whoever has a credential by that, others by where they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Caller {
    Credential(SecretHash),
    Address(IpAddr),
    /// Over a connection that has no address: an in-memory one.
    Nowhere,
}

/// What a caller has left.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    calls: f64,
    at: Instant,
}

impl Allowance {
    fn grown(self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        (self.calls + seconds * CALLS_A_SECOND).min(CALLS_AT_ONCE)
    }
}

/// The allowances of all callers.
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<Caller, Allowance>);

impl Limits {
    /// Takes one call off a caller's allowance; the error is after how long there is one again.
    pub(super) fn take(&mut self, caller: Caller, now: Instant) -> Result<(), Duration> {
        if self.0.len() >= CALLERS_MAX && !self.0.contains_key(&caller) {
            self.0
                .retain(|_, allowance| allowance.grown(now) < CALLS_AT_ONCE);
            if self.0.len() >= CALLERS_MAX {
                return Err(Duration::from_secs(1));
            }
        }
        let full = Allowance {
            calls: CALLS_AT_ONCE,
            at: now,
        };
        let allowance = self.0.entry(caller).or_insert(full);
        let calls = allowance.grown(now);
        if calls < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - calls) / CALLS_A_SECOND));
        }
        *allowance = Allowance {
            calls: calls - 1.0,
            at: now,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u32) -> Caller {
        Caller::Address(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn one_who_calls_too_often_waits_and_no_other_does() {
        let mut limits = Limits::default();
        let began = Instant::now();
        let taken = (0..5000)
            .filter(|_| limits.take(caller(1), began).is_ok())
            .count();
        assert_eq!(taken, CALLS_AT_ONCE as usize);
        let wait = limits.take(caller(1), began).expect_err("too often");
        assert!(wait <= Duration::from_millis(1), "{wait:?}");
        assert_eq!(limits.take(caller(2), began), Ok(()));
        let later = began + Duration::from_secs(1);
        let taken = (0..5000)
            .filter(|_| limits.take(caller(1), later).is_ok())
            .count();
        assert_eq!(taken, CALLS_A_SECOND as usize);
    }

    #[test]
    fn callers_without_end_fill_no_memory() {
        let mut limits = Limits::default();
        let began = Instant::now();
        let taken = (0..CALLERS_MAX as u32 * 2)
            .filter(|&number| limits.take(caller(number), began).is_ok());
        assert_eq!(taken.count(), CALLERS_MAX);
        assert_eq!(limits.0.len(), CALLERS_MAX);
        let later = began + Duration::from_secs(10);
        assert_eq!(limits.take(caller(u32::MAX), later), Ok(()));
        assert_eq!(limits.0.len(), 1);
    }
}
