//! The service for trainers.

use std::time::Duration;

use tonic::{Code, Request, Response, Status};
use uuid::Uuid;
use wattfarm_cost::id::JobId;
use wattfarm_cost::{Layer, Model};
use wattfarm_proto::convert::{each, parse};
use wattfarm_proto::error::status;
use wattfarm_proto::v1;
use wattfarm_proto::v1::trainer_service_server::TrainerService;

use super::stream::{Follower, Messages, stream};
use super::wire::{BATCH_MAX, batches};
use super::{Shell, within};
use crate::farm::{
    LastMeasurement, LastRetraction, ListCampaigns, ProposeLayers, PublishModels, Role,
};
use crate::signal::Signal;

/// Campaigns are looked at again this often though nothing was stored: an agent that falls silent changes what they wait
/// for, and stores nothing.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// News of a campaign comes at most this often.
pub(super) const NEWS_INTERVAL: Duration = Duration::from_millis(200);

pub(super) struct Trainer(pub(super) Shell);

#[tonic::async_trait]
impl TrainerService for Trainer {
    type WatchMeasurementsStream = Messages<v1::WatchMeasurementsResponse>;
    type WatchCampaignsStream = Messages<v1::WatchCampaignsResponse>;

    async fn watch_measurements(
        &self,
        request: Request<v1::WatchMeasurementsRequest>,
    ) -> Result<Response<Self::WatchMeasurementsStream>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        // A store's blocks, if it has several, come one after the other.
        let last_of = |numbers: Vec<u64>| numbers.into_iter().max().unwrap_or(0);
        let (mut cursor, mut retractions) = match message.by_block {
            true => (
                last_of(message.after_sequences),
                last_of(message.after_retractions),
            ),
            false => (message.after_sequence, message.after_retraction),
        };
        let last = self.0.ask(LastMeasurement).await?;
        if cursor > last || retractions > self.0.ask(LastRetraction).await? {
            let message =
                format!("the farm has {last} measurements, not {cursor}: is this another farm?");
            return Err(status(Code::OutOfRange, "CURSOR_AHEAD", message, None));
        }
        let shell = self.0.clone();
        Ok(stream(&self.0, |sink| async move {
            let mut follower = Follower::new(&shell);
            // The first message tells how far there is to go, even if that is nowhere; what was retracted before comes next,
            // so that nobody reckons with it.
            sink.send(v1::WatchMeasurementsResponse {
                measurements: vec![],
                through_sequence: last,
                retractions: vec![],
                ..Default::default()
            })
            .await?;
            let mut last = last;
            loop {
                loop {
                    let after = retractions;
                    let news = shell
                        .read(move |store| store.retractions_after(after, BATCH_MAX))
                        .await?;
                    let Some(newest) = news.last() else { break };
                    retractions = newest.number;
                    sink.send(v1::WatchMeasurementsResponse {
                        measurements: vec![],
                        through_sequence: last,
                        retractions: news.into_iter().map(Into::into).collect(),
                        ..Default::default()
                    })
                    .await?;
                }
                let measurements = shell
                    .read(move |store| store.measurements_after(cursor, BATCH_MAX))
                    .await?;
                let Some(newest) = measurements.last() else {
                    follower
                        .wait(Duration::MAX, |signal| signal == Signal::Measurements)
                        .await?;
                    continue;
                };
                cursor = newest.sequence;
                last = shell.ask(LastMeasurement).await?;
                for measurements in batches(measurements) {
                    sink.send(v1::WatchMeasurementsResponse {
                        measurements,
                        through_sequence: last,
                        retractions: vec![],
                        ..Default::default()
                    })
                    .await?;
                }
            }
        }))
    }

    async fn watch_campaigns(
        &self,
        request: Request<v1::WatchCampaignsRequest>,
    ) -> Result<Response<Self::WatchCampaignsStream>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let shell = self.0.clone();
        Ok(stream(&self.0, |sink| async move {
            let mut follower = Follower::new(&shell);
            let mut told = None;
            loop {
                let now = shell.ask(ListCampaigns { ended: false }).await?;
                if told.as_ref() != Some(&now) {
                    let campaigns = now.iter().map(Into::into).collect();
                    sink.send(v1::WatchCampaignsResponse { campaigns }).await?;
                    told = Some(now);
                }
                follower
                    .wait(LOOK_AGAIN, |signal| matches!(signal, Signal::Progress(_)))
                    .await?;
                follower.settle(NEWS_INTERVAL).await;
            }
        }))
    }

    async fn propose_layers(
        &self,
        request: Request<v1::ProposeLayersRequest>,
    ) -> Result<Response<v1::ProposeLayersResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        within("layers", message.layers.len(), 0..=1024)?;
        let campaign = parse("campaign_id", &message.campaign_id)?;
        let layers: Vec<Layer> = each("layers", message.layers)?;
        let layers = layers
            .into_iter()
            .map(|layer| (JobId(Uuid::now_v7()), layer))
            .collect();
        let proposed = self.0.request(ProposeLayers { campaign, layers }).await?;
        Ok(Response::new(v1::ProposeLayersResponse {
            queued: proposed.queued,
            already_measured: proposed.already_measured,
            over_budget: proposed.over_budget,
            excluded: proposed.excluded,
        }))
    }

    async fn publish_models(
        &self,
        request: Request<v1::PublishModelsRequest>,
    ) -> Result<Response<v1::PublishModelsResponse>, Status> {
        self.0.allow(&request, Role::Operate).await?;
        let message = request.into_inner();
        within("models", message.models.len(), 0..=256)?;
        let models: Vec<Model> = each("models", message.models)?;
        let versions = self.0.request(PublishModels(models)).await?;
        tracing::info!(models = versions.len(), "models published");
        Ok(Response::new(v1::PublishModelsResponse { versions }))
    }
}
