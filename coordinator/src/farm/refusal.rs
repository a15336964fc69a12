//! Why the farm says no. One list for all operations: the shell maps it to codes in one place.

use uuid::Uuid;
use wattfarm_cost::id::{AgentId, CampaignId, JobId, LeaseNumber};

/// A refused event. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody was given this token.
    #[error("the token is not one of this farm's")]
    TokenUnknown,
    /// The token came too late.
    #[error("the token has expired: ask the farm's operator for another")]
    TokenExpired,
    /// Another agent enrolled with this token.
    #[error("the token has been used by another agent")]
    TokenUsed,
    /// No agent has this credential.
    #[error("the credential belongs to no agent of this farm")]
    CredentialUnknown,
    /// An operator took the agent's rights.
    #[error("agent `{0}` has been revoked: enrol it anew with a token")]
    AgentRevoked(AgentId),
    /// Somebody has this credential already.
    #[error("the new credential is in use: draw another")]
    CredentialTaken,
    /// No such key.
    #[error("no key has the id `{0}`")]
    KeyUnknown(Uuid),
    /// The farm has as many keys as it takes.
    #[error("{0} keys are valid: revoke some")]
    KeysFull(usize),
    /// No agent of this platform ever enrolled.
    #[error("no platform is called `{0}`")]
    PlatformUnknown(String),
    /// No such agent.
    #[error("no agent has the id `{0}`")]
    AgentUnknown(AgentId),
    /// No such campaign.
    #[error("no campaign has the id `{0}`")]
    CampaignUnknown(CampaignId),
    /// A campaign of this id asks for something else.
    #[error("campaign `{0}` exists and asks for something else")]
    CampaignDiffers(CampaignId),
    /// The campaign takes no more layers.
    #[error("campaign `{0}` has ended")]
    CampaignEnded(CampaignId),
    /// A campaign is given more, never less: what it has been promised stays.
    #[error(
        "the new budget of campaign `{0}` is less than it has or has spent, or in another unit"
    )]
    BudgetSmaller(CampaignId),
    /// The farm has as many campaigns as it takes.
    #[error("{0} campaigns are under way: wait for one to end")]
    CampaignsFull(usize),
    /// The campaign has as many jobs outstanding as it may.
    #[error("campaign `{campaign}` would have {outstanding} jobs outstanding, more than {max}")]
    QueueFull {
        /// The campaign.
        campaign: CampaignId,
        /// Jobs it would have.
        outstanding: u64,
        /// Jobs it may have.
        max: u64,
    },
    /// Users wait for as many jobs of the platform as they may.
    #[error(
        "users would wait for {outstanding} jobs of the platform, more than {max}: wait for some to be measured"
    )]
    OrdersFull {
        /// Jobs they would wait for.
        outstanding: u64,
        /// Jobs they may wait for.
        max: u64,
    },
    /// An order for more measurements of one subject than may be added at a time.
    #[error(
        "`{wanted}` measurements of a subject that has {done}: at most {max} may be added at a time"
    )]
    ReplicasTooMany {
        /// Measurements wanted.
        wanted: u32,
        /// Measurements that there are.
        done: u32,
        /// How many more may be wanted.
        max: u32,
    },
    /// No such measurement.
    #[error("there is no measurement {0}")]
    MeasurementUnknown(u64),
    /// No such job.
    #[error("no job has the id `{0}`")]
    JobUnknown(JobId),
    /// This agent was never given this job under this lease.
    #[error("lease {lease} of job `{job}` was never given to this agent")]
    LeaseForged {
        /// The job.
        job: JobId,
        /// The lease.
        lease: LeaseNumber,
    },
}
