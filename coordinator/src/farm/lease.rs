//! Leases: who may measure what, and until when.

use std::sync::Arc;
use std::time::Duration;

use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};
use wattfarm_cost::{Hash, Subject};

use super::job::{Grant, Job, State, Task};
use super::queue::Queue;
use super::turns::Waiting;
use super::{Event, FAILURES_MAX, Farm, Refusal, SecretHash, Timestamp};

/// How long a lease lasts unless it is renewed.
pub const LEASE_TTL: Duration = Duration::from_secs(25);

/// How long an agent may hold a job, renewing, before it is taken to be stuck: at the least, and so many times what its jobs
/// take it on the mean, for each job that it holds.
pub const PROGRESS_MIN: Duration = Duration::from_secs(15 * 60);
const PROGRESS_MEANS: u32 = 20;

/// The most leases that one agent may hold.
const LEASES_PER_AGENT_MAX: usize = 128;

/// A job whose lease runs out this many times in a row, with no word from any agent, is taken to be what kills them.
pub const EXPIRIES_MAX: u32 = 5;

/// A job of which so many leases saw no report at all is given up, though none ran out in a row: what kills an agent that
/// starts again at once shows only as leases that nobody holds.
pub const SILENT_MAX: usize = 20;

/// The most leases of one job for one wish, so that agents that hand it back for ever don't make its record grow for ever.
const GRANTS_MAX: usize = 1000;

/// Takes jobs.
#[derive(Debug)]
pub struct LeaseJobs {
    /// Who asks.
    pub credential: SecretHash,
    /// How many at most.
    pub jobs_max: usize,
    /// The leases that the agent knows of; every other one of its own was granted by a reply that got lost. `None` when
    /// the same call asks again after a wait, for then it has not heard of leases that a later call got.
    pub held: Option<Vec<LeaseNumber>>,
}

/// What an agent gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    /// The asking agent's platform: news of work there is worth asking again.
    pub platform: Hash,
    /// The jobs.
    pub leases: Vec<Lease>,
    /// Whether the agent gets no more jobs: an operator wants it to end, or it is quarantined.
    pub draining: bool,
}

/// A job in an agent's hands.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Its number.
    pub number: LeaseNumber,
    /// The job.
    pub job: JobId,
    /// What to do.
    pub task: Arc<Task>,
}

impl Event for LeaseJobs {
    type Reply = Result<Leased, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let id = farm.authenticate(&self.credential, now)?;
        if let Some(held) = &self.held {
            farm.take_back_leases(now, id, held);
        }
        let agent = &farm.agents[&id];
        let (platform, draining) = (
            agent.platform,
            agent.draining || agent.quarantined.is_some(),
        );
        let room = LEASES_PER_AGENT_MAX.saturating_sub(farm.jobs.leases_of(id).count());
        let room = if draining { 0 } else { room.min(self.jobs_max) };
        let mut leases = Vec::new();
        let mut waiting = farm.waiting(&platform);
        while leases.len() < room
            && let Some(job) = farm.next_job(&platform, &mut waiting)
        {
            let lease = farm.grant(now, id, job);
            let is_network = matches!(lease.task.subject, Subject::Network(_));
            leases.push(lease);
            // Layers are small, but a second network might not fit into the answer's message.
            if is_network {
                break;
            }
        }
        Ok(Leased {
            platform,
            leases,
            draining,
        })
    }
}

/// Gives leases a full term anew.
#[derive(Debug)]
pub struct RenewLeases {
    /// Who asks.
    pub credential: SecretHash,
    /// The leases.
    pub leases: Vec<LeaseNumber>,
}

impl Event for RenewLeases {
    /// The leases that are the agent's no longer.
    type Reply = Result<Vec<LeaseNumber>, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let id = farm.authenticate(&self.credential, now)?;
        let mut lost = Vec::new();
        for lease in self.leases {
            let job = farm.jobs.leases_of(id).find(|&(own, _)| own == lease);
            match job {
                Some((_, job)) => farm.jobs.renew(lease, job, now.plus(LEASE_TTL)),
                None => lost.push(lease),
            }
        }
        Ok(lost)
    }
}

/// Time has passed: every event does what is due first, so this one does nothing more.
#[derive(Debug)]
pub struct Tick;

impl Event for Tick {
    type Reply = ();

    fn apply(self, _farm: &mut Farm, _now: Timestamp) {}
}

impl Farm {
    /// Gives every live lease a full term anew, and as long as ever to make progress.
    pub(super) fn renew_all(&mut self, now: Timestamp) {
        for (lease, job) in self.jobs.live_leases() {
            let agent = self
                .jobs
                .get(job)
                .and_then(|job| job.grants.last())
                .map(|grant| grant.agent);
            let Some(agent) = agent else { continue };
            let progress_end = self.progress_end(now, agent);
            self.jobs
                .begin_term(lease, job, now.plus(LEASE_TTL), progress_end);
        }
    }

    /// Ends the leases whose term is over.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some(id) = self.jobs.overdue(now) {
            if self.jobs.is_stuck(id, now) {
                self.take_from_stuck(now, id);
                continue;
            }
            let expiries = self.jobs.get(id).map_or(0, |job| job.expiries) + 1;
            if expiries < EXPIRIES_MAX {
                self.jobs
                    .alter(id, &mut self.changes, |job| job.expiries = expiries);
                self.requeue(now, id);
            } else {
                let because = format!("{expiries} agents in a row fell silent while they had it");
                self.answer(now, id, State::Parked { because }, |job| {
                    job.expiries = expiries
                });
            }
        }
    }

    /// Takes a job from an agent that lives and renews, and has held it for much longer than jobs take it. That counts as a
    /// failure: perhaps the job is what agents get stuck on. What is reported all the same is taken.
    fn take_from_stuck(&mut self, now: Timestamp, id: JobId) {
        let failures = self.jobs.get(id).map_or(0, |job| job.failures) + 1;
        if failures < FAILURES_MAX {
            self.jobs
                .alter(id, &mut self.changes, |job| job.failures = failures);
            self.requeue(now, id);
        } else {
            let because =
                format!("failed {failures} times, at last: an agent held it and brought no result");
            self.answer(now, id, State::Parked { because }, |job| {
                job.failures = failures
            });
        }
    }

    /// Until when an agent may hold a job that it gets now.
    fn progress_end(&self, now: Timestamp, agent: AgentId) -> Timestamp {
        let mean = self.agents.get(&agent).map_or(0, |agent| agent.job_ms_mean);
        let held = self.jobs.leases_of(agent).count() as u32 + 1;
        let expected = Duration::from_millis(mean).saturating_mul(PROGRESS_MEANS * held);
        now.plus(expected.max(PROGRESS_MIN))
    }

    /// Puts an agent's leases other than `held` back into the queue, as if they had never been.
    pub(super) fn take_back_leases(
        &mut self,
        now: Timestamp,
        agent: AgentId,
        held: &[LeaseNumber],
    ) {
        let unheard: Vec<_> = self
            .jobs
            .leases_of(agent)
            .filter(|(lease, _)| !held.contains(lease))
            .collect();
        unheard
            .into_iter()
            .for_each(|(_, job)| self.requeue(now, job));
    }

    /// An agent's leases of jobs that nobody waits for any more.
    pub(super) fn unwanted_leases(&self, agent: AgentId) -> Vec<LeaseNumber> {
        let is_wanted = |job: &Job| {
            let live = |id| (self.campaigns.get(&id)).is_some_and(|found| found.end.is_none());
            job.urgent || job.waiting_campaigns().any(live)
        };
        self.jobs
            .leases_of(agent)
            .filter(|&(_, job)| self.jobs.get(job).is_some_and(|job| !is_wanted(job)))
            .map(|(lease, _)| lease)
            .collect()
    }

    /// Puts a job back into the queue, if anybody still waits for it.
    pub(super) fn requeue(&mut self, now: Timestamp, id: JobId) {
        if let Some(because) = self.jobs.get(id).and_then(worn_out) {
            return self.answer(now, id, State::Parked { because }, |_| ());
        }
        let campaigns = &self.campaigns;
        self.jobs.alter(id, &mut self.changes, |job| {
            if job.replicas_done() == 0 {
                job.shares.retain(|campaign, _| {
                    campaigns
                        .get(campaign)
                        .is_some_and(|campaign| campaign.end.is_none())
                });
            }
            job.state = if job.is_wanted() {
                State::Queued
            } else {
                State::Withdrawn
            };
        });
    }

    /// The campaigns that jobs of a platform may be given out for.
    fn waiting(&self, platform: &Hash) -> Waiting {
        let queue = self.jobs.queue(platform).into_iter();
        let campaigns = queue.flat_map(Queue::campaigns);
        let campaigns = campaigns.filter_map(|id| self.campaigns.get(&id));
        let campaigns = campaigns.filter(|campaign| !campaign.paused);
        self.turns.waiting(platform, campaigns)
    }

    /// The next job to give out on a platform: first what a user waits for, then by turns.
    fn next_job(&mut self, platform: &Hash, waiting: &mut Waiting) -> Option<JobId> {
        let queue = self.jobs.queue(platform)?;
        if let Some(job) = queue.first_urgent() {
            return Some(job);
        }
        while let Some(next) = self.turns.next(platform, waiting) {
            let campaign = &self.campaigns[&next];
            if let Some(job) = queue.first_of(next) {
                self.turns.serve(campaign, waiting);
                return Some(job);
            }
            waiting.drop_next(campaign);
        }
        None
    }

    fn grant(&mut self, now: Timestamp, agent: AgentId, id: JobId) -> Lease {
        let lease = self.jobs.totals.next_lease();
        let progress_end = self.progress_end(now, agent);
        self.jobs.alter(id, &mut self.changes, |job| {
            job.state = State::Leased {
                agent,
                lease,
                since: now,
            };
            job.grants.push(Grant {
                lease,
                agent,
                report: None,
            });
        });
        self.jobs
            .begin_term(lease, id, now.plus(LEASE_TTL), progress_end);
        Lease {
            number: lease,
            job: id,
            task: Arc::clone(self.jobs.task(id)),
        }
    }
}

/// Why a job has been handed out often enough, if it has.
fn worn_out(job: &Job) -> Option<String> {
    let granted = || job.grants.iter().skip(job.grants_forgiven);
    let silent = granted().filter(|grant| grant.report.is_none()).count();
    if silent >= SILENT_MAX {
        return Some(format!(
            "handed out {silent} times without a word from the agent"
        ));
    }
    let grants = granted().count();
    (grants >= GRANTS_MAX).then(|| format!("handed out {grants} times"))
}
