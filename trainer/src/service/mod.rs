//! The trainer's life: follows the coordinator's measurements and campaigns, proposes layers, fits and publishes models.
//!
//! What to do is decided by a pure state machine ([`core`]) from what the coordinator tells; here is the loop around it.
//! The trainer holds nothing that it cannot rebuild: it starts with an empty memory and reads everything anew.

mod backoff;
mod books;
mod core;
mod follow;
mod platform;
mod queue;
#[cfg(test)]
mod testing;

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::{self, Sender};
use tokio::time::{Duration, MissedTickBehavior, interval};
use tonic::Status;
use wattfarm_cost::Layer;
use wattfarm_cost::id::CampaignId;
use wattfarm_cost::model::{Model, ModelKey};
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::error::is_transient;
use wattfarm_proto::v1;
use wattfarm_proto::v1::get_models_response::Part;

use self::backoff::Backoff;
use self::books::Assignment;
pub(crate) use self::books::samples;
use self::core::{Effect, Event, Trainer};
pub(crate) use self::follow::Cursors;
use self::queue::Proposal;
use crate::fit;

/// Events waiting for the loop, at most: a batch of measurements each.
const INBOX: usize = 64;

/// How often time is looked at where nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// Why a trainer ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The coordinator will never answer this trainer.
    #[error("follow the coordinator's {what}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The refusal.
        #[source]
        status: Box<Status>,
    },
}

/// Runs until `shutdown` ends, or the coordinator refuses for good. A fit that is under way then is given up.
pub async fn run(
    connection: Connection,
    threads: usize,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServiceError> {
    let (events, mut inbox) = mpsc::channel(INBOX);
    let measurements = follow::measurements(connection.clone(), events.clone());
    let campaigns = follow::campaigns(connection.clone(), events.clone());
    let shell = Shell {
        connection,
        threads,
        events,
    };
    tokio::pin!(measurements, campaigns, shutdown);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = Instant::now();
    let mut trainer = Trainer::default();
    loop {
        let event = tokio::select! {
            () = &mut shutdown => return Ok(()),
            over = &mut measurements => return over,
            over = &mut campaigns => return over,
            Some(event) = inbox.recv() => event,
            _ = ticks.tick() => Event::Tick,
        };
        trainer
            .apply(start.elapsed(), event)
            .into_iter()
            .for_each(|effect| shell.start(effect));
    }
}

/// What carries effects out, each in a task of its own that ends with an event.
struct Shell {
    connection: Connection,
    threads: usize,
    events: Sender<Event>,
}

impl Shell {
    fn start(&self, effect: Effect) {
        let (connection, events) = (self.connection.clone(), self.events.clone());
        match effect {
            Effect::Propose { campaign, layers } => {
                tokio::spawn(async move {
                    let proposal = propose(&connection, campaign, &layers).await;
                    // The receiver is gone only when the trainer ends.
                    _ = events.send(Event::Proposed { campaign, proposal }).await;
                });
            }
            Effect::Fit(assignment) => {
                let threads = self.threads;
                tokio::spawn(async move {
                    let (key, recipe) = (assignment.key, assignment.origin.recipe);
                    let (samples, started) = (assignment.samples.len(), Instant::now());
                    let assignment = Arc::new(assignment);
                    let fitting = assignment.clone();
                    let model =
                        tokio::task::spawn_blocking(move || fit_one(&fitting, threads)).await;
                    let took = started.elapsed();
                    // A fit that panicked has said so; its key waits for new samples like one that failed.
                    if let Ok(Some(model)) = model {
                        let model = wanted(&connection, model, &assignment).await;
                        publish(&connection, &model, took).await;
                    }
                    _ = events
                        .send(Event::Fitted {
                            key,
                            recipe,
                            samples,
                            took,
                        })
                        .await;
                });
            }
            Effect::Complain(error) => tracing::error!(%error, "campaign passed over"),
        }
    }
}

async fn propose(connection: &Connection, campaign: CampaignId, layers: &[Layer]) -> Proposal {
    let request = v1::ProposeLayersRequest {
        campaign_id: campaign.to_string(),
        layers: layers.iter().map(Into::into).collect(),
    };
    let answer = answered(|| {
        let (mut client, request) = (connection.trainer(), unary(request.clone()));
        async move { client.propose_layers(request).await }
    });
    match answer.await {
        Ok(answer) => {
            let v1::ProposeLayersResponse {
                queued,
                already_measured,
                excluded,
                over_budget,
            } = answer.into_inner();
            tracing::debug!(%campaign, layers = layers.len(), queued, already_measured, excluded, over_budget, "proposed");
            Proposal::Taken {
                queued: queued.into(),
            }
        }
        Err(status) => {
            tracing::info!(%campaign, %status, "proposal refused");
            Proposal::Refused
        }
    }
}

fn fit_one(assignment: &Assignment, threads: usize) -> Option<Model> {
    let Assignment {
        key,
        samples,
        origin,
        additivity,
        is_due: _,
    } = assignment;
    let fitted = fit::fit_with_holdout(*key, samples, *origin, threads);
    fitted
        .map(|mut model| {
            model.validation.additivity = *additivity;
            model
        })
        .inspect_err(|error| {
            let error: &dyn std::error::Error = error;
            tracing::error!(kind = %key.kind, target = %key.target, error, "fit failed");
        })
        .ok()
}

/// The model if it is no worse than the newest on layers that neither was fitted to; if it is worse, the newest, with what is
/// known today of how networks add up.
async fn wanted(connection: &Connection, model: Model, assignment: &Assignment) -> Model {
    if assignment.is_due {
        return model;
    }
    let mut newest = match newest(connection, &model.key).await {
        Ok(Some(newest)) => newest,
        Ok(None) => return model,
        Err(error) => {
            tracing::error!(kind = %model.key.kind, target = %model.key.target, error, "newest model unknown");
            return model;
        }
    };
    // Samples that made a model make rows.
    if fit::is_no_worse(&model, &newest, &assignment.samples).unwrap_or(true) {
        return model;
    }
    tracing::info!(
        kind = %model.key.kind,
        target = %model.key.target,
        version = newest.version,
        samples = model.provenance.samples,
        "kept: a new one is worse on layers held out"
    );
    newest.validation.additivity = assignment.additivity;
    newest
}

/// The newest model of a key, if there is one.
async fn newest(
    connection: &Connection,
    key: &ModelKey,
) -> Result<Option<Model>, Box<dyn Error + Send + Sync>> {
    let request = v1::GetModelsRequest {
        platform: key.platform.to_string(),
        kinds: vec![key.kind.name().to_owned()],
    };
    let answer = answered(|| {
        let (mut client, request) = (connection.models(), unary(request.clone()));
        async move {
            let mut stream = client.get_models(request).await?.into_inner();
            let mut models = Vec::new();
            while let Some(message) = stream.message().await? {
                if let Some(Part::Model(model)) = message.part {
                    models.push(model);
                }
            }
            Ok(models)
        }
    });
    for message in answer.await? {
        let model = Model::try_from(message)?;
        if model.key == *key {
            return Ok(Some(model));
        }
    }
    Ok(None)
}

async fn publish(connection: &Connection, model: &Model, took: Duration) {
    let request = v1::PublishModelsRequest {
        models: vec![model.into()],
    };
    let answer = answered(|| {
        let (mut client, request) = (connection.trainer(), unary(request.clone()));
        async move { client.publish_models(request).await }
    });
    let key = &model.key;
    match answer.await {
        Ok(answer) => tracing::info!(
            platform = %key.platform,
            kind = %key.kind,
            dtype = %key.dtype,
            target = %key.target,
            samples = model.provenance.samples,
            terms = model.terms.len(),
            rmspe_percent = model.validation.rmspe,
            seconds = took.as_secs_f64(),
            version = answer.into_inner().versions.first(),
            "fitted"
        ),
        Err(status) => {
            tracing::error!(kind = %key.kind, target = %key.target, %status, "model refused")
        }
    }
}

/// Calls until the coordinator answers: calls may be repeated, and a lost one says nothing.
async fn answered<T, F>(call: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut backoff = Backoff::default();
    loop {
        match call().await {
            Err(status) if is_transient(&status) => backoff.wait().await,
            answer => return answer,
        }
    }
}
