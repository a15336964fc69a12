//! A store that no coordinator works on: one, or one for each shard.

use super::verify::{Verified, VerifyError, verify};
use super::{DurableStore, Sink, Store as _, StoreError};

/// The stores of a farm, in the order of their shards. Together they are one: no two have a number, or an id, in common.
#[derive(Debug)]
pub struct Existing(pub(super) Vec<DurableStore>);

impl Existing {
    /// Each shard's store.
    pub fn into_shards(self) -> Vec<DurableStore> {
        self.0
    }

    /// Tells all that is stored, as changes that make an empty store equal to all of these.
    pub fn copy(&self, sink: &mut Sink<'_>) -> Result<(), StoreError> {
        self.0.iter().try_for_each(|shard| shard.copy(sink))
    }

    /// Looks at everything.
    pub fn verify(&self) -> Result<Verified, VerifyError> {
        let mut all = Verified::default();
        for shard in &self.0 {
            let found = verify(shard)?;
            all.agents += found.agents;
            all.jobs += found.jobs;
            all.measurements += found.measurements;
            all.campaigns += found.campaigns;
            all.models += found.models;
        }
        Ok(all)
    }
}
