//! Who calls: agents by their credential, trainers and operators by the operator's key.

use tonic::{Code, Request, Status};
use wattfarm_proto::error::status;

use super::Shell;
use crate::farm::SecretHash;

/// The hash of the credential that a call carries. Whether it is anybody's the farm knows.
pub(super) fn credential<T>(request: &Request<T>) -> Result<SecretHash, Status> {
    let header = request
        .metadata()
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let secret = header
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim);
    match secret {
        // A credential is 32 bytes: the hash of anything much longer is not worth its time.
        Some(secret) if (1..=256).contains(&secret.len()) => {
            Ok(SecretHash::of(&secret.to_ascii_lowercase()))
        }
        Some(_) | None => Err(unknown(
            "the call carries no credential: `authorization: Bearer CREDENTIAL`",
        )),
    }
}

impl Shell {
    /// Lets only the operator pass.
    pub(super) fn operator_only<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let same = credential(request)?.matches(&self.operator_key);
        if same {
            Ok(())
        } else {
            Err(unknown(
                "the credential is not the operator's key of this farm",
            ))
        }
    }
}

fn unknown(message: &str) -> Status {
    status(Code::Unauthenticated, "CREDENTIAL_UNKNOWN", message, None)
}
