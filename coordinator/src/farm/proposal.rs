//! Proposals: the layers that a trainer wants measured for a campaign.

use wattfarm_cost::id::{CampaignId, JobId};
use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::{Layer, Subject};

use super::campaign::{Budget, Campaign};
use super::job::{Job, Share, State, Task, TaskKey};
use super::{Event, Farm, JobName, Refusal, Timestamp};

/// The most jobs of one campaign that may be queued or leased.
pub const OUTSTANDING_MAX: u64 = 4096;

/// Proposes layers for a campaign.
#[derive(Debug)]
pub struct ProposeLayers {
    /// The campaign.
    pub campaign: CampaignId,
    /// The layers, each with the id of the job that is made of it unless there is one.
    pub layers: Vec<(JobId, Layer)>,
}

/// What became of a proposal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proposed {
    /// Layers that wait for the campaign now.
    pub queued: u32,
    /// Layers whose answer is known: samples of the campaign that cost it nothing, unless the answer is that there is
    /// none to have.
    pub already_measured: u32,
    /// Layers that the campaign doesn't want.
    pub excluded: u32,
    /// Layers that its budget of jobs has no room for.
    pub over_budget: u32,
}

impl Event for ProposeLayers {
    type Reply = Result<Proposed, Refusal>;

    fn is_about(&self, farm: &Farm) -> Vec<JobName> {
        let Ok(campaign) = farm.live_campaign(self.campaign) else {
            return Vec::new();
        };
        let task = |(_, layer): &(JobId, Layer)| TaskKey {
            platform: campaign.platform,
            subject: layer.hash(),
            recipe: Recipe::LAYER,
        };
        self.layers.iter().map(task).map(JobName::Task).collect()
    }

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let campaign = farm.live_campaign(self.campaign)?;
        let (id, platform) = (campaign.id, campaign.platform);
        let kinds = campaign.kinds();
        let wanted = |layer: &Layer| {
            layer.dtype() == campaign.request.dtype
                && kinds.contains(&layer.kind())
                && campaign
                    .request
                    .excluded
                    .binary_search(&layer.hash())
                    .is_err()
        };
        let proposed = self.layers.len();
        let task = |layer| Task {
            platform,
            subject: Subject::Layer(layer),
            recipe: Recipe::LAYER,
        };
        let tasks: Vec<(JobId, Task)> = (self.layers.into_iter())
            .filter(|(_, layer)| wanted(layer))
            .map(|(fresh, layer)| (fresh, task(layer)))
            .collect();

        let added = tasks.iter().filter(|(_, task)| adds(farm, task, id));
        let outstanding = farm.jobs.totals.tally(id).outstanding + added.count() as u64;
        if outstanding > OUTSTANDING_MAX {
            return Err(Refusal::QueueFull {
                campaign: id,
                outstanding,
                max: OUTSTANDING_MAX,
            });
        }
        let mut reply = Proposed {
            excluded: (proposed - tasks.len()) as u32,
            ..Proposed::default()
        };
        let mut room = campaign_room(farm, id);
        for (fresh, task) in tasks {
            if adds(farm, &task, id) {
                if room == 0 {
                    reply.over_budget += 1;
                    continue;
                }
                room -= 1;
            }
            if farm.share(now, id, fresh, task) {
                reply.queued += 1
            } else {
                reply.already_measured += 1
            }
        }
        Ok(reply)
    }
}

impl Farm {
    /// Gives a campaign its share of the job of a task; says whether that job is still to be answered.
    fn share(&mut self, now: Timestamp, campaign: CampaignId, fresh: JobId, task: Task) -> bool {
        let Some(job) = self.jobs.find(&task.key()) else {
            let mut job = Job::new(fresh, &task, now);
            job.shares.insert(campaign, Share::Ordered);
            self.jobs.add(job, task, &mut self.changes);
            return true;
        };
        let id = job.id;
        if opens(job) {
            self.jobs.reopen(id, task, &mut self.changes, |job| {
                job.shares.insert(campaign, Share::Ordered);
            });
            return true;
        }
        let answered = job.replicas_done() > 0;
        let waits = job.state.is_open() && !answered;
        if !job.shares.contains_key(&campaign) && (waits || answered) {
            let share = if waits { Share::Ordered } else { Share::Found };
            self.jobs.alter(id, &mut self.changes, |job| {
                job.shares.insert(campaign, share);
            });
        }
        waits
    }
}

/// Jobs that a campaign's budget has room for, beside those that it waits for.
fn campaign_room(farm: &Farm, id: CampaignId) -> u64 {
    let tally = farm.jobs.totals.tally(id);
    match farm.campaigns.get(&id).map(Campaign::budget) {
        Some(Budget::Jobs(jobs)) => jobs.saturating_sub(tally.spent() + tally.outstanding),
        Some(Budget::Seconds(_)) | None => u64::MAX,
    }
}

/// Whether a campaign would have one more job to wait for.
fn adds(farm: &Farm, task: &Task, campaign: CampaignId) -> bool {
    let known = farm.jobs.find(&task.key());
    known.is_none_or(|job| opens(job) || is_news(job, campaign))
}

/// Whether a wish opens the job again: what was withdrawn was never answered.
fn opens(job: &Job) -> bool {
    job.state == State::Withdrawn
}

/// Whether an open job would begin to wait for a campaign.
fn is_news(job: &Job, campaign: CampaignId) -> bool {
    job.state.is_open() && job.replicas_done() == 0 && !job.shares.contains_key(&campaign)
}
