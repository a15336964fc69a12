//! Models: numbered as they are published. The farm keeps the newest of each key, the store every one.

use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Hash, Kind, Model, ModelSet};

use super::{Change, Event, Farm, Refusal, Timestamp};

/// Publishes models. What equals the newest but for its version is not published again.
#[derive(Debug)]
pub struct PublishModels(pub Vec<Model>);

impl Event for PublishModels {
    /// Their versions.
    type Reply = Result<Vec<u64>, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        for model in &self.0 {
            let platform = &model.key.platform;
            farm.platforms
                .get(platform)
                .ok_or_else(|| Refusal::PlatformUnknown(platform.to_string()))?;
        }
        let mut platforms: Vec<Hash> = self.0.iter().map(|model| model.key.platform).collect();
        let versions = self
            .0
            .into_iter()
            .map(|model| farm.publish(model))
            .collect();
        platforms.dedup();
        for platform in &platforms {
            farm.compare_devices(platform);
            farm.quarantine_the_odd(now, platform);
            farm.settle_converged(now, platform);
        }
        Ok(versions)
    }
}

/// Asks for the newest models of a platform.
#[derive(Debug)]
pub struct GetModels {
    /// Slug or hash.
    pub platform: String,
    /// Only of these kinds; empty for all.
    pub kinds: Vec<Kind>,
}

impl Event for GetModels {
    type Reply = Result<ModelSet, Refusal>;

    fn apply(self, farm: &mut Farm, _now: Timestamp) -> Self::Reply {
        let entry = farm.find_platform(&self.platform)?;
        let wanted = |key: &ModelKey| {
            key.platform == entry.hash && (self.kinds.is_empty() || self.kinds.contains(&key.kind))
        };
        let models = farm
            .models
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(_, model)| model.clone())
            .collect();
        Ok(ModelSet::new(
            entry.slug.clone(),
            entry.platform.clone(),
            models,
        ))
    }
}

impl Farm {
    fn publish(&mut self, model: Model) -> u64 {
        let newest = self.models.get(&model.key);
        let last = newest.map_or(0, |newest| newest.version);
        let unchanged = Model {
            version: last,
            ..model
        };
        if newest == Some(&unchanged) {
            return last;
        }
        let model = Model {
            version: last + 1,
            ..unchanged
        };
        self.changes.push(Change::Model(model.clone()));
        self.models.insert(model.key, model);
        last + 1
    }
}
