//! Measurements and campaigns for the tests of this folder.

use wattfarm_cost::layer::Value;
use wattfarm_cost::measurement::{Conditions, Measurement, Reading, Recipe, Runtime, Subject};
use wattfarm_cost::network::{Network, Node, Source, Step};
use wattfarm_cost::{Hash, Kind, Layer};
use wattfarm_proto::v1;

pub(super) fn platform() -> Hash {
    Hash::of("platform")
}

pub(super) fn relu(features: u64) -> Layer {
    let fields = [
        ("batch", Value::Size(1)),
        ("features", Value::Size(features)),
    ];
    Layer::from_fields(Kind::Relu, fields).expect("valid")
}

pub(super) fn linear(features: u64) -> Layer {
    let sizes = [
        ("batch", 1),
        ("in_features", features),
        ("out_features", 10),
    ];
    Layer::from_fields(
        Kind::Linear,
        sizes.map(|(name, size)| (name, Value::Size(size))),
    )
    .expect("valid")
}

pub(super) fn measurement(sequence: u64, layer: Layer) -> Measurement {
    of(sequence, Subject::Layer(layer))
}

/// Whose device everything is measured on.
pub(super) const AGENT: &str = "0190b7a0-0000-7000-8000-00000000a9e7";

pub(super) fn measurement_of_network(sequence: u64) -> Measurement {
    let node = Node {
        name: "relu".to_owned(),
        step: Step::Layer(relu(8)),
        inputs: vec![Source::Input],
    };
    of(
        sequence,
        Subject::Network(Network::new("one".to_owned(), vec![1, 8], vec![node]).expect("valid")),
    )
}

fn of(sequence: u64, subject: Subject) -> Measurement {
    let id = format!("0190b7a0-0000-7000-8000-{sequence:012}");
    let runtime = Runtime {
        median_ms: 0.5,
        low_ms: 0.4,
        high_ms: 0.6,
        repetitions: 1,
        warmup: 1,
        disturbed: 0,
        samples_ms: vec![0.5],
    };
    Measurement {
        sequence,
        job: id.parse().expect("a UUID"),
        agent: AGENT.parse().expect("a UUID"),
        lease: wattfarm_cost::id::LeaseNumber(sequence),
        platform: platform(),
        recipe: Recipe::of(&subject),
        subject,
        reading: Reading {
            runtime,
            power: None,
            conditions: Conditions::default(),
        },
        received_at_ms: 0,
    }
}

pub(super) fn campaign(number: u64, jobs_outstanding: u64) -> v1::Campaign {
    let request = v1::CampaignRequest {
        campaign_id: format!("0190b7a0-0000-7000-8000-{number:012}"),
        platform: platform().to_string(),
        ..Default::default()
    };
    v1::Campaign {
        request: Some(request),
        jobs_outstanding,
        ..Default::default()
    }
}
