//! Devices of a platform against each other: how they differ is fitted by the trainer and comes with the models.
//!
//! Models are corrected for what a device is off by, so that what an odd device measured needs no retraction. It measures no
//! more because nobody would want to have it: something ails it, or it isn't what it says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wattfarm_cost::Hash;
use wattfarm_cost::id::AgentId;
use wattfarm_cost::model::{DeviceEffect, ModelKey, Target, device_effects};

use super::agent::Agent;
use super::{Farm, Timestamp};

/// Fewer devices judge none of them: of two that differ nobody knows which one is odd.
const PEERS_MIN: usize = 3;

/// How far from the median of its peers' runtimes a device's may be, as a share: of healthy boards the outermost are 22 %
/// apart (arXiv 2208.11035).
const APART_MAX: f64 = 0.35;

/// Who is known less well than this, as a standard error, judges nobody and is not judged: a layer or two say little.
const ERROR_MAX: f64 = 0.08;

/// It has to be that far off by so many of its standard errors as well.
const ERRORS_MIN: f64 = 4.0;

/// What became of a device whose runtimes are far from its peers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Odd {
    /// It was quarantined for that.
    Quarantined,
    /// An operator let it go on: it isn't quarantined for that again.
    Accepted,
}

/// How devices differ by the newest models of runtimes, for each platform: derived from the models alone.
#[derive(Debug, Default)]
pub(super) struct Effects(BTreeMap<Hash, BTreeMap<AgentId, DeviceEffect>>);

impl Effects {
    pub(super) fn of(&self, agent: &Agent) -> Option<&DeviceEffect> {
        self.0.get(&agent.platform)?.get(&agent.id)
    }
}

/// Who is far from the median of all that are known well enough, with how far, in percent. Nobody where as many are far from it
/// as are not.
fn odd(effects: &BTreeMap<AgentId, DeviceEffect>) -> Vec<(AgentId, f64)> {
    let known = effects.values();
    let peers: Vec<&DeviceEffect> = known
        .filter(|effect| effect.log_error <= ERROR_MAX)
        .collect();
    if peers.len() < PEERS_MIN {
        return Vec::new();
    }
    let mut ratios: Vec<f64> = peers.iter().map(|effect| effect.log_ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let middle = [ratios[(ratios.len() - 1) / 2], ratios[ratios.len() / 2]];
    let median = f64::midpoint(middle[0], middle[1]);
    let is_odd = |effect: &DeviceEffect| {
        let off = (effect.log_ratio - median).abs();
        off > APART_MAX.ln_1p().max(ERRORS_MIN * effect.log_error)
    };
    let odd = peers.iter().filter(|effect| is_odd(effect));
    let odd: Vec<(AgentId, f64)> = odd
        .map(|effect| {
            let percent = 100.0 * (effect.log_ratio - median).exp_m1();
            (effect.agent, percent)
        })
        .collect();
    match odd.len() * 2 < peers.len() {
        true => odd,
        false => Vec::new(),
    }
}

impl Farm {
    /// Derives a platform's effects anew.
    pub(super) fn compare_devices(&mut self, platform: &Hash) {
        let own = self
            .models
            .iter()
            .filter(|(key, _)| &key.platform == platform);
        let found = device_effects(own.map(|(_, model)| model), Target::RuntimeMs);
        self.effects.0.insert(*platform, found);
    }

    /// Quarantines whoever is far from its peers.
    pub(super) fn quarantine_the_odd(&mut self, now: Timestamp, platform: &Hash) {
        let effects = self.effects.0.get(platform);
        for (id, percent) in effects.map(odd).unwrap_or_default() {
            let Some(agent) = self.agents.get(&id) else {
                continue;
            };
            if agent.odd.is_some() || &agent.platform != platform {
                continue;
            }
            let because = format!(
                "layers take `{}` {:.0} % {} than the platform's other devices",
                agent.name,
                percent.abs(),
                if percent > 0.0 { "longer" } else { "less time" },
            );
            let agent = Agent {
                odd: Some(Odd::Quarantined),
                quarantined: agent.quarantined.clone().or(Some(because)),
                ..agent.clone()
            };
            self.put_agent(agent);
            self.take_back_leases(now, id, &[]);
        }
    }

    /// Every platform's effects, after a start.
    pub(super) fn compare_all_devices(&mut self) {
        let mut platforms: Vec<Hash> = self
            .models
            .keys()
            .map(|key: &ModelKey| key.platform)
            .collect();
        platforms.dedup();
        platforms
            .iter()
            .for_each(|platform| self.compare_devices(platform));
    }
}
