//! A measurement is taken back: who follows hears of it, and exports leave it out unless they are asked.

use tokio_stream::StreamExt as _;
use tonic::Code;
use wattfarm_proto::connect::unary;
use wattfarm_proto::error::reason;
use wattfarm_proto::v1;

use super::{Farm, answer, field, next};

async fn exported(farm: &Farm, retracted: bool) -> (Vec<u64>, Vec<v1::Retraction>) {
    let request = v1::ExportMeasurementsRequest {
        retracted,
        ..Default::default()
    };
    let export = farm.operator.farm().export_measurements(request).await;
    let messages = export.expect("the key").into_inner();
    let messages: Vec<_> = messages
        .map(|message| message.expect("is no error"))
        .collect()
        .await;
    let sequences = messages.iter().flat_map(|message| &message.measurements);
    let retractions = messages.iter().flat_map(|message| &message.retractions);
    (
        sequences.map(|measurement| measurement.sequence).collect(),
        retractions.cloned().collect(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_hears_of_a_retraction() {
    let farm = Farm::start().await;
    let agent = farm.agent(1).await;
    farm.propose_linear(3).await;
    for _ in 0..3 {
        let lease = agent.lease(0).await.remove(0);
        agent.report(vec![answer(&lease)]).await.expect("its own");
    }
    let retract = async |sequences: &[u64], because: &str| {
        let request = v1::RetractMeasurementsRequest {
            sequences: sequences.to_vec(),
            because: because.to_owned(),
        };
        let retracted = farm
            .operator
            .farm()
            .retract_measurements(unary(request))
            .await;
        retracted.map(|response| {
            let response = response.into_inner();
            (response.retracted, response.known)
        })
    };
    let watch = async |after_retraction| {
        let request = v1::WatchMeasurementsRequest {
            after_sequence: 3,
            after_retraction,
            ..Default::default()
        };
        let stream = farm.operator.trainer().watch_measurements(request).await;
        let mut stream = stream.expect("the key").into_inner();
        next(&mut stream).await;
        stream
    };

    let mut stream = watch(0).await;
    assert_eq!(
        retract(&[2, 2], " the fan was off ").await.expect("there"),
        (1, 0)
    );
    let told = next(&mut stream).await.retractions;
    assert_eq!(
        (
            told.len(),
            told[0].number,
            told[0].sequence,
            told[0].because.as_str()
        ),
        (1, 1, 2, "the fan was off")
    );
    assert_eq!(
        retract(&[1, 2], "all of that day").await.expect("there"),
        (1, 1)
    );
    let told = next(&mut stream).await.retractions;
    assert_eq!((told.len(), told[0].number, told[0].sequence), (1, 2, 1));
    // Who comes later hears of all, or of those after its cursor.
    let all = next(&mut watch(0).await).await.retractions;
    assert_eq!(
        all.iter().map(|one| one.sequence).collect::<Vec<_>>(),
        [2, 1]
    );
    assert_eq!(next(&mut watch(1).await).await.retractions, told);

    assert_eq!(exported(&farm, false).await, (vec![3], vec![]));
    let (sequences, why) = exported(&farm, true).await;
    assert_eq!(sequences, [1, 2, 3]);
    let why: Vec<_> = why
        .iter()
        .map(|one| (one.sequence, one.because.as_str()))
        .collect();
    assert_eq!(why, [(1, "all of that day"), (2, "the fan was off")]);

    let unknown = retract(&[3, 4], "so").await.expect_err("there are three");
    assert_eq!(
        (unknown.code(), reason(&unknown).as_str()),
        (Code::NotFound, "MEASUREMENT_UNKNOWN")
    );
    assert_eq!(exported(&farm, false).await.0, [3]);
    for (sequences, because, path) in [(vec![], "so", "sequences"), (vec![3], "  ", "because")] {
        let refused = retract(&sequences, because)
            .await
            .expect_err("a bad request");
        assert_eq!(field(&refused), path);
    }
    drop(stream);
    farm.stop().await;
}
