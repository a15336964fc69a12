//! How devices of one type differ from each other, as models found it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Model, Target};
use crate::id::AgentId;

/// The most devices that a model may tell apart.
pub const DEVICES_MAX: usize = 256;

/// How one agent's device differs from the mean of those that a model's samples are from. The model predicts that mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceEffect {
    /// Whose device.
    pub agent: AgentId,
    /// Different layers that it measured.
    pub layers: u64,
    /// ln(this device / the mean device): over 0 where it takes longer, or draws more.
    pub log_ratio: f64,
    /// Standard error of `log_ratio`: over 0.
    pub log_error: f64,
}

impl DeviceEffect {
    /// How much more than the mean device it takes, in percent.
    pub fn percent(&self) -> f64 {
        100.0 * self.log_ratio.exp_m1()
    }

    /// What several models say of one device, each by its precision. Of models of different kinds the means are of
    /// different devices' shares, which is as small a difference as that of their shares.
    pub(super) fn joined(self, other: Self) -> Self {
        let precision = |effect: &Self| effect.log_error.powi(-2);
        let (own, others) = (precision(&self), precision(&other));
        Self {
            agent: self.agent,
            layers: self.layers.saturating_add(other.layers),
            log_ratio: (own * self.log_ratio + others * other.log_ratio) / (own + others),
            log_error: (own + others).sqrt().recip(),
        }
    }

    pub(super) fn check(effects: &[Self]) -> Result<(), String> {
        if effects.len() > DEVICES_MAX {
            return Err(format!("{} are more than {DEVICES_MAX}", effects.len()));
        }
        let is_fine = |effect: &Self| {
            effect.log_ratio.is_finite() && effect.log_error.is_finite() && effect.log_error > 0.0
        };
        if let Some(effect) = effects.iter().find(|effect| !is_fine(effect)) {
            let Self {
                log_ratio,
                log_error,
                ..
            } = effect;
            return Err(format!("{log_ratio} with an error of {log_error}"));
        }
        match effects.is_sorted_by(|a, b| a.agent < b.agent) {
            true => Ok(()),
            false => Err("are not in order, each once".to_owned()),
        }
    }
}

/// What the models of one target say of each device, all kinds together, by agent.
pub fn device_effects<'a>(
    models: impl IntoIterator<Item = &'a Model>,
    target: Target,
) -> BTreeMap<AgentId, DeviceEffect> {
    let mut found: BTreeMap<AgentId, DeviceEffect> = BTreeMap::new();
    let own = models
        .into_iter()
        .filter(|model| model.key.target == target);
    for effect in own.flat_map(|model| &model.provenance.devices) {
        found
            .entry(effect.agent)
            .and_modify(|known| *known = known.joined(*effect))
            .or_insert(*effect);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(agent: u128, log_ratio: f64, log_error: f64) -> DeviceEffect {
        DeviceEffect {
            agent: AgentId(uuid::Uuid::from_u128(agent)),
            layers: 10,
            log_ratio,
            log_error,
        }
    }

    #[test]
    fn the_surer_of_two_counts_more() {
        let joined = effect(1, 0.1, 0.01).joined(effect(1, 0.2, 0.02));
        // Weights 10,000 and 2,500.
        assert!((joined.log_ratio - 0.12).abs() < 1e-12);
        assert!((joined.log_error - 12_500f64.sqrt().recip()).abs() < 1e-12);
        assert_eq!(joined.layers, 20);
    }

    #[test]
    fn effects_that_mean_nothing_are_refused() {
        let fine = [effect(1, 0.1, 0.01), effect(2, -0.1, 0.01)];
        assert_eq!(DeviceEffect::check(&fine), Ok(()));
        for bad in [
            vec![effect(2, 0.1, 0.01), effect(1, 0.1, 0.01)],
            vec![effect(1, 0.1, 0.01), effect(1, 0.1, 0.01)],
            vec![effect(1, f64::NAN, 0.01)],
            vec![effect(1, 0.1, 0.0)],
            (0..300).map(|n| effect(n, 0.1, 0.01)).collect(),
        ] {
            assert!(DeviceEffect::check(&bad).is_err());
        }
    }
}
