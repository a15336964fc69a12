//! How many layers a second a model predicts on one core: `make bench-predict`, with the file of `wattfarm fetch` that
//! `WATTFARM_MODELS` names, or with a synthetic model as large as a model may be.

use std::time::{Duration, Instant};

use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::{
    Bound, Estimator, Features, Model, ModelKey, Provenance, Scale, Scratch, TERMS_MAX, Target,
    Validation, Weighted,
};
use wattfarm_cost::network::zoo;
use wattfarm_cost::{Dtype, Hash, Kind, Layer, ModelSet};

/// The different convolutions of the built-in networks at two batches.
fn layers() -> Vec<Layer> {
    let mut found = std::collections::BTreeMap::new();
    for builtin in zoo::all() {
        for batch in [1, 8] {
            let network = builtin.build(Some(batch), Dtype::F32).expect("built in");
            let own = network
                .layers()
                .filter(|(_, layer)| layer.kind() == Kind::Conv2d);
            found.extend(own.map(|(_, layer)| (layer.hash(), layer.clone())));
        }
    }
    found.into_values().collect()
}

/// As many terms as there may be, of two factors each, over every size and many tiles.
fn largest(layers: &[Layer]) -> Model {
    let features = [
        "batch",
        "in_channels",
        "out_channels",
        "in_height",
        "flops",
        "gemm_k",
        "bytes",
    ];
    let factor = |place: usize| {
        let feature = features[place % features.len()];
        match place / features.len() % 4 {
            0 => format!("log({feature}, 3)"),
            1 => format!("hinge({feature}, {})", place % 5),
            2 => format!("from({feature}, {})", 1 + place % 64),
            _ => format!("waste({feature}, {})", 8 << (place % 4)),
        }
    };
    let term = |place: usize| Weighted {
        term: format!("{} * {}", factor(place), factor(3 * place + 1))
            .parse()
            .expect("a term"),
        coefficient: 1e-4 * (place as f64 - 150.0),
    };
    let bound = |name: &'static str| {
        let values = layers
            .iter()
            .map(|layer| Features::of(layer).get(name).expect("a feature"));
        Bound {
            feature: name.to_owned(),
            min: values.clone().fold(f64::INFINITY, f64::min),
            max: values.fold(0.0, f64::max),
        }
    };
    Model {
        key: ModelKey {
            platform: Hash::of("platform"),
            kind: Kind::Conv2d,
            dtype: Dtype::F32,
            target: Target::RuntimeMs,
        },
        version: 1,
        scale: Scale::of_work(1e-3, 1e-9, 1e-9),
        intercept: 0.0,
        terms: (0..TERMS_MAX - 2).map(term).collect(),
        correction_min: -1.0,
        correction_max: 1.0,
        domain: features.map(bound).to_vec(),
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
            samples: 1,
            distinct: 1,
            through_sequence: 1,
            trainer_version: String::new(),
            devices: Vec::new(),
        },
    }
}

#[test]
#[ignore = "a figure, not a check: `make bench-predict`"]
fn predictions_a_second() {
    let layers = layers();
    let model = match std::env::var("WATTFARM_MODELS") {
        Ok(path) if !path.is_empty() => {
            let text = std::fs::read_to_string(path).expect("a file");
            let set: ModelSet = serde_json::from_str(&text).expect("models");
            let found = set.model(Kind::Conv2d, Dtype::F32, Target::RuntimeMs);
            found.expect("a model of convolutions").clone()
        }
        _ => largest(&layers),
    };
    model.check().expect("usable");
    let (estimator, mut scratch) = (Estimator::new(&model), Scratch::default());
    let mut sum = 0.0;
    let mut best = f64::INFINITY;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        let round = Instant::now();
        for layer in &layers {
            sum += estimator.estimate(layer, &mut scratch).value;
        }
        best = best.min(round.elapsed().as_secs_f64() / layers.len() as f64);
    }
    assert!(sum > 0.0);
    println!(
        "{} terms, {} different convolutions: {:.0} predictions a second on one core ({:.2} us each)",
        model.size(),
        layers.len(),
        1.0 / best,
        1e6 * best
    );
}
