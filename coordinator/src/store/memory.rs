//! A store that forgets when it is dropped: for tests.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use wattfarm_cost::id::{AgentId, CampaignId, JobId};
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Hash, Measurement, Model};

use super::{Sink, Store, StoreError, measurement};
use crate::farm::{
    Agent, Campaign, Change, Entry, Job, Key, PlatformEntry, Records, Retraction, SecretHash, Task,
    TaskKey, Token, Total, TotalName,
};

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Shelves>);

#[derive(Debug, Default)]
struct Shelves {
    tokens: BTreeMap<SecretHash, Token>,
    keys: BTreeMap<SecretHash, Key>,
    agents: BTreeMap<AgentId, Agent>,
    platforms: BTreeMap<Hash, PlatformEntry>,
    tasks: BTreeMap<JobId, Arc<Task>>,
    jobs: BTreeMap<JobId, Job>,
    by_task: BTreeMap<TaskKey, JobId>,
    totals: BTreeMap<TotalName, Total>,
    entries: BTreeMap<u64, Entry>,
    retractions: BTreeMap<u64, Retraction>,
    campaigns: BTreeMap<CampaignId, Campaign>,
    models: BTreeMap<ModelKey, BTreeMap<u64, Model>>,
}

impl MemoryStore {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.0
            .lock()
            .expect("nothing panics while it holds the shelves")
    }
}

impl Store for MemoryStore {
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut shelves = self.shelves();
        for change in changes.iter().cloned() {
            match change {
                Change::Token(hash, token) => drop(shelves.tokens.insert(hash, token)),
                Change::Key(hash, key) => drop(shelves.keys.insert(hash, key)),
                Change::Agent(agent) => drop(shelves.agents.insert(agent.id, agent)),
                Change::Platform(entry) => drop(shelves.platforms.insert(entry.hash, entry)),
                Change::Task(job, task) => drop(shelves.tasks.insert(job, task)),
                Change::Job(job) => {
                    shelves.by_task.insert(job.task, job.id);
                    shelves.jobs.insert(job.id, job);
                }
                Change::JobGone(id) => {
                    let gone = shelves.jobs.remove(&id);
                    shelves.tasks.remove(&id);
                    // Another job may have taken its place since.
                    if let Some(job) = gone.filter(|job| shelves.by_task[&job.task] == id) {
                        shelves.by_task.remove(&job.task);
                    }
                }
                Change::Total(total) => drop(shelves.totals.insert(total.name(), total)),
                Change::Entry(entry) => drop(shelves.entries.insert(entry.sequence, entry)),
                Change::Retraction(retraction) => {
                    shelves.retractions.insert(retraction.number, retraction);
                }
                Change::Campaign(campaign) => drop(shelves.campaigns.insert(campaign.id, campaign)),
                Change::Model(model) => {
                    shelves
                        .models
                        .entry(model.key)
                        .or_default()
                        .insert(model.version, model);
                }
            }
        }
        Ok(())
    }

    fn load(&self) -> Result<Records, StoreError> {
        let shelves = self.shelves();
        let open = || shelves.jobs.values().filter(|job| job.state.is_open());
        Ok(Records {
            tokens: shelves
                .tokens
                .iter()
                .map(|(hash, token)| (*hash, token.clone()))
                .collect(),
            keys: shelves
                .keys
                .iter()
                .map(|(hash, key)| (*hash, key.clone()))
                .collect(),
            agents: shelves.agents.values().cloned().collect(),
            platforms: shelves.platforms.values().cloned().collect(),
            tasks: open()
                .map(|job| (job.id, Arc::clone(&shelves.tasks[&job.id])))
                .collect(),
            jobs: open().cloned().collect(),
            campaigns: shelves.campaigns.values().cloned().collect(),
            models: shelves
                .models
                .values()
                .filter_map(|versions| versions.values().last().cloned())
                .collect(),
            sequence: shelves.entries.keys().last().copied().unwrap_or(0),
            retractions: shelves.retractions.keys().last().copied().unwrap_or(0),
            totals: shelves.totals.values().cloned().collect(),
        })
    }

    fn measurements_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<Measurement>, StoreError> {
        let shelves = self.shelves();
        let entries = shelves
            .entries
            .range(sequence.saturating_add(1)..)
            .take(limit);
        let told = entries
            .map(|(_, entry)| measurement(entry.clone(), (*shelves.tasks[&entry.job]).clone()));
        Ok(told.collect())
    }

    fn retractions_after(&self, number: u64, limit: usize) -> Result<Vec<Retraction>, StoreError> {
        let shelves = self.shelves();
        let after = shelves.retractions.range(number.saturating_add(1)..);
        Ok(after.take(limit).map(|(_, one)| one.clone()).collect())
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.shelves().jobs.get(&id).cloned())
    }

    fn find_job(&self, task: &TaskKey) -> Result<Option<Job>, StoreError> {
        let shelves = self.shelves();
        let id = shelves.by_task.get(task);
        Ok(id.and_then(|id| shelves.jobs.get(id)).cloned())
    }

    fn jobs_after(&self, id: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        let shelves = self.shelves();
        let after = id.map_or(Bound::Unbounded, Bound::Excluded);
        let jobs = shelves.jobs.range((after, Bound::Unbounded));
        Ok(jobs.take(limit).map(|(_, job)| job.clone()).collect())
    }

    fn task(&self, job: JobId) -> Result<Option<Task>, StoreError> {
        Ok(self.shelves().tasks.get(&job).map(|task| (**task).clone()))
    }

    fn model_versions_after(&self, key: &ModelKey, version: u64) -> Result<Vec<Model>, StoreError> {
        let shelves = self.shelves();
        let versions = shelves
            .models
            .get(key)
            .into_iter()
            .flat_map(|versions| versions.range(version.saturating_add(1)..));
        Ok(versions.map(|(_, model)| model.clone()).collect())
    }

    fn copy(&self, sink: &mut Sink<'_>) -> Result<(), StoreError> {
        let shelves = self.shelves();
        let tokens = shelves
            .tokens
            .iter()
            .map(|(hash, token)| Change::Token(*hash, token.clone()));
        let models = shelves.models.values().flat_map(BTreeMap::values);
        let keys = shelves
            .keys
            .iter()
            .map(|(hash, key)| Change::Key(*hash, key.clone()));
        let all = tokens
            .chain(keys)
            .chain(shelves.agents.values().cloned().map(Change::Agent))
            .chain(shelves.platforms.values().cloned().map(Change::Platform))
            .chain(
                shelves
                    .tasks
                    .iter()
                    .map(|(job, task)| Change::Task(*job, Arc::clone(task))),
            )
            .chain(shelves.jobs.values().cloned().map(Change::Job))
            .chain(shelves.entries.values().cloned().map(Change::Entry))
            .chain(shelves.campaigns.values().cloned().map(Change::Campaign))
            .chain(models.cloned().map(Change::Model))
            .chain(
                shelves
                    .retractions
                    .values()
                    .cloned()
                    .map(Change::Retraction),
            )
            .chain(shelves.totals.values().cloned().map(Change::Total));
        sink(&all.collect::<Vec<_>>()).map_err(|source| StoreError::Disk {
            doing: "write the copy of the store",
            source: Box::new(source),
        })
    }
}
