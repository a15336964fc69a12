//! Files of models for tests.

use std::path::Path;

use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::{
    Model, ModelKey, Provenance, Scale, Validation, Weighted, feature_names,
};
use wattfarm_cost::platform::Device;
use wattfarm_cost::{Dtype, Kind, ModelSet, Platform, Target};

/// As many terms as a fit to thousands of layers has.
pub(crate) const TERMS_OF_A_LARGE_FIT: usize = 150;

/// Writes models of every kind: 0.01 ms, and 1 ms for a thousand million operations.
pub(crate) fn write(path: &Path, terms: usize) {
    // A kind without a model must show, unless it costs nothing.
    let without = [Kind::Gelu, Kind::Dropout];
    let kinds = (Kind::ALL.into_iter()).filter(|kind| !without.contains(kind));
    let models = kinds.map(|kind| model(&platform("test"), kind, Target::RuntimeMs, terms, 1.0));
    write_all(path, &platform("test"), models.collect());
}

/// Writes models of time and of power, 50 W for every layer, on a platform so many times as fast.
pub(crate) fn write_with_power(path: &Path, device: &str, times: f64) {
    let platform = platform(device);
    let of = |target| move |kind| (kind, target);
    let times_and_powers = Kind::ALL
        .into_iter()
        .map(of(Target::RuntimeMs))
        .chain(Kind::ALL.into_iter().map(of(Target::PowerW)));
    let models = times_and_powers.map(|(kind, target)| model(&platform, kind, target, 0, times));
    write_all(path, &platform, models.collect());
}

fn platform(model: &str) -> Platform {
    Platform {
        device: Device::Cpu {
            model: model.to_owned(),
            threads: 1,
            instruction_set: "AVX2".to_owned(),
        },
        libtorch: "2.11.0".to_owned(),
    }
}

fn write_all(path: &Path, platform: &Platform, models: Vec<Model>) {
    let models = ModelSet::new(platform.slug(), platform.clone(), models);
    std::fs::write(path, serde_json::to_vec(&models).expect("serializes")).expect("written");
}

fn model(platform: &Platform, kind: Kind, target: Target, terms: usize, times: f64) -> Model {
    let scale = match target {
        Target::PowerW => Scale::flat(50.0 * times.sqrt()),
        Target::RuntimeMs | Target::EnergyMj => Scale::of_work(0.01 / times, 1e-9 / times, 0.0),
    };
    Model {
        key: ModelKey {
            platform: platform.hash(),
            kind,
            dtype: Dtype::F32,
            target,
        },
        version: 1,
        scale,
        intercept: 0.0,
        terms: (0..terms).map(|place| term(kind, place)).collect(),
        correction_min: 0.0,
        correction_max: 0.0,
        domain: vec![],
        validation: Validation {
            folds: 10,
            rmspe: 5.0,
            mape: 4.0,
            medape: 3.0,
            log_residual_low: -0.1,
            log_residual_high: 0.1,
            bands: Vec::new(),
            correlation: 1.0,
            additivity: None,
            holdout: None,
        },
        provenance: Provenance {
            recipe: Recipe::LAYER,
            samples: 10,
            distinct: 10,
            through_sequence: 10,
            trainer_version: "test".to_owned(),
            devices: Vec::new(),
        },
    }
}

/// One of many terms over two of a kind's features.
fn term(kind: Kind, place: usize) -> Weighted {
    let names = feature_names(kind);
    let [one, other] = [place % names.len(), (3 * place + 1) % names.len()];
    let text = format!(
        "log({}, 2.5) * hinge({}, {}.25)",
        names[one],
        names[other],
        place % 9
    );
    Weighted {
        term: text.parse().expect("a term"),
        coefficient: 1e-3 / (place + 1) as f64,
    }
}
