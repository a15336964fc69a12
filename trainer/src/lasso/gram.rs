//! Q, q and yy of a design: summed once over all rows, then with any fold's rows taken away.
//!
//! A Gram matrix squares the condition number, so nothing raw is summed: [`Moments`] shifts each column of [X y] by its
//! mean and divides it by its standard deviation over *all* rows first, and sums products of those. A training set's
//! sums are the total minus the fold's own part. What is lost by that subtraction is bounded, because means and
//! deviations of the training rows are taken from the rows themselves (O(np)), and a column that the fold leaves with
//! less than [`VARIANCE_SHARE_MIN`] of its variance is summed anew.

use std::thread;

use super::design::Design;
use super::vector::dot;

/// Columns per tile: 4 × 4 running sums fill eight of the sixteen vector registers that every x86-64 has.
const TILE: usize = 4;

/// Rows packed at a time: two packed strips of 4 columns take 16 KiB of the 32 KiB first-level cache.
const ROWS_PACKED: usize = 256;

/// Columns below which a matrix is summed by one thread, since starting another costs more.
const COLUMNS_PER_THREAD_MIN: usize = 32;

/// A column whose deviation is at most this share of its largest magnitude is constant: some 450 units in the last
/// place, which is what a constant gathers when it is computed by different routes.
const CONSTANT_SHARE: f64 = 1e-13;

/// A deviation this small would let a coefficient (≤ 1e100 / deviation) leave the range of `f64`.
const DEVIATION_MIN: f64 = 1e-200;

/// Where a fold's rows hold all but this share of a column's variance, subtraction would leave fewer than some ten good
/// digits, and the column's products are summed anew from the training rows (O(np) each).
const VARIANCE_SHARE_MIN: f64 = 1e-4;

/// Weighted mean and standard deviation of one column over some rows.
#[derive(Clone, Copy, Debug)]
struct Spread {
    mean: f64,
    /// Zero exactly if the column is constant.
    deviation: f64,
}

/// Sums of products over all rows of a design, from which the Gram matrix of any training set is derived.
///
/// Memory: (p + 1)² values of 8 bytes here, and as much again for each [`Gram`] made from it.
#[derive(Debug)]
pub struct Moments<'a> {
    design: Design<'a>,
    /// Mean and deviation of each column of [X y] over all rows: shift and scale of what is summed.
    reference: Vec<Spread>,
    /// Σ w z zᵀ of the shifted and scaled columns of [X y]; order `lead`, column-major, upper triangle.
    sums: Vec<f64>,
    /// p + 1, rounded up to whole tiles.
    lead: usize,
}

/// Weighted, centred second moments of one training set on standardised columns: all that a fit needs to know of it.
#[derive(Clone, Debug)]
pub struct Gram {
    row_count: usize,
    weight_sum: f64,
    spreads: Vec<Spread>,
    target: Spread,
    /// Q, with the target as one more row and column; order `lead`, column-major, both triangles.
    matrix: Vec<f64>,
    lead: usize,
    /// q.
    cross: Vec<f64>,
}

impl<'a> Moments<'a> {
    /// Sums over all rows, O(np²), on up to `threads` threads; the result has the same bits for any number of them.
    pub fn new(design: &Design<'a>, threads: usize) -> Self {
        let all: Vec<usize> = (0..design.row_count()).collect();
        let (reference, _) = spreads(design, &all);
        let lead = (design.column_count() + 1).next_multiple_of(TILE);
        let mut sums = vec![0.0; lead * lead];
        accumulate(design, &reference, &all, 1.0, threads, &mut sums, lead);
        Self {
            design: *design,
            reference,
            sums,
            lead,
        }
    }

    /// The Gram matrix of all rows.
    pub fn gram(&self) -> Gram {
        let all: Vec<usize> = (0..self.design.row_count()).collect();
        self.normalise(self.sums.clone(), &all)
    }

    /// The Gram matrix of all rows but those for which `is_held_out` is true, at the cost of summing the latter; on up
    /// to `threads` threads, with the same bits for any number of them. If no row is left, every column is constant.
    pub fn gram_without(&self, is_held_out: impl Fn(usize) -> bool, threads: usize) -> Gram {
        let (held_out, kept): (Vec<usize>, Vec<usize>) =
            (0..self.design.row_count()).partition(|&row| is_held_out(row));
        let mut sums = self.sums.clone();
        accumulate(
            &self.design,
            &self.reference,
            &held_out,
            -1.0,
            threads,
            &mut sums,
            self.lead,
        );
        self.normalise(sums, &kept)
    }

    /// From sums over `rows` in units of `reference` to correlations over `rows`, in place:
    /// Rᵢₖ = (Sᵢₖ / W − μᵢμₖ) / (dᵢdₖ), with μ and d the mean and deviation over `rows` in those units.
    fn normalise(&self, mut matrix: Vec<f64>, rows: &[usize]) -> Gram {
        let p = self.design.column_count();
        let lead = self.lead;
        let (mut spreads, weight_sum) = spreads(&self.design, rows);
        let (mut mu, mut d_inverse) = (vec![0.0; p + 1], vec![0.0; p + 1]);
        let mut thin = Vec::new();
        for j in 0..=p {
            let (all, kept) = (self.reference[j], spreads[j]);
            if all.deviation == 0.0 {
                spreads[j].deviation = 0.0; // Constant over all rows, so never summed: constant here whatever it looks like.
            } else if kept.deviation > 0.0 {
                let d = kept.deviation / all.deviation;
                mu[j] = (kept.mean - all.mean) / all.deviation;
                d_inverse[j] = 1.0 / d;
                if d * d < VARIANCE_SHARE_MIN {
                    thin.push(j);
                }
            }
        }
        let per_weight = if weight_sum > 0.0 {
            1.0 / weight_sum
        } else {
            0.0
        };
        for k in 0..=p {
            let column = &mut matrix[k * lead..k * lead + k + 1];
            for (i, value) in column.iter_mut().enumerate() {
                *value = (*value * per_weight - mu[i] * mu[k]) * (d_inverse[i] * d_inverse[k]);
            }
            column[k] = if d_inverse[k] > 0.0 { 1.0 } else { 0.0 };
        }
        mirror(&mut matrix, lead);
        for &k in &thin {
            self.sum_anew(k, rows, &spreads, weight_sum, &mut matrix);
        }
        let target = spreads.remove(p);
        let cross = matrix[p * lead..p * lead + p]
            .iter()
            .map(|r| r * target.deviation)
            .collect();
        Gram {
            row_count: rows.len(),
            weight_sum,
            spreads,
            target,
            matrix,
            lead,
            cross,
        }
    }

    /// Rᵢₖ = Σ w (xᵢ − mᵢ)(xₖ − mₖ) / (W sᵢ sₖ) for every i, from the rows themselves.
    fn sum_anew(
        &self,
        k: usize,
        rows: &[usize],
        spreads: &[Spread],
        weight_sum: f64,
        matrix: &mut [f64],
    ) {
        let column = self.design.column_or_target(k);
        let standard = |values: &[f64], spread: Spread, row: usize| {
            (values[row] - spread.mean) / spread.deviation
        };
        let weighted: Vec<f64> = rows
            .iter()
            .map(|&row| standard(column, spreads[k], row) * (self.design.weight(row) / weight_sum))
            .collect();
        let mut other = vec![0.0; rows.len()];
        for (i, &spread) in spreads.iter().enumerate() {
            if i != k && spread.deviation > 0.0 {
                let values = self.design.column_or_target(i);
                other
                    .iter_mut()
                    .zip(rows)
                    .for_each(|(other, &row)| *other = standard(values, spread, row));
                let correlation = dot(&weighted, &other);
                matrix[k * self.lead + i] = correlation;
                matrix[i * self.lead + k] = correlation;
            }
        }
    }
}

impl Gram {
    /// The Gram matrix of all rows of a design. Where folds follow, make [`Moments`] once instead.
    pub fn new(design: &Design<'_>, threads: usize) -> Self {
        Moments::new(design, threads).gram()
    }

    /// Number of rows summed.
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// p.
    pub fn column_count(&self) -> usize {
        self.spreads.len()
    }

    /// W = Σw over the rows summed.
    pub fn weight_sum(&self) -> f64 {
        self.weight_sum
    }

    /// Weighted mean of column j, in the caller's units.
    pub fn mean(&self, j: usize) -> f64 {
        self.spreads[j].mean
    }

    /// Weighted standard deviation of column j, in the caller's units; zero exactly if the column is constant here,
    /// and then it takes no part in any fit.
    pub fn deviation(&self, j: usize) -> f64 {
        self.spreads[j].deviation
    }

    /// Weighted mean of y.
    pub fn target_mean(&self) -> f64 {
        self.target.mean
    }

    /// Column j of Q (length p): correlations with every column, 1 on the diagonal, all zero if column j is constant.
    pub fn column(&self, j: usize) -> &[f64] {
        let p = self.spreads.len();
        &self.matrix[j * self.lead..j * self.lead + p]
    }

    /// q = XᵀWy / W on standardised columns and centred y, in units of y (length p).
    pub fn cross(&self) -> &[f64] {
        &self.cross
    }

    /// yy = yᵀWy / W of the centred y, in units of y².
    pub fn target_square(&self) -> f64 {
        self.target.deviation * self.target.deviation
    }

    /// Standardised β on the caller's scale: coefficientⱼ = βⱼ / sⱼ, intercept = ȳ − Σⱼ coefficientⱼ x̄ⱼ.
    pub(super) fn unstandardise(&self, beta: &[f64]) -> (Vec<f64>, f64) {
        let mut intercept = self.target.mean;
        let coefficients = beta
            .iter()
            .zip(&self.spreads)
            .map(|(&beta, spread)| {
                if beta == 0.0 {
                    return 0.0;
                }
                let coefficient = beta / spread.deviation;
                intercept -= coefficient * spread.mean;
                coefficient
            })
            .collect();
        (coefficients, intercept)
    }
}

/// Mean and deviation of each column of [X y] over `rows`, and Σw.
fn spreads(design: &Design<'_>, rows: &[usize]) -> (Vec<Spread>, f64) {
    let weights: Vec<f64> = rows.iter().map(|&row| design.weight(row)).collect();
    let weight_sum: f64 = weights.iter().sum();
    let mut values = vec![0.0; rows.len()];
    let spreads = (0..=design.column_count())
        .map(|j| {
            let column = design.column_or_target(j);
            values
                .iter_mut()
                .zip(rows)
                .for_each(|(value, &row)| *value = column[row]);
            spread(&values, &weights, weight_sum)
        })
        .collect();
    (spreads, weight_sum)
}

/// Mean and deviation of one column. The mean is summed from the first value on and then corrected once, so a constant
/// comes out exactly and a small spread on a large mean keeps its digits.
fn spread(values: &[f64], weights: &[f64], weight_sum: f64) -> Spread {
    let Some(&first) = values.first() else {
        return Spread {
            mean: 0.0,
            deviation: 0.0,
        };
    };
    let offset = |from: f64| {
        values
            .iter()
            .zip(weights)
            .map(|(x, w)| w * (x - from))
            .sum::<f64>()
            / weight_sum
    };
    let mean = first + offset(first);
    let mean = mean + offset(mean);
    // Offsets are divided by the largest of them before squaring, so that tiny ones do not vanish.
    let (magnitude, reach) = values
        .iter()
        .fold((0.0_f64, 0.0_f64), |(magnitude, reach), x| {
            (magnitude.max(x.abs()), reach.max((x - mean).abs()))
        });
    if reach <= CONSTANT_SHARE * magnitude || reach < DEVIATION_MIN {
        return Spread {
            mean,
            deviation: 0.0,
        };
    }
    let square = values
        .iter()
        .zip(weights)
        .map(|(x, w)| w * ((x - mean) / reach).powi(2))
        .sum::<f64>()
        / weight_sum;
    let deviation = reach * square.sqrt();
    let is_constant = deviation <= CONSTANT_SHARE * magnitude || deviation < DEVIATION_MIN;
    Spread {
        mean,
        deviation: if is_constant { 0.0 } else { deviation },
    }
}

/// sums ← sums + sign · Σ w z zᵀ over `rows`, upper triangle by tiles. Each tile belongs to one thread, which adds the
/// rows in their order: no reduction across threads, hence the same bits for any number of them. Each thread packs
/// the rows for itself: O(np) against the O(np²) of the products, and nobody waits.
fn accumulate(
    design: &Design<'_>,
    reference: &[Spread],
    rows: &[usize],
    sign: f64,
    threads: usize,
    sums: &mut [f64],
    lead: usize,
) {
    let threads = threads.min(lead / COLUMNS_PER_THREAD_MIN).max(1);
    // Strip k holds k + 1 tiles, so dealing the strips out in turn shares the triangle evenly.
    let mut shares: Vec<Vec<(usize, &mut [f64])>> = (0..threads).map(|_| Vec::new()).collect();
    for (k, strip) in sums.chunks_exact_mut(TILE * lead).enumerate() {
        shares[k % threads].push((k, strip));
    }
    thread::scope(|scope| {
        let mut shares = shares.into_iter();
        let own = shares.next();
        for share in shares {
            scope.spawn(move || accumulate_strips(design, reference, rows, sign, share, lead));
        }
        if let Some(own) = own {
            accumulate_strips(design, reference, rows, sign, own, lead);
        }
    });
}

/// One thread's part of [`accumulate`].
fn accumulate_strips(
    design: &Design<'_>,
    reference: &[Spread],
    rows: &[usize],
    sign: f64,
    mut strips: Vec<(usize, &mut [f64])>,
    lead: usize,
) {
    let mut packed = vec![0.0; lead * ROWS_PACKED];
    for rows in rows.chunks(ROWS_PACKED) {
        pack(design, reference, rows, &mut packed);
        let strip_of = |k: usize| &packed[k * TILE * ROWS_PACKED..][..TILE * rows.len()];
        for (k, strip) in &mut strips {
            for i in 0..=*k {
                let tile = tile_product(strip_of(i), strip_of(*k));
                for (column, products) in strip.chunks_exact_mut(lead).zip(&tile) {
                    for (sum, product) in column[i * TILE..].iter_mut().zip(products) {
                        *sum += sign * product;
                    }
                }
            }
        }
    }
}

/// Packs √w (x − shift) / scale of `rows` by strips of four columns, row after row within a strip. A constant column
/// is zero.
fn pack(design: &Design<'_>, reference: &[Spread], rows: &[usize], packed: &mut [f64]) {
    let mut root_weights = [1.0; ROWS_PACKED];
    if let Some(weights) = design.weights() {
        root_weights
            .iter_mut()
            .zip(rows)
            .for_each(|(root, &row)| *root = weights[row].sqrt());
    }
    for (j, spread) in reference
        .iter()
        .enumerate()
        .filter(|(_, spread)| spread.deviation > 0.0)
    {
        let column = design.column_or_target(j);
        let strip = &mut packed[j / TILE * TILE * ROWS_PACKED..];
        let places = strip.iter_mut().skip(j % TILE).step_by(TILE);
        for ((place, &row), root) in places.zip(rows).zip(&root_weights) {
            *place = root * ((column[row] - spread.mean) / spread.deviation);
        }
    }
}

/// Σᵣ aᵣ bᵣᵀ of two packed strips: entry [k][i] is the product of column i of `a` and column k of `b`.
fn tile_product(a: &[f64], b: &[f64]) -> [[f64; TILE]; TILE] {
    let mut sums = [[0.0; TILE]; TILE];
    for (a, b) in a.as_chunks::<TILE>().0.iter().zip(b.as_chunks::<TILE>().0) {
        for k in 0..TILE {
            for i in 0..TILE {
                sums[k][i] += a[i] * b[k];
            }
        }
    }
    sums
}

/// Copies the upper triangle below the diagonal, by blocks that fit the first-level cache.
fn mirror(matrix: &mut [f64], lead: usize) {
    const BLOCK: usize = 32;
    for k_block in (0..lead).step_by(BLOCK) {
        for i_block in (0..=k_block).step_by(BLOCK) {
            for k in k_block..(k_block + BLOCK).min(lead) {
                for i in i_block..(i_block + BLOCK).min(k) {
                    matrix[i * lead + k] = matrix[k * lead + i];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Sample, bits};
    use super::*;

    /// Correlations by the definition, over the given rows.
    fn correlations(design: &Design<'_>, rows: &[usize]) -> Vec<Vec<f64>> {
        let (spreads, weight_sum) = spreads(design, rows);
        let standard = |j: usize, row: usize| {
            let Spread { mean, deviation } = spreads[j];
            if deviation > 0.0 {
                (design.column_or_target(j)[row] - mean) / deviation
            } else {
                0.0
            }
        };
        let p = design.column_count();
        let product = |i, k| {
            rows.iter()
                .map(|&r| design.weight(r) * standard(i, r) * standard(k, r))
                .sum::<f64>()
        };
        (0..=p)
            .map(|k| (0..=p).map(|i| product(i, k) / weight_sum).collect())
            .collect()
    }

    fn assert_agree(gram: &Gram, design: &Design<'_>, rows: &[usize], tolerance: f64) {
        let p = design.column_count();
        for (k, column) in correlations(design, rows).iter().enumerate() {
            for (i, expected) in column.iter().enumerate() {
                let got = gram.matrix[k * gram.lead + i];
                assert!(
                    (got - expected).abs() <= tolerance,
                    "entry {i}, {k} of {p}: {got} for {expected}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_the_definition(seed in any::<u64>(), n in 2_usize..300, p in 0_usize..12, weighted in any::<bool>()) {
            let sample = Sample::random(seed, n, p, weighted);
            let design = sample.design();
            let moments = Moments::new(&design, 1);
            let all: Vec<usize> = (0..n).collect();
            assert_agree(&moments.gram(), &design, &all, 1e-13);
            let kept: Vec<usize> = (0..n).filter(|row| row % 3 != 1).collect();
            assert_agree(&moments.gram_without(|row| row % 3 == 1, 1), &design, &kept, 1e-12);
        }
    }

    #[test]
    fn large_means_keep_their_digits() {
        let mut sample = Sample::random(5, 80, 4, true);
        sample.columns[..80]
            .iter_mut()
            .for_each(|x| *x = 1e9 + (*x * 1e3).round());
        let all: Vec<usize> = (0..80).collect();
        assert_agree(
            &Gram::new(&sample.design(), 1),
            &sample.design(),
            &all,
            1e-13,
        );
    }

    /// The rows held out have nearly all the variance of column 0 and of the target, and all of column 1.
    #[test]
    fn a_fold_of_outliers_leaves_good_digits() {
        let mut sample = Sample::random(6, 60, 4, true);
        let n = 60;
        sample.columns[..n]
            .iter_mut()
            .step_by(5)
            .for_each(|x| *x *= 1e7);
        sample.columns[n..2 * n]
            .iter_mut()
            .enumerate()
            .for_each(|(r, x)| *x = if r % 5 == 0 { *x } else { 0.1 });
        sample.target.iter_mut().step_by(5).for_each(|y| *y *= 1e6);
        let design = sample.design();
        let gram = Moments::new(&design, 1).gram_without(|row| row % 5 == 0, 1);
        let kept: Vec<usize> = (0..n).filter(|row| row % 5 != 0).collect();
        assert_agree(&gram, &design, &kept, 1e-12);
        assert_eq!(gram.deviation(1), 0.0);
        assert!(gram.column(1).iter().all(|&value| value == 0.0));
    }

    #[test]
    fn constants_are_found() {
        let mut sample = Sample::random(7, 50, 3, true);
        sample.columns[..50].fill(0.1);
        sample.columns[50..100]
            .iter_mut()
            .enumerate()
            .for_each(|(row, x)| *x = 1e6 * (1.0 + row as f64 * 1e-16));
        let gram = Gram::new(&sample.design(), 1);
        assert_eq!(
            (gram.mean(0), gram.deviation(0), gram.deviation(1)),
            (0.1, 0.0, 0.0)
        );
        assert!(gram.deviation(2) > 0.0);
        assert_eq!(gram.cross()[..2], [0.0, 0.0]);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let sample = Sample::random(8, 700, 150, true);
        let design = sample.design();
        let one = Moments::new(&design, 1);
        let fold =
            |moments: &Moments<'_>, threads| moments.gram_without(|row| row % 7 == 3, threads);
        for threads in [2, 3, 5, 64] {
            let many = Moments::new(&design, threads);
            assert_eq!(bits(&one.sums), bits(&many.sums));
            assert_eq!(
                bits(&fold(&one, 1).matrix),
                bits(&fold(&many, threads).matrix)
            );
        }
    }

    #[test]
    fn a_gram_of_nothing_is_all_constant() {
        let sample = Sample::random(9, 10, 3, false);
        let gram = Moments::new(&sample.design(), 1).gram_without(|_| true, 1);
        assert_eq!((gram.row_count(), gram.target_square()), (0, 0.0));
        assert!(
            (0..3).all(|j| gram.deviation(j) == 0.0)
                && gram.matrix.iter().all(|&value| value == 0.0)
        );
    }
}
