//! A whole coordinator over a real socket.

mod authorization;
mod hostile;
mod journey;
mod lifecycle;
mod refusals;
mod retractions;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tonic::Status;
use tonic::transport::ServerTlsConfig;
use wattfarm_coordinator::farm::Role;
use wattfarm_coordinator::server::{Server, Settings};
use wattfarm_coordinator::store::{MemoryStore, Store};
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::tls::TlsArgs;
use wattfarm_proto::v1;
use wattfarm_proto::v1::report_results_request::Report;
use wattfarm_proto::v1::report_results_request::report::Outcome;
use wattfarm_proto::v1::report_results_response::Acknowledgement;

use crate::world::{layer, platform, reading, uuid};

const OPERATOR: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A coordinator of the test's own, with a connection for the operator, one without a credential, and the way to stop.
pub(crate) struct Farm {
    pub(crate) address: String,
    pub(crate) operator: Connection,
    pub(crate) anybody: Connection,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) stopped: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// An agent with its connection.
pub(crate) struct Agent {
    pub(crate) connection: Connection,
    pub(crate) token: String,
}

impl Farm {
    pub(crate) async fn start() -> Self {
        Self::over(Arc::new(MemoryStore::default())).await
    }

    pub(crate) async fn over(store: Arc<dyn Store>) -> Self {
        Self::with(store, Some(Role::Request)).await
    }

    pub(crate) async fn with(store: Arc<dyn Store>, anonymous: Option<Role>) -> Self {
        Self::run(store, None, &TlsArgs::default(), anonymous).await
    }

    pub(crate) async fn encrypted(
        store: Arc<dyn Store>,
        tls: ServerTlsConfig,
        clients: &TlsArgs,
        anonymous: Option<Role>,
    ) -> Self {
        Self::run(store, Some(tls), clients, anonymous).await
    }

    async fn run(
        store: Arc<dyn Store>,
        tls: Option<ServerTlsConfig>,
        clients: &TlsArgs,
        anonymous: Option<Role>,
    ) -> Self {
        let settings = Settings {
            operator_key: OPERATOR.to_owned(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            tls,
            anonymous,
        };
        let server = Server::start(store, settings).await.expect("starts");
        let address = server.address().to_string();
        let (stop, stopping) = oneshot::channel();
        let stopped = tokio::spawn(server.run_until(async {
            let _ = stopping.await;
        }));
        let target = clients.target(&address).expect("good options");
        let operator = Connection::open(&target, Some(OPERATOR))
            .await
            .expect("connects");
        let anybody = Connection::open(&target, None).await.expect("connects");
        Self {
            address,
            operator,
            anybody,
            stop,
            stopped,
        }
    }

    pub(crate) async fn token(&self, ttl_seconds: u64) -> String {
        let request = v1::CreateTokenRequest {
            note: "test".to_owned(),
            ttl_seconds,
        };
        self.operator
            .farm()
            .create_token(unary(request))
            .await
            .expect("the operator's key")
            .into_inner()
            .token
    }

    pub(crate) async fn enroll(
        &self,
        token: &str,
        number: u8,
    ) -> Result<v1::EnrollResponse, Status> {
        let request = v1::EnrollRequest {
            token: token.to_owned(),
            credential: vec![number; 32],
            name: format!("agent {number}"),
            platform: Some((&platform(1)).into()),
        };
        Ok(self
            .anybody
            .agents()
            .enroll(unary(request))
            .await?
            .into_inner())
    }

    pub(crate) async fn agent(&self, number: u8) -> Agent {
        let token = self.token(0).await;
        self.enroll(&token, number).await.expect("a good token");
        let credential = format!("{number:02x}").repeat(32);
        let connection = Connection::open(&self.address, Some(&credential))
            .await
            .expect("connects");
        Agent { connection, token }
    }

    pub(crate) async fn campaign(
        &self,
        change: impl FnOnce(&mut v1::CampaignRequest),
    ) -> Result<v1::Campaign, Status> {
        let budget = v1::campaign_request::budget::Budget::Jobs(1000);
        let mut campaign = v1::CampaignRequest {
            campaign_id: uuid(1).to_string(),
            platform: platform(1).slug(),
            kinds: vec!["linear".to_owned()],
            target_error: Some(10.0),
            budget: Some(v1::campaign_request::Budget {
                budget: Some(budget),
            }),
            ..Default::default()
        };
        change(&mut campaign);
        let request = v1::RequestModelsRequest {
            campaign: Some(campaign),
        };
        let response = self.anybody.models().request_models(unary(request)).await?;
        Ok(response.into_inner().campaign.expect("always there"))
    }

    pub(crate) async fn propose(
        &self,
        layers: Vec<v1::Layer>,
    ) -> Result<v1::ProposeLayersResponse, Status> {
        let request = v1::ProposeLayersRequest {
            campaign_id: uuid(1).to_string(),
            layers,
        };
        Ok(self
            .operator
            .trainer()
            .propose_layers(unary(request))
            .await?
            .into_inner())
    }

    /// A campaign with so many layers proposed.
    pub(crate) async fn propose_linear(&self, layers: u64) {
        self.campaign(|_| ()).await.expect("a good request");
        self.propose((0..layers).map(|number| (&layer(number)).into()).collect())
            .await
            .expect("room");
    }

    /// Begins an agent's call, and returns once the coordinator has it.
    pub(crate) async fn begun<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let seen = async || {
            let list = unary(v1::ListAgentsRequest {});
            let agents = self.operator.farm().list_agents(list).await;
            let agents = agents.expect("the key").into_inner().agents;
            agents
                .into_iter()
                .filter_map(|agent| agent.seen_at_ms)
                .max()
        };
        let before = seen().await;
        // The farm's times are in ms: a call from here on shows.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let call = tokio::spawn(call);
        while seen().await <= before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        call
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("it runs");
        let stopped = tokio::time::timeout(Duration::from_secs(5), self.stopped).await;
        stopped
            .expect("stops in time")
            .expect("does not panic")
            .expect("stops cleanly");
    }
}

impl Agent {
    pub(crate) async fn lease(&self, wait_ms: u32) -> Vec<v1::lease_jobs_response::Lease> {
        let request = v1::LeaseJobsRequest {
            max_jobs: 1,
            wait_ms,
            held: vec![],
        };
        self.connection
            .agents()
            .lease_jobs(unary(request))
            .await
            .expect("enrolled")
            .into_inner()
            .leases
    }

    pub(crate) async fn report(
        &self,
        reports: Vec<Report>,
    ) -> Result<Vec<Acknowledgement>, Status> {
        let response = self
            .connection
            .agents()
            .report_results(unary(v1::ReportResultsRequest { reports }))
            .await?;
        Ok(response.into_inner().acknowledgements().collect())
    }
}

pub(crate) fn answer(lease: &v1::lease_jobs_response::Lease) -> Report {
    let outcome = Some(Outcome::Reading((&reading(1.5)).into()));
    Report {
        job_id: lease.job_id.clone(),
        lease: lease.lease,
        outcome,
    }
}

/// The field that an error names.
pub(crate) fn field(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let violations = status
        .get_details_bad_request()
        .map(|bad| bad.field_violations)
        .unwrap_or_default();
    violations
        .into_iter()
        .next()
        .map(|violation| violation.field)
        .unwrap_or_default()
}

pub(crate) async fn next<T>(stream: &mut tonic::Streaming<T>) -> T {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message())
        .await
        .expect("comes in time");
    message.expect("is no error").expect("is not the end")
}

/// A chain of so many layers with long names, each of about 310 bytes in a message.
pub(crate) fn large_network(layers: u32) -> v1::Subject {
    let node = |index: u32| {
        use v1::network::source::Source;
        let source = match index.checked_sub(1) {
            Some(before) => Source::Node(before),
            None => Source::Input(true),
        };
        v1::network::Node {
            name: format!("{index:0200}"),
            step: Some(v1::network::node::Step::Layer((&layer(15)).into())),
            inputs: vec![v1::network::Source {
                source: Some(source),
            }],
        }
    };
    let network = v1::Network {
        name: "large".to_owned(),
        input: Some(v1::Sizes { sizes: vec![1, 16] }),
        nodes: (0..layers).map(node).collect(),
    };
    v1::Subject {
        subject: Some(v1::subject::Subject::Network(network)),
    }
}
