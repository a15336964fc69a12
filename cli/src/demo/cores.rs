//! Who runs on which core: the agent measures on the last one, and nothing else of the demo's shall disturb it there.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that the demo was given, and those that it keeps itself and most of its processes to.
pub(super) struct Cores {
    all: CpuSet,
    others: CpuSet,
}

impl Cores {
    /// Keeps this thread, and what it starts from now on, off the last core. `None` if there is only one.
    pub(super) fn split() -> io::Result<Option<Self>> {
        let all = sched_getaffinity(None)?;
        let mut others = all;
        if let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|&core| all.is_set(core)) {
            others.unset(last);
        }
        if others.count() == 0 {
            return Ok(None);
        }
        sched_setaffinity(None, &others)?;
        Ok(Some(Self { all, others }))
    }

    /// Runs `start` as if nothing had been split: what it starts may use every core, and picks its own.
    pub(super) fn with_all<T>(&self, start: impl FnOnce() -> T) -> io::Result<T> {
        sched_setaffinity(None, &self.all)?;
        let started = start();
        sched_setaffinity(None, &self.others)?;
        Ok(started)
    }
}
