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
mod peers;
mod physics;
mod platform;
mod proposal;
mod queue;
mod refusal;
mod report;
mod retraction;
mod secret;
mod time;
mod totals;
mod turns;

use std::collections::BTreeMap;

use wattfarm_cost::id::{AgentId, CampaignId, JobId};
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Hash, Model};

pub use agent::{
    Agent, AgentStatus, CreateToken, DrainAgent, Enroll, Enrolled, IMPLAUSIBLE_MAX, ListAgents,
    RevokeAgent, RotateCredential, Token, UseToken,
};
pub use campaign::{
    Budget, Campaign, CampaignStatus, CancelCampaign, End, ExtendCampaign, GetCampaign, KindStatus,
    ListCampaigns, Owner, PauseCampaign, Phase, Request, RequestModels, Weight,
};
pub use canary::{MeasureAgain, Remeasured, ReportCanary, Unvouched};
pub use change::{Change, Entry, Records};
pub use job::{Grant, Job, Reported, Share, State, Task, TaskKey};
pub use key::{CreateKey, FindKey, Key, ListKeys, RevokeKey, Role};
pub use lease::{
    EXPIRIES_MAX, LEASE_TTL, Lease, LeaseJobs, Leased, PROGRESS_MIN, RenewLeases, SILENT_MAX, Tick,
};
pub use list::{DescribeJobs, JobStatus, ListJobs, StateName};
pub use model::{GetModels, PublishModels};
pub use order::{Follow, Followed, Order, REPLICAS_ADDED_MAX, URGENT_MAX};
pub use peers::Odd;
pub use platform::{FindPlatform, ListPlatforms, PlatformEntry, PlatformStatus};
pub use proposal::{OUTSTANDING_MAX, ProposeLayers, Proposed};
pub use refusal::Refusal;
pub use report::{
    Acknowledgement, Booked, FAILURES_MAX, LastMeasurement, Outcome, Report, ReportResults,
};
pub use retraction::{LastRetraction, RetractMeasurements, Retracted, Retraction};
pub use secret::SecretHash;
pub use time::Timestamp;
pub use totals::{Tally, Total, TotalName, Totals};

use jobs::Jobs;
use peers::Effects;
use turns::Turns;

/// Something that happens to the farm, or is asked of it.
pub trait Event: Send + 'static {
    /// The answer. It may be given only once the changes are stored.
    type Reply: Send + 'static;

    /// The jobs that it is about, open or not: those that have left memory are to be recalled before it is applied.
    fn is_about(&self, _farm: &Farm) -> Vec<JobName> {
        Vec::new()
    }

    /// Does it. A refusal changes nothing.
    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply;
}

/// How an event names a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobName {
    /// By its id: what it asks for is wanted too.
    Id(JobId),
    /// By what it asks for.
    Task(TaskKey),
}

/// The whole farm in memory: all but the measurements, older models, and the jobs that are over.
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
    effects: Effects,
    /// The last measurement taken.
    sequence: u64,
    /// The last retraction.
    retractions: u64,
    /// What the event under way has changed so far.
    changes: Vec<Change>,
}

impl Farm {
    /// The farm as it was stored. Every live lease gets a full term anew: while the coordinator was away, no agent could
    /// renew.
    pub fn restore(records: Records, now: Timestamp) -> Self {
        let mut tasks: BTreeMap<_, _> = records.tasks.into_iter().collect();
        let mut jobs = Jobs::counting_from(records.totals);
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
            effects: Effects::default(),
            sequence: records.sequence,
            retractions: records.retractions,
            changes: Vec::new(),
        };
        farm.renew_all(now);
        farm.compare_all_devices();
        farm
    }

    /// Takes one event. The changes are to be stored, in order and together, before the reply is given.
    pub fn apply<E: Event>(&mut self, now: Timestamp, event: E) -> (E::Reply, Vec<Change>) {
        self.expire(now);
        let reply = event.apply(self, now);
        self.changes.extend(self.jobs.totals.take_moved());
        (reply, std::mem::take(&mut self.changes))
    }

    /// The jobs that an event is about and that are not in memory.
    pub fn missing<E: Event>(&self, event: &E) -> Vec<JobName> {
        let mut names = event.is_about(self);
        names.retain(|name| match name {
            JobName::Id(id) => self.jobs.known_task(*id).is_none(),
            JobName::Task(task) => !self.jobs.holds(task),
        });
        names
    }

    /// Takes back a job that is over, as it is stored, and what it asked for if it was named by its id.
    pub fn recall(&mut self, job: Job, task: Option<Task>) {
        // An open job that isn't in memory was removed a moment ago: the store hears of it with the next commit.
        if !job.state.is_open() {
            self.jobs.recall(job, task);
        }
    }

    /// Forgets the jobs that are over. To be called when all changes so far are stored, and not before.
    pub fn forget(&mut self) {
        self.jobs.forget();
    }

    /// When time alone will change something: a [`Tick`] is due then.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.jobs.next_end()
    }

    /// Every job in memory, in the order of their ids.
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
                | Change::Model(_)
                | Change::Total(_)
                | Change::Retraction(_) => (),
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
        let last = self.jobs.iter().filter_map(|job| job.grants.last());
        if last.map(|grant| grant.lease).max() > Some(self.jobs.totals.last_lease()) {
            return Err("a lease has a number that was never given".to_owned());
        }
        let mut sequences = self.jobs.iter().flat_map(Job::measurements);
        match sequences.find(|&sequence| sequence > self.sequence) {
            Some(sequence) => Err(format!("measurement {sequence} was never numbered")),
            None => Ok(()),
        }
    }

    /// What is counted over all jobs.
    pub fn totals(&self) -> &Totals {
        &self.jobs.totals
    }
}
