//! Which pack has each open job, in memory: a store that has a million jobs that are over reads of these alone when it opens.

use std::collections::BTreeMap;

use wattfarm_cost::id::JobId;

/// The open jobs of a store.
#[derive(Debug, Default)]
pub(super) struct OpenJobs {
    at: BTreeMap<JobId, u64>,
    packs: BTreeMap<u64, Fill>,
}

/// Jobs of a pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    /// Those that were packed.
    pub(super) packed: usize,
    /// Those that no newer pack has, and that are still open.
    pub(super) live: usize,
}

impl OpenJobs {
    /// The pack that has a job as it is.
    pub(super) fn pack_of(&self, job: JobId) -> Option<u64> {
        self.at.get(&job).copied()
    }

    pub(super) fn fill(&self, pack: u64) -> Fill {
        self.packs[&pack]
    }

    pub(super) fn packs(&self) -> impl Iterator<Item = u64> {
        self.packs.keys().copied()
    }

    /// A pack was written.
    pub(super) fn packed(&mut self, pack: u64, jobs: &[JobId]) {
        let fill = Fill {
            packed: jobs.len(),
            live: jobs.len(),
        };
        self.packs.insert(pack, fill);
        for &job in jobs {
            self.left(job);
            self.at.insert(job, pack);
        }
    }

    /// A job is open no more, or another pack has it.
    pub(super) fn left(&mut self, job: JobId) {
        if let Some(pack) = self.at.remove(&job)
            && let Some(fill) = self.packs.get_mut(&pack)
        {
            fill.live -= 1;
        }
    }

    /// A pack was removed.
    pub(super) fn removed(&mut self, pack: u64) {
        self.packs.remove(&pack);
    }
}
