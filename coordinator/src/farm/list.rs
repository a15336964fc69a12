//! Lists of jobs, each with why it is where it is.

use std::collections::BTreeMap;

use wattfarm_cost::Hash;
use wattfarm_cost::id::JobId;

use super::because::{Outlook, ended_because};
use super::job::{Job, State};
use super::{Event, Farm, Refusal, Timestamp};

/// The states that a list is asked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateName {
    /// Waits for an agent.
    Queued,
    /// An agent has it.
    Leased,
    /// Measured.
    Done,
    /// Impossible on its platform.
    Infeasible,
    /// Given up, or wanted no more.
    Parked,
}

impl State {
    /// The state without what belongs to it.
    pub fn name(&self) -> StateName {
        match self {
            Self::Queued => StateName::Queued,
            Self::Leased { .. } => StateName::Leased,
            Self::Done => StateName::Done,
            Self::Infeasible { .. } => StateName::Infeasible,
            Self::Parked { .. } | Self::Withdrawn => StateName::Parked,
        }
    }
}

/// Asks for jobs that are queued or leased.
#[derive(Debug)]
pub struct ListJobs {
    /// Slug or hash; `None` for all.
    pub platform: Option<String>,
    /// Only these; empty for all.
    pub states: Vec<StateName>,
    /// How many at most.
    pub limit: usize,
}

/// A job and why it is where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct JobStatus {
    /// The job.
    pub job: Job,
    /// Its platform's name among people.
    pub slug: String,
    /// Why it waits, or why it ended as it did.
    pub because: String,
}

impl Event for ListJobs {
    type Reply = Result<Vec<JobStatus>, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let platform = self
            .platform
            .map(|name| farm.find_platform(&name).map(|entry| entry.hash))
            .transpose()?;
        let wanted = |job: &&Job| {
            job.state.is_open()
                && platform.is_none_or(|platform| platform == job.task.platform)
                && (self.states.is_empty() || self.states.contains(&job.state.name()))
        };
        // What is the same for all of a platform is looked at once.
        let mut platforms: BTreeMap<Hash, (BTreeMap<JobId, usize>, Outlook)> = BTreeMap::new();
        let jobs = farm.jobs.iter().filter(wanted).take(self.limit).map(|job| {
            let at = job.task.platform;
            let (positions, outlook) = platforms.entry(at).or_insert_with(|| {
                let queue = farm.jobs.queue(&at).map(|queue| queue.positions());
                (queue.unwrap_or_default(), farm.outlook(&at, now))
            });
            let ahead = positions.get(&job.id).copied();
            JobStatus {
                job: job.clone(),
                slug: farm.slug(&at),
                because: farm.job_because(job, ahead, outlook, now),
            }
        });
        Ok(jobs.collect())
    }
}

/// Asks why jobs ended as they did: jobs that are over, which the store has.
#[derive(Debug)]
pub struct DescribeJobs(pub Vec<Job>);

impl Event for DescribeJobs {
    type Reply = Vec<JobStatus>;

    fn apply(self, farm: &mut Farm, _now: Timestamp) -> Self::Reply {
        let status = |job: Job| JobStatus {
            slug: farm.slug(&job.task.platform),
            because: ended_because(&job),
            job,
        };
        self.0.into_iter().map(status).collect()
    }
}
