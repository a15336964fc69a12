//! Whose turn it is: users share a platform, and each one's campaigns share what is its own, by weight.
//!
//! Each has a virtual time that a job moves on by one part in its weight; who is furthest behind is next. Whoever had nothing
//! to do meanwhile starts at the present: waiting idle earns nothing. Not on disk: after a restart everybody starts level.

use std::collections::BTreeMap;

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

impl Turns {
    /// Where a campaign stands in the order on its platform: the least is next. Urgent ones come first.
    pub(super) fn order(&self, campaign: &Campaign) -> impl Ord + use<> {
        let level = (0, 0);
        let (owner, own) = self.0.get(&campaign.platform).map_or(level, |shares| {
            let own = shares.campaigns.get(&campaign.owner);
            let own = own.map_or(0, |times| times.of(campaign.id));
            (shares.owners.of(campaign.owner), own)
        });
        (
            !campaign.request.urgent,
            owner,
            campaign.owner,
            own,
            campaign.id,
        )
    }

    /// A campaign had its turn.
    pub(super) fn serve(&mut self, campaign: &Campaign) {
        let shares = self.0.entry(campaign.platform).or_default();
        let weight = campaign.request.weight.get();
        shares.owners.serve(campaign.owner, weight);
        let own = shares.campaigns.entry(campaign.owner).or_default();
        own.serve(campaign.id, weight);
    }
}
