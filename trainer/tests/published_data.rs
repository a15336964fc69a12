//! The fit on measurements that others published: skipped, loudly, where the data is absent.

use std::path::Path;

use wattfarm_cost::layer::Value;
use wattfarm_cost::measurement::Recipe;
use wattfarm_cost::model::{ModelKey, Target};
use wattfarm_cost::{Dtype, Hash, Kind, Layer};
use wattfarm_trainer::fit::{Origin, Sample, fit};

fn read(name: &str, target: Target) -> Option<Vec<Sample>> {
    let path = Path::new("/work/shared/data").join(name);
    let text = std::fs::read_to_string(&path).ok()?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next()?.split(',').collect();
    let sample = |line: &str| {
        let cells: Vec<(&str, &str)> = header.iter().copied().zip(line.split(',')).collect();
        let kind: Kind = cells[0].1.parse().expect("a kind");
        let measured = ["kind", "runtime_ms", "runtime_ms_std", "power_w", "energy_mj"];
        let fields = cells.iter().filter(|(name, _)| !measured.contains(name));
        let layer = Layer::from_fields(kind, fields.map(|&(name, cell)| (name, Value::from(cell)))).expect("a layer");
        let value = cells.iter().find(|(name, _)| *name == target.name())?.1.parse().expect("a number");
        Some(Sample { layer, value })
    };
    lines.map(sample).collect()
}

/// `count` of the samples, by hash: the same ones every time.
fn subsample(mut samples: Vec<Sample>, count: usize) -> Vec<Sample> {
    samples.sort_by_key(|sample| Hash::of(&format!("subsample{}|{}", std::env::var("SEED").unwrap_or_default(), sample.layer.hash())));
    samples.truncate(count);
    samples
}

/// RMSPE and MAPE in percent of five fits on four fifths each, over the fifths that they did not see.
fn outer(samples: &[Sample], target: Target) -> (f64, f64, f64, f64) {
    let kind = samples[0].layer.kind();
    let key = ModelKey { platform: Hash::of("p"), kind, dtype: Dtype::F32, target };
    let fold = |sample: &Sample| Hash::of(&format!("outer|{}", sample.layer.hash())).low_bits() % 5;
    let mut errors = Vec::new();
    let mut inner = 0.0;
    let started = std::time::Instant::now();
    for held_out in 0..5 {
        let (test, train): (Vec<Sample>, Vec<Sample>) = samples.iter().cloned().partition(|s| fold(s) == held_out);
        let origin = Origin { recipe: Recipe::LayerInNetwork1, through_sequence: 1 };
        let model = fit(key, &train, origin, 1).expect("a model");
        inner += model.validation.rmspe / 5.0;
        errors.extend(test.iter().map(|s| model.estimate(&s.layer).value / s.value - 1.0));
    }
    let seconds = started.elapsed().as_secs_f64() / 5.0;
    let n = errors.len() as f64;
    let rmspe = 100.0 * (errors.iter().map(|e| e * e).sum::<f64>() / n).sqrt();
    let mape = 100.0 * errors.iter().map(|e| e.abs()).sum::<f64>() / n;
    (rmspe, mape, inner, seconds)
}

#[test]
fn published_measurements_are_predicted() {
    let sets = std::env::var("SETS").unwrap_or("gpu-runtime/conv2d_1080ti.csv cpu-energy/conv2d_broadwell.csv cpu-energy/linear_broadwell.csv".into());
    let count: usize = std::env::var("N").map_or(600, |n| n.parse().unwrap());
    for name in sets.split(' ') {
        let Some(samples) = read(name, Target::RuntimeMs) else {
            println!("SKIPPED: no {name}");
            continue;
        };
        let samples = subsample(samples, count);
        let (rmspe, mape, inner, seconds) = outer(&samples, Target::RuntimeMs);
        println!("{name}: n {} RMSPE {rmspe:.1} MAPE {mape:.1} inner {inner:.1}, {seconds:.2} s/fit", samples.len());
    }
}
