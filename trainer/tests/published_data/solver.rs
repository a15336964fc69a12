//! How long the solver takes beside others (`peers.py`), on one design: twelve thousand layers by products of their sizes.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use wattfarm_cost::model::Features;
use wattfarm_trainer::fit::Sample;
use wattfarm_trainer::lasso::{
    CrossValidationParameters, Design, Gram, HeldOut, PathParameters, cross_validate, lasso_path,
};

const FOLDS: usize = 10;

/// Duality gap as a share of yy, which is scikit-learn's and celer's as well.
const TOLERANCE: f64 = 1e-6;

/// Columns that are constant are no candidates, nor what another column is but for rounding.
fn is_new(column: &[f64], known: &mut Vec<(f64, f64)>) -> bool {
    let count = column.len() as f64;
    let mean = column.iter().sum::<f64>() / count;
    let deviation = (column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
    if deviation <= 1e-9 * mean.abs().max(1e-300) {
        return false;
    }
    // Two moments of the standardised column, which equal columns share.
    let moment = |power: i32| {
        let sum: f64 = column
            .iter()
            .map(|x| ((x - mean) / deviation).powi(power))
            .sum();
        sum / count
    };
    let print = (moment(3), moment(4));
    let is_near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * (1.0 + a.abs());
    let is_known = known
        .iter()
        .any(|other| is_near(print.0, other.0) && is_near(print.1, other.1));
    if !is_known {
        known.push(print);
    }
    !is_known
}

/// The first `count` products of up to four features' logarithms, column by column, standardised.
fn candidates(samples: &[Sample], count: usize) -> Vec<f64> {
    let features: Vec<Features> = samples
        .iter()
        .map(|sample| Features::of(&sample.layer))
        .collect();
    let names: Vec<&str> = features[0].iter().map(|(name, _)| name).collect();
    let mut known = Vec::new();
    let base: Vec<Vec<f64>> = names
        .iter()
        .map(|name| {
            let log = |layer: &Features| layer.get(name).unwrap_or(0.0).max(0.0).ln_1p();
            features.iter().map(log).collect()
        })
        .filter(|column: &Vec<f64>| is_new(column, &mut known))
        .collect();
    let mut columns: Vec<f64> = base.concat();
    let rows = samples.len();
    // Products by degree: each of a lower degree times a base column that isn't before its last factor.
    let mut degree: Vec<(usize, Vec<f64>)> = base.iter().cloned().enumerate().collect();
    while columns.len() < count * rows {
        let mut next = Vec::new();
        for (last, product) in &degree {
            for (index, factor) in base.iter().enumerate().skip(*last) {
                let column: Vec<f64> = product.iter().zip(factor).map(|(a, b)| a * b).collect();
                if columns.len() < count * rows && is_new(&column, &mut known) {
                    columns.extend_from_slice(&column);
                    next.push((index, column));
                }
            }
        }
        assert!(
            !next.is_empty(),
            "products run out at {}",
            columns.len() / rows
        );
        degree = next;
    }
    for column in columns.chunks_mut(rows) {
        let mean = column.iter().sum::<f64>() / rows as f64;
        let deviation =
            (column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / rows as f64).sqrt();
        column.iter_mut().for_each(|x| *x = (*x - mean) / deviation);
    }
    columns
}

fn write(path: &Path, values: impl IntoIterator<Item = f64>) {
    let mut file = std::io::BufWriter::new(File::create(path).expect("created"));
    for value in values {
        file.write_all(&value.to_le_bytes()).expect("written");
    }
    file.flush().expect("written");
}

/// `make bench-solver`: `WATTFARM_SOLVER` names the folder that the design and our figures are left in for `peers.py`.
#[test]
#[ignore = "a benchmark"]
fn beside_others() {
    let folder = PathBuf::from(std::env::var_os("WATTFARM_SOLVER").expect("WATTFARM_SOLVER"));
    let Some(mut samples) = super::data::read("gpu-runtime/conv2d_1080ti.csv") else {
        return;
    };
    samples.truncate(12_000);
    let target: Vec<f64> = samples.iter().map(|sample| sample.value.ln()).collect();
    let folds: Vec<usize> = (samples.iter())
        .map(|sample| (sample.layer.hash().low_bits() % FOLDS as u64) as usize)
        .collect();
    std::fs::create_dir_all(&folder).expect("a folder");
    write(&folder.join("target.f64"), target.iter().copied());
    write(
        &folder.join("folds.f64"),
        folds.iter().map(|&fold| fold as f64),
    );
    let mut figures = String::from("columns,what,seconds,best_lambda,rmse\n");
    for count in [500, 4000] {
        let columns = candidates(&samples, count);
        write(
            &folder.join(format!("columns-{count}.f64")),
            columns.iter().copied(),
        );
        let design = Design::new(&columns, count, &target, None).expect("a design");
        let path = PathParameters {
            tolerance: TOLERANCE,
            unexplained_min: 0.0,
            gain_min: 0.0,
            ..PathParameters::default()
        };
        let rmse = |held: HeldOut<'_>| {
            let pairs = held.targets.iter().zip(held.predictions);
            let sum: f64 = pairs.map(|(y, p)| (y - p).powi(2)).sum();
            (sum / held.targets.len() as f64).sqrt()
        };
        let started = Instant::now();
        let gram = Gram::new(&design, 2);
        let one = lasso_path(&gram, &path).expect("a path");
        let seconds = started.elapsed().as_secs_f64();
        figures += &format!("{count},path,{seconds:.3},,\n");
        assert_eq!(one.points.len(), 100);
        let parameters = CrossValidationParameters {
            path,
            relaxed_ridge: None,
            threads: 2,
        };
        let started = Instant::now();
        let found = cross_validate(&design, &folds, &parameters, rmse).expect("cross-validated");
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(found.unconverged, 0);
        let best = found.plain.best;
        figures += &format!(
            "{count},folds,{seconds:.3},{:e},{:.6}\n",
            found.path.points[best].lambda, found.plain.errors[best]
        );
    }
    std::fs::write(folder.join("ours.csv"), &figures).expect("written");
    println!("{figures}");
}
