//! The store over a home: which records there are, where each lies, and what is found by what.
//!
//! A job is written some times before it is over, and then never again but for a retraction. So jobs, their tasks and their
//! measurements lie in packs, each of what one commit wrote of them, and a pack is never changed: what is written anew
//! stands in a newer pack. Packs of open jobs go when none of their jobs is there any more; the others stay for ever, since what
//! they hold does. What finds them is the catalogue, in memory; its log is read when the store is opened.

mod catalogue;
mod catch_up;
mod copy;
mod group;
mod lines;
mod open;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::de::DeserializeOwned;
use wattfarm_cost::id::JobId;
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Measurement, Model};

use self::catalogue::{Catalogue, hint};
use self::copy::Followed;
use self::group::{Group, Ready, Stored};
use self::open::OpenJobs;
use super::home::{Home, Item};
use super::pack::{Packer, Recent};
use super::record::{decode, decode_pack};
use super::shelf::{Shelf, missing, model_key, number};
use super::{Sink, Store, StoreError, measurement};
use crate::farm::{Change, Entry, Job, Records, Retraction, Task, TaskKey, Total};

/// Records that are read at a time.
const PAGE: usize = 256;

/// A store that lasts.
#[derive(Debug)]
pub struct DurableStore {
    home: Box<dyn Home>,
    state: Mutex<State>,
    tasks: Recent<(JobId, Task)>,
    /// Of open ones and of those that are over: no pack has another's number.
    jobs: Recent<Job>,
    followed: Followed,
}

/// What the next commit goes on from. Held for as long as a commit lasts.
#[derive(Debug)]
struct State {
    commits: u64,
    /// The last measurement's sequence; 0 if there is none.
    sequence: u64,
    open: OpenJobs,
    catalogue: Catalogue,
    packer: Packer,
}

impl DurableStore {
    /// The store that a home holds.
    pub(super) fn over(home: Box<dyn Home>) -> Result<Self, StoreError> {
        let store = Self {
            home,
            state: Mutex::new(State {
                commits: 0,
                sequence: 0,
                open: OpenJobs::default(),
                catalogue: Catalogue::default(),
                packer: Packer::new(),
            }),
            tasks: Recent::default(),
            jobs: Recent::default(),
            followed: Followed::default(),
        };
        store.catch_up()?;
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a commit that panics is the last")
    }

    fn needed(&self, shelf: Shelf, key: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.home
            .get(shelf, key)?
            .ok_or_else(|| missing(shelf, key))
    }

    /// Runs over the records of a shelf, in the order of their keys, a page at a time.
    fn each_page(
        &self,
        shelf: Shelf,
        mut take: impl FnMut(&[Item]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut last: Option<Vec<u8>> = None;
        loop {
            let page = self.home.after(shelf, last.as_deref(), PAGE)?;
            take(&page)?;
            match page.into_iter().next_back() {
                Some((key, _)) => last = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Runs over the records of a shelf, in the order of their keys.
    fn each(
        &self,
        shelf: Shelf,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.each_page(shelf, |page| {
            page.iter().try_for_each(|(key, bytes)| take(key, bytes))
        })
    }

    /// Every record of a shelf, in the order of their keys.
    fn all<T: DeserializeOwned>(&self, shelf: Shelf) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        self.each(shelf, |key, bytes| {
            all.push(decode(shelf.name(), key, bytes)?);
            Ok(())
        })?;
        Ok(all)
    }

    /// A job as it is, by what is known of where each lies.
    fn job_by(&self, state: &State, id: JobId) -> Result<Option<Job>, StoreError> {
        let over = || state.catalogue.pack_of_over(state.catalogue.find(id)?);
        let (shelf, pack) = match state.open.pack_of(id) {
            Some(pack) => (Shelf::Open, pack),
            None => match over() {
                Some(pack) => (Shelf::Over, pack),
                None => return Ok(None),
            },
        };
        let jobs = self.pack_of_jobs(shelf, pack)?;
        let found = jobs.iter().find(|job| job.id == id);
        let lost = || missing(shelf, &pack.to_be_bytes());
        Ok(Some(found.ok_or_else(lost)?.clone()))
    }

    fn pack_of_jobs(&self, shelf: Shelf, pack: u64) -> Result<Arc<Vec<Job>>, StoreError> {
        let read = || self.needed(shelf, &pack.to_be_bytes());
        self.jobs.get(shelf.name(), pack, read)
    }

    /// Jobs after an id in the order of their ids, at most `limit` of them, by what is known of where each lies.
    fn jobs_by(
        &self,
        state: &State,
        id: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, StoreError> {
        let after = state.catalogue.after(id);
        let jobs = after.filter_map(|id| self.job_by(state, id).transpose());
        jobs.take(limit).collect()
    }

    /// What a job asks for; `None` if there is no such job.
    fn task_by(&self, state: &State, id: JobId) -> Result<Option<Task>, StoreError> {
        let Some(ordinal) = state.catalogue.find(id) else {
            return Ok(None);
        };
        let pack = state.catalogue.pack_of_task(ordinal);
        let read = || self.needed(Shelf::Tasks, &pack.to_be_bytes());
        let tasks = self.tasks.get(Shelf::Tasks.name(), pack, read)?;
        let found = tasks.iter().find(|(job, _)| *job == id);
        let lost = || missing(Shelf::Tasks, &pack.to_be_bytes());
        Ok(Some(found.ok_or_else(lost)?.1.clone()))
    }

    /// What a job that there is asks for.
    fn task_of(&self, state: &State, job: JobId) -> Result<Task, StoreError> {
        let task = self.task_by(state, job)?;
        task.ok_or_else(|| missing(Shelf::Catalogue, job.0.as_bytes()))
    }

    /// Measurements from a sequence on in their order, at most `limit` of them, as they were booked.
    fn entries_from(&self, first: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let shelf = Shelf::Measurements;
        let mut entries = Vec::new();
        let mut take = |(key, bytes): &Item| {
            let pack: Vec<Entry> = decode_pack(shelf.name(), key, bytes)?;
            entries.extend(pack.into_iter().filter(|entry| entry.sequence >= first));
            Ok::<_, StoreError>(entries.len())
        };
        // The pack that begins at or before the first may have it.
        let mut last = self.home.last(shelf, &first.to_be_bytes())?;
        let mut count = last.as_ref().map_or(Ok(0), &mut take)?;
        while count < limit {
            let after = last.as_ref().map(|(key, _)| key.as_slice());
            // Packs of a busy farm are full, those of an idle one have one each.
            let page = self.home.after(shelf, after, (limit - count).min(16))?;
            if page.is_empty() {
                break;
            }
            for item in &page {
                count = take(item)?;
            }
            last = page.into_iter().next_back();
        }
        entries.truncate(limit);
        Ok(entries)
    }
}

impl Stored for DurableStore {
    fn open_pack(&self, pack: u64) -> Result<Arc<Vec<Job>>, StoreError> {
        self.pack_of_jobs(Shelf::Open, pack)
    }

    fn has_measurement(&self, sequence: u64) -> Result<bool, StoreError> {
        let found = self.entries_from(sequence, 1)?;
        Ok(found
            .first()
            .is_some_and(|entry| entry.sequence == sequence))
    }
}

impl Store for DurableStore {
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut state = self.state();
        let State {
            commits,
            sequence,
            open,
            catalogue,
            packer,
        } = &mut *state;
        let group = Group::of(changes, *commits + 1);
        let ready: Ready = group.ready(open, catalogue, *sequence, packer, self)?;
        self.home.write(&ready.batch)?;
        *commits += 1;
        *sequence = ready.sequence.unwrap_or(0).max(*sequence);
        for job in ready.left {
            open.left(job);
        }
        for (pack, jobs) in ready.packed {
            open.packed(pack, &jobs);
        }
        for pack in ready.removed {
            open.removed(pack);
        }
        catalogue.take(&ready.lines);
        self.followed.follow(changes);
        Ok(())
    }

    fn load(&self) -> Result<Records, StoreError> {
        let state = self.state();
        let mut jobs = Vec::new();
        for pack in state.open.packs() {
            let packed = self.pack_of_jobs(Shelf::Open, pack)?;
            let is_here = |job: &&Job| state.open.pack_of(job.id) == Some(pack);
            jobs.extend(packed.iter().filter(is_here).cloned());
        }
        jobs.sort_unstable_by_key(|job| job.id);
        let mut tasks = Vec::with_capacity(jobs.len());
        for job in &jobs {
            tasks.push((job.id, Arc::new(self.task_of(&state, job.id)?)));
        }
        let totals: Vec<Total> = self.all(Shelf::Totals)?;
        // Keys end with the version, so of each model the newest comes last and stays.
        let models: Vec<Model> = self.all(Shelf::Models)?;
        let newest: BTreeMap<_, _> = models.into_iter().map(|model| (model.key, model)).collect();
        let retraction = self.home.last(Shelf::Retractions, &[0xff; 8])?;
        let retractions = match retraction {
            Some((key, _)) => number(Shelf::Retractions, &key)?,
            None => 0,
        };
        Ok(Records {
            tokens: self.all(Shelf::Tokens)?,
            keys: self.all(Shelf::Keys)?,
            agents: self.all(Shelf::Agents)?,
            platforms: self.all(Shelf::Platforms)?,
            tasks,
            jobs,
            campaigns: self.all(Shelf::Campaigns)?,
            models: newest.into_values().collect(),
            sequence: state.sequence,
            retractions,
            totals: totals.into_iter().collect(),
        })
    }

    fn measurements_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<Measurement>, StoreError> {
        let Some(first) = sequence.checked_add(1) else {
            return Ok(Vec::new());
        };
        let entries = self.entries_from(first, limit)?.into_iter();
        let told = entries.map(|entry| {
            let task = self.task_of(&self.state(), entry.job)?;
            Ok(measurement(entry, task))
        });
        told.collect()
    }

    fn retractions_after(&self, number: u64, limit: usize) -> Result<Vec<Retraction>, StoreError> {
        let (shelf, after) = (Shelf::Retractions, number.to_be_bytes());
        let found = self.home.after(shelf, Some(&after), limit)?;
        let read = found
            .iter()
            .map(|(key, bytes)| decode(shelf.name(), key, bytes));
        read.collect()
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.job_by(&self.state(), id)
    }

    fn find_job(&self, task: &TaskKey) -> Result<Option<Job>, StoreError> {
        let state = self.state();
        for id in state.catalogue.of_task(hint(task)) {
            if let Some(job) = self.job_by(&state, id)?.filter(|job| job.task == *task) {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    fn jobs_after(&self, id: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.jobs_by(&self.state(), id, limit)
    }

    fn task(&self, job: JobId) -> Result<Option<Task>, StoreError> {
        self.task_by(&self.state(), job)
    }

    fn model_versions_after(&self, key: &ModelKey, version: u64) -> Result<Vec<Model>, StoreError> {
        let (shelf, last) = (Shelf::Models, model_key(key, u64::MAX));
        let mut after = model_key(key, version);
        let mut models = Vec::new();
        loop {
            let page = self.home.after(shelf, Some(&after), PAGE)?;
            let of_it: Vec<_> = page
                .into_iter()
                .take_while(|(key, _)| *key <= last)
                .collect();
            let Some((key, _)) = of_it.last() else {
                return Ok(models);
            };
            after.clone_from(key);
            for (key, bytes) in &of_it {
                models.push(decode(shelf.name(), key, bytes)?);
            }
        }
    }

    fn copy(&self, sink: &mut Sink<'_>) -> Result<(), StoreError> {
        self.copy_to(sink)
    }
}
