//! What the thread that measures and those that watch it share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Failure;

/// Between two calls whoever measures shows that it lives, and hears whether it shall end what it does.
#[derive(Debug, Default)]
pub struct Pulse {
    beats: AtomicU64,
    is_stopping: AtomicBool,
    is_wanted_elsewhere: AtomicBool,
    is_at_work: AtomicBool,
}

impl Pulse {
    /// To be called between calls.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] when the agent stops or somebody else wants the device.
    pub fn beat(&self) -> Result<(), Failure> {
        self.beats.fetch_add(1, Ordering::Relaxed);
        let shall_end = self.is_stopping() || self.is_wanted_elsewhere.load(Ordering::Relaxed);
        match shall_end {
            true => Err(Failure::Interrupted),
            false => Ok(()),
        }
    }

    /// To be called again and again while waiting for the device.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] when the agent stops.
    pub fn rest(&self) -> Result<(), Failure> {
        self.beats.fetch_add(1, Ordering::Relaxed);
        match self.is_stopping() {
            true => Err(Failure::Interrupted),
            false => Ok(()),
        }
    }

    /// How often it was called: a number that doesn't grow is of something that hangs.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// The agent stops.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the agent stops.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Somebody else wants the device, or not any more. Returns what was known before.
    pub fn want_elsewhere(&self, is_wanted: bool) -> bool {
        self.is_wanted_elsewhere.swap(is_wanted, Ordering::Relaxed)
    }

    /// Whoever measures begins, or ends, something that the device is needed for.
    pub fn at_work(&self, is_at_work: bool) {
        self.is_at_work.store(is_at_work, Ordering::Relaxed);
    }

    /// Whether the device is at work.
    pub fn is_at_work(&self) -> bool {
        self.is_at_work.load(Ordering::Relaxed)
    }
}
