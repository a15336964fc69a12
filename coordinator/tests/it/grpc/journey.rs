//! The way of a layer from a request to a prediction.

use prost::Message as _;
use tokio_stream::StreamExt as _;
use tonic::Code;
use wattfarm_proto::connect::unary;
use wattfarm_proto::error::reason;
use wattfarm_proto::v1;
use wattfarm_proto::v1::report_results_request::Report;
use wattfarm_proto::v1::report_results_request::report::Outcome;
use wattfarm_proto::v1::report_results_response::Acknowledgement;

use super::{Farm, answer, field, large_network, next};
use crate::world::{layer, model, platform, uuid};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_goes_all_the_way() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    let request = v1::WatchMeasurementsRequest::default();
    let mut measurements = farm
        .operator
        .trainer()
        .watch_measurements(request)
        .await
        .expect("the key")
        .into_inner();
    assert_eq!(next(&mut measurements).await.through_sequence, 0);

    // The agent waits before there is work, and is woken by it.
    let waiting = tokio::spawn(async move { (agent.lease(20_000).await, agent) });
    let campaign = farm.campaign(|_| ()).await.expect("a good request");
    assert_eq!(campaign.state(), v1::CampaignState::Waiting);
    let request = v1::WatchCampaignRequest {
        campaign_id: uuid(1).to_string(),
    };
    let mut news = farm
        .anybody
        .models()
        .watch_campaign(request)
        .await
        .expect("there")
        .into_inner();
    next(&mut news).await;
    let proposed = farm.propose(vec![(&layer(0)).into()]).await.expect("room");
    assert_eq!(proposed.queued, 1);
    let (leases, agent) = waiting.await.expect("does not panic");
    assert_eq!(leases.len(), 1);
    assert_eq!(
        agent
            .report(vec![answer(&leases[0])])
            .await
            .expect("its own"),
        [Acknowledgement::Taken]
    );

    let batch = next(&mut measurements).await;
    assert_eq!((batch.measurements.len(), batch.through_sequence), (1, 1));
    assert_eq!(batch.measurements[0].lease, leases[0].lease);

    let hash = platform(1).hash();
    let request = v1::WatchModelsRequest {
        platform: platform(1).slug(),
        kinds: vec![],
    };
    let mut models = farm
        .anybody
        .models()
        .watch_models(request)
        .await
        .expect("there")
        .into_inner();
    for (rmspe, version) in [(50.0, 1), (9.0, 2)] {
        let request = v1::PublishModelsRequest {
            models: vec![(&model(hash, rmspe)).into()],
        };
        let response = farm
            .operator
            .trainer()
            .publish_models(unary(request))
            .await
            .expect("a good model");
        assert_eq!(response.into_inner().versions, [version]);
        assert_eq!(
            next(&mut models).await.model.expect("always there").version,
            version
        );
    }
    // News until the end, and then the end.
    let mut last = None;
    while let Some(message) = news.message().await.expect("is no error") {
        last = message.campaign;
    }
    let last = last.expect("some news");
    assert_eq!(last.state(), v1::CampaignState::Converged);
    assert_eq!(
        (last.jobs_done, last.kinds[0].samples, last.kinds[0].rmspe),
        (1, 1, Some(9.0))
    );

    let request = v1::GetModelsRequest {
        platform: hash.to_string(),
        kinds: vec!["linear".to_owned()],
    };
    let parts = farm
        .anybody
        .models()
        .get_models(request)
        .await
        .expect("there")
        .into_inner();
    assert_eq!(parts.collect::<Vec<_>>().await.len(), 2);

    let layer = (&layer(0)).into();
    let node = v1::network::Node {
        name: "fc".to_owned(),
        step: Some(v1::network::node::Step::Layer(layer)),
        inputs: vec![v1::network::Source {
            source: Some(v1::network::source::Source::Input(true)),
        }],
    };
    let input = Some(v1::Sizes { sizes: vec![1, 16] });
    let graph = v1::Network {
        name: "one layer".to_owned(),
        input,
        nodes: vec![node],
    };
    let network = Some(v1::predict_request::Network::Graph(graph));
    let request = v1::PredictRequest {
        platform: platform(1).slug(),
        network,
        batch: None,
    };
    let parts = farm
        .anybody
        .models()
        .predict(request)
        .await
        .expect("there")
        .into_inner();
    let parts: Vec<_> = parts
        .map(|part| part.expect("is no error").part.expect("always there"))
        .collect()
        .await;
    let [
        v1::predict_response::Part::Layer(layer),
        v1::predict_response::Part::Summary(summary),
    ] = &parts[..]
    else {
        panic!("a layer and the summary, not {parts:?}");
    };
    assert_eq!(
        (layer.runtime_ms, summary.runtime_ms),
        (Some(1.0), Some(1.0))
    );
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measuring_tells_what_is_there_what_comes_and_what_cannot() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    farm.propose_linear(1).await;
    let lease = agent.lease(0).await.remove(0);
    agent.report(vec![answer(&lease)]).await.expect("its own");

    let subject = |number| v1::Subject {
        subject: Some(v1::subject::Subject::Layer((&layer(number)).into())),
    };
    let subjects = vec![subject(0), subject(1), subject(2)];
    let request = v1::MeasureRequest {
        platform: platform(1).slug(),
        subjects,
        replicas: 1,
    };
    let mut stream = farm
        .anybody
        .models()
        .measure(request)
        .await
        .expect("a good request")
        .into_inner();
    let part = |message: v1::MeasureResponse| message.part.expect("always there");
    use v1::measure_response::Part;
    assert!(
        matches!(part(next(&mut stream).await), Part::Measurement(measurement) if measurement.sequence == 1)
    );
    let Part::Waiting(because) = part(next(&mut stream).await) else {
        panic!("nobody works yet")
    };
    assert!(
        because.starts_with("next in line; 1 agent connected, about"),
        "{because}"
    );
    let lease = agent.lease(0).await.remove(0);
    agent.report(vec![answer(&lease)]).await.expect("its own");
    assert!(
        matches!(part(next(&mut stream).await), Part::Measurement(measurement) if measurement.sequence == 2)
    );
    let lease = agent.lease(0).await.remove(0);
    let outcome = Some(Outcome::Infeasible("out of memory".to_owned()));
    agent
        .report(vec![Report {
            outcome,
            ..answer(&lease)
        }])
        .await
        .expect("its own");
    let Part::Failure(failure) = part(next(&mut stream).await) else {
        panic!("it cannot be measured")
    };
    assert_eq!(
        (failure.state(), failure.because.as_str()),
        (v1::JobState::Infeasible, "out of memory")
    );
    assert!(stream.message().await.expect("is no error").is_none());

    let request = v1::ListJobsRequest {
        limit: 0,
        ..Default::default()
    };
    let jobs = farm
        .operator
        .farm()
        .list_jobs(request)
        .await
        .expect("the key")
        .into_inner();
    let jobs: Vec<_> = jobs
        .map(|job| job.expect("is no error").job.expect("always there"))
        .collect()
        .await;
    assert_eq!(
        jobs.iter()
            .map(v1::Job::state)
            .filter(|state| *state == v1::JobState::Done)
            .count(),
        2
    );
    assert!(
        jobs.iter().all(|job| job.subject.starts_with("linear(")),
        "{jobs:?}"
    );

    let request = v1::ExportMeasurementsRequest::default();
    let export = farm
        .operator
        .farm()
        .export_measurements(request)
        .await
        .expect("the key")
        .into_inner();
    let export: Vec<_> = export
        .map(|message| message.expect("is no error"))
        .collect()
        .await;
    assert!(export[0].header.is_some());
    assert_eq!(
        export
            .iter()
            .map(|message| message.measurements.len())
            .sum::<usize>(),
        2
    );
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_built_in_network_is_predicted_by_name() {
    let farm = Farm::start().await;
    farm.agent(1).await;
    let predict = |name: &str, batch| {
        let network = Some(v1::predict_request::Network::Name(name.to_owned()));
        let platform = platform(1).slug();
        let request = v1::PredictRequest {
            platform,
            network,
            batch,
        };
        let mut models = farm.anybody.models();
        async move { models.predict(request).await }
    };
    let parts: Vec<_> = predict("resnet18", Some(4))
        .await
        .expect("built in")
        .into_inner()
        .collect()
        .await;
    let last = parts
        .last()
        .expect("the summary")
        .clone()
        .expect("is no error")
        .part;
    let Some(v1::predict_response::Part::Summary(summary)) = last else {
        panic!("the summary is last")
    };
    // Nothing is measured yet: no figure is made up.
    assert_eq!(
        (summary.batch, summary.runtime_ms, summary.power_w),
        (4, None, None)
    );
    assert!(!summary.warnings.is_empty());
    let unknown = predict("resnet19", None).await.expect_err("not built in");
    assert_eq!(
        (unknown.code(), reason(&unknown)),
        (Code::NotFound, "NETWORK_UNKNOWN".to_owned())
    );
    let empty = predict("resnet18", Some(0))
        .await
        .expect_err("an empty batch");
    assert_eq!(
        (empty.code(), field(&empty)),
        (Code::InvalidArgument, "batch".to_owned())
    );
    farm.stop().await;
}

/// The largest subjects that are taken fit into every message that carries them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_networks_pass_everywhere() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    let network = large_network(3000);
    let bytes = network.encoded_len();
    assert!((900_000..1 << 20).contains(&bytes), "{bytes}");
    for layers in 2997..=3000 {
        let request = v1::MeasureRequest {
            platform: platform(1).slug(),
            subjects: vec![large_network(layers)],
            replicas: 1,
        };
        let mut models = farm.anybody.models();
        models.measure(request).await.expect("a good request");
    }
    for _ in 0..4 {
        let request = v1::LeaseJobsRequest {
            max_jobs: 64,
            wait_ms: 0,
            held: vec![],
        };
        let mut agents = agent.connection.agents();
        let leases = agents.lease_jobs(unary(request)).await.expect("fits");
        let leases = leases.into_inner().leases;
        assert_eq!(leases.len(), 1);
        agent
            .report(vec![answer(&leases[0])])
            .await
            .expect("its own");
    }
    let request = v1::WatchMeasurementsRequest::default();
    let mut trainer = farm.operator.trainer();
    let watch = trainer.watch_measurements(request).await.expect("the key");
    let mut watch = watch.into_inner();
    let mut watched = 0;
    while watched < 4 {
        watched += next(&mut watch).await.measurements.len();
    }
    let mut operator = farm.operator.farm();
    let request = v1::ExportMeasurementsRequest::default();
    let export = operator.export_measurements(request).await;
    let export = export.expect("the key").into_inner();
    let exported = export.map(|message| message.expect("fits").measurements.len());
    assert_eq!(exported.collect::<Vec<_>>().await, [1; 4]);
    farm.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_tells_only_how_many_layers_it_leaves_out() {
    let farm = Farm::start().await;
    farm.agent(1).await;
    let excluded: Vec<_> = (0..3)
        .map(|number| layer(number).hash().to_string())
        .collect();
    let told = |campaign: &v1::Campaign| {
        let request = campaign.request.as_ref().expect("always there");
        (
            request.excluded_layers.len(),
            campaign.excluded_layers_count,
        )
    };
    for _ in 0..2 {
        let excluded = excluded.clone();
        let campaign = farm.campaign(|campaign| campaign.excluded_layers = excluded);
        assert_eq!(told(&campaign.await.expect("a good request")), (0, 3));
    }
    let mut trainer = farm.operator.trainer();
    let watch = trainer.watch_campaigns(v1::WatchCampaignsRequest {});
    let mut watch = watch.await.expect("the key").into_inner();
    assert_eq!(told(&next(&mut watch).await.campaigns[0]), (0, 3));
    let layers = (0..4).map(|number| (&layer(number)).into()).collect();
    let proposed = farm.propose(layers).await.expect("room");
    assert_eq!((proposed.queued, proposed.excluded), (1, 3));
    drop(watch);
    farm.stop().await;
}
