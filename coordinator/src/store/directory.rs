//! Where things are: which shard has a platform, or an agent; and the keys, which are valid in all of them.

use std::collections::BTreeMap;

use super::StoreError;
use super::postgres::{Common, Shard};
use super::record::decode;
use super::shelf::Shelf;
use crate::farm::{Agent, Key, PlatformEntry, SecretHash};

/// Which shard has what. Nothing that is in it ever moves.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// By slug, and by hash.
    pub platforms: BTreeMap<String, Shard>,
    /// By what a platform is called before it is told apart from others of that name.
    pub names: BTreeMap<String, Shard>,
    /// Agents' credentials.
    pub credentials: BTreeMap<SecretHash, Shard>,
}

impl Directory {
    /// Reads it, of these shards.
    pub fn read(common: &Common, shards: &[Shard]) -> Result<Self, StoreError> {
        let mut directory = Self::default();
        for &shard in shards {
            let shelf = Shelf::Platforms;
            for (key, bytes) in common.records(shard, shelf)? {
                let entry: PlatformEntry = decode(shelf.name(), &key, &bytes)?;
                directory.platforms.insert(entry.hash.to_string(), shard);
                directory.names.insert(entry.platform.slug(), shard);
                directory.platforms.insert(entry.slug, shard);
            }
            let shelf = Shelf::Agents;
            for (key, bytes) in common.records(shard, shelf)? {
                let agent: Agent = decode(shelf.name(), &key, &bytes)?;
                let credentials = agent.credentials().map(|credential| (credential, shard));
                directory.credentials.extend(credentials);
            }
        }
        Ok(directory)
    }
}

impl Common {
    /// The key of a hash, valid or not, if it is somebody's.
    pub fn key(&self, hash: SecretHash) -> Result<Option<Key>, StoreError> {
        let (shelf, name) = (Shelf::Keys, hash.as_bytes());
        let Some(bytes) = self.record(Shard::HOME, shelf, name)? else {
            return Ok(None);
        };
        let (own, key): (SecretHash, Key) = decode(shelf.name(), name, &bytes)?;
        Ok(own.matches(&hash).then_some(key))
    }
}
