//! A whole coordinator over a real socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use wattfarm_coordinator::server::Server;
use wattfarm_coordinator::store::MemoryStore;
use wattfarm_proto::connect::{Connection, unary};
use wattfarm_proto::error::reason;
use wattfarm_proto::v1;
use wattfarm_proto::v1::report_results_request::Report;
use wattfarm_proto::v1::report_results_request::report::Outcome;
use wattfarm_proto::v1::report_results_response::Acknowledgement;

use crate::world::{layer, model, platform, reading, uuid};

const OPERATOR: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A coordinator of the test's own, with a connection for the operator, one without a credential, and the way to stop.
struct Farm {
    address: String,
    operator: Connection,
    anybody: Connection,
    stop: oneshot::Sender<()>,
    stopped: tokio::task::JoinHandle<anyhow::Result<()>>,
}

/// An agent with its connection.
struct Agent {
    connection: Connection,
    token: String,
}

impl Farm {
    async fn start() -> Self {
        let store = Arc::new(MemoryStore::default());
        let server = Server::start(store, OPERATOR, "127.0.0.1:0".parse().expect("an address")).await;
        let server = server.expect("starts");
        let address = server.address().to_string();
        let (stop, stopping) = oneshot::channel();
        let stopped = tokio::spawn(server.run_until(async {
            let _ = stopping.await;
        }));
        let operator = Connection::open(&address, Some(OPERATOR)).await.expect("connects");
        let anybody = Connection::open(&address, None).await.expect("connects");
        Self { address, operator, anybody, stop, stopped }
    }

    async fn token(&self, ttl_seconds: u64) -> String {
        let request = v1::CreateTokenRequest { note: "test".to_owned(), ttl_seconds };
        self.operator.farm().create_token(unary(request)).await.expect("the operator's key").into_inner().token
    }

    async fn enroll(&self, token: &str, number: u8) -> Result<v1::EnrollResponse, Status> {
        let request = v1::EnrollRequest {
            token: token.to_owned(),
            credential: vec![number; 32],
            name: format!("agent {number}"),
            platform: Some((&platform(1)).into()),
        };
        Ok(self.anybody.agents().enroll(unary(request)).await?.into_inner())
    }

    async fn agent(&self, number: u8) -> Agent {
        let token = self.token(0).await;
        self.enroll(&token, number).await.expect("a good token");
        let credential = format!("{number:02x}").repeat(32);
        let connection = Connection::open(&self.address, Some(&credential)).await.expect("connects");
        Agent { connection, token }
    }

    async fn campaign(&self, change: impl FnOnce(&mut v1::CampaignRequest)) -> Result<v1::Campaign, Status> {
        let budget = v1::campaign_request::budget::Budget::Jobs(1000);
        let mut campaign = v1::CampaignRequest {
            campaign_id: uuid(1).to_string(),
            platform: platform(1).slug(),
            kinds: vec!["linear".to_owned()],
            target_error: Some(10.0),
            budget: Some(v1::campaign_request::Budget { budget: Some(budget) }),
            ..Default::default()
        };
        change(&mut campaign);
        let request = v1::RequestModelsRequest { campaign: Some(campaign) };
        let response = self.anybody.models().request_models(unary(request)).await?;
        Ok(response.into_inner().campaign.expect("always there"))
    }

    async fn propose(&self, layers: Vec<v1::Layer>) -> Result<v1::ProposeLayersResponse, Status> {
        let request = v1::ProposeLayersRequest { campaign_id: uuid(1).to_string(), layers };
        Ok(self.operator.trainer().propose_layers(unary(request)).await?.into_inner())
    }

    /// A campaign with so many layers proposed.
    async fn propose_linear(&self, layers: u64) {
        self.campaign(|_| ()).await.expect("a good request");
        self.propose((0..layers).map(|number| (&layer(number)).into()).collect()).await.expect("room");
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        let stopped = tokio::time::timeout(Duration::from_secs(5), self.stopped).await;
        stopped.expect("stops in time").expect("does not panic").expect("stops cleanly");
    }
}

impl Agent {
    async fn lease(&self, wait_ms: u32) -> Vec<v1::lease_jobs_response::Lease> {
        let request = v1::LeaseJobsRequest { max_jobs: 1, wait_ms, held: vec![] };
        self.connection.agents().lease_jobs(unary(request)).await.expect("enrolled").into_inner().leases
    }

    async fn report(&self, reports: Vec<Report>) -> Result<Vec<Acknowledgement>, Status> {
        let response = self.connection.agents().report_results(unary(v1::ReportResultsRequest { reports })).await?;
        Ok(response.into_inner().acknowledgements().collect())
    }
}

fn answer(lease: &v1::lease_jobs_response::Lease) -> Report {
    let outcome = Some(Outcome::Reading((&reading(1.5)).into()));
    Report { job_id: lease.job_id.clone(), lease: lease.lease, outcome }
}

/// The field that an error names.
fn field(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    violations.into_iter().next().map(|violation| violation.field).unwrap_or_default()
}

async fn next<T>(stream: &mut tonic::Streaming<T>) -> T {
    let message = tokio::time::timeout(Duration::from_secs(10), stream.message()).await.expect("comes in time");
    message.expect("is no error").expect("is not the end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_goes_all_the_way() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    let request = v1::WatchMeasurementsRequest { after_sequence: 0 };
    let mut measurements = farm.operator.trainer().watch_measurements(request).await.expect("the key").into_inner();
    assert_eq!(next(&mut measurements).await.through_sequence, 0);

    // The agent waits before there is work, and is woken by it.
    let waiting = tokio::spawn(async move { (agent.lease(20_000).await, agent) });
    let campaign = farm.campaign(|_| ()).await.expect("a good request");
    assert_eq!(campaign.state(), v1::CampaignState::Waiting);
    let request = v1::WatchCampaignRequest { campaign_id: uuid(1).to_string() };
    let mut news = farm.anybody.models().watch_campaign(request).await.expect("there").into_inner();
    next(&mut news).await;
    let proposed = farm.propose(vec![(&layer(0)).into()]).await.expect("room");
    assert_eq!(proposed.queued, 1);
    let (leases, agent) = waiting.await.expect("does not panic");
    assert_eq!(leases.len(), 1);
    assert_eq!(agent.report(vec![answer(&leases[0])]).await.expect("its own"), [Acknowledgement::Taken]);

    let batch = next(&mut measurements).await;
    assert_eq!((batch.measurements.len(), batch.through_sequence), (1, 1));
    assert_eq!(batch.measurements[0].lease, leases[0].lease);

    let hash = platform(1).hash();
    let request = v1::WatchModelsRequest { platform: platform(1).slug(), kinds: vec![] };
    let mut models = farm.anybody.models().watch_models(request).await.expect("there").into_inner();
    for (rmspe, version) in [(50.0, 1), (9.0, 2)] {
        let request = v1::PublishModelsRequest { models: vec![(&model(hash, rmspe)).into()] };
        let response = farm.operator.trainer().publish_models(unary(request)).await.expect("a good model");
        assert_eq!(response.into_inner().versions, [version]);
        assert_eq!(next(&mut models).await.model.expect("always there").version, version);
    }
    // News until the end, and then the end.
    let mut last = None;
    while let Some(message) = news.message().await.expect("is no error") {
        last = message.campaign;
    }
    let last = last.expect("some news");
    assert_eq!(last.state(), v1::CampaignState::Converged);
    assert_eq!((last.jobs_done, last.kinds[0].samples, last.kinds[0].rmspe), (1, 1, Some(9.0)));

    let request = v1::GetModelsRequest { platform: hash.to_string(), kinds: vec!["linear".to_owned()] };
    let parts = farm.anybody.models().get_models(request).await.expect("there").into_inner();
    assert_eq!(parts.collect::<Vec<_>>().await.len(), 2);

    let layer = (&layer(0)).into();
    let node = v1::network::Node {
        name: "fc".to_owned(),
        step: Some(v1::network::node::Step::Layer(layer)),
        inputs: vec![v1::network::Source { source: Some(v1::network::source::Source::Input(true)) }],
    };
    let input = Some(v1::Sizes { sizes: vec![1, 16] });
    let graph = v1::Network { name: "one layer".to_owned(), input, nodes: vec![node] };
    let network = Some(v1::predict_request::Network::Graph(graph));
    let request = v1::PredictRequest { platform: platform(1).slug(), network, batch: None };
    let parts = farm.anybody.models().predict(request).await.expect("there").into_inner();
    let parts: Vec<_> = parts.map(|part| part.expect("is no error").part.expect("always there")).collect().await;
    let [v1::predict_response::Part::Layer(layer), v1::predict_response::Part::Summary(summary)] = &parts[..] else {
        panic!("a layer and the summary, not {parts:?}");
    };
    assert_eq!((layer.runtime_ms, summary.runtime_ms), (Some(1.0), Some(1.0)));
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_by_name_and_changes_nothing() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    farm.propose_linear(2).await;
    let lease = agent.lease(0).await.remove(0);

    let refused = |status: Status| (status.code(), reason(&status));
    let expect = |code, reason: &str| (code, reason.to_owned());
    // Who calls.
    let expired = farm.token(1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let unknown = farm.enroll("no token", 9).await.expect_err("unknown");
    assert_eq!(refused(unknown), expect(Code::Unauthenticated, "TOKEN_UNKNOWN"));
    let expired = farm.enroll(&expired, 9).await.expect_err("expired");
    assert_eq!(refused(expired), expect(Code::Unauthenticated, "TOKEN_EXPIRED"));
    let used = farm.enroll(&agent.token, 9).await.expect_err("used");
    assert_eq!(refused(used), expect(Code::PermissionDenied, "TOKEN_USED"));
    for stranger in [None, Some("ff".repeat(32))] {
        let stranger = Connection::open(&farm.address, stranger.as_deref()).await.expect("connects");
        let no = stranger.agents().lease_jobs(v1::LeaseJobsRequest { max_jobs: 1, wait_ms: 0, held: vec![] }).await;
        assert_eq!(refused(no.expect_err("a stranger")), expect(Code::Unauthenticated, "CREDENTIAL_UNKNOWN"));
        let no = stranger.farm().list_agents(v1::ListAgentsRequest {}).await;
        assert_eq!(refused(no.expect_err("a stranger")), expect(Code::Unauthenticated, "CREDENTIAL_UNKNOWN"));
        let no = stranger.trainer().watch_campaigns(v1::WatchCampaignsRequest {}).await;
        assert_eq!(refused(no.expect_err("a stranger")), expect(Code::Unauthenticated, "CREDENTIAL_UNKNOWN"));
    }

    // What agents report.
    let forged = Report { lease: 99, ..answer(&lease) };
    let forged = agent.report(vec![forged]).await.expect_err("forged");
    assert_eq!(refused(forged), expect(Code::PermissionDenied, "LEASE_FORGED"));
    let unknown = Report { job_id: uuid(5).to_string(), ..answer(&lease) };
    let unknown = agent.report(vec![unknown]).await.expect_err("unknown");
    assert_eq!(refused(unknown), expect(Code::NotFound, "JOB_UNKNOWN"));
    let spoil = |spoil: fn(&mut v1::Reading)| {
        let mut reading = v1::Reading::from(&reading(1.0));
        spoil(&mut reading);
        Report { outcome: Some(Outcome::Reading(reading)), ..answer(&lease) }
    };
    let nan = spoil(|reading| reading.runtime.as_mut().expect("there").median_ms = f64::NAN);
    let negative = spoil(|reading| reading.runtime.as_mut().expect("there").median_ms = -1.0);
    let power = spoil(|reading| {
        let sensor = "s".to_owned();
        reading.power = Some(v1::reading::Power { mean_w: -3.0, idle_w: None, sensor, window_s: 1.0 });
    });
    let empty = Report { outcome: None, ..answer(&lease) };
    let cases = [
        (nan, "reports[1].reading.runtime.median_ms"),
        (negative, "reports[1].reading.runtime.median_ms"),
        (power, "reports[1].reading.power.mean_w"),
        (empty, "reports[1].outcome"),
    ];
    for (bad, path) in cases {
        let status = agent.report(vec![answer(&lease), bad]).await.expect_err("a bad report");
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, path));
    }
    let many = agent.report(vec![answer(&lease); 65]).await.expect_err("too many");
    assert_eq!((many.code(), field(&many).as_str()), (Code::InvalidArgument, "reports"));

    // What users ask for.
    let unknown = farm.campaign(|campaign| campaign.platform = "abacus".to_owned()).await.expect_err("unknown");
    assert_eq!(refused(unknown), expect(Code::NotFound, "PLATFORM_UNKNOWN"));
    let differs = farm.campaign(|campaign| campaign.target_error = None).await.expect_err("another");
    assert_eq!(refused(differs), expect(Code::AlreadyExists, "CAMPAIGN_DIFFERS"));
    type Spoil = fn(&mut v1::CampaignRequest);
    let cases: [(Spoil, &str); 6] = [
        (|campaign| campaign.kinds = vec!["conv4d".to_owned()], "campaign.kinds[0]"),
        (|campaign| campaign.excluded_layers = vec!["beef".to_owned()], "campaign.excluded_layers[0]"),
        (|campaign| campaign.target_error = Some(f64::NAN), "campaign.target_error"),
        (|campaign| campaign.target_error = Some(0.0), "campaign.target_error"),
        (|campaign| campaign.budget = None, "campaign.budget"),
        (|campaign| campaign.campaign_id = "mine".to_owned(), "campaign.campaign_id"),
    ];
    for (spoil, path) in cases {
        let status = farm.campaign(spoil).await.expect_err("a bad request");
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, path));
    }

    // What trainers propose.
    let mut impossible = v1::Layer::from(&layer(0));
    impossible.fields[1].value = Some(v1::layer::field::Value::Size(0));
    let status = farm.propose(vec![(&layer(5)).into(), impossible]).await.expect_err("impossible");
    assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "layers[1].in_features"));
    let status = farm.propose(vec![(&layer(5)).into(); 1025]).await.expect_err("too many");
    assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "layers"));
    let request = v1::WatchMeasurementsRequest { after_sequence: 10 };
    let ahead = farm.operator.trainer().watch_measurements(request).await.expect_err("ahead");
    assert_eq!(refused(ahead), expect(Code::OutOfRange, "CURSOR_AHEAD"));

    // None of it changed anything; then the good report is taken, and known when it comes again.
    assert_eq!(agent.report(vec![answer(&lease)]).await.expect("its own"), [Acknowledgement::Taken]);
    assert_eq!(agent.report(vec![answer(&lease)]).await.expect("its own"), [Acknowledgement::Known]);
    let agents = farm.operator.farm().list_agents(v1::ListAgentsRequest {}).await.expect("the key").into_inner().agents;
    assert_eq!(agents.iter().map(|agent| agent.measurements).collect::<Vec<_>>(), [1]);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measuring_tells_what_is_there_what_comes_and_what_cannot() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    farm.propose_linear(1).await;
    let lease = agent.lease(0).await.remove(0);
    agent.report(vec![answer(&lease)]).await.expect("its own");

    let subject = |number| v1::Subject { subject: Some(v1::subject::Subject::Layer((&layer(number)).into())) };
    let subjects = vec![subject(0), subject(1), subject(2)];
    let request = v1::MeasureRequest { platform: platform(1).slug(), subjects, replicas: 1 };
    let mut stream = farm.anybody.models().measure(request).await.expect("a good request").into_inner();
    let part = |message: v1::MeasureResponse| message.part.expect("always there");
    use v1::measure_response::Part;
    assert!(matches!(part(next(&mut stream).await), Part::Measurement(measurement) if measurement.sequence == 1));
    let Part::Waiting(because) = part(next(&mut stream).await) else { panic!("nobody works yet") };
    assert!(because.starts_with("next in line; 1 agent connected, about"), "{because}");
    let lease = agent.lease(0).await.remove(0);
    agent.report(vec![answer(&lease)]).await.expect("its own");
    assert!(matches!(part(next(&mut stream).await), Part::Measurement(measurement) if measurement.sequence == 2));
    let lease = agent.lease(0).await.remove(0);
    let outcome = Some(Outcome::Infeasible("out of memory".to_owned()));
    agent.report(vec![Report { outcome, ..answer(&lease) }]).await.expect("its own");
    let Part::Failure(failure) = part(next(&mut stream).await) else { panic!("it cannot be measured") };
    assert_eq!((failure.state(), failure.because.as_str()), (v1::JobState::Infeasible, "out of memory"));
    assert!(stream.message().await.expect("is no error").is_none());

    let request = v1::ListJobsRequest { limit: 0, ..Default::default() };
    let jobs = farm.operator.farm().list_jobs(request).await.expect("the key").into_inner();
    let jobs: Vec<_> = jobs.map(|job| job.expect("is no error").job.expect("always there")).collect().await;
    assert_eq!(jobs.iter().map(v1::Job::state).filter(|state| *state == v1::JobState::Done).count(), 2);
    assert!(jobs.iter().all(|job| job.subject.starts_with("linear(")), "{jobs:?}");

    let request = v1::ExportMeasurementsRequest { platform: String::new(), after_sequence: 0 };
    let export = farm.operator.farm().export_measurements(request).await.expect("the key").into_inner();
    let export: Vec<_> = export.map(|message| message.expect("is no error")).collect().await;
    assert!(export[0].header.is_some());
    assert_eq!(export.iter().map(|message| message.measurements.len()).sum::<usize>(), 2);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ends_waits_and_streams() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    let request = v1::WatchMeasurementsRequest { after_sequence: 0 };
    let mut stream = farm.operator.trainer().watch_measurements(request).await.expect("the key").into_inner();
    next(&mut stream).await;
    let poll = tokio::spawn(async move {
        let request = v1::LeaseJobsRequest { max_jobs: 1, wait_ms: 20_000, held: vec![] };
        agent.connection.agents().lease_jobs(unary(request)).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    farm.stop().await;
    let ended = poll.await.expect("does not panic").expect_err("no work came");
    assert_eq!((ended.code(), reason(&ended)), (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
    let ended = stream.message().await.expect_err("it had no end");
    assert_eq!((ended.code(), reason(&ended)), (Code::Unavailable, "SHUTTING_DOWN".to_owned()));
}
