//! Every job, with all that follows from the jobs: who waits where, who holds which lease, what each campaign has.
//!
//! What follows is never set by hand. [`Jobs::alter`] is the one way to change a job: it takes the job out of the index,
//! changes it, and puts it back, so the index is at any time what it would be if it were built from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattfarm_cost::id::{AgentId, CampaignId, JobId, LeaseNumber};
use wattfarm_cost::{Hash, Kind};

use super::job::{Job, Share, State, Task, TaskKey};
use super::queue::Queue;
use super::{Change, Timestamp};

/// What a job that came to nothing takes off a budget in seconds at least: a campaign of impossible jobs ends too.
const FRUITLESS_MS: u64 = 100;

/// Every job of the farm.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: BTreeMap<JobId, Job>,
    /// What the open jobs ask for. Of the others the store alone knows it.
    tasks: BTreeMap<JobId, Arc<Task>>,
    index: Index,
    terms: Terms,
}

/// What follows from the jobs.
#[derive(Debug, Default, PartialEq)]
struct Index {
    by_task: BTreeMap<TaskKey, JobId>,
    queues: BTreeMap<Hash, Queue>,
    leases: BTreeMap<AgentId, BTreeMap<LeaseNumber, JobId>>,
    tallies: BTreeMap<CampaignId, Tally>,
    measurements: BTreeMap<Hash, u64>,
    urgent: BTreeMap<Hash, u64>,
    suspects: BTreeSet<u64>,
}

/// When leases end. Not on disk: after a restart each gets a full term anew, since its agent could not renew it.
#[derive(Debug, Default, PartialEq)]
struct Terms {
    ends: BTreeMap<LeaseNumber, Term>,
    by_end: BTreeSet<(Timestamp, LeaseNumber)>,
}

/// The term of a lease.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Term {
    job: JobId,
    end: Timestamp,
    /// Until when it may be renewed.
    progress_end: Timestamp,
}

/// What a campaign has from its jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Jobs measured for it.
    pub done: u64,
    /// Jobs that its platform cannot run.
    pub infeasible: u64,
    /// Jobs given up.
    pub parked: u64,
    /// Jobs queued or leased.
    pub outstanding: u64,
    /// What measuring took the agents, in ms, and a little for each job that came to nothing.
    pub measured_ms: u64,
    /// Layers measured, of each kind, those included that were there before.
    pub samples: BTreeMap<Kind, u64>,
}

impl Tally {
    /// Jobs that were answered or given up: what a budget of jobs pays for.
    pub fn spent(&self) -> u64 {
        self.done + self.infeasible + self.parked
    }
}

impl Jobs {
    pub(super) fn get(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    pub(super) fn find(&self, task: &TaskKey) -> Option<&Job> {
        self.index.by_task.get(task).map(|id| &self.jobs[id])
    }

    /// What an open job asks for.
    pub(super) fn task(&self, id: JobId) -> &Arc<Task> {
        self.tasks
            .get(&id)
            .expect("an open job has its task in memory")
    }

    pub(super) fn queue(&self, platform: &Hash) -> Option<&Queue> {
        self.index.queues.get(platform)
    }

    pub(super) fn leases_of(&self, agent: AgentId) -> impl Iterator<Item = (LeaseNumber, JobId)> {
        let leases = self.index.leases.get(&agent).into_iter().flatten();
        leases.map(|(&lease, &job)| (lease, job))
    }

    pub(super) fn tally(&self, campaign: CampaignId) -> Tally {
        self.index
            .tallies
            .get(&campaign)
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn measurements(&self, platform: &Hash) -> u64 {
        self.index.measurements.get(platform).copied().unwrap_or(0)
    }

    /// Jobs of a platform that a user waits for.
    pub(super) fn urgent(&self, platform: &Hash) -> u64 {
        self.index.urgent.get(platform).copied().unwrap_or(0)
    }

    /// The measurements by devices that were not themselves.
    pub(super) fn suspects(&self) -> &BTreeSet<u64> {
        &self.index.suspects
    }

    /// The number of the last lease.
    pub(super) fn last_lease(&self) -> LeaseNumber {
        let last = self
            .jobs
            .values()
            .filter_map(|job| job.grants.last())
            .map(|grant| grant.lease)
            .max();
        last.unwrap_or(LeaseNumber(0))
    }

    /// Takes in a job as it is on disk.
    pub(super) fn restore(&mut self, job: Job, task: Option<Arc<Task>>) {
        self.tasks.extend(task.map(|task| (job.id, task)));
        self.index.insert(&job);
        self.jobs.insert(job.id, job);
    }

    /// Adds a job, or gives one that isn't open its task back.
    pub(super) fn add(&mut self, job: Job, task: Task, changes: &mut Vec<Change>) {
        let task = Arc::new(task);
        changes.push(Change::Task(job.id, Arc::clone(&task)));
        changes.push(Change::Job(job.clone()));
        self.restore(job, Some(task));
    }

    /// Opens a job again.
    pub(super) fn reopen(
        &mut self,
        id: JobId,
        task: Task,
        changes: &mut Vec<Change>,
        alteration: impl FnOnce(&mut Job),
    ) {
        self.tasks.insert(id, Arc::new(task));
        self.alter(id, changes, |job| {
            job.state = State::Queued;
            job.failures = 0;
            job.expiries = 0;
            job.grants_forgiven = job.grants.len();
            alteration(job);
        });
    }

    /// Changes a job; all that follows from it follows.
    pub(super) fn alter(
        &mut self,
        id: JobId,
        changes: &mut Vec<Change>,
        alteration: impl FnOnce(&mut Job),
    ) {
        let job = self
            .jobs
            .get_mut(&id)
            .expect("only jobs that are there are altered");
        self.index.remove(job);
        let lease_before = live_lease(job);
        alteration(job);
        if lease_before.is_some() && lease_before != live_lease(job) {
            lease_before
                .into_iter()
                .for_each(|lease| self.terms.end(lease));
        }
        if !job.state.is_open() {
            self.tasks.remove(&id);
        }
        self.index.insert(job);
        changes.push(Change::Job(job.clone()));
    }

    /// Forgets a job that nobody was ever given.
    pub(super) fn remove(&mut self, id: JobId, changes: &mut Vec<Change>) {
        let job = self
            .jobs
            .remove(&id)
            .expect("only jobs that are there are removed");
        assert!(job.grants.is_empty(), "somebody may still report on {id}");
        self.index.remove(&job);
        self.tasks.remove(&id);
        changes.push(Change::JobGone(id));
    }

    /// Gives a live lease a term until `end`, which can be renewed until `progress_end`.
    pub(super) fn begin_term(
        &mut self,
        lease: LeaseNumber,
        job: JobId,
        end: Timestamp,
        progress_end: Timestamp,
    ) {
        self.terms.end(lease);
        let end = end.min(progress_end);
        let term = Term {
            job,
            end,
            progress_end,
        };
        self.terms.ends.insert(lease, term);
        self.terms.by_end.insert((end, lease));
    }

    /// Has a live lease last until `end`, if it may.
    pub(super) fn renew(&mut self, lease: LeaseNumber, job: JobId, end: Timestamp) {
        let progress_end = self
            .terms
            .ends
            .get(&lease)
            .map_or(end, |term| term.progress_end);
        self.begin_term(lease, job, end, progress_end);
    }

    /// Whether the lease of a job has ended because it could not be renewed any more.
    pub(super) fn is_stuck(&self, job: JobId, now: Timestamp) -> bool {
        let lease = self.jobs.get(&job).and_then(live_lease);
        let term = lease.and_then(|lease| self.terms.ends.get(&lease));
        term.is_some_and(|term| term.progress_end <= now)
    }

    /// When the next lease ends.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.terms.by_end.first().map(|&(end, _)| end)
    }

    /// A job whose lease has ended by `now`.
    pub(super) fn overdue(&self, now: Timestamp) -> Option<JobId> {
        let &(end, lease) = self.terms.by_end.first()?;
        (end <= now).then(|| self.terms.ends[&lease].job)
    }

    /// Every live lease.
    pub(super) fn live_leases(&self) -> Vec<(LeaseNumber, JobId)> {
        self.jobs
            .values()
            .filter_map(|job| Some((live_lease(job)?, job.id)))
            .collect()
    }

    /// Says what is wrong with what follows from one job, if anything: cheap enough for every step.
    pub(super) fn check_job(&self, id: JobId) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {id}, {:?}", self.jobs.get(&id)));
        let Some(job) = self.jobs.get(&id) else {
            let left = self.tasks.contains_key(&id);
            return if left {
                wrong("a task without a job")
            } else {
                Ok(())
            };
        };
        if self.index.by_task.get(&job.task) != Some(&id) {
            return wrong("the job is not its task's");
        }
        let queue = self.index.queues.get(&job.task.platform);
        if queue.is_some_and(|queue| queue.holds(job)) != (job.state == State::Queued) {
            return wrong("the queue holds what it should not, or lacks what it should hold");
        }
        if self.tasks.contains_key(&id) != job.state.is_open() {
            return wrong("the task is in memory though the job is over, or missing");
        }
        if job.state == State::Queued && !job.is_wanted() {
            return wrong("nobody wants it");
        }
        if let State::Leased { agent, lease, .. } = &job.state {
            let held = self
                .index
                .leases
                .get(agent)
                .and_then(|leases| leases.get(lease));
            let term = self.terms.ends.get(lease);
            let timed = term.is_some_and(|term| {
                term.job == id && self.terms.by_end.contains(&(term.end, *lease))
            });
            if held != Some(&id) || !timed {
                return wrong("the lease is not its agent's, or has no term");
            }
        }
        let mut fences = job.grants.windows(2);
        if !fences.all(|pair| pair[0].lease < pair[1].lease) {
            return wrong("its lease numbers do not grow");
        }
        Ok(())
    }

    /// Says what is wrong, if anything: for tests, since it looks at every job.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut index = Index::default();
        self.jobs.values().for_each(|job| index.insert(job));
        if index != self.index {
            return Err(format!(
                "the index is {:?}\nbut follows as {index:?}",
                self.index
            ));
        }
        let open: BTreeSet<_> = self
            .jobs
            .values()
            .filter(|job| job.state.is_open())
            .map(|job| job.id)
            .collect();
        if !self.tasks.keys().eq(open.iter()) {
            return Err("the tasks in memory are not those of the open jobs".to_owned());
        }
        let live: BTreeMap<_, _> = self.live_leases().into_iter().collect();
        let timed: BTreeMap<_, _> = self
            .terms
            .ends
            .iter()
            .map(|(&lease, term)| (lease, term.job))
            .collect();
        let by_end: BTreeSet<_> = self
            .terms
            .ends
            .iter()
            .map(|(&lease, term)| (term.end, lease))
            .collect();
        if live != timed || by_end != self.terms.by_end {
            return Err(format!("live leases {live:?} have terms {timed:?}"));
        }
        let waits_for_nobody = |job: &&Job| job.state == State::Queued && !job.is_wanted();
        self.jobs
            .values()
            .find(waits_for_nobody)
            .map_or(Ok(()), |job| Err(format!("nobody wants {job:?}")))
    }
}

impl Terms {
    fn end(&mut self, lease: LeaseNumber) {
        if let Some(term) = self.ends.remove(&lease) {
            self.by_end.remove(&(term.end, lease));
        }
    }
}

impl Index {
    fn insert(&mut self, job: &Job) {
        self.by_task.insert(job.task, job.id);
        self.suspects.extend(job.suspects());
        match &job.state {
            State::Queued => self
                .queues
                .entry(job.task.platform)
                .or_default()
                .insert(job),
            State::Leased { agent, lease, .. } => {
                self.leases
                    .entry(*agent)
                    .or_default()
                    .insert(*lease, job.id);
            }
            State::Done | State::Infeasible { .. } | State::Parked { .. } | State::Withdrawn => (),
        }
        let measured = u64::from(job.replicas_done());
        if measured > 0 {
            *self.measurements.entry(job.task.platform).or_default() += measured;
        }
        if job.is_awaited() {
            *self.urgent.entry(job.task.platform).or_default() += 1;
        }
        for (&campaign, &share) in &job.shares {
            self.tallies
                .entry(campaign)
                .or_default()
                .count(job, share, |total, part| {
                    *total = total.saturating_add(part);
                });
        }
    }

    fn remove(&mut self, job: &Job) {
        self.by_task.remove(&job.task);
        for suspect in job.suspects() {
            self.suspects.remove(&suspect);
        }
        match &job.state {
            State::Queued => {
                let queue = self.queues.entry(job.task.platform).or_default();
                queue.remove(job);
                if queue.is_empty() {
                    self.queues.remove(&job.task.platform);
                }
            }
            State::Leased { agent, lease, .. } => {
                let leases = self.leases.entry(*agent).or_default();
                leases.remove(lease);
                if leases.is_empty() {
                    self.leases.remove(agent);
                }
            }
            State::Done | State::Infeasible { .. } | State::Parked { .. } | State::Withdrawn => (),
        }
        let measured = self.measurements.entry(job.task.platform).or_default();
        *measured -= u64::from(job.replicas_done());
        if *measured == 0 {
            self.measurements.remove(&job.task.platform);
        }
        if job.is_awaited() {
            let urgent = self.urgent.entry(job.task.platform).or_default();
            *urgent -= 1;
            if *urgent == 0 {
                self.urgent.remove(&job.task.platform);
            }
        }
        for (&campaign, &share) in &job.shares {
            let tally = self.tallies.entry(campaign).or_default();
            tally.count(job, share, |total, part| {
                *total = total.saturating_sub(part);
            });
            tally.samples.retain(|_, samples| *samples > 0);
            if *tally == Tally::default() {
                self.tallies.remove(&campaign);
            }
        }
    }
}

impl Tally {
    /// Adds a job's part, or takes it off again: `apply` says which.
    fn count(&mut self, job: &Job, share: Share, apply: impl Fn(&mut u64, u64)) {
        let answered = job.replicas_done() > 0;
        if let Some(kind) = job.kind.filter(|_| answered) {
            apply(self.samples.entry(kind).or_default(), 1);
        }
        if share == Share::Ordered {
            let least_ms = match &job.state {
                State::Infeasible { .. } | State::Parked { .. } => FRUITLESS_MS,
                State::Queued | State::Leased { .. } | State::Done | State::Withdrawn => 0,
            };
            apply(&mut self.measured_ms, job.measured_ms.max(least_ms));
            match &job.state {
                _ if answered => apply(&mut self.done, 1),
                State::Queued | State::Leased { .. } => apply(&mut self.outstanding, 1),
                State::Infeasible { .. } => apply(&mut self.infeasible, 1),
                State::Parked { .. } => apply(&mut self.parked, 1),
                State::Done | State::Withdrawn => (),
            }
        }
    }
}

fn live_lease(job: &Job) -> Option<LeaseNumber> {
    match job.state {
        State::Leased { lease, .. } => Some(lease),
        State::Queued
        | State::Done
        | State::Infeasible { .. }
        | State::Parked { .. }
        | State::Withdrawn => None,
    }
}
