//! The services: convert, ask the writer, convert back. What must be remembered is the farm's to remember.

pub(crate) mod agents;
pub(crate) mod auth;
mod backup;
mod canary;
mod jobs;
mod limits;
mod measure;
mod models;
mod operator;
mod refusal;
mod retract;
mod stream;
mod trainer;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Code, Status};
use wattfarm_proto::error::{FieldError, status};
use wattfarm_proto::v1::agent_service_server::AgentServiceServer;
use wattfarm_proto::v1::farm_service_server::FarmServiceServer;
use wattfarm_proto::v1::model_service_server::ModelServiceServer;
use wattfarm_proto::v1::trainer_service_server::TrainerServiceServer;
use wattfarm_proto::{MESSAGE_BYTES_MAX, v1};

use limits::Limits;

use crate::farm::{Event, Refusal, Role, SecretHash};
use crate::store::{Common, Store, StoreError};
use crate::writer::{Stopped, Writer};

/// After how long a call that met the coordinator going down is worth repeating.
const RESTART_RETRY: Duration = Duration::from_secs(2);

/// What every service needs.
#[derive(Clone)]
pub struct Shell {
    /// The way to the farm.
    pub writer: Writer,
    /// For reads too large for the writer.
    pub store: Arc<dyn Store>,
    /// The operator's key.
    pub operator_key: SecretHash,
    /// What a caller without a key may do; `None` for nothing.
    pub anonymous: Option<Role>,
    /// Becomes true when the coordinator shuts down: waits and streams end then.
    pub stopping: watch::Receiver<bool>,
    /// Where users' keys are, unless the farm has them: in a shard it hasn't.
    pub keys: Option<Arc<Common>>,
    /// How often each caller may still call.
    limits: Arc<Mutex<Limits>>,
}

impl Shell {
    /// A shell around a writer and the store that it commits to.
    pub fn new(
        writer: Writer,
        store: Arc<dyn Store>,
        operator_key: SecretHash,
        anonymous: Option<Role>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            writer,
            store,
            operator_key,
            anonymous,
            stopping,
            keys: None,
            limits: Arc::default(),
        }
    }
}

/// The services of a farm, beside others.
pub fn services(shell: Shell, beside: Routes) -> Routes {
    let agents = AgentServiceServer::new(agents::Agents(shell.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let models = ModelServiceServer::new(models::Models(shell.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let trainer = TrainerServiceServer::new(trainer::Trainer(shell.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let operator = FarmServiceServer::new(operator::Operator(shell))
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    beside
        .add_service(agents)
        .add_service(models)
        .add_service(trainer)
        .add_service(operator)
}

/// Health and reflection.
pub async fn about() -> Result<Routes, tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<AgentServiceServer<()>>().await;
    reporter.set_serving::<ModelServiceServer<()>>().await;
    reporter.set_serving::<TrainerServiceServer<()>>().await;
    reporter.set_serving::<FarmServiceServer<()>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Python's client, among others, asks by the protocol's older name.
    Ok(Routes::new(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

impl Shell {
    /// Asks the farm.
    async fn ask<E: Event>(&self, event: E) -> Result<E::Reply, Status> {
        self.writer.ask(event).await.map_err(stopped)
    }

    /// Asks the farm what it may refuse.
    async fn request<T, E: Event<Reply = Result<T, Refusal>>>(
        &self,
        event: E,
    ) -> Result<T, Status> {
        self.ask(event).await?.map_err(Status::from)
    }

    /// Reads from the store, beside the writer.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = Arc::clone(&self.store);
        blocking(move || read(&*store)).await
    }
}

/// Asks a store something where that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    let read = tokio::task::spawn_blocking(ask).await;
    let read = read.map_err(|panic| anyhow::Error::from(panic).context("read the store"));
    read.and_then(|read| read.map_err(anyhow::Error::from))
        .map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "a read of the store failed");
            if let Some(StoreError::Away { .. }) = error.downcast_ref() {
                let message = "the store's database does not answer";
                let retry = Some(RESTART_RETRY);
                return status(Code::Unavailable, "STORE_AWAY", message, retry);
            }
            Status::internal("the store cannot be read: the coordinator's log says why")
        })
}

fn stopped(why: Stopped) -> Status {
    let reason = match why {
        Stopped::ShuttingDown => "SHUTTING_DOWN",
        Stopped::DiskFull | Stopped::StoreFailed => "STORE_FAILED",
        Stopped::TakenOver => "TAKEN_OVER",
    };
    status(
        Code::Unavailable,
        reason,
        why.to_string(),
        Some(RESTART_RETRY),
    )
}

/// Refuses a count that isn't in the range; `field` is for the error.
fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, FieldError> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(FieldError::new(
        field,
        format!("{value} is not within {} to {}", range.start(), range.end()),
    ))
}

/// A text of at most so many characters, none of which commands a terminal: texts from agents are shown to people.
fn cut(text: &str, characters: usize) -> String {
    let plain = |character: char| match character.is_control() {
        true => ' ',
        false => character,
    };
    text.chars().take(characters).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_for_people_is_cut_and_commands_no_terminal() {
        assert_eq!(cut("out of \u{1b}[31mmemory\n", 100), "out of  [31mmemory ");
        assert_eq!(cut("größer", 3), "grö");
    }
}
