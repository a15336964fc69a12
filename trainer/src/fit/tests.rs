use wattfarm_cost::layer::Value;
use wattfarm_cost::model::Target;
use wattfarm_cost::{Dtype, Hash, Kind, Layer};

use super::*;
use crate::design::Designer;

const ORIGIN: Origin = Origin {
    recipe: Recipe::LAYER,
    through_sequence: 7,
};

fn key(kind: Kind, target: Target) -> ModelKey {
    ModelKey {
        platform: Hash::of("platform"),
        kind,
        dtype: Dtype::F32,
        target,
    }
}

/// Layers as a campaign would propose them.
fn layers(kind: Kind, count: usize) -> Vec<Layer> {
    let campaign = "0190b7a0-0000-7000-8000-000000000001"
        .parse()
        .expect("a UUID");
    let mut designer = Designer::new(campaign, Dtype::F32, &[kind]);
    designer.propose(count, &Default::default(), |_| false)
}

/// A number from 0 to below 1 that is a layer's own.
fn noise(layer: &Layer) -> f64 {
    (layer.hash().low_bits() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A device with a launch cost, a peak, a bandwidth, and a weakness for odd channels.
fn law(layer: &Layer) -> f64 {
    let work = layer.work();
    let odd = layer.gemm().is_some_and(|gemm| gemm.n % 8 != 0);
    let slow = if odd { 1.5 } else { 1.0 };
    (0.01 + work.flops as f64 / 2e7 * slow + work.bytes() as f64 / 1e7)
        * (0.98 + 0.04 * noise(layer))
}

fn samples(layers: &[Layer], of: impl Fn(&Layer) -> f64) -> Vec<Sample> {
    layers
        .iter()
        .map(|layer| Sample {
            layer: layer.clone(),
            value: of(layer),
            runtime_ms: None,
            agent: None,
        })
        .collect()
}

fn fitted(kind: Kind, samples: &[Sample]) -> Model {
    fit(key(kind, Target::RuntimeMs), samples, ORIGIN, 1).expect("a model")
}

/// RMSPE over the layers inside the model's domain, in percent.
fn error(model: &Model, layers: &[Layer], of: impl Fn(&Layer) -> f64) -> f64 {
    let inside = layers
        .iter()
        .filter(|layer| model.estimate(layer).outside.is_empty());
    100.0 * validation::rmspe(inside.map(|layer| (model.estimate(layer).value / of(layer)).ln()))
}

#[test]
fn a_law_of_products_is_recovered() {
    let all = layers(Kind::Linear, 160);
    let law = |layer: &Layer| {
        let gemm = layer.gemm().expect("a product");
        3e-4 * (gemm.m as f64).powf(0.7) * (gemm.n as f64).powf(0.9) * (gemm.k as f64).powf(0.4)
    };
    let model = fitted(Kind::Linear, &samples(&all[..120], law));
    let error = error(&model, &all[120..], law);
    assert!(
        error < 5.0 && model.validation.rmspe < 5.0,
        "{error} {:?}",
        model.validation
    );
}

#[test]
fn held_out_convolutions_are_predicted_as_well_as_it_says() {
    let all = layers(Kind::Conv2d, 400);
    let model = fitted(Kind::Conv2d, &samples(&all[..300], law));
    let held_out = &all[300..];
    let error = error(&model, held_out, law);
    assert!(error < 12.0, "{error}");
    assert!(
        (0.5..2.0).contains(&(error / model.validation.rmspe)),
        "{error} and {}",
        model.validation.rmspe
    );
    assert_eq!(model.validation.folds, 10);
    let inside = |layer: &&Layer| {
        let estimate = model.estimate(layer);
        (estimate.low..=estimate.high).contains(&law(layer))
    };
    let covered = all[300..].iter().filter(inside).count();
    assert!(
        (75..=99).contains(&covered),
        "{covered} of 100 in the 90 % interval"
    );
}

#[test]
fn every_kind_fits_at_every_size() {
    for kind in Kind::ALL {
        let all = layers(kind, 60);
        for count in [1, 2, 4, 5, 9, 10, 19, 20, 39, 40, 60] {
            let model = fitted(kind, &samples(&all[..count], law));
            let interval = (
                model.validation.log_residual_low,
                model.validation.log_residual_high,
            );
            assert!(interval.0 <= 0.0 && interval.1 >= 0.0);
            if count < ROWS_MIN {
                assert!(interval.1 - interval.0 >= std::f64::consts::LN_2 * 2.0);
            }
            for layer in &all {
                let value = model.estimate(layer).value;
                assert!(
                    value > 0.0 && value.is_finite(),
                    "{kind} of {count}: {value} for {layer}"
                );
            }
        }
    }
}

#[test]
fn a_constant_cost_is_a_constant() {
    let all = layers(Kind::Flatten, 8);
    let model = fitted(Kind::Flatten, &samples(&all, |_| 0.002));
    assert!(
        all.iter()
            .all(|layer| (model.estimate(layer).value / 0.002 - 1.0).abs() < 1e-9)
    );
    assert!(model.validation.rmspe < 1e-6);
}

#[test]
fn power_has_a_flat_scale() {
    let all = layers(Kind::Linear, 50);
    let samples = samples(&all, |layer| 60.0 + 10.0 * noise(layer));
    let model = fit(key(Kind::Linear, Target::PowerW), &samples, ORIGIN, 1).expect("a model");
    assert!(model.scale.costs.is_empty());
    assert!(
        all.iter()
            .all(|layer| (55.0..75.0).contains(&model.estimate(layer).value))
    );
}

/// A model says the same of milliseconds and of microseconds, but for a choice between terms that are as good: rounding decides
/// on those.
#[test]
fn the_unit_does_not_matter() {
    let all = layers(Kind::Conv2d, 90);
    let [milli, micro] =
        [1.0, 1000.0].map(|unit| fitted(Kind::Conv2d, &samples(&all, |layer| unit * law(layer))));
    let ratio = milli.validation.rmspe / micro.validation.rmspe;
    assert!((ratio - 1.0).abs() < 2e-2, "{ratio}");
    for layer in &all {
        let ratio = micro.estimate(layer).value / milli.estimate(layer).value;
        assert!((ratio / 1000.0 - 1.0).abs() < 3e-2, "{ratio}");
    }
}

#[test]
fn order_and_threads_do_not_matter() {
    let mut samples = samples(&layers(Kind::Conv2d, 80), law);
    let model = fitted(Kind::Conv2d, &samples);
    samples.reverse();
    assert_eq!(
        fit(key(Kind::Conv2d, Target::RuntimeMs), &samples, ORIGIN, 3).expect("a model"),
        model
    );
}

#[test]
fn replicas_are_one_layer_in_one_fold() {
    let all = layers(Kind::Relu, 30);
    let twice = [
        samples(&all, |layer| law(layer) * 1.1),
        samples(&all, |layer| law(layer) / 1.1),
    ]
    .concat();
    let (once, twice) = (
        fitted(Kind::Relu, &samples(&all, law)),
        fitted(Kind::Relu, &twice),
    );
    assert_eq!(
        (twice.provenance.samples, twice.provenance.distinct),
        (60, 30)
    );
    assert!((once.validation.rmspe - twice.validation.rmspe).abs() < 1e-6);
    assert!(all.iter().all(|layer| {
        (once.estimate(layer).value / twice.estimate(layer).value - 1.0).abs() < 1e-6
    }));
}

/// Far outside its samples a model is its scale, within the corrections that it has seen.
#[test]
fn out_of_domain_nothing_explodes() {
    let model = fitted(Kind::Conv2d, &samples(&layers(Kind::Conv2d, 200), law));
    let huge = [
        ("batch", 64),
        ("in_channels", 4096),
        ("in_height", 512),
        ("in_width", 512),
        ("out_channels", 4096),
        ("kernel_h", 31),
        ("kernel_w", 31),
    ];
    let huge = Layer::from_fields(
        Kind::Conv2d,
        huge.map(|(name, size)| (name, Value::Size(size))),
    )
    .expect("valid");
    let estimate = model.estimate(&huge);
    assert!(!estimate.outside.is_empty());
    let ratio = estimate.value / law(&huge);
    assert!((0.1..10.0).contains(&ratio), "{ratio}");
}

/// Every third layer is measured by a device that is a quarter slower, and by no other.
#[test]
fn devices_that_differ_are_told_apart_and_do_not_spoil_the_model() {
    let all = layers(Kind::Linear, 160);
    let mut samples = samples(&all, law);
    for (number, sample) in samples.iter_mut().enumerate() {
        let is_slow = number % 3 == 0;
        sample.agent = Some(rows::testing::agent(usize::from(is_slow)));
        sample.value *= if is_slow { 1.25 } else { 1.0 };
    }
    let model = fitted(Kind::Linear, &samples);
    let [fast, slow] = &model.provenance.devices[..] else {
        panic!("{:?}", model.provenance.devices)
    };
    assert_eq!(fast.layers + slow.layers, 160);
    let found = slow.log_ratio - fast.log_ratio;
    assert!((found - 1.25f64.ln()).abs() < 0.02, "{found}");
    // Of the mean device, by layers.
    let mean = |layer: &Layer| law(layer) * (slow.layers as f64 / 160.0 * 1.25f64.ln()).exp();
    // Against what was measured: a stranger may have either device.
    assert!(model.validation.rmspe > 8.0, "{:?}", model.validation);

    let apart = error(&model, &all, mean);
    samples.iter_mut().for_each(|sample| sample.agent = None);
    let mixed = error(&fitted(Kind::Linear, &samples), &all, mean);
    assert!(apart * 1.5 < mixed, "{apart} {mixed}");
}

#[test]
fn versions_are_compared_on_layers_that_none_has_seen() {
    let all = samples(&layers(Kind::Linear, 600), law);
    let of = |samples: &[Sample]| {
        let key = key(Kind::Linear, Target::RuntimeMs);
        fit_with_holdout(key, samples, ORIGIN, 1).expect("a model")
    };
    let (few, good) = (of(&all[..100]), of(&all));
    assert_eq!(few.validation.holdout, None, "too few to spare any");
    let held_out = good.validation.holdout.expect("of many");
    assert!((15..=45).contains(&held_out.layers), "{held_out:?}");
    assert_eq!(good.provenance.distinct, 600);

    // Half of what came last is twice what it should be: whoever learns from that is worse on what nobody learned from.
    let mut spoilt = all.clone();
    for sample in spoilt.iter_mut().step_by(2) {
        sample.value *= if holdout_tells(sample) { 1.0 } else { 2.0 };
    }
    let bad = of(&spoilt);
    let judged = |new: &Model, old: &Model| is_no_worse(new, old, &all).expect("rows");
    assert!(!judged(&bad, &good) && judged(&good, &bad) && judged(&good, &good));
    // Nothing to compare by: the newer one it is.
    assert!(judged(&bad, &few) && !judged(&few, &good));
    let mut other = good.clone();
    other.provenance.recipe = Recipe::LayerInNetwork1;
    assert!(judged(&bad, &other));
}

/// Whether no version is fitted to a sample's layer.
fn holdout_tells(sample: &Sample) -> bool {
    let key = key(Kind::Linear, Target::RuntimeMs);
    let mut row = rows::rows(&key, std::slice::from_ref(sample)).expect("a row");
    holdout::is_held_out(&row.remove(0).hash)
}

#[test]
fn what_is_not_a_measurement_is_refused() {
    let relu = Kind::Relu.example();
    let refused = |layer: &Layer, value| {
        let samples = [Sample {
            layer: layer.clone(),
            value,
            runtime_ms: None,
            agent: None,
        }];
        fit(key(Kind::Relu, Target::RuntimeMs), &samples, ORIGIN, 1)
            .expect_err("refused")
            .to_string()
    };
    for value in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        assert!(refused(&relu, value).ends_with("is not a positive number"));
    }
    assert!(refused(&Kind::Tanh.example(), 1.0).contains("another kind"));
    assert!(matches!(
        fit(key(Kind::Relu, Target::RuntimeMs), &[], ORIGIN, 1),
        Err(FitError::NoSamples)
    ));
}

#[test]
fn a_model_stays_within_its_size() {
    let all = layers(Kind::Conv2d, 700);
    let rough = |layer: &Layer| law(layer) * (1.0 + (layer.work().flops as f64).ln().sin().abs());
    let model = fitted(Kind::Conv2d, &samples(&all, rough));
    assert!(model.terms.len() <= wattfarm_cost::model::TERMS_MAX);
}
