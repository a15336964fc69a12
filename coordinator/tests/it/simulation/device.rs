//! A device as the simulation plays it: the agent's own loop, with a clock that runs a little wrong.

use std::collections::VecDeque;

use wattfarm_coordinator::farm::{Report, SecretHash};
use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};

use super::network::CallId;

/// What a device wakes up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// The process starts.
    Start,
    /// To ask for jobs.
    Ask,
    /// To renew what it holds.
    Renew,
    /// It has measured what it holds under this lease.
    Measured(LeaseNumber),
    /// No answer has come to this call for long.
    Silence(CallId),
}

/// How a device behaves, besides what its owner and the network do to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Character {
    /// How long a second of its clock is.
    pub(super) rate: f64,
    /// Whether it stops what it has lost, or reports it late.
    pub(super) obedient: bool,
    /// Whether results outlive its process.
    pub(super) spools: bool,
    /// How long it measures at most, in ms: some jobs are much longer than a lease.
    pub(super) measuring_ms_max: u64,
    /// How many jobs it takes at once.
    pub(super) jobs_max: usize,
}

/// One device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: AgentId,
    pub(super) credential: SecretHash,
    pub(super) platform: u32,
    pub(super) character: Character,
    /// How often its process has started.
    pub(super) starts: u32,
    pub(super) alive: bool,
    /// Until when nothing reaches it and nothing comes from it.
    pub(super) cut_until: u64,
    /// What it is to measure; the first is being measured.
    pub(super) held: VecDeque<(JobId, LeaseNumber)>,
    pub(super) measuring: bool,
    /// What it has to report, until it is acknowledged.
    pub(super) results: Vec<Report>,
    pub(super) asking: Option<CallId>,
    pub(super) reporting: Option<CallId>,
}

impl Device {
    pub(super) fn new(
        id: AgentId,
        credential: SecretHash,
        platform: u32,
        character: Character,
    ) -> Self {
        Self {
            id,
            credential,
            platform,
            character,
            starts: 0,
            alive: false,
            cut_until: 0,
            held: VecDeque::new(),
            measuring: false,
            results: Vec::new(),
            asking: None,
            reporting: None,
        }
    }

    /// Every lease that it knows of.
    pub(super) fn leases(&self) -> Vec<LeaseNumber> {
        let held = self.held.iter().map(|&(_, lease)| lease);
        held.chain(self.results.iter().map(|report| report.lease))
            .collect()
    }

    /// The process dies.
    pub(super) fn die(&mut self) {
        self.alive = false;
        self.starts += 1;
        self.held.clear();
        self.measuring = false;
        if !self.character.spools {
            self.results.clear();
        }
        self.asking = None;
        self.reporting = None;
    }
}
