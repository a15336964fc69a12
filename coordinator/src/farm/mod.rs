//! The farm: what is to be measured, by whom, and what came of it. A pure state machine.
//!
//! An event and the time go in, a reply and the changes to store come out. Nothing here reads a clock, draws a random
//! number, waits or does I/O: ids and secrets come with the events, and maps are ordered, so that the same events give
//! the same farm on every machine.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod agent;
mod because;
mod campaign;
mod canary;
mod change;
mod job;
mod jobs;
mod key;
mod lease;
mod list;
mod model;
mod order;
mod platform;
mod proposal;
mod queue;
mod refusal;
mod report;
mod secret;
mod time;
mod turns;

use std::collections::BTreeMap;

use wattfarm_cost::id::{AgentId, CampaignId, LeaseNumber};
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Hash, Model};

pub use agent::{
    Agent, AgentStatus, CreateToken, DrainAgent, Enroll, Enrolled, ListAgents, RevokeAgent,
    RotateCredential, Token,
};
pub use campaign::{
    Budget, Campaign, CampaignStatus, CancelCampaign, End, ExtendCampaign, GetCampaign, KindStatus,
    ListCampaigns, Owner, PauseCampaign, Phase, Request, RequestModels, Weight,
};
pub use canary::{MeasureAgain, ReportCanary, Suspects};
pub use change::{Change, Entry, Records};
pub use job::{Grant, Job, Reported, Share, State, Task, TaskKey};
pub use jobs::Tally;
pub use key::{CreateKey, FindKey, Key, ListKeys, RevokeKey, Role};
pub use lease::{
    EXPIRIES_MAX, LEASE_TTL, Lease, LeaseJobs, Leased, PROGRESS_MIN, RenewLeases, SILENT_MAX, Tick,
};
pub use list::{JobStatus, ListJobs, StateName};
pub use model::{GetModels, PublishModels};
pub use order::{Follow, Followed, Order, REPLICAS_ADDED_MAX, URGENT_MAX};
pub use platform::{FindPlatform, ListPlatforms, PlatformEntry, PlatformStatus};
pub use proposal::{OUTSTANDING_MAX, ProposeLayers, Proposed};
pub use refusal::Refusal;
pub use report::{
    Acknowledgement, Booked, FAILURES_MAX, LastMeasurement, Outcome, Report, ReportResults,
};
pub use secret::SecretHash;
pub use time::Timestamp;

use jobs::Jobs;
use turns::Turns;

/// Something that happens to the farm, or is asked of it.
pub trait Event: Send + 'static {
    /// The answer. It may be given only once the changes are stored.
    type Reply: Send + 'static;

    /// Does it. A refusal changes nothing.
    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply;
}

/// The whole farm in memory: all but the measurements, older models, and what finished jobs asked for.
#[derive(Debug)]
pub struct Farm {
    tokens: BTreeMap<SecretHash, Token>,
    keys: BTreeMap<SecretHash, Key>,
    agents: BTreeMap<AgentId, Agent>,
    credentials: BTreeMap<SecretHash, AgentId>,
    platforms: BTreeMap<Hash, PlatformEntry>,
    jobs: Jobs,
    turns: Turns,
    campaigns: BTreeMap<CampaignId, Campaign>,
    models: BTreeMap<ModelKey, Model>,
    /// The last lease given.
    lease: LeaseNumber,
    /// The last measurement taken.
    sequence: u64,
    /// What the event under way has changed so far.
    changes: Vec<Change>,
}

impl Farm {
    /// The farm as it was stored. Every live lease gets a full term anew: while the coordinator was away, no agent could
    /// renew.
    pub fn restore(records: Records, now: Timestamp) -> Self {
        let mut tasks: BTreeMap<_, _> = records.tasks.into_iter().collect();
        let mut jobs = Jobs::default();
        for job in records.jobs {
            let task = tasks.remove(&job.id);
            jobs.restore(job, task);
        }
        let mut farm = Self {
            tokens: records.tokens.into_iter().collect(),
            keys: records.keys.into_iter().collect(),
            credentials: records
                .agents
                .iter()
                .flat_map(|agent| agent.credentials().map(|credential| (credential, agent.id)))
                .collect(),
            agents: records
                .agents
                .into_iter()
                .map(|agent| (agent.id, agent))
                .collect(),
            platforms: records
                .platforms
                .into_iter()
                .map(|entry| (entry.hash, entry))
                .collect(),
            turns: Turns::default(),
            lease: jobs.last_lease(),
            jobs,
            campaigns: records
                .campaigns
                .into_iter()
                .map(|campaign| (campaign.id, campaign))
                .collect(),
            models: records
                .models
                .into_iter()
                .map(|model| (model.key, model))
                .collect(),
            sequence: records.sequence,
            changes: Vec::new(),
        };
        farm.renew_all(now);
        farm
    }

    /// Takes one event. The changes are to be stored, in order and together, before the reply is given.
    pub fn apply<E: Event>(&mut self, now: Timestamp, event: E) -> (E::Reply, Vec<Change>) {
        self.expire(now);
        let reply = event.apply(self, now);
        (reply, std::mem::take(&mut self.changes))
    }

    /// When time alone will change something: a [`Tick`] is due then.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.jobs.next_end()
    }

    /// Every job, in the order of their ids.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter()
    }

    /// Says what is wrong after an event that changed this, if anything: cheap enough for every step of a simulation.
    pub fn check_changes(&self, now: Timestamp, changes: &[Change]) -> Result<(), String> {
        if !self.changes.is_empty() {
            return Err("changes were left behind".to_owned());
        }
        if self.next_deadline().is_some_and(|end| end <= now) {
            return Err("a lease outlived its term".to_owned());
        }
        for change in changes {
            match change {
                Change::Job(job) => self.jobs.check_job(job.id)?,
                Change::JobGone(job) => self.jobs.check_job(*job)?,
                Change::Entry(entry) if entry.sequence > self.sequence => {
                    return Err(format!("measurement {} was never numbered", entry.sequence));
                }
                Change::Entry(_)
                | Change::Task(..)
                | Change::Token(..)
                | Change::Key(..)
                | Change::Agent(_)
                | Change::Platform(_)
                | Change::Campaign(_)
                | Change::Model(_) => (),
            }
        }
        Ok(())
    }

    /// Says what is wrong, if anything. Looks at every job, so it is for tests.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.jobs.check()?;
        if !self.changes.is_empty() {
            return Err("changes were left behind".to_owned());
        }
        if self.jobs.last_lease() > self.lease {
            return Err("a lease has a number that was never given".to_owned());
        }
        let mut sequences: Vec<u64> = self
            .jobs
            .iter()
            .flat_map(|job| job.booked().collect::<Vec<_>>())
            .collect();
        sequences.sort_unstable();
        if !sequences.iter().copied().eq(1..=self.sequence) {
            return Err("the measurements are not numbered from 1, each once".to_owned());
        }
        Ok(())
    }
}
