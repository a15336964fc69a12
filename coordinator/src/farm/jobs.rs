//! The jobs in memory, with all that follows from them: who waits where, who holds which lease.
//!
//! In memory are the open jobs, and of those that are over the ones that an event is about: they are recalled from the
//! store before it and forgotten after its commit. What is counted over all jobs is kept in [`Totals`].
//!
//! What follows is never set by hand. [`Jobs::alter`] is the one way to change a job: it takes the job out of the index,
//! changes it, and puts it back, so the index is at any time what it would be if it were built from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattfarm_cost::Hash;
use wattfarm_cost::id::{AgentId, JobId, LeaseNumber};

use super::job::{Job, State, Task, TaskKey};
use super::queue::Queue;
use super::totals::{Counted, Totals};
use super::{Change, Timestamp};

/// The jobs in memory.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: BTreeMap<JobId, Job>,
    /// Those of them that are over: to be forgotten once they are stored.
    over: BTreeSet<JobId>,
    /// What the open jobs ask for.
    tasks: BTreeMap<JobId, Arc<Task>>,
    /// What jobs that are over asked for, of those that were open a moment ago, or of which a report is about to come.
    tasks_over: BTreeMap<JobId, Arc<Task>>,
    index: Index,
    terms: Terms,
    pub(super) totals: Totals,
}

/// What follows from the jobs.
#[derive(Debug, Default, PartialEq)]
struct Index {
    by_task: BTreeMap<TaskKey, JobId>,
    queues: BTreeMap<Hash, Queue>,
    leases: BTreeMap<AgentId, BTreeMap<LeaseNumber, JobId>>,
    urgent: BTreeMap<Hash, u64>,
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

impl Jobs {
    /// No jobs in memory, with what is counted over those that there have been.
    pub(super) fn counting_from(totals: Totals) -> Self {
        Self {
            totals,
            ..Self::default()
        }
    }

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

    /// What a job in memory asks for, as far as that is known.
    pub(super) fn known_task(&self, id: JobId) -> Option<&Arc<Task>> {
        self.tasks.get(&id).or_else(|| self.tasks_over.get(&id))
    }

    pub(super) fn queue(&self, platform: &Hash) -> Option<&Queue> {
        self.index.queues.get(platform)
    }

    pub(super) fn leases_of(&self, agent: AgentId) -> impl Iterator<Item = (LeaseNumber, JobId)> {
        let leases = self.index.leases.get(&agent).into_iter().flatten();
        leases.map(|(&lease, &job)| (lease, job))
    }

    /// Jobs of a platform that a user waits for.
    pub(super) fn urgent(&self, platform: &Hash) -> u64 {
        self.index.urgent.get(platform).copied().unwrap_or(0)
    }

    /// Whether the job of a task is in memory.
    pub(super) fn holds(&self, task: &TaskKey) -> bool {
        self.index.by_task.contains_key(task)
    }

    /// Takes in a job as it is on disk: it is counted already.
    pub(super) fn restore(&mut self, job: Job, task: Option<Arc<Task>>) {
        self.tasks.extend(task.map(|task| (job.id, task)));
        self.index.insert(&job);
        if !job.state.is_open() {
            self.over.insert(job.id);
        }
        self.jobs.insert(job.id, job);
    }

    /// Takes back a job that is over; what it asked for, if that will be looked at.
    pub(super) fn recall(&mut self, job: Job, task: Option<Task>) {
        let task = task.map(|task| (job.id, Arc::new(task)));
        self.tasks_over.extend(task);
        if !self.jobs.contains_key(&job.id) {
            self.restore(job, None);
        }
    }

    /// Forgets the jobs that are over.
    pub(super) fn forget(&mut self) {
        self.tasks_over.clear();
        for id in std::mem::take(&mut self.over) {
            if let Some(job) = self.jobs.remove(&id) {
                self.index.remove(&job);
            }
        }
    }

    /// Adds a job, or gives one that isn't open its task back.
    pub(super) fn add(&mut self, job: Job, task: Task, changes: &mut Vec<Change>) {
        let task = Arc::new(task);
        changes.push(Change::Task(job.id, Arc::clone(&task)));
        changes.push(Change::Job(job.clone()));
        self.totals.replace(None, Some(Counted::of(&job)));
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
        let counted = Counted::of(job);
        let lease_before = live_lease(job);
        alteration(job);
        if lease_before.is_some() && lease_before != live_lease(job) {
            lease_before
                .into_iter()
                .for_each(|lease| self.terms.end(lease));
        }
        if job.state.is_open() {
            self.over.remove(&id);
        } else {
            let task = self.tasks.remove(&id).map(|task| (id, task));
            self.tasks_over.extend(task);
            self.over.insert(id);
        }
        self.index.insert(job);
        self.totals.replace(Some(counted), Some(Counted::of(job)));
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
        self.totals.replace(Some(Counted::of(&job)), None);
        self.over.remove(&id);
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
        if self.over.contains(&id) == job.state.is_open() {
            return wrong("the job is open and would be forgotten, or is over and would not");
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
        if job.is_awaited() {
            *self.urgent.entry(job.task.platform).or_default() += 1;
        }
    }

    fn remove(&mut self, job: &Job) {
        self.by_task.remove(&job.task);
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
        if job.is_awaited() {
            let urgent = self.urgent.entry(job.task.platform).or_default();
            *urgent -= 1;
            if *urgent == 0 {
                self.urgent.remove(&job.task.platform);
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
