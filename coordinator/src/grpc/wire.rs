//! The farm's answers as messages.

use prost::Message as _;
use wattfarm_cost::{Measurement, Subject};
use wattfarm_proto::convert::dtype_to_wire;
use wattfarm_proto::v1;

use crate::farm::{
    AgentStatus, Budget, CampaignStatus, End, JobStatus, Key, KindStatus, Phase, PlatformEntry,
    PlatformStatus, Retraction, Role, State, StateName, Task,
};

/// A message of a stream stays under this, where its parts let it.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Measurements in a message at most.
pub(super) const BATCH_MAX: usize = 256;

/// Measurements as messages' worth of them.
pub(super) fn batches(measurements: Vec<Measurement>) -> Vec<Vec<v1::Measurement>> {
    let mut batches: Vec<Vec<v1::Measurement>> = Vec::new();
    let mut bytes = 0;
    for measurement in &measurements {
        let message = v1::Measurement::from(measurement);
        bytes += message.encoded_len();
        match batches
            .last_mut()
            .filter(|batch| bytes <= BATCH_BYTES_MAX && batch.len() < BATCH_MAX)
        {
            Some(batch) => batch.push(message),
            None => {
                bytes = message.encoded_len();
                batches.push(vec![message]);
            }
        }
    }
    batches
}

impl From<Retraction> for v1::Retraction {
    fn from(retraction: Retraction) -> Self {
        Self {
            number: retraction.number,
            sequence: retraction.sequence,
            because: retraction.because,
            retracted_at_ms: retraction.retracted_at.0,
        }
    }
}

impl From<&PlatformEntry> for v1::PlatformHeader {
    fn from(entry: &PlatformEntry) -> Self {
        Self {
            slug: entry.slug.clone(),
            hash: entry.hash.to_string(),
            platform: Some((&entry.platform).into()),
        }
    }
}

impl From<&PlatformStatus> for v1::list_platforms_response::PlatformStatus {
    fn from(status: &PlatformStatus) -> Self {
        Self {
            slug: status.entry.slug.clone(),
            hash: status.entry.hash.to_string(),
            platform: Some((&status.entry.platform).into()),
            agents: status.agents,
            agents_connected: status.agents_connected,
            measurements: status.measurements,
            models: status.models,
        }
    }
}

impl From<&AgentStatus> for v1::Agent {
    fn from(status: &AgentStatus) -> Self {
        let agent = &status.agent;
        Self {
            agent_id: agent.id.to_string(),
            name: agent.name.clone(),
            platform_slug: status.slug.clone(),
            platform: agent.platform.to_string(),
            draining: agent.draining,
            connected: status.connected,
            enrolled_at_ms: agent.enrolled_at.0,
            seen_at_ms: agent.seen_at.map(|seen_at| seen_at.0),
            leases: status.leases,
            measurements: agent.measurements,
            revoked: agent.revoked,
            implausible: agent.implausible,
            quarantined: agent.quarantined.clone().unwrap_or_default(),
            effect: status.effect.as_ref().map(Into::into),
        }
    }
}

impl From<&Key> for v1::Key {
    fn from(key: &Key) -> Self {
        let role = match key.role {
            Role::Read => v1::Role::Read,
            Role::Request => v1::Role::Request,
            Role::Operate => v1::Role::Operate,
        };
        Self {
            key_id: key.id.to_string(),
            name: key.name.clone(),
            role: role.into(),
            created_at_ms: key.created_at.0,
            expires_at_ms: key.expires_at.map(|expires_at| expires_at.0),
        }
    }
}

/// A role from the wire; `None` if it is none.
pub(super) fn role(role: v1::Role) -> Option<Role> {
    match role {
        v1::Role::Unspecified => None,
        v1::Role::Read => Some(Role::Read),
        v1::Role::Request => Some(Role::Request),
        v1::Role::Operate => Some(Role::Operate),
    }
}

impl From<&KindStatus> for v1::campaign::KindProgress {
    fn from(kind: &KindStatus) -> Self {
        Self {
            kind: kind.kind.name().to_owned(),
            samples: kind.samples,
            rmspe: kind.rmspe,
            model_version: kind.model_version,
        }
    }
}

impl From<&CampaignStatus> for v1::Campaign {
    fn from(status: &CampaignStatus) -> Self {
        use v1::campaign_request::budget::Budget as Wire;
        let (campaign, tally) = (&status.campaign, &status.tally);
        let request = &campaign.request;
        let budget = match campaign.budget() {
            Budget::Jobs(jobs) => Wire::Jobs(jobs),
            Budget::Seconds(seconds) => Wire::Seconds(seconds),
        };
        let state = match status.phase {
            Phase::Waiting => v1::CampaignState::Waiting,
            Phase::Sampling => v1::CampaignState::Sampling,
            Phase::Ready => v1::CampaignState::Ready,
            Phase::Ended(End::Converged) => v1::CampaignState::Converged,
            Phase::Ended(End::Exhausted) => v1::CampaignState::Exhausted,
            Phase::Ended(End::Cancelled) => v1::CampaignState::Cancelled,
        };
        Self {
            request: Some(v1::CampaignRequest {
                campaign_id: campaign.id.to_string(),
                platform: campaign.platform.to_string(),
                kinds: request
                    .kinds
                    .iter()
                    .map(|kind| kind.name().to_owned())
                    .collect(),
                dtype: dtype_to_wire(request.dtype),
                target_error: request.target_error,
                budget: Some(v1::campaign_request::Budget {
                    budget: Some(budget),
                }),
                // A list that can be long, of no use to who follows the campaign: its number is told.
                excluded_layers: Vec::new(),
                weight: request.weight.get(),
                urgent: request.urgent,
            }),
            platform_slug: status.slug.clone(),
            state: state.into(),
            jobs_done: tally.done,
            jobs_infeasible: tally.infeasible,
            jobs_parked: tally.parked,
            jobs_outstanding: tally.outstanding,
            seconds_measured: tally.measured_ms as f64 / 1000.0,
            kinds: status.kinds.iter().map(Into::into).collect(),
            waiting_because: status.waiting_because.clone(),
            created_at_ms: campaign.created_at.0,
            ended_at_ms: campaign.end.map(|(_, ended_at)| ended_at.0),
            excluded_layers_count: status.excluded as u32,
            paused: campaign.paused,
        }
    }
}

/// A job's state on the wire.
pub(super) fn job_state(state: &State) -> v1::JobState {
    match state.name() {
        StateName::Queued => v1::JobState::Queued,
        StateName::Leased => v1::JobState::Leased,
        StateName::Done => v1::JobState::Done,
        StateName::Infeasible => v1::JobState::Infeasible,
        StateName::Parked => v1::JobState::Parked,
    }
}

/// A job with what it asks for, which the farm doesn't keep of every job.
pub(super) fn job(status: &JobStatus, task: Option<&Task>) -> v1::Job {
    let job = &status.job;
    let (agent_id, lease) = match &job.state {
        State::Leased { agent, lease, .. } => (Some(agent.to_string()), Some(lease.0)),
        State::Queued
        | State::Done
        | State::Infeasible { .. }
        | State::Parked { .. }
        | State::Withdrawn => (None, None),
    };
    let subject = task.map(|task| match &task.subject {
        Subject::Layer(layer) => layer.to_string(),
        Subject::Network(network) => network.name().to_owned(),
    });
    v1::Job {
        job_id: job.id.to_string(),
        platform: status.slug.clone(),
        kind: job.kind.map_or("network", |kind| kind.name()).to_owned(),
        subject: subject.unwrap_or_default(),
        subject_hash: job.task.subject.to_string(),
        recipe: job.task.recipe.to_string(),
        state: job_state(&job.state).into(),
        because: status.because.clone(),
        attempts: job.failures,
        replicas_wanted: job.replicas_wanted,
        replicas_done: job.replicas_done(),
        agent_id,
        lease,
    }
}
