//! The store over a home: which records there are, where each lies, and what is found by what.
//!
//! A job is written some times before it is over, and then never again but for a retraction. So jobs, their tasks and their
//! measurements lie in packs, each of what one commit wrote of them, and a pack is never changed: what is written anew
//! stands in a newer pack. Packs of open jobs go when none of their jobs is there any more; the others stay for ever, since what
//! they hold does. Beside them are two small indices: of a job that is over its pack, and of a task its job.

mod copy;
mod group;
mod open;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::de::DeserializeOwned;
use wattfarm_cost::id::JobId;
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Measurement, Model};

use self::copy::Followed;
use self::group::{Group, Ready, Stored};
use self::open::OpenJobs;
use super::home::{Home, Item};
use super::pack::{Packer, Recent};
use super::record::{decode, decode_pack};
use super::shelf::{COUNT, Shelf, job_id, missing, model_key, number, task_key};
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
                packer: Packer::new(),
            }),
            tasks: Recent::default(),
            jobs: Recent::default(),
            followed: Followed::default(),
        };
        store.catch_up()?;
        Ok(store)
    }

    /// Reads what is held in memory.
    fn catch_up(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        state.commits = self.get(Shelf::Commits, COUNT)?.unwrap_or(0);
        state.sequence = match self.home.last(Shelf::Measurements, &[0xff; 8])? {
            Some((key, bytes)) => {
                let pack: Vec<Entry> = decode_pack(Shelf::Measurements.name(), &key, &bytes)?;
                pack.last().map_or(0, |entry| entry.sequence)
            }
            None => 0,
        };
        let mut newest: BTreeMap<JobId, u64> = BTreeMap::new();
        let mut packs: Vec<(u64, Vec<JobId>)> = Vec::new();
        self.each(Shelf::Open, |key, bytes| {
            let pack = number(Shelf::Open, key)?;
            let jobs: Vec<Job> = decode_pack(Shelf::Open.name(), key, bytes)?;
            newest.extend(jobs.iter().map(|job| (job.id, pack)));
            packs.push((pack, jobs.iter().map(|job| job.id).collect()));
            Ok(())
        })?;
        for (pack, jobs) in packs {
            state.open.packed(pack, &jobs);
        }
        for (job, pack) in newest {
            if self.pack_of_over(job)?.is_some_and(|over| over > pack) {
                state.open.left(job);
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a commit that panics is the last")
    }

    fn get<T: DeserializeOwned>(&self, shelf: Shelf, key: &[u8]) -> Result<Option<T>, StoreError> {
        let bytes = self.home.get(shelf, key)?;
        bytes
            .map(|bytes| decode(shelf.name(), key, &bytes))
            .transpose()
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

    fn pack_of_over(&self, job: JobId) -> Result<Option<u64>, StoreError> {
        let pack = self.home.get(Shelf::ById, job.0.as_bytes())?;
        pack.map(|pack| number(Shelf::ById, &pack)).transpose()
    }

    /// A job as it is, by what is known of the open ones.
    fn job_by(&self, open: &OpenJobs, id: JobId) -> Result<Option<Job>, StoreError> {
        let (shelf, pack) = match open.pack_of(id) {
            Some(pack) => (Shelf::Open, pack),
            None => match self.pack_of_over(id)? {
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

    /// Jobs after an id in the order of their ids, at most `limit` of them, by what is known of the open ones.
    fn jobs_by(
        &self,
        open: &OpenJobs,
        id: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::new();
        let mut opened = open.after(id).peekable();
        let mut last = id;
        loop {
            let after = last.as_ref().map(|id| id.0.as_bytes().as_slice());
            let over = self
                .home
                .after(Shelf::ById, after, PAGE.min(limit.max(1)))?;
            for (key, _) in &over {
                let id = job_id(Shelf::ById, key)?;
                // One that was opened again is in both.
                while let Some(before) = opened.next_if(|open| *open <= id) {
                    if before < id {
                        jobs.extend(self.job_by(open, before)?);
                    }
                }
                jobs.extend(self.job_by(open, id)?);
                last = Some(id);
            }
            if over.is_empty() || jobs.len() >= limit {
                break;
            }
        }
        while jobs.len() < limit
            && let Some(id) = opened.next()
        {
            jobs.extend(self.job_by(open, id)?);
        }
        jobs.truncate(limit);
        Ok(jobs)
    }

    /// The job of a task, and the pack that the task lies in.
    fn place_of(&self, task: &TaskKey) -> Result<Option<(JobId, u64)>, StoreError> {
        let Some(place) = self.home.get(Shelf::ByTask, &task_key(task))? else {
            return Ok(None);
        };
        let (job, pack) = place.split_at_checked(16).unwrap_or_default();
        Ok(Some((
            job_id(Shelf::ByTask, job)?,
            number(Shelf::ByTask, pack)?,
        )))
    }

    /// What a job that there is asks for.
    fn task_of(&self, job: &Job) -> Result<Task, StoreError> {
        let lost = || missing(Shelf::ByTask, job.id.0.as_bytes());
        let (_, pack) = self.place_of(&job.task)?.ok_or_else(lost)?;
        let read = || self.needed(Shelf::Tasks, &pack.to_be_bytes());
        let tasks = self.tasks.get(Shelf::Tasks.name(), pack, read)?;
        let found = tasks.iter().find(|(id, _)| *id == job.id);
        found.map(|(_, task)| task.clone()).ok_or_else(lost)
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

impl Stored for (&DurableStore, &OpenJobs) {
    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.0.job_by(self.1, id)
    }

    fn open_pack(&self, pack: u64) -> Result<Arc<Vec<Job>>, StoreError> {
        self.0.pack_of_jobs(Shelf::Open, pack)
    }

    fn has_measurement(&self, sequence: u64) -> Result<bool, StoreError> {
        let found = self.0.entries_from(sequence, 1)?;
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
            packer,
        } = &mut *state;
        let group = Group::of(changes, *commits + 1);
        let ready: Ready = group.ready(open, *sequence, packer, &(self, &*open))?;
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
            tasks.push((job.id, Arc::new(self.task_of(job)?)));
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
            let job = self.job(entry.job)?;
            let job = job.ok_or_else(|| missing(Shelf::ById, entry.job.0.as_bytes()))?;
            let task = self.task_of(&job)?;
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
        self.job_by(&self.state().open, id)
    }

    fn find_job(&self, task: &TaskKey) -> Result<Option<Job>, StoreError> {
        match self.place_of(task)? {
            Some((id, _)) => self.job(id),
            None => Ok(None),
        }
    }

    fn jobs_after(&self, id: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.jobs_by(&self.state().open, id, limit)
    }

    fn task(&self, job: JobId) -> Result<Option<Task>, StoreError> {
        // Held, so that the job does not go between its own reading and that of its task.
        let state = self.state();
        let job = self.job_by(&state.open, job)?;
        job.map(|job| self.task_of(&job)).transpose()
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
