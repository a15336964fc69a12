//! What a commit writes: a batch for each tree, with the indices that follow.

use std::collections::{BTreeMap, BTreeSet};

use sled::Batch;
use wattfarm_cost::id::{AgentId, JobId};

use super::super::StoreError;
use super::super::record::encode;
use super::shelf::{COUNT, Shelf, model_key, task_key, total_key};
use crate::farm::{Agent, Change, Job, Total, TotalName};

/// A commit in the making.
pub(super) struct Group<'a> {
    /// By tree, in the order of the shelves.
    pub(super) batches: Vec<Batch>,
    /// The jobs that begin or cease to be open.
    pub(super) turned: BTreeMap<JobId, bool>,
    /// The job that each task ends up with, and the task of each job that is new.
    by_task: BTreeMap<Vec<u8>, Option<JobId>>,
    made: BTreeMap<JobId, Vec<u8>>,
    gone: Vec<JobId>,
    /// Records that many changes of a commit are about: only the last is written.
    agents: BTreeMap<AgentId, &'a Agent>,
    totals: BTreeMap<TotalName, &'a Total>,
}

impl<'a> Group<'a> {
    /// The commit of this number. `open` are the jobs that the index of open ones holds, `job` finds one in the store.
    pub(super) fn of(
        changes: &'a [Change],
        number: u64,
        open: &BTreeSet<JobId>,
        job: impl Fn(JobId) -> Result<Option<Job>, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut group = Self {
            batches: Shelf::ALL.iter().map(|_| Batch::default()).collect(),
            turned: BTreeMap::new(),
            by_task: BTreeMap::new(),
            made: BTreeMap::new(),
            gone: Vec::new(),
            agents: BTreeMap::new(),
            totals: BTreeMap::new(),
        };
        for change in changes {
            group.take(change, &job)?;
        }
        group.put(Shelf::Commits, COUNT, encode(&number));
        group.follow(open);
        Ok(group)
    }

    fn put(&mut self, shelf: Shelf, key: &[u8], bytes: Vec<u8>) {
        self.batches[shelf as usize].insert(key, bytes);
    }

    fn take(
        &mut self,
        change: &'a Change,
        job: impl Fn(JobId) -> Result<Option<Job>, StoreError>,
    ) -> Result<(), StoreError> {
        match change {
            Change::Token(hash, token) => {
                self.put(Shelf::Tokens, hash.as_bytes(), encode(&(hash, token)));
            }
            Change::Key(hash, key) => self.put(Shelf::Keys, hash.as_bytes(), encode(&(hash, key))),
            Change::Agent(agent) => drop(self.agents.insert(agent.id, agent)),
            Change::Platform(entry) => {
                self.put(Shelf::Platforms, entry.hash.as_bytes(), encode(entry));
            }
            Change::Task(job, task) => {
                self.put(Shelf::Tasks, job.0.as_bytes(), encode(&**task));
                let key = task_key(&task.key());
                self.by_task.insert(key.clone(), Some(*job));
                self.made.insert(*job, key);
            }
            Change::Job(job) => {
                self.put(Shelf::Jobs, job.id.0.as_bytes(), encode(job));
                self.turned.insert(job.id, job.state.is_open());
            }
            Change::JobGone(id) => {
                self.gone.push(*id);
                self.turned.insert(*id, false);
                let key = match self.made.get(id) {
                    Some(key) => Some(key.clone()),
                    None => job(*id)?.map(|job| task_key(&job.task)),
                };
                // Another job may have taken its place since.
                let is_its = |key: &Vec<u8>| {
                    let owner = self.by_task.get(key);
                    owner.is_none_or(|owner| *owner == Some(*id))
                };
                if let Some(key) = key.filter(is_its) {
                    self.by_task.insert(key, None);
                }
            }
            Change::Entry(entry) => {
                let key = entry.sequence.to_be_bytes();
                self.put(Shelf::Measurements, &key, encode(entry));
            }
            Change::Campaign(campaign) => {
                self.put(Shelf::Campaigns, campaign.id.0.as_bytes(), encode(campaign));
            }
            Change::Model(model) => {
                let key = model_key(&model.key, model.version);
                self.put(Shelf::Models, &key, encode(model));
            }
            Change::Retraction(retraction) => {
                let key = retraction.number.to_be_bytes();
                self.put(Shelf::Retractions, &key, encode(retraction));
            }
            Change::Total(total) => drop(self.totals.insert(total.name(), total)),
        }
        Ok(())
    }

    /// What follows from all of the changes together.
    fn follow(&mut self, open: &BTreeSet<JobId>) {
        for (id, agent) in std::mem::take(&mut self.agents) {
            self.put(Shelf::Agents, id.0.as_bytes(), encode(agent));
        }
        for (name, total) in std::mem::take(&mut self.totals) {
            self.put(Shelf::Totals, &total_key(name), encode(total));
        }
        self.turned
            .retain(|job, is_open| open.contains(job) != *is_open);
        for (job, is_open) in &self.turned {
            let batch = &mut self.batches[Shelf::Open as usize];
            match is_open {
                true => batch.insert(job.0.as_bytes(), &[]),
                false => batch.remove(job.0.as_bytes()),
            }
        }
        for (key, job) in std::mem::take(&mut self.by_task) {
            let batch = &mut self.batches[Shelf::ByTask as usize];
            match job {
                Some(job) => batch.insert(key, job.0.as_bytes()),
                None => batch.remove(key),
            }
        }
        // A job that is gone never comes back under the same id, so its removal may stand at the end.
        for job in &self.gone {
            self.batches[Shelf::Jobs as usize].remove(job.0.as_bytes());
            self.batches[Shelf::Tasks as usize].remove(job.0.as_bytes());
        }
    }
}
