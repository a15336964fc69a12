use super::super::testing::{Random, Sample, assert_close, bits};
use super::*;

fn mean_square(held_out: HeldOut<'_>) -> f64 {
    let square = |(y, p): (&f64, &f64)| (y - p).powi(2);
    held_out
        .targets
        .iter()
        .zip(held_out.predictions)
        .map(square)
        .sum::<f64>()
        / held_out.rows.len() as f64
}

fn parameters(threads: usize) -> CrossValidationParameters {
    CrossValidationParameters {
        relaxed_ridge: Some(1e-10),
        threads,
        ..CrossValidationParameters::default()
    }
}

fn folds(n: usize, k: usize, seed: u64) -> Vec<usize> {
    let mut random = Random(seed);
    (0..n)
        .map(|row| {
            if row < k {
                row
            } else {
                random.next() as usize % k
            }
        })
        .collect()
}

/// Each prediction comes from a fit on exactly the other folds' rows.
#[test]
fn predictions_are_out_of_fold() {
    let (n, p) = (70, 9);
    let sample = Sample::random(21, n, p, true);
    let folds = folds(n, 4, 1);
    let mut tight = parameters(1);
    tight.path.tolerance = 1e-13;
    let result = cross_validate(&sample.design(), &folds, &tight, mean_square).unwrap();
    assert_eq!(
        (result.folds.clone(), result.unconverged),
        (vec![0, 1, 2, 3], 0)
    );
    for scores in [&result.plain, result.relaxed.as_ref().unwrap()] {
        assert_eq!(scores.errors.len(), result.path.points.len());
        assert!(scores.one_standard_error <= scores.best);
        assert!(
            scores
                .errors
                .iter()
                .all(|error| *error >= scores.errors[scores.best])
        );
        let bar = scores.errors[scores.best] + scores.standard_errors[scores.best];
        assert!(scores.errors[scores.one_standard_error] <= bar);
        assert!(
            scores.errors[..scores.one_standard_error]
                .iter()
                .all(|error| *error > bar)
        );
    }
    let lambda = result.path.points[result.plain.best].lambda;
    for fold in 0..4 {
        let kept: Vec<usize> = (0..n).filter(|&row| folds[row] != fold).collect();
        let keep = |column: &[f64]| -> Vec<f64> { kept.iter().map(|&row| column[row]).collect() };
        let training = Sample {
            columns: sample.columns.chunks_exact(n).flat_map(keep).collect(),
            column_count: p,
            target: keep(&sample.target),
            weights: sample.weights.as_deref().map(keep),
        };
        let fit = super::super::path::lasso(&Gram::new(&training.design(), 1), lambda, &tight.path)
            .unwrap();
        let rows: Vec<usize> = (0..n).filter(|&row| folds[row] == fold).collect();
        let mut expected = vec![0.0; rows.len()];
        sample
            .design()
            .predict(&rows, &fit.coefficients, fit.intercept, &mut expected);
        let got: Vec<f64> = rows
            .iter()
            .map(|&row| result.plain.best_predictions[row])
            .collect();
        assert_close(&got, &expected, 1e-6);
        let targets: Vec<f64> = rows.iter().map(|&row| sample.target[row]).collect();
        let error = mean_square(HeldOut {
            rows: &rows,
            targets: &targets,
            predictions: &got,
        });
        assert_eq!(
            error.to_bits(),
            result.plain.fold_errors[result.plain.best][fold].to_bits()
        );
    }
}

#[test]
fn finds_the_terms_and_relaxing_helps_where_few_are_true() {
    let sample = Sample::random(22, 400, 60, false);
    let result = cross_validate(
        &sample.design(),
        &folds(400, 10, 2),
        &parameters(2),
        mean_square,
    )
    .unwrap();
    let chosen = &result.path.points[result.plain.one_standard_error];
    let support = chosen.fit.support();
    assert!(
        [0, 1, 2].iter().all(|j| support.contains(j)) && support.len() < 20,
        "{support:?}"
    );
    let relaxed = result.relaxed.unwrap();
    assert!(relaxed.errors[relaxed.best] <= result.plain.errors[result.plain.best]);
    assert!(relaxed.errors[relaxed.best] < 0.12); // the noise's variance is 0.09
    let support = result.path.points[relaxed.one_standard_error].fit.support();
    assert_eq!(support, [0, 1, 2]);
    assert!(refit(&result.gram, &support, 0.0).unwrap().pivot_share_min > 0.3);
}

#[test]
fn threads_do_not_change_a_bit() {
    let sample = Sample::random(23, 90, 150, true);
    let folds = folds(90, 5, 3);
    let run = |threads| {
        cross_validate(&sample.design(), &folds, &parameters(threads), mean_square).unwrap()
    };
    let one = run(1);
    for threads in [0, 2, 3, 16] {
        let many = run(threads);
        assert_eq!(one.path, many.path);
        for (a, b) in [
            (&one.plain, &many.plain),
            (
                one.relaxed.as_ref().unwrap(),
                many.relaxed.as_ref().unwrap(),
            ),
        ] {
            assert_eq!(bits(&a.errors), bits(&b.errors));
            assert_eq!(bits(&a.best_predictions), bits(&b.best_predictions));
        }
    }
}

/// Rows that only differ in their fold's number are the same to the metric, whatever the numbers are.
#[test]
fn numbers_of_folds_are_only_names() {
    let sample = Sample::random(24, 40, 5, false);
    let plain = folds(40, 4, 4);
    let named: Vec<usize> = plain
        .iter()
        .map(|fold| [7, 100, 101, usize::MAX][*fold])
        .collect();
    let run = |folds: &[usize]| {
        cross_validate(&sample.design(), folds, &parameters(1), mean_square).unwrap()
    };
    let (a, b) = (run(&plain), run(&named));
    assert_eq!(a.plain, b.plain);
    assert_eq!(b.folds, [7, 100, 101, usize::MAX]);
}

/// A λ whose refit fails in one fold is never chosen, and the rest stands.
#[test]
fn a_failed_refit_is_an_infinite_error() {
    let target = [1.0, 2.0, 3.0, 4.0];
    let design = Design::new(&[], 0, &target, None).unwrap();
    let fold = |rows: [usize; 2], relaxed: Vec<Predictions>| FoldPredictions {
        rows: rows.to_vec(),
        plain: Vec::new(),
        relaxed,
        unconverged: 0,
    };
    let folds = [
        fold(
            [0, 2],
            vec![
                Some(vec![0.0, 0.0]),
                Some(vec![1.0, 3.5]),
                Some(vec![1.0, 3.0]),
            ],
        ),
        fold(
            [1, 3],
            vec![Some(vec![0.0, 0.0]), Some(vec![2.5, 4.0]), None],
        ),
    ];
    let scores = score(&design, &folds, |fold| &fold.relaxed, &mean_square).unwrap();
    assert_eq!(scores.errors, [7.5, 0.125, f64::INFINITY]);
    assert_eq!(scores.fold_errors[2], [0.0, f64::INFINITY]);
    assert_eq!((scores.best, scores.one_standard_error), (1, 1));
    assert_eq!(scores.best_predictions, [1.0, 2.5, 3.5, 4.0]);
}

#[test]
fn leave_one_out_and_constant_targets_work() {
    let mut sample = Sample::random(26, 6, 2, false);
    let each: Vec<usize> = (0..6).collect();
    assert!(cross_validate(&sample.design(), &each, &parameters(1), mean_square).is_ok());
    sample.target.fill(2.0);
    let result = cross_validate(
        &sample.design(),
        &[0, 0, 0, 0, 0, 1],
        &parameters(1),
        mean_square,
    )
    .unwrap();
    assert_eq!(
        (result.plain.errors.len(), result.plain.errors[0]),
        (1, 0.0)
    );
}

#[test]
fn bad_requests_are_refused() {
    let sample = Sample::random(27, 6, 2, false);
    let design = sample.design();
    let fault = |folds: &[usize], parameters: &CrossValidationParameters| {
        cross_validate(&design, folds, parameters, mean_square)
            .expect_err("bad request")
            .to_string()
    };
    assert_eq!(
        fault(&[0, 1], &parameters(1)),
        "`2` fold numbers were given for `6` rows"
    );
    assert_eq!(
        fault(&[3; 6], &parameters(1)),
        "all rows are in fold `3`, and cross-validation needs two folds"
    );
    let bad_ridge = CrossValidationParameters {
        relaxed_ridge: Some(f64::NAN),
        ..parameters(1)
    };
    assert_eq!(
        fault(&[0, 1, 0, 1, 0, 1], &bad_ridge),
        "ridge `NaN` is not a finite number of at least 0"
    );
    let mut bad_path = parameters(1);
    bad_path.path.lambda_count = 0;
    assert_eq!(
        fault(&[0, 1, 0, 1, 0, 1], &bad_path),
        "fit path over all rows"
    );
    let error = cross_validate(&design, &[0, 1, 0, 1, 0, 1], &parameters(1), |_| f64::NAN)
        .expect_err("no error");
    assert!(matches!(error, CrossValidationError::NoFiniteError { .. }));
}
