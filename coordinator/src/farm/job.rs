//! A job: what it asks for, how it stands, and who was given it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattfarm_cost::id::{AgentId, CampaignId, JobId, LeaseNumber};
use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::{Hash, Kind, Subject};

use super::Timestamp;

/// What a job asks for; never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Where to measure.
    pub platform: Hash,
    /// What.
    pub subject: Subject,
    /// How.
    pub recipe: Recipe,
}

impl Task {
    /// What makes two tasks one.
    pub fn key(&self) -> TaskKey {
        TaskKey {
            platform: self.platform,
            subject: self.subject.hash(),
            recipe: self.recipe,
        }
    }

    /// The layer's kind; `None` for a network.
    pub fn kind(&self) -> Option<Kind> {
        match &self.subject {
            Subject::Layer(layer) => Some(layer.kind()),
            Subject::Network(_) => None,
        }
    }
}

/// The name of a task: equal tasks are one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskKey {
    /// Where to measure.
    pub platform: Hash,
    /// What, by its hash.
    pub subject: Hash,
    /// How.
    pub recipe: Recipe,
}

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it asks for.
    pub task: TaskKey,
    /// The layer's kind; `None` for a network.
    pub kind: Option<Kind>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where it is on its way.
    pub state: State,
    /// Attempts that failed.
    pub failures: u32,
    /// Leases that ran out, one after the other.
    pub expiries: u32,
    /// Measurements wanted.
    pub replicas_wanted: u32,
    /// Whether a user is waiting for it.
    pub urgent: bool,
    /// The campaigns that it counts for.
    pub shares: BTreeMap<CampaignId, Share>,
    /// Every lease that was ever given on it, in their order.
    pub grants: Vec<Grant>,
    /// What its measurements took the agents, in ms.
    pub measured_ms: u64,
    /// How many leases it had when it was opened again: their silence is no longer held against it.
    #[serde(default)]
    pub grants_forgiven: usize,
}

/// Where a job is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for an agent.
    Queued,
    /// An agent has it.
    Leased {
        /// The agent.
        agent: AgentId,
        /// Under which number.
        lease: LeaseNumber,
        /// Since when.
        since: Timestamp,
    },
    /// As many measurements as wanted.
    Done,
    /// The platform cannot run it: an answer.
    Infeasible {
        /// Why.
        because: String,
    },
    /// Given up.
    Parked {
        /// Why.
        because: String,
    },
    /// Nobody wants it any more; its record stays, because an agent may still report.
    Withdrawn,
}

impl State {
    /// Whether the job is still to be answered.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Queued | Self::Leased { .. })
    }
}

/// How a job counts for a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// It waited for it, and pays for it from its budget.
    Ordered,
    /// It was there already: a sample that costs nothing.
    Found,
}

/// A lease that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its number.
    pub lease: LeaseNumber,
    /// To whom.
    pub agent: AgentId,
    /// What was reported under it; `None` so far nothing.
    pub report: Option<Reported>,
}

/// What was reported under a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reported {
    /// A reading: the measurement of this sequence.
    Measured(u64),
    /// A reading by a device that was not itself: it answers nothing.
    Suspect(u64),
    /// Anything else.
    Other,
}

impl Reported {
    /// The measurement, whatever it is worth.
    pub fn sequence(self) -> Option<u64> {
        match self {
            Self::Measured(sequence) | Self::Suspect(sequence) => Some(sequence),
            Self::Other => None,
        }
    }

    /// The same, of a device that was not itself.
    pub(super) fn doubted(self) -> Self {
        match self {
            Self::Measured(sequence) | Self::Suspect(sequence) => Self::Suspect(sequence),
            Self::Other => Self::Other,
        }
    }
}

impl Job {
    /// A job that nobody wants yet.
    pub fn new(id: JobId, task: &Task, now: Timestamp) -> Self {
        Self {
            id,
            task: task.key(),
            kind: task.kind(),
            created_at: now,
            state: State::Queued,
            failures: 0,
            expiries: 0,
            replicas_wanted: 1,
            urgent: false,
            shares: BTreeMap::new(),
            grants: Vec::new(),
            measured_ms: 0,
            grants_forgiven: 0,
        }
    }

    /// The measurements that answer it, in the order of arrival.
    pub fn measurements(&self) -> impl Iterator<Item = u64> {
        self.grants.iter().filter_map(|grant| match grant.report {
            Some(Reported::Measured(sequence)) => Some(sequence),
            Some(Reported::Suspect(_) | Reported::Other) | None => None,
        })
    }

    /// Every measurement that was ever reported on it, suspect ones among them, in the order of arrival.
    pub fn booked(&self) -> impl Iterator<Item = u64> {
        let reports = self.grants.iter().filter_map(|grant| grant.report);
        reports.filter_map(Reported::sequence)
    }

    /// Its suspect measurements.
    pub fn suspects(&self) -> impl Iterator<Item = u64> {
        self.grants.iter().filter_map(suspect)
    }

    /// Those that an agent reported.
    pub fn suspects_of(&self, agent: AgentId) -> impl Iterator<Item = u64> {
        let grants = self.grants.iter().filter(move |grant| grant.agent == agent);
        grants.filter_map(suspect)
    }

    /// How many measurements it has.
    pub fn replicas_done(&self) -> u32 {
        self.measurements().count() as u32
    }

    /// The campaigns that wait for it.
    pub fn waiting_campaigns(&self) -> impl Iterator<Item = CampaignId> {
        let unanswered = self.replicas_done() == 0;
        let ordered = self
            .shares
            .iter()
            .filter(move |&(_, &share)| unanswered && share == Share::Ordered);
        ordered.map(|(&campaign, _)| campaign)
    }

    /// Whether a user waits for it, and it is still to be answered.
    pub fn is_awaited(&self) -> bool {
        self.urgent && self.state.is_open()
    }

    /// Whether anybody waits for it.
    pub fn is_wanted(&self) -> bool {
        self.urgent || self.waiting_campaigns().next().is_some()
    }
}

fn suspect(grant: &Grant) -> Option<u64> {
    match grant.report {
        Some(Reported::Suspect(sequence)) => Some(sequence),
        Some(Reported::Measured(_) | Reported::Other) | None => None,
    }
}
