//! What is read when a store is opened: the count of commits, the catalogue, and which jobs are open. Of what there are millions
//! of, that is the catalogue's lines alone.

use std::collections::BTreeMap;

use wattfarm_cost::id::JobId;

use super::super::StoreError;
use super::super::home::Batch;
use super::super::record::{
    Form, decode_bytes, decode_count, decode_pack, encode_bytes, encode_count,
};
use super::super::shelf::{COUNT, Shelf, job_id, number, wrong};
use super::catalogue::{Catalogue, Line, Ordinal, hash, hint};
use super::{DurableStore, State, lines};
use crate::farm::{Entry, Job, Task};

/// Records of a commit that brings something over.
const GROUP: usize = 256;

/// The shelves that the catalogue is in place of.
const INDICES: [Shelf; 2] = [Shelf::ById, Shelf::ByTask];

impl DurableStore {
    /// Reads what is held in memory.
    pub(super) fn catch_up(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        let count = self.home.get(Shelf::Commits, COUNT)?;
        let count = count.map(|bytes| decode_count(Shelf::Commits.name(), COUNT, &bytes));
        let (commits, form) = count.transpose()?.unwrap_or((0, Form::Catalogued));
        state.commits = commits;
        if form == Form::Indexed {
            self.make_catalogue(&mut state)?;
        }
        for shelf in INDICES {
            self.clear(&mut state, shelf)?;
        }
        self.read_catalogue(&mut state.catalogue)?;
        state.sequence = match self.home.last(Shelf::Measurements, &[0xff; 8])? {
            Some((key, bytes)) => {
                let pack: Vec<Entry> = decode_pack(Shelf::Measurements.name(), &key, &bytes)?;
                pack.last().map_or(0, |entry| entry.sequence)
            }
            None => 0,
        };
        self.find_open(&mut state)
    }

    fn read_catalogue(&self, catalogue: &mut Catalogue) -> Result<(), StoreError> {
        self.each(Shelf::Catalogue, |key, bytes| {
            let lines = decode_bytes(Shelf::Catalogue.name(), key, bytes, lines::decode)?;
            let mut read = lines.iter().map(|line| catalogue.read(line));
            let wrong = |reason| wrong(Shelf::Catalogue, key, reason);
            read.try_for_each(|line| line.map_err(wrong))
        })?;
        catalogue.order_from(0);
        Ok(())
    }

    fn find_open(&self, state: &mut State) -> Result<(), StoreError> {
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
            let over = state
                .catalogue
                .find(job)
                .and_then(|job| state.catalogue.pack_of_over(job));
            if over.is_some_and(|over| over > pack) {
                state.open.left(job);
            }
        }
        Ok(())
    }

    /// Makes the catalogue of a store from before there was one. Whatever dies meanwhile, the next opening begins anew.
    fn make_catalogue(&self, state: &mut State) -> Result<(), StoreError> {
        tracing::info!("making the store's catalogue: this is done once");
        self.clear(state, Shelf::Catalogue)?;
        let mut ordinals: BTreeMap<JobId, Ordinal> = BTreeMap::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.home.after(Shelf::Tasks, after.as_deref(), GROUP)?;
            let mut made = Vec::new();
            for (key, bytes) in &page {
                let pack = number(Shelf::Tasks, key)?;
                let tasks: Vec<(JobId, Task)> = decode_pack(Shelf::Tasks.name(), key, bytes)?;
                let first = ordinals.len() as Ordinal;
                let mut jobs = Vec::new();
                for (id, task) in tasks {
                    // What it doesn't name is gone, or lies in a pack that a newer one is in place of.
                    let place = self
                        .home
                        .get(Shelf::ByTask, &hash(&task.key()).as_bytes()[..16])?;
                    let is_here =
                        |place: Vec<u8>| place == [id.0.as_bytes().as_slice(), key].concat();
                    if place.is_some_and(is_here) {
                        ordinals.insert(id, first + jobs.len() as Ordinal);
                        jobs.push((id, hint(&task.key())));
                    }
                }
                if !jobs.is_empty() {
                    made.push(Line::Made { first, pack, jobs });
                }
            }
            self.commit_lines(state, &made, Form::Indexed)?;
            match page.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        let mut packs: BTreeMap<u64, Vec<Ordinal>> = BTreeMap::new();
        self.each(Shelf::ById, |key, pack| {
            let ordinal = ordinals.get(&job_id(Shelf::ById, key)?);
            let ordinal = ordinal.ok_or_else(|| wrong(Shelf::ById, key, "has no task"))?;
            packs
                .entry(number(Shelf::ById, pack)?)
                .or_default()
                .push(*ordinal);
            Ok(())
        })?;
        let over = packs
            .into_iter()
            .map(|(pack, jobs)| Line::Over { pack, jobs });
        let over: Vec<Line> = over.collect();
        for some in over.chunks(GROUP) {
            self.commit_lines(state, some, Form::Indexed)?;
        }
        self.commit_lines(state, &[], Form::Catalogued)
    }

    fn commit_lines(
        &self,
        state: &mut State,
        lines: &[Line],
        form: Form,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new(state.commits + 1);
        if !lines.is_empty() {
            let key = batch.number.to_be_bytes();
            batch.put(Shelf::Catalogue, &key, encode_bytes(&lines::encode(lines)));
        }
        self.commit_form(state, batch, form)
    }

    fn commit_form(
        &self,
        state: &mut State,
        mut batch: Batch,
        form: Form,
    ) -> Result<(), StoreError> {
        batch.put(Shelf::Commits, COUNT, encode_count(batch.number, form));
        self.home.write(&batch)?;
        state.commits = batch.number;
        Ok(())
    }

    /// Empties a shelf.
    fn clear(&self, state: &mut State, shelf: Shelf) -> Result<(), StoreError> {
        let form = match shelf {
            Shelf::Catalogue => Form::Indexed,
            _ => Form::Catalogued,
        };
        loop {
            let page = self.home.after(shelf, None, GROUP)?;
            if page.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new(state.commits + 1);
            page.iter().for_each(|(key, _)| batch.remove(shelf, key));
            self.commit_form(state, batch, form)?;
        }
    }
}
