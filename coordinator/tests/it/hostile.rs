//! Bytes from anywhere: whatever comes, decoding takes no more memory than it may, and every call is answered.

use prost::Message as _;
use prost_types::FileDescriptorSet;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use wattfarm_cost::Kind;
use wattfarm_proto::bound::{DECODED_BYTES_MAX, check};
use wattfarm_proto::{MESSAGE_BYTES_MAX, v1};

use crate::allocations::most_taken;
use crate::world::{layer, model, platform, reading, uuid};

/// A call of the protocol.
pub(crate) struct Call {
    /// `Service/Method`.
    pub(crate) path: String,
    /// The full name of what it takes.
    input: String,
}

/// Every call.
pub(crate) fn calls() -> Vec<Call> {
    let descriptors = FileDescriptorSet::decode(v1::DESCRIPTORS).expect("ours");
    let mut calls = Vec::new();
    for service in descriptors.file.iter().flat_map(|file| &file.service) {
        calls.extend(service.method.iter().map(|method| Call {
            path: format!("{}/{}", service.name(), method.name()),
            input: method.input_type().trim_start_matches('.').to_owned(),
        }));
    }
    calls
}

/// Decodes as one of these messages; says whether it was one. A message that isn't in the list fails the test.
macro_rules! decode_as {
    ($name:expr, $bytes:expr, [$($message:ident)*]) => {
        match $name.strip_prefix("wattfarm.v1.").expect("ours") {
            $(stringify!($message) => v1::$message::decode($bytes).is_ok(),)*
            other => panic!("`{other}` is not in the list"),
        }
    };
}

fn decode(name: &str, bytes: &[u8]) -> bool {
    decode_as!(
        name,
        bytes,
        [
            EnrollRequest LeaseJobsRequest RenewLeasesRequest ReportResultsRequest ReportCanaryRequest
            RotateCredentialRequest ListPlatformsRequest RequestModelsRequest WatchCampaignRequest GetModelsRequest WatchModelsRequest
            PredictRequest MeasureRequest WatchMeasurementsRequest WatchCampaignsRequest ProposeLayersRequest
            PublishModelsRequest CreateTokenRequest ListAgentsRequest DrainAgentRequest RevokeAgentRequest
            CreateKeyRequest ListKeysRequest RevokeKeyRequest ListCampaignsRequest CancelCampaignRequest
            PauseCampaignRequest ExtendCampaignRequest ListJobsRequest ExportMeasurementsRequest
            RetractMeasurementsRequest BackupRequest
        ]
    )
}

fn subject(layer: v1::Layer) -> v1::Subject {
    v1::Subject {
        subject: Some(v1::subject::Subject::Layer(layer)),
    }
}

fn report() -> v1::report_results_request::Report {
    let mut reading = v1::Reading::from(&reading(1.5));
    if let Some(conditions) = &mut reading.conditions {
        conditions.board = Some(v1::reading::Board {
            uuid: "GPU-1".to_owned(),
            trial: Some(v1::reading::PowerTrial {
                procedure: "power-light/1".to_owned(),
                samples_s: vec![0.5; 20],
                samples_w: vec![60.0; 20],
                ..Default::default()
            }),
            ..Default::default()
        });
    }
    v1::report_results_request::Report {
        job_id: uuid(2).to_string(),
        lease: 1,
        outcome: Some(v1::report_results_request::report::Outcome::Reading(
            reading,
        )),
    }
}

fn budget() -> v1::campaign_request::Budget {
    let budget = v1::campaign_request::budget::Budget::Seconds(10.0);
    v1::campaign_request::Budget {
        budget: Some(budget),
    }
}

/// A message of the call with something in every field that is more than a number.
pub(crate) fn in_earnest(path: &str) -> Vec<u8> {
    let (_, method) = path.split_once('/').expect("Service/Method");
    let slug = platform(1).slug();
    let layers = || Kind::ALL.map(|kind| v1::Layer::from(&kind.example()));
    match method {
        "Enroll" => v1::EnrollRequest {
            token: "ab".repeat(32),
            credential: vec![7; 32],
            name: "a box".to_owned(),
            platform: Some((&platform(1)).into()),
        }
        .encode_to_vec(),
        "LeaseJobs" => v1::LeaseJobsRequest {
            max_jobs: 1,
            wait_ms: 1,
            held: vec![1, 2, 3],
        }
        .encode_to_vec(),
        "RenewLeases" => v1::RenewLeasesRequest {
            leases: vec![1, 2, 3],
        }
        .encode_to_vec(),
        "ReportResults" => v1::ReportResultsRequest {
            reports: vec![report(), report()],
        }
        .encode_to_vec(),
        "ReportCanary" => v1::ReportCanaryRequest {
            because: Some("its canary took 3 ms".to_owned()),
        }
        .encode_to_vec(),
        "RotateCredential" => v1::RotateCredentialRequest {
            credential: vec![9; 32],
        }
        .encode_to_vec(),
        "RequestModels" => v1::RequestModelsRequest {
            campaign: Some(v1::CampaignRequest {
                campaign_id: uuid(5).to_string(),
                platform: slug,
                kinds: vec!["linear".to_owned(), "conv2d".to_owned()],
                target_error: Some(10.0),
                budget: Some(budget()),
                excluded_layers: vec![layer(1).hash().to_string(); 3],
                ..Default::default()
            }),
        }
        .encode_to_vec(),
        "GetModels" | "WatchModels" => v1::GetModelsRequest {
            platform: slug,
            kinds: vec!["linear".to_owned()],
        }
        .encode_to_vec(),
        "Predict" => {
            let network =
                wattfarm_cost::network::zoo::build("googlenet", None, wattfarm_cost::Dtype::F32);
            let graph = (&network.expect("built in")).into();
            v1::PredictRequest {
                platform: slug,
                network: Some(v1::predict_request::Network::Graph(graph)),
                batch: None,
            }
            .encode_to_vec()
        }
        "Measure" => v1::MeasureRequest {
            platform: slug,
            subjects: layers().map(subject).to_vec(),
            replicas: 1,
        }
        .encode_to_vec(),
        "ProposeLayers" => v1::ProposeLayersRequest {
            campaign_id: uuid(1).to_string(),
            layers: layers().to_vec(),
        }
        .encode_to_vec(),
        "PublishModels" => v1::PublishModelsRequest {
            models: vec![(&model(platform(1).hash(), 10.0)).into()],
        }
        .encode_to_vec(),
        "ExtendCampaign" => v1::ExtendCampaignRequest {
            campaign_id: uuid(1).to_string(),
            budget: Some(budget()),
        }
        .encode_to_vec(),
        "ListJobs" => v1::ListJobsRequest {
            platform: slug,
            states: vec![1, 2, 3, 4],
            limit: 10,
        }
        .encode_to_vec(),
        "RetractMeasurements" => v1::RetractMeasurementsRequest {
            sequences: vec![1, 2],
            because: "so".to_owned(),
        }
        .encode_to_vec(),
        // One text, or nothing: an id in field 1 is in the way of none of them.
        _ => v1::WatchCampaignRequest {
            campaign_id: uuid(1).to_string(),
        }
        .encode_to_vec(),
    }
}

/// Something that was once a message.
pub(crate) fn mutated(random: &mut ChaCha8Rng, sound: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        let length = random.random_range(0..=(bytes.len() - at).min(64));
        match random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at),
            2 => {
                let noise = (0..random.random_range(1..20)).map(|_| random.random());
                drop(bytes.splice(at..at, noise.collect::<Vec<u8>>()));
            }
            // A part again, somewhere else.
            3 => {
                let part = bytes[at..at + length].to_vec();
                let to = random.random_range(0..=bytes.len());
                drop(bytes.splice(to..to, part));
            }
            4 => drop(bytes.drain(at..at + length)),
            // A length, or a number, that is far too large.
            5 => drop(bytes.splice(at..at, [0xff; 9].into_iter().chain([0x01]))),
            // Many empty parts.
            6 => {
                let tag = random.random_range(1..16) << 3 | 2;
                let many = [tag, 0].repeat(random.random_range(1..3000));
                drop(bytes.splice(at..at, many));
            }
            // A tag for another kind of value.
            _ => {
                let tag = random.random_range(0..=255);
                drop(bytes.splice(at..at, [tag]));
            }
        }
    }
    bytes
}

/// The most that decoding may take beside what is allowed for the message itself: the check's own, and small change.
const SLACK: usize = 64 << 10;

#[test]
fn no_bytes_take_more_memory_than_they_may() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut good, mut bad, mut refused) = (0, 0, 0);
    // What is read once is not the messages' doing.
    assert_eq!(check("wattfarm.v1.Layer", &[]), Ok(()));
    let mut judge = |call: &Call, bytes: &[u8]| {
        let (allowed, taken) = most_taken(|| check(&call.input, bytes));
        assert!(taken < 64, "{}: the check took {taken} bytes", call.path);
        if allowed.is_err() {
            refused += 1;
            return;
        }
        let (was_one, taken) = most_taken(|| decode(&call.input, bytes));
        let most = DECODED_BYTES_MAX + SLACK;
        assert!(
            taken <= most,
            "{}: {taken} bytes of {}",
            call.path,
            bytes.len()
        );
        *(if was_one { &mut good } else { &mut bad }) += 1;
    };
    for call in calls() {
        let sound = in_earnest(&call.path);
        judge(&call, &sound);
        for _ in 0..500 {
            judge(&call, &mutated(&mut random, &sound));
        }
        // As much of one part as a message has room for, at the top and one level down.
        for tag in (1..4_u8).map(|field| field << 3 | 2) {
            let empty = [tag, 0].repeat(MESSAGE_BYTES_MAX / 2);
            judge(&call, &empty);
        }
        let mut within = vec![0x0a];
        prost::encoding::encode_varint(MESSAGE_BYTES_MAX as u64 - 8, &mut within);
        within.extend([0x12, 0].repeat(MESSAGE_BYTES_MAX / 2 - 4));
        judge(&call, &within);
    }
    println!("{good} were messages, {bad} were not, {refused} would have been too large");
    assert!(good > 1000 && bad > 1000 && refused > 5);
}
