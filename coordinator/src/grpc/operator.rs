//! The service for the farm's operator.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Request, Response, Status};
use uuid::Uuid;
use wattfarm_cost::Hash;
use wattfarm_proto::convert::parse;
use wattfarm_proto::error::FieldError;
use wattfarm_proto::v1;
use wattfarm_proto::v1::farm_service_server::FarmService;

use super::models::budget;
use super::retract::retractions;
use super::stream::{Messages, stream};
use super::wire::{self, BATCH_MAX, batches};
use super::{Shell, backup, cut, jobs, retract, within};
use crate::farm::{
    CancelCampaign, CreateKey, CreateToken, DrainAgent, ExtendCampaign, FindPlatform,
    LastMeasurement, ListAgents, ListCampaigns, ListKeys, ListPlatforms, PauseCampaign,
    PlatformEntry, RevokeAgent, RevokeKey, Role, SecretHash,
};
use crate::secret;

/// How long a token may be used unless said otherwise.
const TOKEN_TTL_SECONDS: u64 = 24 * 3600;

/// The longest life of a token, in s.
const TOKEN_TTL_SECONDS_MAX: u64 = 366 * 24 * 3600;

pub(super) struct Operator(pub(super) Shell);

#[tonic::async_trait]
impl FarmService for Operator {
    type ListJobsStream = Messages<v1::ListJobsResponse>;
    type BackupStream = Messages<v1::BackupResponse>;
    type ExportMeasurementsStream = Messages<v1::ExportMeasurementsResponse>;

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        let seconds = if message.ttl_seconds == 0 {
            TOKEN_TTL_SECONDS
        } else {
            message.ttl_seconds
        };
        let ttl = Duration::from_secs(within("ttl_seconds", seconds, 1..=TOKEN_TTL_SECONDS_MAX)?);
        let token = secret::fresh();
        let made = CreateToken {
            token: SecretHash::of(&token),
            note: cut(&message.note, 200),
            ttl,
        };
        let expires_at = self.0.ask(made).await?;
        tracing::info!(token.note = message.note, "token made");
        Ok(Response::new(v1::CreateTokenResponse {
            token,
            expires_at_ms: expires_at.0,
        }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let agents = self.0.ask(ListAgents).await?;
        Ok(Response::new(v1::ListAgentsResponse {
            agents: agents.iter().map(Into::into).collect(),
        }))
    }

    async fn drain_agent(
        &self,
        request: Request<v1::DrainAgentRequest>,
    ) -> Result<Response<v1::DrainAgentResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        let agent = parse("agent_id", &message.agent_id)?;
        let agent = self
            .0
            .request(DrainAgent {
                agent,
                draining: message.draining,
            })
            .await?;
        tracing::info!(agent.id = %agent.agent.id, agent.draining = agent.agent.draining, "agent drained, or let go on");
        Ok(Response::new(v1::DrainAgentResponse {
            agent: Some((&agent).into()),
        }))
    }

    async fn revoke_agent(
        &self,
        request: Request<v1::RevokeAgentRequest>,
    ) -> Result<Response<v1::RevokeAgentResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let agent = parse("agent_id", &request.into_inner().agent_id)?;
        let agent = self.0.request(RevokeAgent(agent)).await?;
        tracing::info!(agent.id = %agent.agent.id, "agent revoked");
        Ok(Response::new(v1::RevokeAgentResponse {
            agent: Some((&agent).into()),
        }))
    }

    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        within("name", message.name.chars().count(), 1..=120)?;
        if message.name.chars().any(char::is_control) {
            return Err(FieldError::new("name", "holds a control character").into());
        }
        let role = wire::role(message.role())
            .ok_or_else(|| FieldError::new("role", "is missing, or is none that there is"))?;
        within(
            "ttl_seconds",
            message.ttl_seconds,
            0..=TOKEN_TTL_SECONDS_MAX,
        )?;
        let ttl = Some(message.ttl_seconds).filter(|&seconds| seconds > 0);
        let key = secret::fresh();
        let made = CreateKey {
            key: SecretHash::of(&key),
            id: Uuid::now_v7(),
            name: message.name,
            role,
            ttl: ttl.map(Duration::from_secs),
        };
        let made = self.0.request(made).await?;
        tracing::info!(key.id = %made.id, key.name = made.name, "key made");
        Ok(Response::new(v1::CreateKeyResponse {
            key,
            description: Some((&made).into()),
        }))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let keys = self.0.ask(ListKeys).await?;
        Ok(Response::new(v1::ListKeysResponse {
            keys: keys.iter().map(Into::into).collect(),
        }))
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> Result<Response<v1::RevokeKeyResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let id = request.into_inner().key_id;
        let id = Uuid::try_parse(&id)
            .map_err(|_| FieldError::new("key_id", format!("`{}` is not an id", cut(&id, 80))))?;
        self.0.request(RevokeKey(id)).await?;
        tracing::info!(key.id = %id, "key revoked");
        Ok(Response::new(v1::RevokeKeyResponse {}))
    }

    async fn list_campaigns(
        &self,
        request: Request<v1::ListCampaignsRequest>,
    ) -> Result<Response<v1::ListCampaignsResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let campaigns = self.0.ask(ListCampaigns { ended: true }).await?;
        Ok(Response::new(v1::ListCampaignsResponse {
            campaigns: campaigns.iter().map(Into::into).collect(),
        }))
    }

    async fn cancel_campaign(
        &self,
        request: Request<v1::CancelCampaignRequest>,
    ) -> Result<Response<v1::CancelCampaignResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let campaign = parse("campaign_id", &request.into_inner().campaign_id)?;
        let campaign = self.0.request(CancelCampaign(campaign)).await?;
        Ok(Response::new(v1::CancelCampaignResponse {
            campaign: Some((&campaign).into()),
        }))
    }

    async fn pause_campaign(
        &self,
        request: Request<v1::PauseCampaignRequest>,
    ) -> Result<Response<v1::PauseCampaignResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        let pause = PauseCampaign {
            id: parse("campaign_id", &message.campaign_id)?,
            paused: message.paused,
        };
        let campaign = self.0.request(pause).await?;
        Ok(Response::new(v1::PauseCampaignResponse {
            campaign: Some((&campaign).into()),
        }))
    }

    async fn extend_campaign(
        &self,
        request: Request<v1::ExtendCampaignRequest>,
    ) -> Result<Response<v1::ExtendCampaignResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        let extend = ExtendCampaign {
            id: parse("campaign_id", &message.campaign_id)?,
            budget: budget(message.budget)?,
        };
        let campaign = self.0.request(extend).await?;
        Ok(Response::new(v1::ExtendCampaignResponse {
            campaign: Some((&campaign).into()),
        }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<Self::ListJobsStream>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        jobs::list(&self.0, request.into_inner()).await
    }

    async fn export_measurements(
        &self,
        request: Request<v1::ExportMeasurementsRequest>,
    ) -> Result<Response<Self::ExportMeasurementsStream>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        let only = match message.platform.as_str() {
            "" => None,
            name => Some(self.0.request(FindPlatform(name.to_owned())).await?.hash),
        };
        let shell = self.0.clone();
        // What is taken while the export runs is left to the next one: it ends even on a busy farm.
        let last = shell.ask(LastMeasurement).await?;
        let platforms = shell
            .ask(ListPlatforms)
            .await?
            .into_iter()
            .map(|status| (status.entry.hash, status.entry));
        let mut unnamed: BTreeMap<Hash, PlatformEntry> = platforms.collect();
        let retracted = retractions(&shell).await?;
        Ok(stream(&self.0, |sink| async move {
            let mut cursor = message.after_sequence;
            while cursor < last {
                let mut measurements = shell
                    .read(move |store| store.measurements_after(cursor, BATCH_MAX))
                    .await?;
                let Some(newest) = measurements.last() else {
                    break;
                };
                cursor = newest.sequence;
                measurements.retain(|measurement| {
                    measurement.sequence <= last
                        && (message.retracted || !retracted.contains_key(&measurement.sequence))
                        && only.is_none_or(|only| only == measurement.platform)
                });
                let same_platform =
                    measurements.chunk_by(|one, next| one.platform == next.platform);
                for run in same_platform {
                    let mut header = unnamed.remove(&run[0].platform);
                    for measurements in batches(run.to_vec()) {
                        let header = header.take().as_ref().map(Into::into);
                        let of_these = measurements.iter();
                        let of_these = of_these.filter_map(|one| retracted.get(&one.sequence));
                        let retractions = of_these.cloned().map(Into::into).collect();
                        sink.send(v1::ExportMeasurementsResponse {
                            header,
                            measurements,
                            retractions,
                        })
                        .await?;
                    }
                }
            }
            Ok(())
        }))
    }

    async fn retract_measurements(
        &self,
        request: Request<v1::RetractMeasurementsRequest>,
    ) -> Result<Response<v1::RetractMeasurementsResponse>, Status> {
        let by = self.0.allow(&request, Role::Operate).await?;
        retract::retract(&self.0, by, request.into_inner()).await
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        Ok(backup::backup(&self.0))
    }
}
