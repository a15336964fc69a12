//! Platforms: known since the first agent of each enrolled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattfarm_cost::{Hash, Platform};

use super::{Change, Event, Farm, Refusal, Timestamp};

/// A platform with the name that people type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformEntry {
    /// The name among machines.
    pub hash: Hash,
    /// The name among people: no two platforms of the farm share one.
    pub slug: String,
    /// What it is.
    pub platform: Platform,
}

/// A platform as a list shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlatformStatus {
    /// The platform.
    pub entry: PlatformEntry,
    /// Agents that are enrolled.
    pub agents: u32,
    /// Agents that called lately.
    pub agents_connected: u32,
    /// Measurements taken.
    pub measurements: u64,
    /// Models published, counting each key once.
    pub models: u32,
}

/// Asks for every platform.
#[derive(Debug)]
pub struct ListPlatforms;

impl Event for ListPlatforms {
    type Reply = Vec<PlatformStatus>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let status = |entry: &PlatformEntry| PlatformStatus {
            entry: entry.clone(),
            agents: 0,
            agents_connected: 0,
            measurements: farm.jobs.totals.measurements(&entry.hash),
            models: 0,
        };
        let mut found: BTreeMap<Hash, PlatformStatus> = farm
            .platforms
            .iter()
            .map(|(&hash, entry)| (hash, status(entry)))
            .collect();
        for agent in farm.agents.values() {
            let Some(status) = found.get_mut(&agent.platform) else {
                continue;
            };
            status.agents += 1;
            status.agents_connected += u32::from(agent.is_connected(now));
        }
        for key in farm.models.keys() {
            found
                .entry(key.platform)
                .and_modify(|status| status.models += 1);
        }
        found.into_values().collect()
    }
}

/// Asks for one platform by its slug or hash.
#[derive(Debug)]
pub struct FindPlatform(pub String);

impl Event for FindPlatform {
    type Reply = Result<PlatformEntry, Refusal>;

    fn apply(self, farm: &mut Farm, _now: Timestamp) -> Self::Reply {
        farm.find_platform(&self.0).cloned()
    }
}

impl Farm {
    /// The platform of a slug or a hash.
    pub(super) fn find_platform(&self, name: &str) -> Result<&PlatformEntry, Refusal> {
        let by_hash = name
            .parse()
            .ok()
            .and_then(|hash: Hash| self.platforms.get(&hash));
        let found = by_hash.or_else(|| self.platforms.values().find(|entry| entry.slug == name));
        found.ok_or_else(|| Refusal::PlatformUnknown(name.chars().take(200).collect()))
    }

    /// The name among people of a platform that is known.
    pub(super) fn slug(&self, platform: &Hash) -> String {
        self.platforms
            .get(platform)
            .map(|entry| entry.slug.clone())
            .unwrap_or_default()
    }

    /// Notes a platform, the first time under a slug of its own.
    pub(super) fn learn_platform(&mut self, platform: Platform) -> Hash {
        let hash = platform.hash();
        if !self.platforms.contains_key(&hash) {
            let plain = platform.slug();
            let taken = self.platforms.values().any(|entry| entry.slug == plain);
            let slug = if taken {
                format!("{plain}-{:.6}", hash.to_string())
            } else {
                plain
            };
            let entry = PlatformEntry {
                hash,
                slug,
                platform,
            };
            self.changes.push(Change::Platform(entry.clone()));
            self.platforms.insert(hash, entry);
        }
        hash
    }
}
