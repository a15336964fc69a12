//! What is counted over every job that there ever was. Jobs that are over leave memory, so these figures don't follow from
//! what is in memory: they are kept, and stored with the changes that move them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wattfarm_cost::id::{CampaignId, LeaseNumber};
use wattfarm_cost::{Hash, Kind};

use super::Change;
use super::job::{Job, Share, State};

/// What a job that came to nothing takes off a budget in seconds at least: a campaign of impossible jobs ends too.
const FRUITLESS_MS: u64 = 100;

/// What a campaign has from its jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Jobs measured for it.
    pub done: u64,
    /// Jobs that its platform cannot run.
    pub infeasible: u64,
    /// Jobs given up.
    pub parked: u64,
    /// Jobs queued or leased.
    pub outstanding: u64,
    /// What measuring took the agents, in ms, and a little for each job that came to nothing.
    pub measured_ms: u64,
    /// Layers measured, of each kind, those included that were there before.
    pub samples: BTreeMap<Kind, u64>,
}

impl Tally {
    /// Jobs that were answered or given up: what a budget of jobs pays for.
    pub fn spent(&self) -> u64 {
        self.done + self.infeasible + self.parked
    }

    /// Adds a job's part, or takes it off again: `apply` says which.
    fn count(&mut self, part: Part, apply: impl Fn(&mut u64, u64)) {
        if let Some(kind) = part.sample {
            apply(self.samples.entry(kind).or_default(), 1);
        }
        apply(&mut self.measured_ms, part.measured_ms);
        match part.column {
            Some(Column::Done) => apply(&mut self.done, 1),
            Some(Column::Outstanding) => apply(&mut self.outstanding, 1),
            Some(Column::Infeasible) => apply(&mut self.infeasible, 1),
            Some(Column::Parked) => apply(&mut self.parked, 1),
            None => (),
        }
    }
}

/// A figure as it is stored. One that isn't there is zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Total {
    /// The number of the last lease.
    LastLease(LeaseNumber),
    /// What a campaign has.
    Tally(CampaignId, Tally),
    /// Measurements of a platform.
    Measurements(Hash, u64),
}

/// The name of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TotalName {
    /// The number of the last lease.
    LastLease,
    /// What a campaign has.
    Tally(CampaignId),
    /// Measurements of a platform.
    Measurements(Hash),
}

impl Total {
    /// Its name: a later figure of one name takes the place of an earlier one.
    pub fn name(&self) -> TotalName {
        match self {
            Self::LastLease(_) => TotalName::LastLease,
            Self::Tally(campaign, _) => TotalName::Tally(*campaign),
            Self::Measurements(platform, _) => TotalName::Measurements(*platform),
        }
    }
}

/// Every figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Totals {
    last_lease: LeaseNumber,
    tallies: BTreeMap<CampaignId, Tally>,
    measurements: BTreeMap<Hash, u64>,
    /// What has changed since it was stored last.
    moved: BTreeSet<TotalName>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            last_lease: LeaseNumber(0),
            tallies: BTreeMap::new(),
            measurements: BTreeMap::new(),
            moved: BTreeSet::new(),
        }
    }
}

impl FromIterator<Total> for Totals {
    fn from_iter<T: IntoIterator<Item = Total>>(stored: T) -> Self {
        let mut totals = Self::default();
        for total in stored {
            match total {
                Total::LastLease(lease) => totals.last_lease = lease,
                Total::Tally(_, tally) if tally == Tally::default() => (),
                Total::Tally(campaign, tally) => drop(totals.tallies.insert(campaign, tally)),
                Total::Measurements(_, 0) => (),
                Total::Measurements(platform, count) => {
                    totals.measurements.insert(platform, count);
                }
            }
        }
        totals
    }
}

impl Totals {
    /// The figures of all these jobs: what the kept ones have to be.
    pub fn of(jobs: impl IntoIterator<Item = Job>) -> Self {
        let mut totals = Self::default();
        for job in jobs {
            totals.count(&job);
        }
        totals.moved.clear();
        totals
    }

    /// Counts another job in.
    pub fn count(&mut self, job: &Job) {
        self.replace(None, Some(Counted::of(job)));
        let last = job.grants.last().map(|grant| grant.lease);
        if let Some(lease) = last.filter(|&lease| lease > self.last_lease) {
            self.last_lease = lease;
        }
    }

    /// Every figure, as it is stored.
    pub fn all(&self) -> Vec<Total> {
        let names = [TotalName::LastLease].into_iter();
        let names = names.chain(self.tallies.keys().copied().map(TotalName::Tally));
        let measured = self.measurements.keys().copied();
        let names = names.chain(measured.map(TotalName::Measurements));
        names.map(|name| self.total(name)).collect()
    }

    pub(super) fn last_lease(&self) -> LeaseNumber {
        self.last_lease
    }

    /// The next lease has a larger number than this.
    pub(super) fn lease_after(&mut self, number: u64) {
        self.last_lease.0 = self.last_lease.0.max(number);
    }

    pub(super) fn next_lease(&mut self) -> LeaseNumber {
        self.last_lease.0 += 1;
        self.moved.insert(TotalName::LastLease);
        self.last_lease
    }

    pub(super) fn tally(&self, campaign: CampaignId) -> Tally {
        self.tallies.get(&campaign).cloned().unwrap_or_default()
    }

    pub(super) fn measurements(&self, platform: &Hash) -> u64 {
        self.measurements.get(platform).copied().unwrap_or(0)
    }

    /// What has changed since this was asked last.
    pub(super) fn take_moved(&mut self) -> impl Iterator<Item = Change> {
        let moved = std::mem::take(&mut self.moved);
        moved
            .into_iter()
            .map(|name| Change::Total(self.total(name)))
    }

    fn total(&self, name: TotalName) -> Total {
        match name {
            TotalName::LastLease => Total::LastLease(self.last_lease),
            TotalName::Tally(campaign) => Total::Tally(campaign, self.tally(campaign)),
            TotalName::Measurements(platform) => {
                Total::Measurements(platform, self.measurements(&platform))
            }
        }
    }

    /// A job counted for `before`, and counts for `after` from now on.
    pub(super) fn replace(&mut self, before: Option<Counted>, after: Option<Counted>) {
        if before == after {
            return;
        }
        for (counted, is_new) in [(before, false), (after, true)] {
            let Some(counted) = counted else { continue };
            let apply = |total: &mut u64, part: u64| {
                *total = match is_new {
                    true => total.saturating_add(part),
                    false => total.saturating_sub(part),
                };
            };
            if counted.measurements > 0 {
                let measured = self.measurements.entry(counted.platform).or_default();
                apply(measured, counted.measurements);
                if *measured == 0 {
                    self.measurements.remove(&counted.platform);
                }
                self.moved.insert(TotalName::Measurements(counted.platform));
            }
            for (campaign, part) in counted.parts {
                let tally = self.tallies.entry(campaign).or_default();
                tally.count(part, apply);
                tally.samples.retain(|_, samples| *samples > 0);
                if *tally == Tally::default() {
                    self.tallies.remove(&campaign);
                }
                self.moved.insert(TotalName::Tally(campaign));
            }
        }
    }
}

/// What a job counts for.
#[derive(Debug, PartialEq)]
pub(super) struct Counted {
    platform: Hash,
    measurements: u64,
    parts: Vec<(CampaignId, Part)>,
}

/// What it counts for one campaign.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    sample: Option<Kind>,
    measured_ms: u64,
    column: Option<Column>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Column {
    Done,
    Outstanding,
    Infeasible,
    Parked,
}

impl Counted {
    pub(super) fn of(job: &Job) -> Self {
        let parts = job.shares.iter();
        Self {
            platform: job.task.platform,
            measurements: u64::from(job.replicas_done()),
            parts: parts
                .map(|(&campaign, &share)| (campaign, Part::of(job, share)))
                .collect(),
        }
    }
}

impl Part {
    fn of(job: &Job, share: Share) -> Self {
        let answered = job.replicas_done() > 0;
        let sample = job.kind.filter(|_| answered);
        if share == Share::Found {
            return Self {
                sample,
                measured_ms: 0,
                column: None,
            };
        }
        let (column, least_ms) = match &job.state {
            State::Queued | State::Leased { .. } => (Some(Column::Outstanding), 0),
            State::Infeasible { .. } => (Some(Column::Infeasible), FRUITLESS_MS),
            State::Parked { .. } => (Some(Column::Parked), FRUITLESS_MS),
            State::Done | State::Withdrawn => (None, 0),
        };
        let column = if answered { Some(Column::Done) } else { column };
        Self {
            sample,
            measured_ms: job.measured_ms.max(least_ms),
            column,
        }
    }
}
