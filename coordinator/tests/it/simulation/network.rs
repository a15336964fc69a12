//! What travels, and how badly: calls and answers that get lost, come twice, and overtake each other.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use wattfarm_coordinator::farm::{Acknowledgement, Leased, Refusal, Report, SecretHash};
use wattfarm_cost::id::{AgentId, CampaignId, LeaseNumber};

/// The number of a call: its answer carries it.
pub(super) type CallId = u64;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A device, of which the process has started so many times: an earlier one hears nothing.
    Device(usize, u32),
    /// A user, the trainer or the operator: they ask again until they hear.
    User,
}

/// A call on its way to the coordinator.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) id: CallId,
    pub(super) from: Caller,
    pub(super) ask: Ask,
}

/// What is asked. The ids that a coordinator draws are drawn when it takes the call.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Enroll {
        device: usize,
        platform: u32,
    },
    Lease {
        credential: SecretHash,
        jobs_max: usize,
        held: Vec<LeaseNumber>,
    },
    Renew {
        credential: SecretHash,
        leases: Vec<LeaseNumber>,
    },
    Report {
        credential: SecretHash,
        reports: Vec<Report>,
    },
    /// A report under a lease that was never this agent's.
    Forge {
        credential: SecretHash,
        report: Report,
    },
    Campaign {
        id: CampaignId,
        platform: u32,
        budget: wattfarm_coordinator::farm::Budget,
    },
    Propose {
        campaign: CampaignId,
        layers: Vec<u64>,
    },
    Order {
        platform: u32,
        layers: Vec<u64>,
        replicas: u32,
    },
    Cancel(CampaignId),
    Pause {
        id: CampaignId,
        paused: bool,
    },
    Extend {
        id: CampaignId,
        budget: wattfarm_coordinator::farm::Budget,
    },
    Drain {
        agent: AgentId,
        draining: bool,
    },
    Publish {
        platform: u32,
        rmspe: f64,
    },
    /// A measurement, by its sequence, if it is there.
    Retract(u64),
}

/// What the coordinator says.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Leased(Leased),
    /// These were lost.
    Renewed(Vec<LeaseNumber>),
    Acknowledged(Vec<(Report, Acknowledgement)>),
    Refused(Refusal),
    Done,
    /// It is going down, and whether it did what it was asked is unknown.
    Unavailable,
}

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Network {
    pub(super) loss: f64,
    pub(super) repetition: f64,
    pub(super) delay_ms_max: u64,
}

impl Network {
    /// Loses, repeats and delays nothing worth telling.
    pub(super) const GOOD: Self = Self {
        loss: 0.0,
        repetition: 0.0,
        delay_ms_max: 1,
    };

    /// After how long a message arrives, each time it does.
    pub(super) fn carry(&self, random: &mut ChaCha8Rng) -> Vec<u64> {
        let mut arrivals = Vec::new();
        if !random.random_bool(self.loss) {
            arrivals.push(random.random_range(0..=self.delay_ms_max));
        }
        if random.random_bool(self.repetition) {
            // A repetition may come much later: a proxy sent it again.
            arrivals.push(random.random_range(0..=self.delay_ms_max * 20));
        }
        arrivals
    }
}
