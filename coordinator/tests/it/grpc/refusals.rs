//! What is wrong is refused with a code, a reason or the field, and changes nothing.

use std::sync::Arc;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use wattfarm_coordinator::farm::{Change, SecretHash, Timestamp, Token};
use wattfarm_coordinator::store::{MemoryStore, Store as _};
use wattfarm_cost::Kind;
use wattfarm_proto::connect::Connection;
use wattfarm_proto::error::reason;
use wattfarm_proto::v1;
use wattfarm_proto::v1::report_results_request::Report;
use wattfarm_proto::v1::report_results_request::report::Outcome;
use wattfarm_proto::v1::report_results_response::Acknowledgement;

use super::{Farm, answer, field, large_network};
use crate::world::{layer, platform, reading, uuid};

/// What a client branches on.
fn refused(status: Status) -> (Code, String) {
    (status.code(), reason(&status))
}

fn expect(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused() {
    let store = Arc::new(MemoryStore::default());
    let expired = "ee".repeat(32);
    let token = Token {
        note: String::new(),
        expires_at: Timestamp(1),
        used_by: None,
    };
    let made = Change::Token(SecretHash::of(&expired), token);
    store.commit(&[made]).expect("memory");
    let farm = Farm::over(store).await;
    let agent = farm.agent(1).await;
    let unknown = farm.enroll("no token", 9).await.expect_err("unknown");
    assert_eq!(
        refused(unknown),
        expect(Code::Unauthenticated, "TOKEN_UNKNOWN")
    );
    let expired = farm.enroll(&expired, 9).await.expect_err("expired");
    assert_eq!(
        refused(expired),
        expect(Code::Unauthenticated, "TOKEN_EXPIRED")
    );
    let used = farm.enroll(&agent.token, 9).await.expect_err("used");
    assert_eq!(refused(used), expect(Code::PermissionDenied, "TOKEN_USED"));
    for stranger in [None, Some("ff".repeat(32))] {
        let stranger = Connection::open(&farm.address, stranger.as_deref())
            .await
            .expect("connects");
        let no = stranger
            .agents()
            .lease_jobs(v1::LeaseJobsRequest {
                max_jobs: 1,
                wait_ms: 0,
                held: vec![],
            })
            .await;
        assert_eq!(
            refused(no.expect_err("a stranger")),
            expect(Code::Unauthenticated, "CREDENTIAL_UNKNOWN")
        );
        let no = stranger.farm().list_agents(v1::ListAgentsRequest {}).await;
        assert_eq!(
            refused(no.expect_err("a stranger")),
            expect(Code::Unauthenticated, "CREDENTIAL_UNKNOWN")
        );
        let no = stranger
            .trainer()
            .watch_campaigns(v1::WatchCampaignsRequest {})
            .await;
        assert_eq!(
            refused(no.expect_err("a stranger")),
            expect(Code::Unauthenticated, "CREDENTIAL_UNKNOWN")
        );
    }
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_reports_are_refused_whole() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    farm.propose_linear(2).await;
    let lease = agent.lease(0).await.remove(0);
    let forged = Report {
        lease: 99,
        ..answer(&lease)
    };
    let forged = agent.report(vec![forged]).await.expect_err("forged");
    assert_eq!(
        refused(forged),
        expect(Code::PermissionDenied, "LEASE_FORGED")
    );
    let unknown = Report {
        job_id: uuid(5).to_string(),
        ..answer(&lease)
    };
    let unknown = agent.report(vec![unknown]).await.expect_err("unknown");
    assert_eq!(refused(unknown), expect(Code::NotFound, "JOB_UNKNOWN"));
    let spoil = |spoil: fn(&mut v1::Reading)| {
        let mut reading = v1::Reading::from(&reading(1.0));
        spoil(&mut reading);
        Report {
            outcome: Some(Outcome::Reading(reading)),
            ..answer(&lease)
        }
    };
    let nan = spoil(|reading| reading.runtime.as_mut().expect("there").median_ms = f64::NAN);
    let negative = spoil(|reading| reading.runtime.as_mut().expect("there").median_ms = -1.0);
    let contradiction = spoil(|reading| {
        reading.runtime.as_mut().expect("there").samples_ms = vec![0.001; 3];
    });
    let power = spoil(|reading| {
        let sensor = "s".to_owned();
        reading.power = Some(v1::reading::Power {
            mean_w: -3.0,
            idle_w: None,
            sensor,
            window_s: 1.0,
        });
    });
    let empty = Report {
        outcome: None,
        ..answer(&lease)
    };
    let cases = [
        (nan, "reports[1].reading.runtime.median_ms"),
        (negative, "reports[1].reading.runtime.median_ms"),
        (contradiction, "reports[1].reading.runtime.median_ms"),
        (power, "reports[1].reading.power.mean_w"),
        (empty, "reports[1].outcome"),
    ];
    for (bad, path) in cases {
        let status = agent
            .report(vec![answer(&lease), bad])
            .await
            .expect_err("a bad report");
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, path)
        );
    }
    let many = agent
        .report(vec![answer(&lease); 65])
        .await
        .expect_err("too many");
    assert_eq!(
        (many.code(), field(&many).as_str()),
        (Code::InvalidArgument, "reports")
    );

    // None of it changed anything; then the good report is taken, and known when it comes again.
    assert_eq!(
        agent.report(vec![answer(&lease)]).await.expect("its own"),
        [Acknowledgement::Taken]
    );
    assert_eq!(
        agent.report(vec![answer(&lease)]).await.expect("its own"),
        [Acknowledgement::Known]
    );
    let agents = farm
        .operator
        .farm()
        .list_agents(v1::ListAgentsRequest {})
        .await
        .expect("the key")
        .into_inner()
        .agents;
    assert_eq!(
        agents
            .iter()
            .map(|agent| agent.measurements)
            .collect::<Vec<_>>(),
        [1]
    );
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_name_their_field() {
    let farm = Farm::start().await;
    farm.agent(1).await;
    farm.campaign(|_| ()).await.expect("a good request");
    let unknown = farm
        .campaign(|campaign| campaign.platform = "abacus".to_owned())
        .await
        .expect_err("unknown");
    assert_eq!(refused(unknown), expect(Code::NotFound, "PLATFORM_UNKNOWN"));
    let differs = farm
        .campaign(|campaign| campaign.target_error = None)
        .await
        .expect_err("another");
    assert_eq!(
        refused(differs),
        expect(Code::AlreadyExists, "CAMPAIGN_DIFFERS")
    );
    type Spoil = fn(&mut v1::CampaignRequest);
    let cases: [(Spoil, &str); 6] = [
        (
            |campaign| campaign.kinds = vec!["conv4d".to_owned()],
            "campaign.kinds[0]",
        ),
        (
            |campaign| campaign.excluded_layers = vec!["beef".to_owned()],
            "campaign.excluded_layers[0]",
        ),
        (
            |campaign| campaign.target_error = Some(f64::NAN),
            "campaign.target_error",
        ),
        (
            |campaign| campaign.target_error = Some(0.0),
            "campaign.target_error",
        ),
        (|campaign| campaign.budget = None, "campaign.budget"),
        (
            |campaign| campaign.campaign_id = "mine".to_owned(),
            "campaign.campaign_id",
        ),
    ];
    for (spoil, path) in cases {
        let status = farm.campaign(spoil).await.expect_err("a bad request");
        assert_eq!(
            (status.code(), field(&status).as_str()),
            (Code::InvalidArgument, path)
        );
    }
    // Shown in a list some day, and on a terminal.
    let named = v1::CreateKeyRequest {
        name: "ada\u{1b}[2J".to_owned(),
        role: v1::Role::Read.into(),
        ttl_seconds: 0,
    };
    let made = farm.operator.farm().create_key(named).await;
    let status = made.expect_err("commands a terminal");
    assert_eq!(
        (status.code(), field(&status).as_str()),
        (Code::InvalidArgument, "name")
    );
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_proposals_name_their_field() {
    let farm = Farm::start().await;
    farm.agent(1).await;
    farm.propose_linear(1).await;
    let mut impossible = v1::Layer::from(&layer(0));
    impossible.fields[1].value = Some(v1::layer::field::Value::Size(0));
    let status = farm
        .propose(vec![(&layer(5)).into(), impossible])
        .await
        .expect_err("impossible");
    assert_eq!(
        (status.code(), field(&status).as_str()),
        (Code::InvalidArgument, "layers[1].in_features")
    );
    let status = farm
        .propose(vec![(&layer(5)).into(); 1025])
        .await
        .expect_err("too many");
    assert_eq!(
        (status.code(), field(&status).as_str()),
        (Code::InvalidArgument, "layers")
    );
    let request = v1::WatchMeasurementsRequest {
        after_sequence: 10,
        after_retraction: 0,
        ..Default::default()
    };
    let ahead = farm
        .operator
        .trainer()
        .watch_measurements(request)
        .await
        .expect_err("ahead");
    assert_eq!(refused(ahead), expect(Code::OutOfRange, "CURSOR_AHEAD"));
    farm.stop().await;
}

/// Geometry that cannot be, and lists far longer than any layer's: each an answer that names the field, and short enough
/// to arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impossible_layers_and_networks_name_their_field() {
    use v1::layer::field::Value;
    let farm = Farm::start().await;
    farm.agent(1).await;
    let layer = |kind: Kind, changes: &[(&str, Value)]| {
        let mut layer = v1::Layer::from(&kind.example());
        for (name, value) in changes {
            let mut fields = layer.fields.iter_mut();
            let field = fields.find(|field| field.name == *name).expect("a field");
            field.value = Some(value.clone());
        }
        layer
    };
    let refused = async |subject: v1::subject::Subject| {
        let request = v1::MeasureRequest {
            platform: platform(1).slug(),
            subjects: vec![v1::Subject {
                subject: Some(subject),
            }],
            replicas: 1,
        };
        let mut models = farm.anybody.models();
        let status = models.measure(request).await.expect_err("impossible");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        (field(&status), status.message().to_owned())
    };
    let long = || {
        Value::Sizes(v1::Sizes {
            sizes: vec![1 << 39; 5000],
        })
    };
    let mut twice = layer(Kind::Relu, &[]);
    twice.fields.push(twice.fields[0].clone());
    let mut unknown = layer(Kind::Relu, &[]);
    unknown.kind = "blur".to_owned();
    let cases = [
        (
            layer(Kind::Conv2d, &[("groups", Value::Size(7))]),
            "in_channels",
            "divisible",
        ),
        (
            layer(Kind::Conv2d, &[("kernel_h", Value::Size(4000))]),
            "kernel_h",
            "",
        ),
        (
            layer(Kind::Linear, &[("batch", Value::Size(1 << 40))]),
            "in_features",
            "2^40",
        ),
        (
            layer(Kind::Linear, &[("batch", Value::Size(u64::MAX))]),
            "batch",
            "2^40",
        ),
        (
            layer(Kind::Permute, &[("order", long())]),
            "order",
            "a list of 1 to 256",
        ),
        (twice, "batch", "is there twice"),
        (unknown, "kind", "`blur` is not a layer kind"),
    ];
    for (layer, path, reason) in cases {
        let (field, message) = refused(v1::subject::Subject::Layer(layer)).await;
        assert_eq!(field, format!("subjects[0].layer.{path}"));
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
        assert!(message.contains(reason), "{message}");
        assert!(!message.contains("kind: kind"), "{message}");
    }
    let network = |input: Vec<u64>, shape: Vec<u64>| {
        let input_of = v1::network::Source {
            source: Some(v1::network::source::Source::Input(true)),
        };
        v1::subject::Subject::Network(v1::Network {
            name: "odd".to_owned(),
            input: Some(v1::Sizes { sizes: input }),
            nodes: vec![v1::network::Node {
                name: "reshape".to_owned(),
                step: Some(v1::network::node::Step::Reshape(v1::Sizes { sizes: shape })),
                inputs: vec![input_of],
            }],
        })
    };
    for odd in [
        network(vec![1, 8], vec![3; 100_000]),
        network(vec![1 << 39; 100_000], vec![8]),
    ] {
        let (field, message) = refused(odd).await;
        assert!(
            field.starts_with("subjects[0].network"),
            "{field}: {message}"
        );
    }
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_too_much_to_measure_is_refused() {
    let farm = Farm::start().await;
    farm.agent(1).await;
    let measure = |subjects| {
        let request = v1::MeasureRequest {
            platform: platform(1).slug(),
            subjects,
            replicas: 1,
        };
        let mut models = farm.anybody.models();
        async move { models.measure(request).await }
    };
    let layer = |number| v1::Subject {
        subject: Some(v1::subject::Subject::Layer((&layer(number)).into())),
    };
    let large = measure(vec![layer(0), large_network(3600)])
        .await
        .expect_err("too large");
    assert_eq!(
        (large.code(), field(&large).as_str()),
        (Code::InvalidArgument, "subjects[1]")
    );
    for call in 0..16 {
        let subjects = (0..256).map(|number| layer(call * 256 + number));
        measure(subjects.collect()).await.expect("room");
    }
    let full = measure(vec![layer(9999)]).await.expect_err("too much");
    assert!(full.get_details_retry_info().is_some());
    assert_eq!(refused(full), expect(Code::ResourceExhausted, "QUEUE_FULL"));
    farm.stop().await;
}
