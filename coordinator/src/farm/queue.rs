//! The jobs of one platform that wait, in the order in which they are given out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use wattfarm_cost::id::{CampaignId, JobId};

use super::Timestamp;
use super::job::Job;

/// The older job first.
type Place = (Timestamp, JobId);

/// What waits on one platform. A job that several campaigns want stands in the line of each.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Queue {
    urgent: BTreeSet<Place>,
    campaigns: BTreeMap<CampaignId, BTreeSet<Place>>,
}

impl Queue {
    pub(super) fn insert(&mut self, job: &Job) {
        let place = (job.created_at, job.id);
        if job.urgent {
            self.urgent.insert(place);
        } else {
            job.waiting_campaigns().for_each(|campaign| {
                self.campaigns.entry(campaign).or_default().insert(place);
            });
        }
    }

    pub(super) fn remove(&mut self, job: &Job) {
        let place = (job.created_at, job.id);
        self.urgent.remove(&place);
        for campaign in job.waiting_campaigns() {
            if let Entry::Occupied(mut line) = self.campaigns.entry(campaign) {
                line.get_mut().remove(&place);
                if line.get().is_empty() {
                    line.remove();
                }
            }
        }
    }

    /// Whether a job stands in every line that it should, if it should wait.
    pub(super) fn holds(&self, job: &Job) -> bool {
        let place = (job.created_at, job.id);
        if job.urgent {
            return self.urgent.contains(&place);
        }
        let mut lines = job.waiting_campaigns().peekable();
        lines.peek().is_some()
            && lines.all(|campaign| {
                let line = self.campaigns.get(&campaign);
                line.is_some_and(|line| line.contains(&place))
            })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.campaigns.is_empty()
    }

    /// The oldest job that a user waits for.
    pub(super) fn first_urgent(&self) -> Option<JobId> {
        self.urgent.first().map(|&(_, job)| job)
    }

    /// The oldest of a campaign's jobs that aren't urgent.
    pub(super) fn first_of(&self, campaign: CampaignId) -> Option<JobId> {
        let line = self.campaigns.get(&campaign)?;
        line.first().map(|&(_, job)| job)
    }

    /// The campaigns that have jobs that aren't urgent.
    pub(super) fn campaigns(&self) -> impl Iterator<Item = CampaignId> {
        self.campaigns.keys().copied()
    }

    /// The jobs that may wait for a campaign: those in its line, and the urgent ones.
    pub(super) fn perhaps_of(&self, campaign: CampaignId) -> impl Iterator<Item = JobId> {
        let line = self.campaigns.get(&campaign).into_iter().flatten();
        line.chain(&self.urgent).map(|&(_, job)| job)
    }

    /// Every waiting job with the number of jobs that are about to go before it. Among campaigns the order depends on
    /// who is served meanwhile, so that part is by age.
    pub(super) fn positions(&self) -> BTreeMap<JobId, usize> {
        let by_age: BTreeSet<&Place> = self.campaigns.values().flatten().collect();
        let order = self.urgent.iter().chain(by_age);
        order
            .enumerate()
            .map(|(position, &(_, job))| (job, position))
            .collect()
    }
}
