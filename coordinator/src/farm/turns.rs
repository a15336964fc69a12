//! Whose turn it is: users share a platform, and each one's campaigns share what is its own, by weight.
//!
//! Each has a virtual time that a job moves on by one part in its weight; who is furthest behind is next. Whoever had nothing
//! to do meanwhile starts at the present: waiting idle earns nothing. Not on disk: after a restart everybody starts level.

use std::collections::{BTreeMap, BTreeSet};

use wattfarm_cost::Hash;
use wattfarm_cost::id::CampaignId;

use super::campaign::{Campaign, Owner};

/// The virtual time of a job at weight 1.
const JOB: u64 = 1 << 20;

/// The turns of every platform.
#[derive(Debug, Default)]
pub(super) struct Turns(BTreeMap<Hash, Shares>);

#[derive(Debug, Default)]
struct Shares {
    owners: Times<Owner>,
    campaigns: BTreeMap<Owner, Times<CampaignId>>,
}

/// The virtual times of those that share.
#[derive(Debug)]
struct Times<K> {
    present: u64,
    passed: BTreeMap<K, u64>,
}

impl<K> Default for Times<K> {
    fn default() -> Self {
        Self {
            present: 0,
            passed: BTreeMap::new(),
        }
    }
}

impl<K: Copy + Ord> Times<K> {
    fn of(&self, key: K) -> u64 {
        let passed = self.passed.get(&key).copied().unwrap_or(0);
        passed.max(self.present)
    }

    fn serve(&mut self, key: K, weight: u32) {
        self.present = self.of(key);
        self.passed
            .insert(key, self.present + JOB / u64::from(weight));
        // Who is not ahead of the present is where a newcomer would be.
        let present = self.present;
        self.passed.retain(|_, passed| *passed > present);
    }
}

/// The campaigns that wait on a platform, in the order of their turns: for as long as one call gives out jobs. Of an owner
/// those that are urgent stand first, and each campaign at its own virtual time, which only its own turns move on meanwhile.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<(bool, Owner), BTreeSet<(u64, CampaignId)>>);

impl Turns {
    /// The order among campaigns of a platform.
    pub(super) fn waiting<'a>(
        &self,
        platform: &Hash,
        campaigns: impl Iterator<Item = &'a Campaign>,
    ) -> Waiting {
        let shares = self.0.get(platform);
        let mut waiting = Waiting::default();
        for campaign in campaigns {
            let own = shares.and_then(|shares| shares.campaigns.get(&campaign.owner));
            let own = own.map_or(0, |times| times.of(campaign.id));
            let group = (!campaign.request.urgent, campaign.owner);
            waiting
                .0
                .entry(group)
                .or_default()
                .insert((own, campaign.id));
        }
        waiting
    }

    /// Whose turn it is. Urgent campaigns come first, then the owner who is furthest behind, and of that one's campaigns the one
    /// that is.
    pub(super) fn next(&self, platform: &Hash, waiting: &Waiting) -> Option<CampaignId> {
        let owners = self.0.get(platform).map(|shares| &shares.owners);
        let groups = waiting
            .0
            .iter()
            .filter(|(_, campaigns)| !campaigns.is_empty());
        let (_, campaigns) = groups.min_by_key(|&(&(is_later, owner), _)| {
            let passed = owners.map_or(0, |owners| owners.of(owner));
            (is_later, passed, owner)
        })?;
        campaigns.first().map(|&(_, campaign)| campaign)
    }

    /// The campaign that is next has its turn.
    pub(super) fn serve(&mut self, campaign: &Campaign, waiting: &mut Waiting) {
        let shares = self.0.entry(campaign.platform).or_default();
        let weight = campaign.request.weight.get();
        shares.owners.serve(campaign.owner, weight);
        let own = shares.campaigns.entry(campaign.owner).or_default();
        own.serve(campaign.id, weight);
        let group = (!campaign.request.urgent, campaign.owner);
        let campaigns = waiting.0.entry(group).or_default();
        campaigns.pop_first();
        campaigns.insert((own.of(campaign.id), campaign.id));
    }
}

impl Waiting {
    /// The campaign that is next has nothing to give out.
    pub(super) fn drop_next(&mut self, campaign: &Campaign) {
        let group = (!campaign.request.urgent, campaign.owner);
        self.0.entry(group).or_default().pop_first();
    }
}
