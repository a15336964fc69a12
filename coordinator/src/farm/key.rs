//! Users' keys: who may look, who may ask, who may operate the farm.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Change, Event, Farm, Refusal, SecretHash, Timestamp};

/// What a caller may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at platforms, campaigns and models, and predict.
    Read,
    /// Ask for models and measurements.
    Request,
    /// Everything: tokens, keys, agents, campaigns, jobs, measurements, and what a trainer does.
    Operate,
}

/// A key that was given to somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What it is called in lists and when it is revoked: it says nothing of the key itself.
    pub id: Uuid,
    /// Whose it is, for people.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// Whether it has been taken back.
    pub revoked: bool,
}

impl Key {
    /// Whether it still opens anything.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        !self.revoked && self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

/// The most keys that are valid at a time.
const KEYS_MAX: usize = 10_000;

/// Makes a key known.
#[derive(Debug)]
pub struct CreateKey {
    /// The key's hash.
    pub key: SecretHash,
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// How long it is valid; `None` for ever.
    pub ttl: Option<Duration>,
}

impl Event for CreateKey {
    type Reply = Result<Key, Refusal>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        if farm.keys.values().filter(|key| key.is_valid(now)).count() >= KEYS_MAX {
            return Err(Refusal::KeysFull(KEYS_MAX));
        }
        let key = Key {
            id: self.id,
            name: self.name,
            role: self.role,
            created_at: now,
            expires_at: self.ttl.map(|ttl| now.plus(ttl)),
            revoked: false,
        };
        farm.put_key(self.key, key.clone());
        Ok(key)
    }
}

/// Asks for every key that is still valid.
#[derive(Debug)]
pub struct ListKeys;

impl Event for ListKeys {
    type Reply = Vec<Key>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        let mut keys: Vec<Key> = farm
            .keys
            .values()
            .filter(|key| key.is_valid(now))
            .cloned()
            .collect();
        keys.sort_by_key(|key| (key.created_at, key.id));
        keys
    }
}

/// Takes a key back.
#[derive(Debug)]
pub struct RevokeKey(pub Uuid);

impl Event for RevokeKey {
    type Reply = Result<(), Refusal>;

    fn apply(self, farm: &mut Farm, _now: Timestamp) -> Self::Reply {
        let found = farm.keys.iter().find(|(_, key)| key.id == self.0);
        let (&hash, key) = found.ok_or(Refusal::KeyUnknown(self.0))?;
        if !key.revoked {
            let revoked = Key {
                revoked: true,
                ..key.clone()
            };
            farm.put_key(hash, revoked);
        }
        Ok(())
    }
}

/// Asks whose a key is, and what it allows.
#[derive(Debug)]
pub struct FindKey(pub SecretHash);

impl Event for FindKey {
    /// `None` if the key is nobody's, or no longer valid.
    type Reply = Option<Key>;

    fn apply(self, farm: &mut Farm, now: Timestamp) -> Self::Reply {
        // As with agents' credentials, the lookup's time tells something of stored hashes, which helps nobody.
        let (hash, key) = farm.keys.get_key_value(&self.0)?;
        (hash.matches(&self.0) && key.is_valid(now)).then(|| key.clone())
    }
}

impl Farm {
    fn put_key(&mut self, hash: SecretHash, key: Key) {
        self.changes.push(Change::Key(hash, key.clone()));
        self.keys.insert(hash, key);
    }
}
