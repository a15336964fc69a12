//! What anybody may ask a coordinator, and how it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tonic::Code;
use wattfarm_coordinator::farm::{Change, Job, Records, Retraction, Task, TaskKey};
use wattfarm_coordinator::store::{MemoryStore, Sink, Store, StoreError};
use wattfarm_cost::id::JobId;
use wattfarm_cost::model::ModelKey;
use wattfarm_cost::{Measurement, Model};
use wattfarm_proto::connect::unary;
use wattfarm_proto::error::{is_transient, reason};
use wattfarm_proto::v1;

use super::{Farm, answer, next};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anybody_may_ask_for_health_and_the_protocol() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_response::MessageResponse,
    };
    let farm = Farm::start().await;
    let url = format!("http://{}", farm.address);
    let channel = tonic::transport::Endpoint::from_shared(url)
        .expect("a URL")
        .connect()
        .await
        .expect("connects");
    for service in ["", "wattfarm.v1.AgentService", "wattfarm.v1.FarmService"] {
        let request = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        let health = HealthClient::new(channel.clone())
            .check(request)
            .await
            .expect("known")
            .into_inner();
        assert_eq!(health.status(), ServingStatus::Serving);
    }
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request,
    };
    let asked = tokio_stream::once(request);
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(asked)
        .await
        .expect("open")
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        next(&mut answers).await.message_response
    else {
        panic!("a list of services");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(
        names.contains(&"wattfarm.v1.ModelService") && names.contains(&"grpc.health.v1.Health"),
        "{names:?}"
    );
    drop(answers);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ends_waits_and_streams() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    let request = v1::WatchMeasurementsRequest::default();
    let mut stream = farm
        .operator
        .trainer()
        .watch_measurements(request)
        .await
        .expect("the key")
        .into_inner();
    next(&mut stream).await;
    let poll = farm.begun(async move {
        let request = v1::LeaseJobsRequest {
            max_jobs: 1,
            wait_ms: 20_000,
            held: vec![],
        };
        agent.connection.agents().lease_jobs(unary(request)).await
    });
    let poll = poll.await;
    farm.stop().await;
    let ended = poll
        .await
        .expect("does not panic")
        .expect_err("no work came");
    assert_eq!(
        (ended.code(), reason(&ended)),
        (Code::Unavailable, "SHUTTING_DOWN".to_owned())
    );
    let ended = stream.message().await.expect_err("it had no end");
    assert_eq!(
        (ended.code(), reason(&ended)),
        (Code::Unavailable, "SHUTTING_DOWN".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_agent_hears_of_it_once_and_then_waits() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    let id = farm
        .operator
        .farm()
        .list_agents(v1::ListAgentsRequest {})
        .await
        .expect("the key")
        .into_inner()
        .agents
        .remove(0)
        .agent_id;
    let drain = async |draining| {
        let request = v1::DrainAgentRequest {
            agent_id: id.clone(),
            draining,
        };
        let mut operator = farm.operator.farm();
        operator.drain_agent(request).await.expect("enrolled");
    };
    let lease = |wait_ms| {
        let mut agents = agent.connection.agents();
        async move {
            let request = v1::LeaseJobsRequest {
                max_jobs: 1,
                wait_ms,
                held: vec![],
            };
            let began = Instant::now();
            let response = agents.lease_jobs(unary(request)).await.expect("enrolled");
            (response.into_inner(), began.elapsed())
        }
    };

    let waiting = farm.begun(lease(10_000)).await;
    drain(true).await;
    let (leased, waited) = waiting.await.expect("does not panic");
    assert!(
        leased.draining && waited < Duration::from_secs(5),
        "{waited:?}"
    );

    farm.propose_linear(1).await;
    let (leased, waited) = lease(50).await;
    assert!(leased.draining && leased.leases.is_empty());
    assert!(waited >= Duration::from_millis(50), "{waited:?}");

    let waiting = farm.begun(lease(10_000)).await;
    drain(false).await;
    let (leased, waited) = waiting.await.expect("does not panic");
    assert_eq!((leased.draining, leased.leases.len()), (false, 1));
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    farm.stop().await;
}

/// A store whose disk fails from some moment on.
#[derive(Default)]
struct Failing {
    memory: MemoryStore,
    fails: AtomicBool,
}

impl Store for Failing {
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::Full("/farm".into()));
        }
        self.memory.commit(changes)
    }

    fn load(&self) -> Result<Records, StoreError> {
        self.memory.load()
    }

    fn measurements_after(
        &self,
        sequence: u64,
        limit: usize,
    ) -> Result<Vec<Measurement>, StoreError> {
        self.memory.measurements_after(sequence, limit)
    }

    fn retractions_after(&self, number: u64, limit: usize) -> Result<Vec<Retraction>, StoreError> {
        self.memory.retractions_after(number, limit)
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.memory.job(id)
    }

    fn find_job(&self, task: &TaskKey) -> Result<Option<Job>, StoreError> {
        self.memory.find_job(task)
    }

    fn jobs_after(&self, id: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.memory.jobs_after(id, limit)
    }

    fn task(&self, job: JobId) -> Result<Option<Task>, StoreError> {
        self.memory.task(job)
    }

    fn model_versions_after(&self, key: &ModelKey, version: u64) -> Result<Vec<Model>, StoreError> {
        self.memory.model_versions_after(key, version)
    }

    fn copy(&self, sink: &mut Sink<'_>) -> Result<(), StoreError> {
        self.memory.copy(sink)
    }
}

/// Memory would be ahead of the disk: nobody hears of what was not stored, and the coordinator ends with an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_commit_ends_the_coordinator() {
    let store = Arc::new(Failing::default());
    let farm = Farm::over(store.clone()).await;
    let agent = farm.agent(1).await;
    farm.propose_linear(1).await;
    let lease = agent.lease(0).await.remove(0);
    let waiting = farm.agent(2).await;
    let waiting = farm.begun(async move {
        let request = v1::LeaseJobsRequest {
            max_jobs: 1,
            wait_ms: 20_000,
            held: vec![],
        };
        waiting.connection.agents().lease_jobs(unary(request)).await
    });
    let waiting = waiting.await;
    store.fails.store(true, Ordering::SeqCst);
    let unheard = agent
        .report(vec![answer(&lease)])
        .await
        .expect_err("not stored");
    assert!(
        is_transient(&unheard),
        "the agent shall report again: {unheard}"
    );
    let waiting = waiting
        .await
        .expect("does not panic")
        .expect_err("no work came");
    for status in [unheard, waiting] {
        assert_eq!(
            (status.code(), reason(&status).as_str(), status.message()),
            (
                Code::Unavailable,
                "STORE_FAILED",
                "the coordinator's store failed: its disk is full"
            )
        );
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), farm.stopped)
        .await
        .expect("ends in time");
    let error = ended
        .expect("does not panic")
        .expect_err("the disk is full");
    let text = format!("{error:#}");
    assert_eq!(
        text,
        "store what was reported: the disk of the store at `/farm` is full: make room and start again, nothing \
         acknowledged is lost"
    );
    assert_eq!(store.memory.measurements_after(0, 1).expect("memory"), []);
}
