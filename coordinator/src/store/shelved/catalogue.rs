//! Which jobs there are and where each lies, in memory: its task's pack, and its own once it is over.
//!
//! Half a hundred bytes a job. An index on disk would take as much: of entries of a few bytes each, sled keeps a page in its tables
//! for every ten, open or not, and a random insert costs it a page's read as soon as the index is larger than its cache. What
//! changes is appended to a log of lines, a record a commit, which is read when the store is opened.
//!
//! Jobs have ordinals, in the order in which they were made. An ordinal is never another job's.

use std::cmp::Ordering;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use hashbrown::HashTable;
use wattfarm_cost::id::JobId;

use crate::farm::TaskKey;

/// A job's place in the order in which jobs were made.
pub(super) type Ordinal = u32;

/// The pack of a job that is not over.
const NOT_OVER: u64 = 0;
/// In place of that of a job that is gone.
const GONE: u64 = u64::MAX;

/// Where each job lies.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    /// By ordinals.
    ids: Vec<JobId>,
    /// By ordinals: the beginning of the task's hash. No proof that the task is this, but two tasks in 10¹⁹ share one.
    hints: Vec<u64>,
    /// By ordinals: the pack of the job as it was when it was over.
    over: Vec<u64>,
    /// Packs of tasks, each with the ordinal of its first job.
    packs: Vec<(Ordinal, u64)>,
    /// Jobs that there are, in the order of their ids. These are drawn by time, so that new ones come last, or nearly.
    by_id: Vec<Ordinal>,
    /// Jobs that there are, by their tasks' hints.
    by_task: HashTable<Ordinal>,
}

/// What a commit changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// New jobs, with the pack of their tasks.
    Made {
        /// The ordinal of the first, from which they are counted on.
        first: Ordinal,
        pack: u64,
        jobs: Vec<(JobId, u64)>,
    },
    /// Jobs that are over, with their pack.
    Over { pack: u64, jobs: Vec<Ordinal> },
    /// Jobs that are gone.
    Gone(Vec<Ordinal>),
}

/// What a task is found by.
pub(super) fn hash(task: &TaskKey) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(task.platform.as_bytes());
    hasher.update(task.subject.as_bytes());
    hasher.update(task.recipe.name().as_bytes());
    hasher.finalize()
}

/// The beginning of a task's hash.
pub(super) fn hint(task: &TaskKey) -> u64 {
    let hash = hash(task);
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash is longer"))
}

impl Catalogue {
    /// The ordinal of the next job.
    pub(super) fn next(&self) -> Ordinal {
        Ordinal::try_from(self.ids.len())
            .expect("four thousand million jobs are more than any farm has")
    }

    /// The ordinal of a job that there is.
    pub(super) fn find(&self, id: JobId) -> Option<Ordinal> {
        let at = self
            .by_id
            .binary_search_by(|&one| self.ids[one as usize].cmp(&id));
        at.ok().map(|at| self.by_id[at])
    }

    /// Jobs whose task may be the one of this hint, the newest first.
    pub(super) fn of_task(&self, hint: u64) -> Vec<JobId> {
        let found = self.by_task.iter_hash(hashed(hint));
        let mut found: Vec<_> = found
            .filter(|&&one| self.hints[one as usize] == hint)
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
            .into_iter()
            .map(|&one| self.ids[one as usize])
            .collect()
    }

    /// The pack that a job's task lies in.
    pub(super) fn pack_of_task(&self, job: Ordinal) -> u64 {
        let after = self.packs.partition_point(|&(first, _)| first <= job);
        self.packs[after - 1].1
    }

    /// The pack that a job lies in as it was when it was over last, if it was.
    pub(super) fn pack_of_over(&self, job: Ordinal) -> Option<u64> {
        let pack = self.over[job as usize];
        (pack != NOT_OVER && pack != GONE).then_some(pack)
    }

    /// Jobs after an id, or from the first, in the order of their ids.
    pub(super) fn after(&self, id: Option<JobId>) -> impl Iterator<Item = JobId> {
        let from = id.map_or(0, |id| {
            self.by_id
                .partition_point(|&one| self.ids[one as usize] <= id)
        });
        self.by_id[from..].iter().map(|&one| self.ids[one as usize])
    }

    /// Takes what was committed.
    pub(super) fn take(&mut self, lines: &[Line]) {
        let first = self.next();
        for line in lines {
            let read = self.read(line);
            read.expect("a commit's lines go on from here");
        }
        if lines.iter().any(|line| matches!(line, Line::Gone(_))) {
            let over = &self.over;
            self.by_id.retain(|&one| over[one as usize] != GONE);
        }
        self.order_from(first);
    }

    /// Takes a line of the log, without the order of ids: [`Self::order_from`] makes that in the end. Says what is wrong with one
    /// that doesn't go on from here.
    pub(super) fn read(&mut self, line: &Line) -> Result<(), &'static str> {
        match line {
            Line::Made { first, pack, jobs } => {
                if *first != self.next() {
                    return Err("doesn't go on from the one before it");
                }
                self.packs.push((*first, *pack));
                for (&(id, hint), ordinal) in jobs.iter().zip(*first..) {
                    self.ids.push(id);
                    self.hints.push(hint);
                    self.over.push(NOT_OVER);
                    let hints = &self.hints;
                    let of = |&one: &Ordinal| hashed(hints[one as usize]);
                    self.by_task.insert_unique(hashed(hint), ordinal, of);
                }
            }
            Line::Over { pack, jobs } => {
                for &job in jobs {
                    *self.over.get_mut(job as usize).ok_or("names no job")? = *pack;
                }
            }
            Line::Gone(jobs) => {
                for &job in jobs {
                    *self.over.get_mut(job as usize).ok_or("names no job")? = GONE;
                    let hash = hashed(self.hints[job as usize]);
                    let entry = self.by_task.find_entry(hash, |&one| one == job);
                    entry.map_err(|_| "names a job that is gone")?.remove();
                }
            }
        }
        Ok(())
    }

    /// Puts the jobs from an ordinal on among the others, in the order of their ids.
    pub(super) fn order_from(&mut self, first: Ordinal) {
        let is_there = |job: &Ordinal| self.over[*job as usize] != GONE;
        let mut new: Vec<Ordinal> = (first..self.next()).filter(is_there).collect();
        let ids = &self.ids;
        let by_id = |a: &Ordinal, b: &Ordinal| ids[*a as usize].cmp(&ids[*b as usize]);
        new.sort_unstable_by(by_id);
        let Some(least) = new.first() else {
            return;
        };
        // All that is before the least of them stays where it is: nearly all.
        let stays = self
            .by_id
            .partition_point(|one| by_id(one, least) == Ordering::Less);
        self.by_id.extend(new);
        self.by_id[stays..].sort_by(by_id);
    }
}

fn hashed(hint: u64) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(hint)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use uuid::Uuid;

    use super::*;

    /// A job as a plain list has it: its ordinal, its hint, its packs.
    type Plain = BTreeMap<JobId, (Ordinal, u64, u64, Option<u64>)>;

    /// Lines of a life with ids in no order, as after a clock that jumped, and hints that jobs share.
    fn life(seed: u64) -> (Vec<Vec<Line>>, Plain) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut plain, mut commits, mut next) = (Plain::new(), Vec::new(), 0);
        for pack in 1..60 {
            let mut lines = Vec::new();
            let mut jobs = BTreeMap::new();
            for _ in 0..random.random_range(0..20) {
                let id = u128::from(random.random_range(0..1_u64 << 20));
                let hint = random.random_range(0..200_u64);
                jobs.insert(JobId(Uuid::from_u128(id)), hint);
            }
            jobs.retain(|id, _| !plain.contains_key(id));
            let first = next;
            for ((&id, &hint), ordinal) in jobs.iter().zip(first..) {
                plain.insert(id, (ordinal, hint, pack, None));
                next = ordinal + 1;
            }
            let jobs: Vec<_> = jobs.into_iter().collect();
            if !jobs.is_empty() {
                lines.push(Line::Made { first, pack, jobs });
            }
            let mut over = Vec::new();
            for job in plain.values_mut().filter(|_| random.random_bool(0.1)) {
                job.3 = Some(pack);
                over.push(job.0);
            }
            lines.push(Line::Over { pack, jobs: over });
            let mut gone = Vec::new();
            plain.retain(|_, job| {
                // None that is new: of one that comes and goes in a commit nothing is written.
                let stays = job.0 >= first || !random.random_bool(0.05);
                if !stays {
                    gone.push(job.0);
                }
                stays
            });
            lines.push(Line::Gone(gone));
            commits.push(lines);
        }
        (commits, plain)
    }

    fn check(catalogue: &Catalogue, plain: &Plain) {
        assert!(catalogue.after(None).eq(plain.keys().copied()));
        for (&id, &(ordinal, hint, pack, over)) in plain {
            assert_eq!(catalogue.find(id), Some(ordinal));
            assert_eq!(catalogue.pack_of_task(ordinal), pack);
            assert_eq!(catalogue.pack_of_over(ordinal), over);
            let mut alike: Vec<_> = plain.iter().filter(|(_, job)| job.1 == hint).collect();
            alike.sort_by_key(|(_, job)| std::cmp::Reverse(job.0));
            let alike: Vec<_> = alike.into_iter().map(|(&id, _)| id).collect();
            assert_eq!(catalogue.of_task(hint), alike);
            let next = plain.range(id..).nth(1).map(|(&id, _)| id);
            assert_eq!(catalogue.after(Some(id)).next(), next);
        }
        assert_eq!(catalogue.of_task(1 << 40), []);
        assert_eq!(catalogue.find(JobId(Uuid::from_u128(1 << 40))), None);
    }

    #[test]
    fn it_finds_what_a_plain_list_finds_and_its_log_makes_it_again() {
        for seed in 0..20 {
            let (commits, plain) = life(seed);
            let (mut lived, mut read) = (Catalogue::default(), Catalogue::default());
            for lines in &commits {
                lived.take(lines);
                lines
                    .iter()
                    .for_each(|line| read.read(line).expect("goes on"));
            }
            read.order_from(0);
            check(&lived, &plain);
            check(&read, &plain);
        }
    }

    #[test]
    fn a_log_with_a_gap_is_refused() {
        let (commits, _) = life(0);
        let lines: Vec<_> = commits.into_iter().flatten().collect();
        let made = lines
            .iter()
            .position(|line| matches!(line, Line::Made { .. }));
        let mut catalogue = Catalogue::default();
        let mut rest = lines.iter().skip(made.expect("there is one") + 1);
        assert!(rest.any(|line| catalogue.read(line).is_err()));
    }
}
