//! The jobs of one platform that wait, in the order in which they are given out.

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
            if let Some(line) = self.campaigns.get_mut(&campaign) {
                line.remove(&place);
            }
        }
        self.campaigns.retain(|_, line| !line.is_empty());
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

    /// The next job and the campaign whose turn it is, if it is one's: first what a user waits for, then the oldest of
    /// the campaign that `turn` puts first, among those that it gives a turn.
    pub(super) fn next<T: Ord>(
        &self,
        turn: impl Fn(CampaignId) -> Option<T>,
    ) -> Option<(JobId, Option<CampaignId>)> {
        if let Some(&(_, job)) = self.urgent.first() {
            return Some((job, None));
        }
        let turns = self.campaigns.iter();
        let turns = turns.filter_map(|(&campaign, line)| Some((turn(campaign)?, campaign, line)));
        let (_, campaign, line) = turns.min_by(|(one, ..), (other, ..)| one.cmp(other))?;
        line.first().map(|&(_, job)| (job, Some(campaign)))
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
