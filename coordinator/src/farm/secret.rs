//! Tokens and credentials, as far as the farm keeps them.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use wattfarm_cost::Hash;

/// What the farm keeps of a token or a credential: enough to recognise it, not to use it. Secrets are 32 random bytes, so
/// a plain hash cannot be searched backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(Hash);

impl SecretHash {
    /// The hash of a secret in its written form.
    pub fn of(secret: &str) -> Self {
        Self(Hash::of(secret))
    }

    /// The bytes of the hash, for stores' keys.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether both are of one secret, in a time that tells nothing about either.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}
