//! A store that forgets when it is dropped: for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use wattfarm_cost::id::{AgentId, CampaignId, JobId};
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Hash, Measurement, Model};

use super::{Sink, Store, StoreError, measurement};
use crate::farm::{
    Agent, Campaign, Change, Entry, Job, Key, PlatformEntry, Records, SecretHash, Task, Token,
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
    entries: BTreeMap<u64, Entry>,
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
                Change::Job(job) => drop(shelves.jobs.insert(job.id, job)),
                Change::JobGone(job) => {
                    shelves.jobs.remove(&job);
                    shelves.tasks.remove(&job);
                }
                Change::Entry(entry) => drop(shelves.entries.insert(entry.sequence, entry)),
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
        let open = shelves.jobs.values().filter(|job| job.state.is_open());
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
            tasks: open
                .map(|job| (job.id, Arc::clone(&shelves.tasks[&job.id])))
                .collect(),
            jobs: shelves.jobs.values().cloned().collect(),
            campaigns: shelves.campaigns.values().cloned().collect(),
            models: shelves
                .models
                .values()
                .filter_map(|versions| versions.values().last().cloned())
                .collect(),
            sequence: shelves.entries.keys().last().copied().unwrap_or(0),
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
            .chain(models.cloned().map(Change::Model));
        sink(&all.collect::<Vec<_>>()).map_err(|source| StoreError::Disk {
            doing: "write the copy of the store",
            source: Box::new(source),
        })
    }
}
