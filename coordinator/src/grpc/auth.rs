//! Who calls, and what they may do: agents by their credential, all others by a key with a role.
//!
//! `role_of` in `tests/it/grpc/authorization.rs` is the table of every call and the role it needs.

use std::time::Instant;

use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use wattfarm_proto::error::status;

use super::limits::Caller;
use super::{Shell, blocking};
use crate::clock::Clock;
use crate::farm::{FindKey, Key, Owner, Role, SecretHash};

/// The hash of the credential that a call carries; `None` if it carries none.
pub(crate) fn carried(metadata: &MetadataMap) -> Result<Option<SecretHash>, Status> {
    let Some(header) = metadata.get("authorization") else {
        return Ok(None);
    };
    let secret = header
        .to_str()
        .ok()
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim);
    match secret {
        // A credential is 32 bytes: the hash of anything much longer is not worth its time.
        Some(secret) if (1..=256).contains(&secret.len()) => {
            Ok(Some(SecretHash::of(&secret.to_ascii_lowercase())))
        }
        Some(_) | None => Err(unknown(
            "the call's `authorization` is not `Bearer CREDENTIAL`",
        )),
    }
}

impl Shell {
    /// The hash of the credential that an agent's call carries. Whether it is anybody's the farm knows.
    pub(super) fn credential<T>(&self, request: &Request<T>) -> Result<SecretHash, Status> {
        let missing = "the call carries no credential: `authorization: Bearer CREDENTIAL`";
        let credential = carried(request.metadata())?;
        self.limit(request, credential)?;
        credential.ok_or_else(|| unknown(missing))
    }

    /// Refuses a call of somebody who calls too often.
    pub(super) fn limit<T>(
        &self,
        request: &Request<T>,
        credential: Option<SecretHash>,
    ) -> Result<(), Status> {
        let address = request.remote_addr().map(|address| address.ip());
        let address = address.map_or(Caller::Nowhere, Caller::Address);
        let caller = credential.map_or(address, Caller::Credential);
        let mut limits = self
            .limits
            .lock()
            .expect("nothing panics while it counts calls");
        limits.take(caller, Instant::now()).map_err(|retry_after| {
            let message = "this caller calls too often";
            status(
                Code::ResourceExhausted,
                "TOO_MANY_CALLS",
                message,
                Some(retry_after),
            )
        })
    }

    /// Whose a key is, and what it allows, if it is valid.
    async fn key(&self, key: SecretHash) -> Result<Option<Key>, Status> {
        let Some(common) = self.keys.clone() else {
            return self.ask(FindKey(key)).await;
        };
        let now = Clock::start().now();
        let found = blocking(move || common.key(key)).await?;
        Ok(found.filter(|key| key.is_valid(now)))
    }

    /// Lets pass who may do what the role allows; says who that is.
    pub(super) async fn allow<T>(
        &self,
        request: &Request<T>,
        needed: Role,
    ) -> Result<Owner, Status> {
        let carried = carried(request.metadata())?;
        self.limit(request, carried)?;
        let (owner, role) = match carried {
            None if self.anonymous.is_some_and(|role| needed <= role) => {
                return Ok(Owner::Anonymous);
            }
            None => return Err(no_key()),
            Some(key) if key.matches(&self.operator_key) => (Owner::Operator, Role::Operate),
            Some(key) => {
                let found = self.key(key).await?;
                let key = found.ok_or_else(|| {
                    unknown("the key is not one of this farm's, or is no longer valid")
                })?;
                (Owner::Key(key.id), key.role)
            }
        };
        if needed <= role {
            return Ok(owner);
        }
        let (role, needed) = (name(role), name(needed));
        let message = format!("the key is for `{role}`, and this call needs `{needed}`");
        Err(status(
            Code::PermissionDenied,
            "ROLE_INSUFFICIENT",
            message,
            None,
        ))
    }
}

/// A role as people write it.
pub(super) fn name(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Request => "request",
        Role::Operate => "operate",
    }
}

/// What a call without a key hears.
pub(crate) fn no_key() -> Status {
    unknown("the call needs a key: `authorization: Bearer KEY`")
}

fn unknown(message: &str) -> Status {
    status(Code::Unauthenticated, "CREDENTIAL_UNKNOWN", message, None)
}
