//! The farm's refusals as codes and reasons: the one place that maps them.

use std::time::Duration;

use tonic::{Code, Status};
use wattfarm_proto::error::{FieldError, status};

use crate::farm::Refusal;

/// After how long a queue is worth another try.
const QUEUE_RETRY: Duration = Duration::from_secs(5);

/// After how long another campaign may have ended.
const CAMPAIGN_RETRY: Duration = Duration::from_secs(60);

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, reason, retry_after) = match &refusal {
            Refusal::TokenUnknown => (Code::Unauthenticated, "TOKEN_UNKNOWN", None),
            Refusal::TokenExpired => (Code::Unauthenticated, "TOKEN_EXPIRED", None),
            Refusal::TokenUsed => (Code::PermissionDenied, "TOKEN_USED", None),
            Refusal::CredentialUnknown => (Code::Unauthenticated, "CREDENTIAL_UNKNOWN", None),
            Refusal::AgentRevoked(_) => (Code::Unauthenticated, "AGENT_REVOKED", None),
            Refusal::CredentialTaken => (Code::AlreadyExists, "CREDENTIAL_TAKEN", None),
            Refusal::KeyUnknown(_) => (Code::NotFound, "KEY_UNKNOWN", None),
            Refusal::KeysFull(_) => (Code::ResourceExhausted, "KEYS_FULL", None),
            Refusal::PlatformUnknown(_) => (Code::NotFound, "PLATFORM_UNKNOWN", None),
            Refusal::AgentUnknown(_) => (Code::NotFound, "AGENT_UNKNOWN", None),
            Refusal::CampaignUnknown(_) => (Code::NotFound, "CAMPAIGN_UNKNOWN", None),
            Refusal::CampaignDiffers(_) => (Code::AlreadyExists, "CAMPAIGN_DIFFERS", None),
            Refusal::CampaignEnded(_) => (Code::FailedPrecondition, "CAMPAIGN_ENDED", None),
            Refusal::BudgetSmaller(_) => (Code::FailedPrecondition, "BUDGET_SMALLER", None),
            Refusal::CampaignsFull(_) => (
                Code::ResourceExhausted,
                "CAMPAIGNS_FULL",
                Some(CAMPAIGN_RETRY),
            ),
            Refusal::QueueFull { .. } | Refusal::OrdersFull { .. } => {
                (Code::ResourceExhausted, "QUEUE_FULL", Some(QUEUE_RETRY))
            }
            Refusal::ReplicasTooMany { .. } => {
                return FieldError::new("replicas", refusal.to_string()).into();
            }
            Refusal::MeasurementUnknown(_) => (Code::NotFound, "MEASUREMENT_UNKNOWN", None),
            Refusal::JobUnknown(_) => (Code::NotFound, "JOB_UNKNOWN", None),
            Refusal::LeaseForged { .. } => (Code::PermissionDenied, "LEASE_FORGED", None),
        };
        status(code, reason, refusal.to_string(), retry_after)
    }
}
