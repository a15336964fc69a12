//! Samples and a reference fit for the tests of this folder.

use super::design::Design;

/// A design that owns its numbers.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) columns: Vec<f64>,
    pub(super) column_count: usize,
    pub(super) target: Vec<f64>,
    pub(super) weights: Option<Vec<f64>>,
}

impl Sample {
    /// Correlated columns of scales from 1e-3 to 1e3 with means of their own; the target follows the first three.
    pub(super) fn random(seed: u64, n: usize, p: usize, weighted: bool) -> Self {
        let mut random = Random(seed);
        let mut columns = vec![0.0; n * p];
        let common: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let mut target: Vec<f64> = (0..n).map(|_| 4.0 + 0.3 * random.normal()).collect();
        for (j, column) in columns.chunks_exact_mut(n).enumerate() {
            let (scale, shift) = (
                10.0_f64.powf(6.0 * random.uniform() - 3.0),
                3.0 * random.normal(),
            );
            let effect = [1.5, -1.0, 0.5].get(j).copied().unwrap_or(0.0);
            for ((x, common), y) in column.iter_mut().zip(&common).zip(&mut target) {
                let standard = 0.6 * common + 0.8 * random.normal();
                *x = scale * (standard + shift);
                *y += effect * standard;
            }
        }
        let weights = weighted.then(|| (0..n).map(|_| 0.2 + random.uniform()).collect());
        Self {
            columns,
            column_count: p,
            target,
            weights,
        }
    }

    pub(super) fn design(&self) -> Design<'_> {
        Design::new(
            &self.columns,
            self.column_count,
            &self.target,
            self.weights.as_deref(),
        )
        .expect("a good sample")
    }

    pub(super) fn column_mut(&mut self, j: usize) -> &mut [f64] {
        let n = self.target.len();
        &mut self.columns[j * n..(j + 1) * n]
    }
}

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Near enough to normal: twelve uniforms.
    pub(super) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Coefficients and intercept of the lasso by descent on residuals: no Gram matrix, no screening, no polish, and a
/// stop by the size of the steps. Slow, and nothing in common with what it is compared to.
pub(super) fn residual_fit(
    design: &Design<'_>,
    lambda: f64,
    factors: Option<&[f64]>,
) -> (Vec<f64>, f64) {
    let (n, p) = (design.row_count(), design.column_count());
    let weights = design
        .weights()
        .map_or_else(|| vec![1.0; n], <[f64]>::to_vec);
    let total: f64 = weights.iter().sum();
    let mean = |x: &[f64]| x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>() / total;
    let means: Vec<f64> = (0..p).map(|j| mean(design.column(j))).collect();
    let centred: Vec<Vec<f64>> = (0..p)
        .map(|j| design.column(j).iter().map(|x| x - means[j]).collect())
        .collect();
    let scales: Vec<f64> = centred
        .iter()
        .map(|x| mean(&x.iter().map(|x| x * x).collect::<Vec<_>>()).sqrt())
        .collect();
    let standard: Vec<Vec<f64>> = centred
        .iter()
        .zip(&scales)
        .map(|(x, scale)| x.iter().map(|x| x / scale).collect())
        .collect();
    let target_mean = mean(design.target());
    let mut residual: Vec<f64> = design.target().iter().map(|y| y - target_mean).collect();
    let mut beta = vec![0.0_f64; p];
    for _ in 0..200_000 {
        let mut largest = 0.0_f64;
        for j in 0..p {
            let x = &standard[j];
            let gradient = (0..n).map(|r| weights[r] * x[r] * residual[r]).sum::<f64>() / total;
            let (value, threshold) = (
                beta[j] + gradient,
                lambda * factors.map_or(1.0, |factors| factors[j]),
            );
            let after = value.signum() * (value.abs() - threshold).max(0.0);
            let step = after - beta[j];
            beta[j] = after;
            residual
                .iter_mut()
                .zip(x)
                .for_each(|(residual, x)| *residual -= step * x);
            largest = largest.max(step.abs());
        }
        if largest < 1e-14 {
            break;
        }
    }
    let coefficients: Vec<f64> = beta
        .iter()
        .zip(&scales)
        .map(|(beta, scale)| beta / scale)
        .collect();
    let intercept = target_mean
        - coefficients
            .iter()
            .zip(&means)
            .map(|(b, m)| b * m)
            .sum::<f64>();
    (coefficients, intercept)
}

/// Equal to `tolerance`, relative where values exceed 1.
pub(super) fn assert_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
        let allowed = tolerance * expected.abs().max(1.0);
        assert!(
            (got - expected).abs() <= allowed,
            "at {place}: {got} for {expected}"
        );
    }
}

/// For comparison to the last bit.
pub(super) fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}
