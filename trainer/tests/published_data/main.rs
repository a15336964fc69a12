//! The fit on measurements of real devices that others published: from 480 layers of a set, how well are 120 others
//! predicted? Run with `--nocapture` for the figures.
//!
//! The data is in the folder named by `WATTFARM_DATA`, or in `shared/data` beside the repository; without it each test
//! says that it is skipped.

#![expect(
    clippy::print_stdout,
    reason = "the figures are for whoever runs it with --nocapture"
)]

use std::time::Instant;

use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::{ModelKey, Target};
use wattfarm_cost::{Dtype, Hash};
use wattfarm_trainer::fit::{Origin, Sample, fit};

mod data;
mod solver;

/// Layers of a set that are used: a campaign measures some hundreds of a kind, not twelve thousand.
const LAYERS: usize = 600;

/// Runtimes of a set, thinned to [`LAYERS`] by hash, so that they are the same ones every time.
fn read(name: &str) -> Option<Vec<Sample>> {
    let mut samples = data::read(name)?;
    samples.sort_by_key(|sample| Hash::of(&format!("thin|{}", sample.layer.hash())));
    samples.truncate(LAYERS);
    Some(samples)
}

/// Fits on four fifths and judges on the fifth, five times: the RMSPE over all must not be over `rmspe_max` percent.
fn check(name: &str, rmspe_max: f64) {
    let Some(samples) = read(name) else { return };
    let kind = samples[0].layer.kind();
    let key = ModelKey {
        platform: Hash::of(name),
        kind,
        dtype: Dtype::F32,
        target: Target::RuntimeMs,
    };
    let origin = Origin {
        recipe: Recipe::LAYER,
        through_sequence: 0,
    };
    let fold = |sample: &Sample| Hash::of(&format!("outer|{}", sample.layer.hash())).low_bits() % 5;
    let (mut errors, mut claimed, mut terms, mut seconds) = (Vec::new(), 0.0, 0, 0.0);
    for held_out in 0..5 {
        let (test, train): (Vec<_>, Vec<_>) = samples
            .iter()
            .cloned()
            .partition(|sample| fold(sample) == held_out);
        let started = Instant::now();
        let model = fit(key, &train, origin, 1).expect("a model");
        seconds += started.elapsed().as_secs_f64() / 5.0;
        claimed += model.validation.rmspe / 5.0;
        terms += model.terms.len() / 5;
        errors.extend(
            test.iter()
                .map(|sample| 100.0 * (model.estimate(&sample.layer).value / sample.value - 1.0)),
        );
    }
    let mean =
        |of: fn(f64) -> f64| errors.iter().copied().map(of).sum::<f64>() / errors.len() as f64;
    let (rmspe, mape) = (mean(|error| error * error).sqrt(), mean(f64::abs));
    println!(
        "{name}: RMSPE {rmspe:.1} % (by its own cross-validation {claimed:.1} %), MAPE {mape:.1} %, {terms} terms, \
         {seconds:.2} s a fit"
    );
    assert!(rmspe <= rmspe_max, "{rmspe}");
    assert!(
        (0.7..1.4).contains(&(rmspe / claimed)),
        "the model claims {claimed}, held-out layers say {rmspe}"
    );
}

#[test]
fn convolutions_on_a_1080_ti() {
    check("gpu-runtime/conv2d_1080ti.csv", 14.5);
}

#[test]
fn convolutions_on_a_p100() {
    // A few of these layers run three times as fast as their neighbours: the root mean square hangs on two of them.
    check("gpu-runtime/conv2d_p100.csv", 29.0);
}

#[test]
fn convolutions_on_a_xeon() {
    check("cpu-energy/conv2d_broadwell.csv", 15.0);
}

#[test]
fn linear_layers_on_a_xeon() {
    check("cpu-energy/linear_broadwell.csv", 16.5);
}

#[test]
fn pooling_on_a_xeon() {
    check("cpu-energy/max_pool2d_broadwell.csv", 8.0);
}
