//! What an event changes for good: the records that must be on disk before anybody hears of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wattfarm_cost::Model;
use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};
use wattfarm_cost::measurement::Reading;

use super::agent::{Agent, Token};
use super::campaign::Campaign;
use super::job::{Job, Task};
use super::key::Key;
use super::platform::PlatformEntry;
use super::retraction::Retraction;
use super::secret::SecretHash;
use super::time::Timestamp;
use super::totals::{Total, Totals};

/// One durable change. Changes of one event belong together: all are stored or none. Each says all of its record, so that
/// taking one twice does no harm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A token was made or used.
    Token(SecretHash, Token),
    /// A user's key was made or taken back.
    Key(SecretHash, Key),
    /// An agent enrolled or changed.
    Agent(Agent),
    /// A platform was seen for the first time.
    Platform(PlatformEntry),
    /// What a new job asks for.
    Task(JobId, #[serde(with = "shared")] Arc<Task>),
    /// How a job stands.
    Job(Job),
    /// A job that nobody was given is wanted no more.
    JobGone(JobId),
    /// A reading was taken.
    Entry(Entry),
    /// A campaign was made or ended.
    Campaign(Campaign),
    /// A model was published.
    Model(Model),
    /// A measurement was taken back.
    Retraction(Retraction),
    /// What is counted over all jobs has moved.
    Total(Total),
}

/// A task in a dump, where nothing is shared.
mod shared {
    use super::{Arc, Deserialize, Serialize, Task};

    pub(super) fn serialize<S: serde::Serializer>(
        task: &Arc<Task>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        (**task).serialize(to)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<Task>, D::Error> {
        Task::deserialize(from).map(Arc::new)
    }
}

/// A measurement as the farm books it: without what its job already says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its place in the order of arrival, from 1.
    pub sequence: u64,
    /// The job that it answers.
    pub job: JobId,
    /// The agent that measured.
    pub agent: AgentId,
    /// The lease it was measured under.
    pub lease: LeaseNumber,
    /// What was found.
    pub reading: Reading,
    /// When it was taken.
    pub received_at: Timestamp,
}

/// All that the farm must know to go on where it stopped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    /// Every token.
    pub tokens: Vec<(SecretHash, Token)>,
    /// Every user's key.
    pub keys: Vec<(SecretHash, Key)>,
    /// Every agent.
    pub agents: Vec<Agent>,
    /// Every platform.
    pub platforms: Vec<PlatformEntry>,
    /// Every job that is open: queued or leased.
    pub jobs: Vec<Job>,
    /// What they ask for.
    pub tasks: Vec<(JobId, Arc<Task>)>,
    /// Every campaign.
    pub campaigns: Vec<Campaign>,
    /// The newest model of each key.
    pub models: Vec<Model>,
    /// The sequence of the last measurement; 0 if there is none.
    pub sequence: u64,
    /// The number of the last retraction; 0 if there is none.
    pub retractions: u64,
    /// What is counted over all jobs.
    pub totals: Totals,
}

impl Records {
    /// Has numbers given from this on, if none was given yet beyond it.
    pub fn number_from(&mut self, first: u64) {
        let before = first - 1;
        self.sequence = self.sequence.max(before);
        self.retractions = self.retractions.max(before);
        self.totals.lease_after(before);
    }

    /// The largest number that was given.
    pub fn last_number(&self) -> u64 {
        let lease = self.totals.last_lease().0;
        self.sequence.max(self.retractions).max(lease)
    }
}
