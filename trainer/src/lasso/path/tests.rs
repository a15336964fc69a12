use proptest::prelude::*;

use super::super::design::Design;
use super::super::gram::Moments;
use super::super::testing::{Sample, assert_close, residual_fit};
use super::*;

/// Tight enough to compare coefficients.
fn tight() -> PathParameters {
    PathParameters {
        tolerance: 1e-14,
        gain_min: 0.0,
        unexplained_min: 0.0,
        ..PathParameters::default()
    }
}

/// β and g = q − Qβ of a fit, on standardised columns.
fn standardised(gram: &Gram, fit: &Fit) -> (Vec<f64>, Vec<f64>) {
    let p = gram.column_count();
    let beta: Vec<f64> = (0..p)
        .map(|j| fit.coefficients[j] * gram.deviation(j))
        .collect();
    let fitted = |j: usize| {
        gram.column(j)
            .iter()
            .zip(&beta)
            .map(|(q, b)| q * b)
            .sum::<f64>()
    };
    let gradient = (0..p).map(|j| gram.cross()[j] - fitted(j)).collect();
    (beta, gradient)
}

/// |gⱼ| ≤ λfⱼ, and gⱼ = λ fⱼ sign βⱼ where βⱼ ≠ 0.
fn assert_optimal(gram: &Gram, lambda: f64, fit: &Fit, factors: Option<&[f64]>, tolerance: f64) {
    assert!(
        fit.converged,
        "gap {} after {} sweeps",
        fit.duality_gap, fit.sweeps
    );
    let allowed = tolerance * gram.target_square().sqrt();
    let (beta, gradient) = standardised(gram, fit);
    for j in (0..beta.len()).filter(|&j| gram.deviation(j) > 0.0) {
        let bound = lambda * factors.map_or(1.0, |factors| factors[j]);
        let error = if beta[j] == 0.0 {
            (gradient[j].abs() - bound).max(0.0)
        } else {
            (gradient[j] - bound * beta[j].signum()).abs()
        };
        assert!(
            error <= allowed,
            "column {j}: beta {}, gradient {}, bound {bound}",
            beta[j],
            gradient[j]
        );
    }
}

/// Coefficients in units of the standardised columns, so that their sizes compare.
fn assert_same_fit(gram: &Gram, got: &Fit, coefficients: &[f64], intercept: f64, tolerance: f64) {
    let scale = |coefficients: &[f64]| -> Vec<f64> {
        coefficients
            .iter()
            .enumerate()
            .map(|(j, b)| b * gram.deviation(j))
            .collect()
    };
    assert_close(&scale(&got.coefficients), &scale(coefficients), tolerance);
    let means: f64 = coefficients
        .iter()
        .enumerate()
        .map(|(j, b)| (b * gram.mean(j)).abs())
        .sum();
    assert!(
        (got.intercept - intercept).abs() <= tolerance * (1.0 + means),
        "{} for {intercept}",
        got.intercept
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_fit_of_a_path_is_optimal(
        seed in any::<u64>(), n in 3_usize..80, p in 1_usize..60, weighted in any::<bool>(), penalised in any::<bool>(),
    ) {
        let sample = Sample::random(seed, n, p, weighted);
        let gram = Gram::new(&sample.design(), 1);
        let factors: Option<Vec<f64>> = penalised.then(|| (0..p).map(|j| 0.5 + (j % 4) as f64).collect());
        let parameters = PathParameters { lambda_count: 12, penalty_factors: factors.clone(), ..tight() };
        for point in lasso_path(&gram, &parameters).unwrap().points {
            assert_optimal(&gram, point.lambda, &point.fit, factors.as_deref(), 1e-6);
            prop_assert_eq!(point.terms, point.fit.support().len());
        }
    }

    #[test]
    fn agrees_with_a_fit_by_residuals(seed in any::<u64>(), weighted in any::<bool>(), share in 0.01_f64..0.9) {
        let sample = Sample::random(seed, 50, 12, weighted);
        let design = sample.design();
        let gram = Gram::new(&design, 1);
        let lambda = share * lasso_path(&gram, &tight()).unwrap().points[0].lambda;
        let fit = lasso(&gram, lambda, &tight()).unwrap();
        let (coefficients, intercept) = residual_fit(&design, lambda, None);
        assert_same_fit(&gram, &fit, &coefficients, intercept, 1e-7);
    }

    #[test]
    fn all_is_zero_at_lambda_max_and_not_below(seed in any::<u64>(), weighted in any::<bool>()) {
        let sample = Sample::random(seed, 40, 10, weighted);
        let gram = Gram::new(&sample.design(), 1);
        let first = lasso_path(&gram, &tight()).unwrap().points.swap_remove(0);
        prop_assert_eq!((first.terms, first.fit.intercept), (0, gram.target_mean()));
        prop_assert_eq!(first.explained, 0.0);
        prop_assert_eq!(lasso(&gram, first.lambda * (1.0 - 1e-9), &tight()).unwrap().support().len(), 1);
    }

    /// Units of a column, its zero and its place are the caller's affair.
    #[test]
    fn invariant_under_scale_shift_and_permutation(
        seed in any::<u64>(), scale in prop_oneof![-1e4_f64..-1e-4, 1e-4_f64..1e4], shift in -100.0_f64..100.0,
    ) {
        let (n, p) = (40, 8);
        let sample = Sample::random(seed, n, p, true);
        let mut other = sample.clone();
        other.column_mut(1).iter_mut().for_each(|x| *x = scale * (*x / 1e3 + shift));
        let (front, back) = other.columns.split_at_mut(5 * n);
        front[..n].swap_with_slice(&mut back[..n]); // columns 0 and 5
        let (one, two) = (Gram::new(&sample.design(), 1), Gram::new(&other.design(), 1));
        for (a, b) in lasso_path(&one, &tight()).unwrap().points.iter().zip(lasso_path(&two, &tight()).unwrap().points) {
            let (beta_a, _) = standardised(&one, &a.fit);
            let (mut beta_b, _) = standardised(&two, &b.fit);
            beta_b.swap(0, 5);
            beta_b[1] *= scale.signum();
            assert_close(&beta_b, &beta_a, 1e-6);
        }
    }

    #[test]
    fn a_weight_is_a_number_of_repeated_rows(seed in any::<u64>()) {
        let (n, p) = (25, 6);
        let mut sample = Sample::random(seed, n, p, false);
        let times: Vec<usize> = (0..n).map(|row| 1 + (seed as usize % 7 + row) % 4).collect();
        let repeat = |column: &[f64]| -> Vec<f64> {
            column.iter().zip(&times).flat_map(|(&x, &times)| std::iter::repeat_n(x, times)).collect()
        };
        let repeated = Sample {
            columns: sample.columns.chunks_exact(n).flat_map(repeat).collect(),
            column_count: p,
            target: repeat(&sample.target),
            weights: None,
        };
        sample.weights = Some(times.iter().map(|&times| 0.1 * times as f64).collect());
        let (weighted, repeated) = (Gram::new(&sample.design(), 1), Gram::new(&repeated.design(), 1));
        let lambda = 0.05 * weighted.target_square().sqrt();
        let expected = lasso(&repeated, lambda, &tight()).unwrap();
        let got = lasso(&weighted, lambda, &tight()).unwrap();
        assert_same_fit(&weighted, &got, &expected.coefficients, expected.intercept, 1e-7);
    }

    /// The gap bounds how far the objective is above its minimum, however early descent is stopped.
    #[test]
    fn the_gap_is_a_bound(seed in any::<u64>(), sweeps_max in 1_usize..6, share in 0.001_f64..0.5) {
        let sample = Sample::random(seed, 30, 40, true);
        let gram = Gram::new(&sample.design(), 1);
        let lambda = share * gram.target_square().sqrt();
        let objective = |fit: &Fit| {
            let (beta, gradient) = standardised(&gram, fit);
            let q_beta: f64 = gram.cross().iter().zip(&beta).map(|(q, b)| q * b).sum();
            let g_beta: f64 = gradient.iter().zip(&beta).map(|(g, b)| g * b).sum();
            0.5 * (gram.target_square() - q_beta - g_beta) + lambda * beta.iter().map(|b| b.abs()).sum::<f64>()
        };
        let early = lasso(&gram, lambda, &PathParameters { sweeps_max, ..tight() }).unwrap();
        let least = objective(&lasso(&gram, lambda, &tight()).unwrap());
        let excess = objective(&early) - least;
        prop_assert!(excess <= early.duality_gap + 1e-12 * gram.target_square(), "{excess} above, gap {}", early.duality_gap);
        prop_assert!(early.sweeps <= sweeps_max);
    }

    /// Fits are the same whether λ is reached along a path or at once, over all rows or by subtraction.
    #[test]
    fn a_fold_by_subtraction_fits_like_its_rows(seed in any::<u64>()) {
        let (n, p) = (60, 10);
        let sample = Sample::random(seed, n, p, true);
        let kept: Vec<usize> = (0..n).filter(|row| row % 5 != 2).collect();
        let keep = |column: &[f64]| -> Vec<f64> { kept.iter().map(|&row| column[row]).collect() };
        let training = Sample {
            columns: sample.columns.chunks_exact(n).flat_map(keep).collect(),
            column_count: p,
            target: keep(&sample.target),
            weights: sample.weights.as_deref().map(keep),
        };
        let by_subtraction = Moments::new(&sample.design(), 1).gram_without(|row| row % 5 == 2, 1);
        let direct = Gram::new(&training.design(), 1);
        let path = lasso_path(&by_subtraction, &tight()).unwrap();
        for point in path.points.iter().skip(5).step_by(20) {
            let expected = lasso(&direct, point.lambda, &tight()).unwrap();
            assert_same_fit(&direct, &point.fit, &expected.coefficients, expected.intercept, 1e-7);
        }
    }
}

#[test]
fn unpenalised_columns_enter_first_and_freely() {
    let mut sample = Sample::random(11, 60, 8, true);
    sample.column_mut(6).fill(2.0);
    let design = sample.design();
    let gram = Gram::new(&design, 1);
    let factors = [1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 0.0, 1.0]; // column 6 is constant and not penalised
    let parameters = PathParameters {
        penalty_factors: Some(factors.to_vec()),
        ..tight()
    };
    let path = lasso_path(&gram, &parameters).unwrap();
    assert_eq!(path.points[0].fit.support(), [1, 5]);
    for point in &path.points {
        assert_optimal(&gram, point.lambda, &point.fit, Some(&factors), 1e-7);
    }
    sample
        .column_mut(6)
        .iter_mut()
        .enumerate()
        .for_each(|(row, x)| *x += 1e-3 * (row % 3) as f64);
    let design = sample.design();
    let gram = Gram::new(&design, 1);
    let lambda = path.points[30].lambda;
    let (coefficients, intercept) = residual_fit(&design, lambda, Some(&factors));
    assert_same_fit(
        &gram,
        &lasso(&gram, lambda, &parameters).unwrap(),
        &coefficients,
        intercept,
        1e-8,
    );
}

#[test]
fn duplicate_columns_share_and_stay_finite() {
    let (n, p) = (40, 9);
    let mut sample = Sample::random(12, n, p, false);
    for (from, to, sign) in [(0, 3, 1.0), (0, 4, -2.0), (1, 5, 1e-3)] {
        let copy: Vec<f64> = sample.column_mut(from).iter().map(|x| sign * x).collect();
        sample.column_mut(to).copy_from_slice(&copy);
    }
    let gram = Gram::new(&sample.design(), 1);
    let path = lasso_path(
        &gram,
        &PathParameters {
            lambda_ratio: 1e-5,
            tolerance: 1e-12,
            ..tight()
        },
    )
    .unwrap();
    assert_eq!(path.points.len(), 100);
    for point in &path.points {
        assert_optimal(&gram, point.lambda, &point.fit, None, 1e-6);
        assert!(
            standardised(&gram, &point.fit)
                .0
                .iter()
                .all(|beta| beta.abs() < 10.0)
        );
    }
}

#[test]
fn more_columns_than_rows() {
    let sample = Sample::random(13, 30, 200, true);
    let gram = Gram::new(&sample.design(), 2);
    let path = lasso_path(
        &gram,
        &PathParameters {
            tolerance: 1e-12,
            ..tight()
        },
    )
    .unwrap();
    for point in &path.points {
        assert_optimal(&gram, point.lambda, &point.fit, None, 1e-5);
        assert!(point.terms < 30);
    }
    assert!(path.points[99].explained > 0.9999);
}

/// Powers of one variable, with correlations beyond 0.999: it is the polish that keeps the sweeps few.
#[test]
fn nearly_collinear_polynomials_converge() {
    let n = 200;
    let x: Vec<f64> = (0..n).map(|row| 1.0 + row as f64 / 50.0).collect();
    let columns: Vec<f64> = (0..12)
        .flat_map(|k| x.iter().map(move |x| x.powf(0.5 * k as f64)))
        .collect();
    let target: Vec<f64> = x
        .iter()
        .map(|x| 1.0 + 0.2 * x * x + (9.0 * x).sin() * 0.05 + x.ln())
        .collect();
    let sample = Sample {
        columns,
        column_count: 12,
        target,
        weights: None,
    };
    let gram = Gram::new(&sample.design(), 1);
    let path = lasso_path(
        &gram,
        &PathParameters {
            tolerance: 1e-11,
            lambda_ratio: 1e-5,
            ..tight()
        },
    )
    .unwrap();
    for point in &path.points {
        assert!(point.fit.converged && point.fit.sweeps < 200, "{point:?}");
    }
}

#[test]
fn paths_end_early() {
    let sample = Sample::random(14, 100, 20, false);
    let gram = Gram::new(&sample.design(), 1);
    let few = lasso_path(
        &gram,
        &PathParameters {
            terms_max: Some(2),
            ..PathParameters::default()
        },
    )
    .unwrap();
    assert_eq!(few.end, PathEnd::TermsMax);
    assert!(few.points.iter().all(|point| point.terms <= 2));
    let gained = lasso_path(
        &gram,
        &PathParameters {
            lambda_ratio: 1e-6,
            gain_min: 1e-2,
            ..tight()
        },
    )
    .unwrap();
    assert_eq!(gained.end, PathEnd::Saturated);
    assert!(gained.points.len() < 100 && gained.points.last().unwrap().terms >= 3);
    let explained = lasso_path(
        &gram,
        &PathParameters {
            unexplained_min: 0.5,
            ..tight()
        },
    )
    .unwrap();
    assert_eq!(explained.end, PathEnd::Saturated);
    assert!(explained.points.last().unwrap().explained >= 0.5);
    assert!(
        explained
            .points
            .iter()
            .rev()
            .skip(1)
            .all(|point| point.explained < 0.5)
    );
}

#[test]
fn nothing_to_explain_is_an_intercept() {
    let mut sample = Sample::random(15, 20, 3, true);
    sample.target.fill(0.3);
    let path = lasso_path(&Gram::new(&sample.design(), 1), &PathParameters::default()).unwrap();
    assert_eq!(
        (
            path.points.len(),
            path.points[0].terms,
            path.points[0].fit.intercept
        ),
        (1, 0, 0.3)
    );
    assert!(path.points[0].fit.converged);
    for design in [
        Design::new(&[], 0, &[1.0, 3.0], None),
        Design::new(&[7.0, 7.0], 1, &[1.0, 3.0], None),
    ] {
        let path = lasso_path(&Gram::new(&design.unwrap(), 1), &PathParameters::default()).unwrap();
        assert_eq!((path.points.len(), path.points[0].fit.intercept), (1, 2.0));
    }
}

#[test]
fn bad_parameters_are_refused() {
    let sample = Sample::random(16, 20, 3, false);
    let gram = Gram::new(&sample.design(), 1);
    let path = |parameters: PathParameters| {
        lasso_path(&gram, &parameters)
            .expect_err("bad parameters")
            .to_string()
    };
    let good = PathParameters::default();
    assert_eq!(
        path(PathParameters {
            lambda_count: 0,
            ..good.clone()
        }),
        "parameter lambda_count is `0`, but must be at least 1"
    );
    assert!(
        path(PathParameters {
            lambda_ratio: 1.0,
            ..good.clone()
        })
        .contains("lambda_ratio")
    );
    assert!(
        path(PathParameters {
            tolerance: f64::NAN,
            ..good.clone()
        })
        .contains("tolerance")
    );
    assert!(
        path(PathParameters {
            gain_min: 1.0,
            ..good.clone()
        })
        .contains("gain_min")
    );
    assert!(
        path(PathParameters {
            penalty_factors: Some(vec![1.0]),
            ..good.clone()
        })
        .contains("`1` penalty factors")
    );
    assert!(
        path(PathParameters {
            penalty_factors: Some(vec![1.0, -1.0, 1.0]),
            ..good.clone()
        })
        .contains("column `1`")
    );
    for lambda in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(
            lasso(&gram, lambda, &good)
                .expect_err("bad lambda")
                .to_string()
                .contains("lambda")
        );
    }
    let mut copies = sample.clone();
    let copy = copies.column_mut(0).to_vec();
    copies.column_mut(2).copy_from_slice(&copy);
    let free = PathParameters {
        penalty_factors: Some(vec![0.0, 1.0, 0.0]),
        ..good
    };
    let error = lasso_path(&Gram::new(&copies.design(), 1), &free).expect_err("dependent");
    assert_eq!(error, FitError::UnpenalisedDependent { column: 2 });
}

/// Fits of scikit-learn, made by `tests/golden_lasso/make.py`.
#[test]
fn agrees_with_scikit_learn() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/golden_lasso/golden.json"))
            .expect("JSON");
    let numbers = |value: &serde_json::Value| -> Vec<f64> {
        value
            .as_array()
            .expect("a list")
            .iter()
            .map(|x| x.as_f64().expect("a number"))
            .collect()
    };
    let sample = Sample {
        columns: golden["columns"]
            .as_array()
            .expect("columns")
            .iter()
            .flat_map(numbers)
            .collect(),
        column_count: golden["columns"].as_array().expect("columns").len(),
        target: numbers(&golden["target"]),
        weights: None,
    };
    let weighted = Sample {
        weights: Some(numbers(&golden["weights"])),
        ..sample.clone()
    };
    let fits = golden["fits"].as_array().expect("fits");
    assert_eq!(fits.len(), 6);
    for expected in fits {
        let sample = if expected["weighted"].as_bool().expect("a flag") {
            &weighted
        } else {
            &sample
        };
        let gram = Gram::new(&sample.design(), 1);
        let fit = lasso(
            &gram,
            expected["lambda"].as_f64().expect("a number"),
            &tight(),
        )
        .unwrap();
        let coefficients = numbers(&expected["coefficients"]);
        let support: Vec<usize> = (0..coefficients.len())
            .filter(|&j| coefficients[j] != 0.0)
            .collect();
        assert_eq!(fit.support(), support);
        let intercept = expected["intercept"].as_f64().expect("a number");
        assert_same_fit(&gram, &fit, &coefficients, intercept, 1e-8);
    }
}
