//! What a commit writes: each change's record, alone or in a pack with others, and the indices that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wattfarm_cost::id::{AgentId, JobId};

use super::super::StoreError;
use super::super::home::Batch;
use super::super::pack::Packer;
use super::super::record::{Form, encode, encode_bytes, encode_count};
use super::super::shelf::{COUNT, Shelf, missing, model_key, total_key};
use super::catalogue::{Catalogue, Line, Ordinal, hint};
use super::lines;
use super::open::OpenJobs;
use crate::farm::{Agent, Change, Entry, Job, Task, Total, TotalName};

/// Packs that one commit may write: their numbers begin with the commit's.
const PACKS: u64 = 1 << 20;

/// A pack of open jobs of which no more than one in so many is live is given up: what is live moves on, so that no pack
/// is kept, and read, for a few jobs that nobody takes.
const LIVE_LEAST: usize = 4;

/// What a commit asks the store about what there is.
pub(super) trait Stored {
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
    lines: Vec<Line>,
    /// The ordinals of jobs that it makes.
    made: BTreeMap<JobId, Ordinal>,
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
    /// What it changes of the catalogue.
    pub(super) lines: Vec<Line>,
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
            lines: Vec::new(),
            made: BTreeMap::new(),
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
        catalogue: &Catalogue,
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
        self.drop_gone(catalogue);
        self.pack_tasks(catalogue, packer);
        let sequence = self.pack_entries(last_sequence, packer, stored)?;
        let (left, packed, removed) = self.pack_jobs(open, catalogue, packer, stored)?;
        let number = self.batch.number;
        if !self.lines.is_empty() {
            let bytes = encode_bytes(&lines::encode(&self.lines));
            self.batch
                .put(Shelf::Catalogue, &number.to_be_bytes(), bytes);
        }
        let count = encode_count(number, Form::Catalogued);
        self.batch.put(Shelf::Commits, COUNT, count);
        Ok(Ready {
            batch: self.batch,
            left,
            packed,
            removed,
            sequence,
            lines: self.lines,
        })
    }

    fn next_pack(&mut self) -> u64 {
        self.packs += 1;
        assert!(self.packs < PACKS, "a commit has far fewer changes");
        self.batch.number * PACKS + self.packs
    }

    /// Takes jobs that are gone out of the catalogue. Of one that was made in this commit nothing is stored.
    fn drop_gone(&mut self, catalogue: &Catalogue) {
        for id in &self.gone {
            self.jobs.remove(id);
            self.tasks.remove(id);
        }
        let known = self.gone.iter().filter_map(|id| catalogue.find(*id));
        let known: Vec<Ordinal> = known.collect();
        if !known.is_empty() {
            self.lines.push(Line::Gone(known));
        }
    }

    /// What a job asks for never changes: one that is told again is known.
    fn pack_tasks(&mut self, catalogue: &Catalogue, packer: &mut Packer) {
        let tasks = std::mem::take(&mut self.tasks).into_iter();
        let tasks: Vec<_> = tasks
            .filter(|(id, _)| catalogue.find(*id).is_none())
            .collect();
        let mut first = catalogue.next();
        for (bytes, range) in packer.pack(&tasks) {
            let pack = self.next_pack();
            self.batch.put(Shelf::Tasks, &pack.to_be_bytes(), bytes);
            let packed = &tasks[range];
            self.made
                .extend(packed.iter().map(|(id, _)| *id).zip(first..));
            let jobs = packed.iter().map(|(id, task)| (*id, hint(&task.key())));
            let jobs: Vec<_> = jobs.collect();
            let made = jobs.len() as Ordinal;
            self.lines.push(Line::Made { first, pack, jobs });
            first += made;
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
        catalogue: &Catalogue,
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
            let pack = self.next_pack();
            self.batch.put(Shelf::Over, &pack.to_be_bytes(), bytes);
            let ordinal = |job: &&Job| {
                let made = self.made.get(&job.id).copied();
                let known = made.or_else(|| catalogue.find(job.id));
                known.ok_or_else(|| missing(Shelf::Tasks, job.id.0.as_bytes()))
            };
            let jobs = over[range].iter().map(ordinal).collect::<Result<_, _>>()?;
            self.lines.push(Line::Over { pack, jobs });
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
