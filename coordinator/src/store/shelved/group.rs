//! What a commit writes: each change's record, alone or in a pack with others, and the indices that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattfarm_cost::id::{AgentId, JobId};

use super::super::StoreError;
use super::super::home::Batch;
use super::super::pack::Packer;
use super::super::record::encode;
use super::super::shelf::{COUNT, Shelf, model_key, task_key, total_key};
use super::open::OpenJobs;
use crate::farm::{Agent, Change, Entry, Job, Task, TaskKey, Total, TotalName};

/// Packs that one commit may write: their numbers begin with the commit's.
const PACKS: u64 = 1 << 20;

/// A pack of open jobs of which no more than one in so many is live is given up: what is live moves on, so that no pack
/// is kept, and read, for a few jobs that nobody takes.
const LIVE_LEAST: usize = 4;

/// What a commit asks the store about what there is.
pub(super) trait Stored {
    /// A job.
    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;
    /// The jobs in a pack of open ones.
    fn open_pack(&self, pack: u64) -> Result<Arc<Vec<Job>>, StoreError>;
    /// Whether there is a measurement of this sequence.
    fn has_measurement(&self, sequence: u64) -> Result<bool, StoreError>;
}

/// A commit in the making.
pub(super) struct Group<'a> {
    batch: Batch,
    packs: u64,
    tasks: BTreeMap<JobId, &'a Task>,
    /// Records that many changes of a commit are about: only the last is written.
    jobs: BTreeMap<JobId, &'a Job>,
    agents: BTreeMap<AgentId, &'a Agent>,
    totals: BTreeMap<TotalName, &'a Total>,
    gone: BTreeSet<JobId>,
    entries: BTreeMap<u64, &'a Entry>,
}

/// A commit ready to be written, and what is true once it is.
pub(super) struct Ready {
    pub(super) batch: Batch,
    /// Jobs that are open no more.
    pub(super) left: Vec<JobId>,
    /// Packs of open jobs that are new, and that are removed.
    pub(super) packed: Vec<(u64, Vec<JobId>)>,
    pub(super) removed: Vec<u64>,
    /// The last sequence of its measurements.
    pub(super) sequence: Option<u64>,
}

impl<'a> Group<'a> {
    /// The commit of this number.
    pub(super) fn of(changes: &'a [Change], number: u64) -> Self {
        let mut group = Self {
            batch: Batch::new(number),
            packs: 0,
            tasks: BTreeMap::new(),
            jobs: BTreeMap::new(),
            agents: BTreeMap::new(),
            totals: BTreeMap::new(),
            gone: BTreeSet::new(),
            entries: BTreeMap::new(),
        };
        for change in changes {
            group.take(change);
        }
        group
    }

    fn take(&mut self, change: &'a Change) {
        let batch = &mut self.batch;
        match change {
            Change::Token(hash, token) => {
                batch.put(Shelf::Tokens, hash.as_bytes(), encode(&(hash, token)));
            }
            Change::Key(hash, key) => batch.put(Shelf::Keys, hash.as_bytes(), encode(&(hash, key))),
            Change::Agent(agent) => drop(self.agents.insert(agent.id, agent)),
            Change::Platform(entry) => {
                batch.put(Shelf::Platforms, entry.hash.as_bytes(), encode(entry));
            }
            Change::Task(job, task) => drop(self.tasks.insert(*job, task)),
            Change::Job(job) => drop(self.jobs.insert(job.id, job)),
            // A job that is gone never comes back under the same id.
            Change::JobGone(id) => drop(self.gone.insert(*id)),
            Change::Entry(entry) => drop(self.entries.insert(entry.sequence, entry)),
            Change::Campaign(campaign) => {
                batch.put(Shelf::Campaigns, campaign.id.0.as_bytes(), encode(campaign));
            }
            Change::Model(model) => {
                let key = model_key(&model.key, model.version);
                batch.put(Shelf::Models, &key, encode(model));
            }
            Change::Retraction(retraction) => {
                let key = retraction.number.to_be_bytes();
                batch.put(Shelf::Retractions, &key, encode(retraction));
            }
            Change::Total(total) => drop(self.totals.insert(total.name(), total)),
        }
    }

    /// What follows from all of the changes together.
    pub(super) fn ready(
        mut self,
        open: &OpenJobs,
        last_sequence: u64,
        packer: &mut Packer,
        stored: &impl Stored,
    ) -> Result<Ready, StoreError> {
        for (id, agent) in std::mem::take(&mut self.agents) {
            self.batch
                .put(Shelf::Agents, id.0.as_bytes(), encode(agent));
        }
        for (name, total) in std::mem::take(&mut self.totals) {
            self.batch
                .put(Shelf::Totals, &total_key(name), encode(total));
        }
        self.drop_gone(stored)?;
        self.pack_tasks(packer);
        let sequence = self.pack_entries(last_sequence, packer, stored)?;
        let (left, packed, removed) = self.pack_jobs(open, packer, stored)?;
        let number = self.batch.number;
        self.batch.put(Shelf::Commits, COUNT, encode(&number));
        Ok(Ready {
            batch: self.batch,
            left,
            packed,
            removed,
            sequence,
        })
    }

    fn next_pack(&mut self) -> u64 {
        self.packs += 1;
        assert!(self.packs < PACKS, "a commit has far fewer changes");
        self.batch.number * PACKS + self.packs
    }

    /// Takes jobs that are gone out of the index of tasks, unless another has taken their place since.
    fn drop_gone(&mut self, stored: &impl Stored) -> Result<(), StoreError> {
        let mut tasks: BTreeSet<TaskKey> = BTreeSet::new();
        for id in &self.gone {
            self.jobs.remove(id);
            let made = self.tasks.remove(id).map(Task::key);
            // Of one that was made in this commit nothing is stored.
            if made.is_none()
                && let Some(job) = stored.job(*id)?
            {
                tasks.insert(job.task);
                self.batch.remove(Shelf::ById, id.0.as_bytes());
            }
        }
        for task in self.tasks.values() {
            tasks.remove(&task.key());
        }
        for task in tasks {
            self.batch.remove(Shelf::ByTask, &task_key(&task));
        }
        Ok(())
    }

    fn pack_tasks(&mut self, packer: &mut Packer) {
        let tasks: Vec<_> = std::mem::take(&mut self.tasks).into_iter().collect();
        for (bytes, range) in packer.pack(&tasks) {
            let pack = self.next_pack().to_be_bytes();
            self.batch.put(Shelf::Tasks, &pack, bytes);
            for (job, task) in &tasks[range] {
                let place = [job.0.as_bytes().as_slice(), &pack].concat();
                self.batch.put(Shelf::ByTask, &task_key(&task.key()), place);
            }
        }
    }

    /// Packs hold measurements without a gap between them, so that one is found by the sequence of its pack's first.
    fn pack_entries(
        &mut self,
        last_sequence: u64,
        packer: &mut Packer,
        stored: &impl Stored,
    ) -> Result<Option<u64>, StoreError> {
        let mut runs: Vec<Vec<&Entry>> = Vec::new();
        for (sequence, entry) in std::mem::take(&mut self.entries) {
            // A measurement never changes; a copy may tell one twice, and the later ones first.
            if sequence <= last_sequence && stored.has_measurement(sequence)? {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.last().is_some_and(|last| last.sequence + 1 == sequence) => {
                    run.push(entry);
                }
                _ => runs.push(vec![entry]),
            }
        }
        let last = runs
            .last()
            .and_then(|run| run.last())
            .map(|entry| entry.sequence);
        for run in runs {
            for (bytes, range) in packer.pack(&run) {
                let first = run[range.start].sequence.to_be_bytes();
                self.batch.put(Shelf::Measurements, &first, bytes);
            }
        }
        Ok(last)
    }

    #[expect(clippy::type_complexity, reason = "three parts of `Ready`")]
    fn pack_jobs(
        &mut self,
        open: &OpenJobs,
        packer: &mut Packer,
        stored: &impl Stored,
    ) -> Result<(Vec<JobId>, Vec<(u64, Vec<JobId>)>, Vec<u64>), StoreError> {
        let jobs = std::mem::take(&mut self.jobs);
        // Who leaves each pack of open jobs.
        let mut leaving: BTreeMap<u64, usize> = BTreeMap::new();
        let changed = jobs.keys().chain(&self.gone);
        for pack in changed.filter_map(|id| open.pack_of(*id)) {
            *leaving.entry(pack).or_default() += 1;
        }
        // Nothing says of a job that is gone that it is: its pack must not stay.
        let of_gone: BTreeSet<u64> = self
            .gone
            .iter()
            .filter_map(|id| open.pack_of(*id))
            .collect();
        let (mut moving, mut removed) = (Vec::new(), Vec::new());
        for (pack, leave) in leaving {
            let fill = open.fill(pack);
            let stay = fill.live - leave;
            if stay > 0 && stay * LIVE_LEAST > fill.packed && !of_gone.contains(&pack) {
                continue;
            }
            if stay > 0 {
                let packed = stored.open_pack(pack)?;
                let stays = |job: &&Job| {
                    let is_here = open.pack_of(job.id) == Some(pack);
                    is_here && !jobs.contains_key(&job.id) && !self.gone.contains(&job.id)
                };
                moving.extend(packed.iter().filter(stays).cloned());
            }
            self.batch.remove(Shelf::Open, &pack.to_be_bytes());
            removed.push(pack);
        }
        let (still, over): (Vec<&Job>, Vec<&Job>) =
            jobs.into_values().partition(|job| job.state.is_open());
        for (bytes, range) in packer.pack(&over) {
            let pack = self.next_pack().to_be_bytes();
            self.batch.put(Shelf::Over, &pack, bytes);
            for job in &over[range] {
                self.batch
                    .put(Shelf::ById, job.id.0.as_bytes(), pack.to_vec());
            }
        }
        let still: Vec<&Job> = still.into_iter().chain(&moving).collect();
        let mut packed = Vec::new();
        for (bytes, range) in packer.pack(&still) {
            let pack = self.next_pack();
            self.batch.put(Shelf::Open, &pack.to_be_bytes(), bytes);
            packed.push((pack, still[range].iter().map(|job| job.id).collect()));
        }
        let gone = self.gone.iter().copied();
        let left = over.iter().map(|job| job.id).chain(gone).collect();
        Ok((left, packed, removed))
    }
}
