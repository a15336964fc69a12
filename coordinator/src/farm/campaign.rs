//! Campaigns: what users want to know, how far it is known, and when to stop.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wattfarm_cost::id::{AgentId, CampaignId, JobId};
use wattfarm_cost::model::{ModelKey, Target};
use wattfarm_cost::{Dtype, Hash, Kind, Model};

use super::job::{Job, State};
use super::totals::Tally;
use super::{Change, Event, Farm, Refusal, Timestamp};

/// The most campaigns under way: anybody may ask for one.
const CAMPAIGNS_MAX: usize = 256;

/// The most campaigns in a list.
const LISTED_MAX: usize = 1000;

/// What a user wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The layer kinds; empty for every kind.
    pub kinds: Vec<Kind>,
    /// The number type.
    pub dtype: Dtype,
    /// Cross-validated RMSPE in percent that every kind shall reach; positive and finite.
    pub target_error: Option<f64>,
    /// What it may cost.
    pub budget: Budget,
    /// Layers that shall not be sampled, in order and each once.
    pub excluded: Vec<Hash>,
    /// Its share of the platform beside others'.
    #[serde(default)]
    pub weight: Weight,
    /// Whether it goes before campaigns that are not urgent.
    #[serde(default)]
    pub urgent: bool,
}

/// A share, relative to others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(u32);

impl Weight {
    /// The largest.
    pub const MAX: u32 = 100;

    /// A weight of 1 to [`Self::MAX`].
    pub fn new(weight: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&weight).then_some(Self(weight))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// What a campaign may cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Jobs answered or given up.
    Jobs(u64),
    /// Seconds of measuring, summed over agents; positive and finite.
    Seconds(f64),
}

/// A campaign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    /// Its id, the caller's.
    pub id: CampaignId,
    /// The platform.
    pub platform: Hash,
    /// What the user wants.
    pub request: Request,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// How it ended, if it has.
    pub end: Option<(End, Timestamp)>,
    /// The budget that it was given since, in place of the request's.
    #[serde(default)]
    pub extended: Option<Budget>,
    /// Whose it is: users share a platform, however many campaigns each has.
    #[serde(default)]
    pub owner: Owner,
    /// Whether its jobs wait until it goes on.
    #[serde(default)]
    pub paused: bool,
}

/// Whose something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Whoever came without a key.
    #[default]
    Anonymous,
    /// The holder of the operator's key.
    Operator,
    /// The holder of the key of this id.
    Key(Uuid),
    /// An agent, by what its canary said.
    Agent(AgentId),
}

/// How a campaign ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Every kind reached the target error.
    Converged,
    /// The budget is spent.
    Exhausted,
    /// Somebody ended it.
    Cancelled,
}

/// Where a campaign stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No job has been answered yet.
    Waiting,
    /// Some kind has no model yet.
    Sampling,
    /// Every kind has a model.
    Ready,
    /// It is over.
    Ended(End),
}

/// A campaign as its user sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct CampaignStatus {
    /// The campaign, without the layers that it leaves out: they can be many.
    pub campaign: Campaign,
    /// How many layers it leaves out.
    pub excluded: usize,
    /// Its platform's name among people.
    pub slug: String,
    /// Where it stands.
    pub phase: Phase,
    /// What it has from its jobs.
    pub tally: Tally,
    /// Each kind's progress.
    pub kinds: Vec<KindStatus>,
    /// What holds it up; empty if nothing does.
    pub waiting_because: String,
}

/// How far one kind of a campaign is.
#[derive(Debug, Clone, PartialEq)]
pub struct KindStatus {
    /// The kind.
    pub kind: Kind,
    /// Layers measured for the campaign.
    pub samples: u64,
    /// The newest runtime model's error, in percent.
    pub rmspe: Option<f64>,
    /// The newest runtime model's version.
    pub model_version: Option<u64>,
}

impl Campaign {
    /// Every kind that is asked for.
    pub fn kinds(&self) -> Vec<Kind> {
        if self.request.kinds.is_empty() {
            Kind::ALL.to_vec()
        } else {
            self.request.kinds.clone()
        }
    }

    fn without_excluded(&self) -> Self {
        Self {
            id: self.id,
            platform: self.platform,
            request: Request {
                kinds: self.request.kinds.clone(),
                dtype: self.request.dtype,
                target_error: self.request.target_error,
                budget: self.request.budget,
                excluded: Vec::new(),
                weight: self.request.weight,
                urgent: self.request.urgent,
            },
            created_at: self.created_at,
            end: self.end,
            extended: self.extended,
            owner: self.owner,
            paused: self.paused,
        }
    }

    /// What it may cost, by now.
    pub fn budget(&self) -> Budget {
        self.extended.unwrap_or(self.request.budget)
    }

    fn is_spent(&self, tally: &Tally) -> bool {
        match self.budget() {
            Budget::Jobs(jobs) => tally.spent() >= jobs,
            Budget::Seconds(seconds) => tally.measured_ms as f64 >= seconds * 1000.0,
        }
    }
}

/// Asks for the models of a platform.
#[derive(Debug)]
pub struct RequestModels {
    /// The caller's id.
    pub id: CampaignId,
    /// Slug or hash.
    pub platform: String,
    /// What the user wants.
    pub request: Request,
    /// Who asks.
    pub owner: Owner,
}

impl Event for RequestModels {
    type Reply = Result<CampaignStatus, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let platform = farm.find_platform(&self.platform)?.hash;
        if let Some(known) = farm.campaigns.get(&self.id) {
            let same = known.platform == platform && known.request == self.request;
            return if same {
                farm.campaign_status(self.id, now)
            } else {
                Err(Refusal::CampaignDiffers(self.id))
            };
        }
        let live = farm
            .campaigns
            .values()
            .filter(|campaign| campaign.end.is_none())
            .count();
        if live >= CAMPAIGNS_MAX {
            return Err(Refusal::CampaignsFull(live));
        }
        let Self {
            id, request, owner, ..
        } = self;
        farm.put_campaign(Campaign {
            id,
            platform,
            request,
            created_at: now,
            end: None,
            extended: None,
            owner,
            paused: false,
        });
        farm.campaign_status(id, now)
    }
}

/// Ends a campaign. One that has ended stays as it ended.
#[derive(Debug)]
pub struct CancelCampaign(pub CampaignId);

impl Event for CancelCampaign {
    type Reply = Result<CampaignStatus, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        if farm.campaigns.contains_key(&self.0) {
            farm.end_campaign(now, self.0, End::Cancelled);
        }
        farm.campaign_status(self.0, now)
    }
}

/// Has a campaign's jobs wait, or lets them go on.
#[derive(Debug)]
pub struct PauseCampaign {
    /// The campaign.
    pub id: CampaignId,
    /// Whether its jobs wait.
    pub paused: bool,
}

impl Event for PauseCampaign {
    type Reply = Result<CampaignStatus, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let campaign = farm.live_campaign(self.id)?;
        if campaign.paused != self.paused {
            let campaign = Campaign {
                paused: self.paused,
                ..campaign.clone()
            };
            farm.put_campaign(campaign);
        }
        farm.campaign_status(self.id, now)
    }
}

/// Sets a campaign's budget anew. One that was exhausted or converged goes on.
#[derive(Debug)]
pub struct ExtendCampaign {
    /// The campaign.
    pub id: CampaignId,
    /// In the unit that it has, and no less than it has.
    pub budget: Budget,
}

impl Event for ExtendCampaign {
    type Reply = Result<CampaignStatus, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let campaign = farm
            .campaigns
            .get(&self.id)
            .ok_or(Refusal::CampaignUnknown(self.id))?;
        let grows = match (campaign.budget(), self.budget) {
            (Budget::Jobs(before), Budget::Jobs(jobs)) => before <= jobs,
            (Budget::Seconds(before), Budget::Seconds(seconds)) => before <= seconds,
            (Budget::Jobs(_), Budget::Seconds(_)) | (Budget::Seconds(_), Budget::Jobs(_)) => false,
        };
        if !grows {
            return Err(Refusal::BudgetSmaller(self.id));
        }
        let extended = Campaign {
            extended: Some(self.budget),
            end: None,
            ..campaign.clone()
        };
        let end = campaign.end.map(|(end, _)| end);
        if end == Some(End::Cancelled) {
            return Err(Refusal::CampaignEnded(self.id));
        }
        if extended.is_spent(&farm.jobs.totals.tally(self.id)) {
            return Err(Refusal::BudgetSmaller(self.id));
        }
        if campaign.budget() != self.budget || end.is_some() {
            farm.put_campaign(extended);
        }
        farm.campaign_status(self.id, now)
    }
}

/// Asks for one campaign.
#[derive(Debug)]
pub struct GetCampaign(pub CampaignId);

impl Event for GetCampaign {
    type Reply = Result<CampaignStatus, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        farm.campaign_status(self.0, now)
    }
}

/// Asks for campaigns: those under way, then those that have ended, the newest end first, as many as a list has room for.
#[derive(Debug)]
pub struct ListCampaigns {
    /// Whether those that have ended are wanted too.
    pub ended: bool,
}

impl Event for ListCampaigns {
    type Reply = Vec<CampaignStatus>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let mut wanted: Vec<&Campaign> = farm
            .campaigns
            .values()
            .filter(|campaign| self.ended || campaign.end.is_none())
            .collect();
        // Stable: equals stay in the order of their ids.
        wanted.sort_by_key(|campaign| campaign.end.map(|(_, ended_at)| Reverse(ended_at)));
        wanted
            .into_iter()
            .take(LISTED_MAX)
            .filter_map(|campaign| farm.campaign_status(campaign.id, now).ok())
            .collect()
    }
}

impl Farm {
    /// A campaign that has not ended.
    pub(super) fn live_campaign(&self, id: CampaignId) -> Result<&Campaign, Refusal> {
        let campaign = self
            .campaigns
            .get(&id)
            .ok_or(Refusal::CampaignUnknown(id))?;
        match campaign.end {
            Some(_) => Err(Refusal::CampaignEnded(id)),
            None => Ok(campaign),
        }
    }

    fn campaign_status(&self, id: CampaignId, now: Timestamp) -> Result<CampaignStatus, Refusal> {
        let campaign = self
            .campaigns
            .get(&id)
            .ok_or(Refusal::CampaignUnknown(id))?;
        let tally = self.jobs.totals.tally(id);
        let kind_status = |kind| {
            let model = self.runtime_model(campaign, kind);
            KindStatus {
                kind,
                samples: tally.samples.get(&kind).copied().unwrap_or(0),
                rmspe: model.map(|model| model.validation.rmspe),
                model_version: model.map(|model| model.version),
            }
        };
        let kinds: Vec<_> = campaign.kinds().into_iter().map(kind_status).collect();
        let answered = tally.spent() > 0 || !tally.samples.is_empty();
        let phase = match campaign.end {
            Some((end, _)) => Phase::Ended(end),
            None if !answered => Phase::Waiting,
            None if kinds.iter().any(|kind| kind.model_version.is_none()) => Phase::Sampling,
            None => Phase::Ready,
        };
        Ok(CampaignStatus {
            excluded: campaign.request.excluded.len(),
            campaign: campaign.without_excluded(),
            slug: self.slug(&campaign.platform),
            phase,
            waiting_because: self.campaign_waits_because(campaign, &tally, now),
            tally,
            kinds,
        })
    }

    /// Ends the campaigns of a job that was answered, where their budget is spent now.
    pub(super) fn settle_campaigns(&mut self, now: Timestamp, job: JobId) {
        let campaigns: Vec<_> = self
            .jobs
            .get(job)
            .into_iter()
            .flat_map(|job| job.shares.keys().copied())
            .collect();
        for id in campaigns {
            if self
                .campaigns
                .get(&id)
                .is_some_and(|campaign| campaign.is_spent(&self.jobs.totals.tally(id)))
            {
                self.end_campaign(now, id, End::Exhausted);
            }
        }
    }

    /// Ends the campaigns of a platform whose every kind has samples of their own and a model as good as they ask.
    pub(super) fn settle_converged(&mut self, now: Timestamp, platform: &Hash) {
        let converged = |campaign: &&Campaign| {
            let Some(target) = campaign.request.target_error else {
                return false;
            };
            let samples = self.jobs.totals.tally(campaign.id).samples;
            campaign.kinds().into_iter().all(|kind| {
                let model = self.runtime_model(campaign, kind);
                samples.contains_key(&kind)
                    && model.is_some_and(|model| model.validation.rmspe <= target)
            })
        };
        let there = self
            .campaigns
            .values()
            .filter(|campaign| campaign.end.is_none() && campaign.platform == *platform);
        let ids: Vec<_> = there
            .filter(converged)
            .map(|campaign| campaign.id)
            .collect();
        ids.into_iter()
            .for_each(|id| self.end_campaign(now, id, End::Converged));
    }

    /// Ends a campaign, unless it has ended. What waits for it alone is withdrawn; agents hand back what they
    /// have not begun when they report next.
    fn end_campaign(&mut self, now: Timestamp, id: CampaignId, end: End) {
        let Some(campaign) = self
            .campaigns
            .get(&id)
            .filter(|campaign| campaign.end.is_none())
        else {
            return;
        };
        let platform = campaign.platform;
        self.put_campaign(Campaign {
            end: Some((end, now)),
            ..campaign.clone()
        });
        let waits = |job: &JobId| {
            let mut campaigns = self
                .jobs
                .get(*job)
                .into_iter()
                .flat_map(Job::waiting_campaigns);
            campaigns.any(|campaign| campaign == id)
        };
        let queue = self.jobs.queue(&platform).into_iter();
        let waiting: Vec<JobId> = queue
            .flat_map(|queue| queue.perhaps_of(id))
            .filter(waits)
            .collect();
        for job in waiting {
            self.withdraw(job, id);
        }
    }

    /// Takes a campaign's interest off a job that waits.
    fn withdraw(&mut self, id: JobId, campaign: CampaignId) {
        self.jobs.alter(id, &mut self.changes, |job| {
            job.shares.remove(&campaign);
            job.state = if job.is_wanted() {
                State::Queued
            } else {
                State::Withdrawn
            };
        });
        if self
            .jobs
            .get(id)
            .is_some_and(|job| job.state == State::Withdrawn && job.grants.is_empty())
        {
            self.jobs.remove(id, &mut self.changes);
        }
    }

    fn runtime_model(&self, campaign: &Campaign, kind: Kind) -> Option<&Model> {
        let (platform, dtype) = (campaign.platform, campaign.request.dtype);
        self.models.get(&ModelKey {
            platform,
            kind,
            dtype,
            target: Target::RuntimeMs,
        })
    }

    fn put_campaign(&mut self, campaign: Campaign) {
        self.changes.push(Change::Campaign(campaign.clone()));
        self.campaigns.insert(campaign.id, campaign);
    }
}
