//! The method as its authors published and ran it (Cai et al. 2017 and its code): fixed polynomial terms for each kind,
//! raw milliseconds or watts as target, the lasso with ten folds, and the penalty of least squared error.
//!
//! Column sets are those of the released scripts, not the paper's text, where the two differ: no stride and no padding.
//! Energy, which they never fitted, has the runtime's terms here, as their scripts have it in a comment.

use wattfarm_cost::layer::{Layer, Op, Pool2d};
use wattfarm_cost::model::Target;

use crate::lasso::{CrossValidationParameters, Design, PathParameters, cross_validate};

/// What the released predictor replaces shorter runtimes by, in ms.
const RUNTIME_FLOOR_MS: f64 = 0.105;

/// Fully connected layers that take longer are not fitted, in ms.
const LINEAR_MAX_MS: f64 = 100.0;

/// The lasso's folds.
const FOLDS: usize = 10;

/// A fitted polynomial, in the target's unit.
pub(super) struct Model {
    target: Target,
    intercept: f64,
    coefficients: Vec<f64>,
}

impl Model {
    /// Fits to layers of one kind; `None` for a kind that the authors had no model for, or where their filters leave too few rows.
    pub(super) fn fit(
        target: Target,
        layers: &[&Layer],
        values: &[f64],
        threads: usize,
    ) -> Option<Self> {
        let rows = layers.iter().zip(values);
        let kept: Vec<(&Layer, f64)> = rows
            .filter(|(layer, value)| is_fitted(target, layer, **value))
            .map(|(layer, value)| (*layer, *value))
            .collect();
        let expanded: Vec<Vec<f64>> = kept
            .iter()
            .map(|(layer, _)| terms(target, layer))
            .collect::<Option<_>>()?;
        if kept.len() < 2 * FOLDS {
            return None;
        }
        let values: Vec<f64> = kept.iter().map(|(_, value)| *value).collect();
        let count = expanded[0].len();
        let columns: Vec<f64> = (0..count)
            .flat_map(|j| expanded.iter().map(move |row| row[j]))
            .collect();
        let design = Design::new(&columns, count, &values, None).ok()?;
        // MATLAB deals rows to folds at random; here the first row goes to the first fold, and so on.
        let folds: Vec<usize> = (0..values.len()).map(|row| row % FOLDS).collect();
        let parameters = CrossValidationParameters {
            path: PathParameters {
                lambda_count: 100,
                lambda_ratio: 1e-4,
                tolerance: 1e-4,
                gain_min: 0.0,
                ..PathParameters::default()
            },
            relaxed_ridge: None,
            threads,
        };
        let squared = |held_out: crate::lasso::HeldOut<'_>| {
            let pairs = held_out.predictions.iter().zip(held_out.targets);
            pairs
                .map(|(prediction, target)| (prediction - target).powi(2))
                .sum::<f64>()
                / held_out.targets.len() as f64
        };
        let found = cross_validate(&design, &folds, &parameters, squared).ok()?;
        let fit = &found.path.points[found.plain.best].fit;
        Some(Self {
            target,
            intercept: fit.intercept,
            coefficients: fit.coefficients.clone(),
        })
    }

    /// The polynomial's own value, which may be zero or less.
    pub(super) fn polynomial(&self, layer: &Layer) -> f64 {
        let terms = terms(self.target, layer).unwrap_or_default();
        let products = terms.iter().zip(&self.coefficients);
        self.intercept
            + products
                .map(|(term, coefficient)| term * coefficient)
                .sum::<f64>()
    }

    /// The polynomial's value, runtimes held at their floor.
    pub(super) fn predict(&self, layer: &Layer) -> f64 {
        let value = self.polynomial(layer);
        match self.target {
            Target::RuntimeMs => value.max(RUNTIME_FLOOR_MS),
            Target::PowerW | Target::EnergyMj => value,
        }
    }

    /// Coefficients that are not zero, with the intercept.
    pub(super) fn size(&self) -> usize {
        1 + self
            .coefficients
            .iter()
            .filter(|&&value| value != 0.0)
            .count()
    }
}

/// The authors' filters: convolutions with one row of output are left out, and slow fully connected layers.
fn is_fitted(target: Target, layer: &Layer, value: f64) -> bool {
    match layer.op() {
        Op::Conv2d(_) => layer.output_shape()[2] > 1,
        Op::Linear(_) => target != Target::RuntimeMs || value < LINEAR_MAX_MS,
        _ => true,
    }
}

/// The terms of a layer, `None` where the authors had no model.
fn terms(target: Target, layer: &Layer) -> Option<Vec<f64>> {
    let output = layer.output_shape();
    let of = |size: u64| size as f64;
    let (base, special) = match layer.op() {
        Op::Conv2d(conv) => {
            let (n, oh, ow) = (of(conv.batch), of(output[2]), of(output[3]));
            let (kh, kw) = (of(conv.kernel_h), of(conv.kernel_w));
            let (cin, cout) = (of(conv.in_channels), of(conv.out_channels));
            let (h, w) = (of(conv.in_height), of(conv.in_width));
            let macs = oh * ow * cout * kh * kw * cin;
            let special = vec![
                macs,
                n * macs,
                n * oh * ow * kh * kw * cin,
                n * oh * ow * cout,
                kh * kw * cin * cout,
                n * h * w * cin,
                n * w * cin,
                n * h * cin,
            ];
            (vec![n, oh, ow, kw, cin, cout, h], special)
        }
        Op::Linear(linear) => {
            let (n, out, wide) = (
                of(linear.batch),
                of(linear.out_features),
                of(linear.in_features),
            );
            (vec![n, out, 1.0, 1.0, wide], vec![n * out * wide])
        }
        Op::MaxPool2d(pool) | Op::AvgPool2d(pool) => pool_terms(pool, of(output[2]), of(output[3])),
        _ => return None,
    };
    let is_linear = matches!(layer.op(), Op::Linear(_));
    match target {
        Target::RuntimeMs | Target::EnergyMj => {
            let degrees = if is_linear { 1..=2 } else { 1..=3 };
            Some(
                degrees
                    .flat_map(|degree| monomials(&base, degree))
                    .chain(special)
                    .collect(),
            )
        }
        Target::PowerW => {
            let logs = base.iter().map(|value| value.log2());
            let doubled: Vec<f64> = base.iter().copied().chain(logs).collect();
            let special = if is_linear { Vec::new() } else { special };
            let products = monomials(&doubled, 2);
            Some(doubled.into_iter().chain(products).chain(special).collect())
        }
    }
}

fn pool_terms(pool: &Pool2d, oh: f64, ow: f64) -> (Vec<f64>, Vec<f64>) {
    let (n, c) = (pool.batch as f64, pool.channels as f64);
    let (h, w) = (pool.in_height as f64, pool.in_width as f64);
    let (kh, kw) = (pool.kernel_h as f64, pool.kernel_w as f64);
    let special = vec![n * oh * ow * c * kh * kw, n * oh * ow * c, n * h * w * c];
    (vec![n, oh, ow, c, kh, h], special)
}

/// All products of exactly `degree` values, with repetition, in the order of nested loops.
fn monomials(base: &[f64], degree: usize) -> Vec<f64> {
    if degree == 0 {
        return vec![1.0];
    }
    (0..base.len())
        .flat_map(|i| {
            let rest = monomials(&base[i..], degree - 1);
            rest.into_iter().map(move |product| base[i] * product)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Kind;

    use super::*;

    /// The numbers of columns that the released scripts have.
    #[test]
    fn designs_are_as_large_as_published() {
        let sizes = |kind: Kind| {
            [Target::RuntimeMs, Target::PowerW].map(|target| {
                terms(target, &kind.example())
                    .expect("a published kind")
                    .len()
            })
        };
        assert_eq!(sizes(Kind::Conv2d), [127, 127]);
        assert_eq!(sizes(Kind::Linear), [21, 65]);
        assert_eq!(sizes(Kind::MaxPool2d), [86, 93]);
        assert!(terms(Target::RuntimeMs, &Kind::Relu.example()).is_none());
    }

    #[test]
    fn monomials_come_in_the_order_of_nested_loops() {
        assert_eq!(
            monomials(&[2.0, 3.0, 5.0], 2),
            [4.0, 6.0, 10.0, 9.0, 15.0, 25.0]
        );
        assert_eq!(monomials(&[2.0, 3.0], 3), [8.0, 12.0, 18.0, 27.0]);
    }
}
