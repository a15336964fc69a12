//! The service for whoever designs networks.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Request, Response, Status};
use wattfarm_cost::model::{ModelKey, predict};
use wattfarm_cost::network::{NetworkError, zoo};
use wattfarm_cost::{Dtype, Kind, Model, ModelSet, Network};
use wattfarm_proto::convert::{dtype, parse, required};
use wattfarm_proto::error::{FieldError, status};
use wattfarm_proto::v1;
use wattfarm_proto::v1::model_service_server::ModelService;

use super::stream::{Follower, Messages, stream};
use super::trainer::{LOOK_AGAIN, NEWS_INTERVAL};
use super::{Shell, measure, within};
use crate::farm::{
    Budget, FindPlatform, GetCampaign, GetModels, ListPlatforms, Owner, Phase, PlatformEntry,
    Request as Wish, RequestModels, Role, Weight,
};
use crate::signal::Signal;

/// The most layers that a campaign may leave out.
const EXCLUDED_MAX: usize = 50_000;

pub(super) struct Models(pub(super) Shell);

#[tonic::async_trait]
impl ModelService for Models {
    type WatchCampaignStream = Messages<v1::WatchCampaignResponse>;
    type GetModelsStream = Messages<v1::GetModelsResponse>;
    type WatchModelsStream = Messages<v1::WatchModelsResponse>;
    type PredictStream = Messages<v1::PredictResponse>;
    type MeasureStream = Messages<v1::MeasureResponse>;

    async fn list_platforms(
        &self,
        request: Request<v1::ListPlatformsRequest>,
    ) -> Result<Response<v1::ListPlatformsResponse>, Status> {
        self.0.allow(&request, Role::Read).await?;
        let platforms = self.0.ask(ListPlatforms).await?;
        Ok(Response::new(v1::ListPlatformsResponse {
            platforms: platforms.iter().map(Into::into).collect(),
        }))
    }

    async fn request_models(
        &self,
        request: Request<v1::RequestModelsRequest>,
    ) -> Result<Response<v1::RequestModelsResponse>, Status> {
        let owner = self.0.allow(&request, Role::Request).await?;
        let urgent = request
            .get_ref()
            .campaign
            .as_ref()
            .is_some_and(|campaign| campaign.urgent);
        if urgent {
            self.0.allow(&request, Role::Operate).await?;
        }
        let message = required("campaign", request.into_inner().campaign)?;
        let event = request_models(message, owner).map_err(|error| error.within("campaign"))?;
        let campaign = self.0.request(event).await?;
        tracing::info!(campaign.id = %campaign.campaign.id, platform.slug = campaign.slug, "models requested");
        Ok(Response::new(v1::RequestModelsResponse {
            campaign: Some((&campaign).into()),
        }))
    }

    async fn watch_campaign(
        &self,
        request: Request<v1::WatchCampaignRequest>,
    ) -> Result<Response<Self::WatchCampaignStream>, Status> {
        self.0.allow(&request, Role::Read).await?;
        let id = parse("campaign_id", &request.into_inner().campaign_id)?;
        let platform = self.0.request(GetCampaign(id)).await?.campaign.platform;
        let shell = self.0.clone();
        Ok(stream(&self.0, |sink| async move {
            let mut follower = Follower::new(&shell);
            let mut told = None;
            loop {
                let now = shell.request(GetCampaign(id)).await?;
                if told.as_ref() != Some(&now) {
                    sink.send(v1::WatchCampaignResponse {
                        campaign: Some((&now).into()),
                    })
                    .await?;
                }
                if matches!(now.phase, Phase::Ended(_)) {
                    return Ok(());
                }
                told = Some(now);
                follower
                    .wait(LOOK_AGAIN, |signal| signal == Signal::Progress(platform))
                    .await?;
                follower.settle(NEWS_INTERVAL).await;
            }
        }))
    }

    async fn get_models(
        &self,
        request: Request<v1::GetModelsRequest>,
    ) -> Result<Response<Self::GetModelsStream>, Status> {
        self.0.allow(&request, Role::Read).await?;
        use v1::get_models_response::Part;
        let message = request.into_inner();
        let event = GetModels {
            platform: message.platform,
            kinds: kinds(&message.kinds)?,
        };
        let set = self.0.request(event).await?;
        Ok(stream(&self.0, |sink| async move {
            let hash = set.platform.hash();
            let header = PlatformEntry {
                hash,
                slug: set.slug,
                platform: set.platform,
            };
            sink.send(v1::GetModelsResponse {
                part: Some(Part::Header((&header).into())),
            })
            .await?;
            for model in &set.models {
                sink.send(v1::GetModelsResponse {
                    part: Some(Part::Model(model.into())),
                })
                .await?;
            }
            Ok(())
        }))
    }

    async fn watch_models(
        &self,
        request: Request<v1::WatchModelsRequest>,
    ) -> Result<Response<Self::WatchModelsStream>, Status> {
        self.0.allow(&request, Role::Read).await?;
        let message = request.into_inner();
        let platform = self.0.request(FindPlatform(message.platform)).await?.hash;
        let kinds = kinds(&message.kinds)?;
        let shell = self.0.clone();
        Ok(stream(&self.0, |sink| async move {
            let mut follower = Follower::new(&shell);
            let mut told: BTreeMap<ModelKey, u64> = BTreeMap::new();
            // Of the versions that were there before, the newest is enough.
            let mut first = true;
            loop {
                let newest = GetModels {
                    platform: platform.to_string(),
                    kinds: kinds.clone(),
                };
                for model in shell.request(newest).await?.models {
                    let (key, version) = (model.key, model.version);
                    let told = told.entry(key).or_insert(0);
                    let after = if first { version - 1 } else { *told };
                    let news: Vec<Model> = shell
                        .read(move |store| store.model_versions_after(&key, after))
                        .await?;
                    for model in &news {
                        sink.send(v1::WatchModelsResponse {
                            model: Some(model.into()),
                        })
                        .await?;
                        *told = model.version;
                    }
                }
                first = false;
                follower
                    .wait(Duration::MAX, |signal| signal == Signal::Models(platform))
                    .await?;
            }
        }))
    }

    async fn predict(
        &self,
        request: Request<v1::PredictRequest>,
    ) -> Result<Response<Self::PredictStream>, Status> {
        self.0.allow(&request, Role::Read).await?;
        use v1::predict_response::Part;
        let message = request.into_inner();
        let network = network(message.network, message.batch)?;
        let models: ModelSet = self
            .0
            .request(GetModels {
                platform: message.platform,
                kinds: vec![],
            })
            .await?;
        // A large network takes a while, and other calls shall not wait for it.
        let prediction = tokio::task::spawn_blocking(move || predict(&network, &models)).await;
        let prediction = prediction.map_err(|error| {
            tracing::error!(%error, "a prediction failed");
            Status::internal("the prediction failed: the coordinator's log says why")
        })?;
        Ok(stream(&self.0, |sink| async move {
            for layer in &prediction.layers {
                sink.send(v1::PredictResponse {
                    part: Some(Part::Layer(layer.into())),
                })
                .await?;
            }
            sink.send(v1::PredictResponse {
                part: Some(Part::Summary((&prediction).into())),
            })
            .await
        }))
    }

    async fn measure(
        &self,
        request: Request<v1::MeasureRequest>,
    ) -> Result<Response<Self::MeasureStream>, Status> {
        self.0.allow(&request, Role::Request).await?;
        measure::measure(&self.0, request.into_inner()).await
    }
}

fn kinds(names: &[String]) -> Result<Vec<Kind>, FieldError> {
    within("kinds", names.len(), 0..=1024)?;
    names
        .iter()
        .enumerate()
        .map(|(index, name)| parse(&format!("kinds[{index}]"), name))
        .collect()
}

fn request_models(message: v1::CampaignRequest, owner: Owner) -> Result<RequestModels, FieldError> {
    let budget = budget(message.budget)?;
    if let Some(target) = message.target_error.filter(|&target| !positive(target)) {
        return Err(not_positive("target_error", target));
    }
    within(
        "excluded_layers",
        message.excluded_layers.len(),
        0..=EXCLUDED_MAX,
    )?;
    let excluded = message.excluded_layers.iter().enumerate();
    let excluded = excluded.map(|(index, hash)| parse(&format!("excluded_layers[{index}]"), hash));
    let mut excluded: Vec<_> = excluded.collect::<Result<_, _>>()?;
    excluded.sort_unstable();
    excluded.dedup();
    let mut kinds = kinds(&message.kinds)?;
    kinds.sort_unstable();
    kinds.dedup();
    let dtype = dtype(message.dtype)?;
    let request = Wish {
        kinds,
        dtype,
        target_error: message.target_error,
        budget,
        excluded,
        weight: weight(message.weight)?,
        urgent: message.urgent,
    };
    Ok(RequestModels {
        id: parse("campaign_id", &message.campaign_id)?,
        platform: message.platform,
        request,
        owner,
    })
}

/// What a campaign may cost.
pub(super) fn budget(budget: Option<v1::campaign_request::Budget>) -> Result<Budget, FieldError> {
    use v1::campaign_request::budget::Budget as Wire;
    match required("budget", budget.and_then(|budget| budget.budget))? {
        Wire::Jobs(0) => Err(FieldError::new("budget.jobs", "must be at least 1")),
        Wire::Jobs(jobs) => Ok(Budget::Jobs(jobs)),
        Wire::Seconds(seconds) if positive(seconds) => Ok(Budget::Seconds(seconds)),
        Wire::Seconds(seconds) => Err(not_positive("budget.seconds", seconds)),
    }
}

fn weight(weight: u32) -> Result<Weight, FieldError> {
    let out_of_range = || {
        let reason = format!("{weight} is not within 0 to {}", Weight::MAX);
        FieldError::new("weight", reason)
    };
    match weight {
        0 => Ok(Weight::default()),
        _ => Weight::new(weight).ok_or_else(out_of_range),
    }
}

fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn not_positive(field: &str, value: f64) -> FieldError {
    FieldError::new(field, format!("`{value}` is not a positive number"))
}

/// The network of a request for a prediction.
fn network(
    network: Option<v1::predict_request::Network>,
    batch: Option<u64>,
) -> Result<Network, Status> {
    match required("network", network)? {
        v1::predict_request::Network::Graph(_) if batch.is_some() => {
            Err(FieldError::new("batch", "is for built-in networks: a graph has its own").into())
        }
        v1::predict_request::Network::Graph(graph) => {
            Network::try_from(graph).map_err(|error| error.within("graph").into())
        }
        v1::predict_request::Network::Name(name) => {
            zoo::build(&name, batch, Dtype::F32).map_err(|error| match error {
                NetworkError::UnknownName(_) => {
                    status(Code::NotFound, "NETWORK_UNKNOWN", error.to_string(), None)
                }
                NetworkError::Name(_)
                | NetworkError::Size(_)
                | NetworkError::Input(_)
                | NetworkError::Node { .. } => FieldError::new("batch", error.to_string()).into(),
            })
        }
    }
}
