//! Cholesky factors of small dense matrices, in a workspace that the caller keeps.

use super::vector::dot;

/// A pivot at or below this share of its diagonal entry counts as zero: a Gram matrix is summed to about 1e-14 of its
/// diagonal, so what is left of a column below 1e-12 is rounding, not information.
const PIVOT_SHARE_MIN: f64 = 1e-12;

/// The pivot `index` is not positive: column `index` depends on those before it, to rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NonPositivePivot {
    /// Place in the factored matrix, from 0.
    pub(crate) index: usize,
}

/// Lower factor L, row-major in `lower` (order × order; what stands above the diagonal is never read).
#[derive(Clone, Debug, Default)]
pub(crate) struct Cholesky {
    order: usize,
    lower: Vec<f64>,
}

impl Cholesky {
    /// A = LLᵀ for the symmetric matrix whose lower triangle is `entry(i, k)`, k ≤ i. Returns the smallest pivot as a
    /// share of its diagonal entry. On failure the rows before `index` are factored and row `index` is solved up to
    /// its diagonal, which is what [`Self::null_vector`] needs.
    pub(crate) fn factor(
        &mut self,
        order: usize,
        entry: impl Fn(usize, usize) -> f64,
    ) -> Result<f64, NonPositivePivot> {
        self.order = order;
        self.lower.resize(order * order, 0.0);
        let mut pivot_share_min = 1.0_f64;
        for i in 0..order {
            let (above, row) = self.lower.split_at_mut(i * order);
            for k in 0..i {
                // Lᵢₖ = (Aᵢₖ − Σₘ Lᵢₘ Lₖₘ) / Lₖₖ, m < k
                let other = &above[k * order..=k * order + k];
                row[k] = (entry(i, k) - dot(&row[..k], &other[..k])) / other[k];
            }
            // Lᵢᵢ² = Aᵢᵢ − Σₘ Lᵢₘ²
            let diagonal = entry(i, i);
            let pivot = diagonal - dot(&row[..i], &row[..i]);
            let is_positive = pivot > PIVOT_SHARE_MIN * diagonal; // false for NaN
            if !is_positive {
                return Err(NonPositivePivot { index: i });
            }
            row[i] = pivot.sqrt();
            pivot_share_min = pivot_share_min.min(pivot / diagonal);
        }
        Ok(pivot_share_min)
    }

    /// x ← A⁻¹x.
    pub(crate) fn solve(&self, x: &mut [f64]) {
        self.solve_lower(x);
        self.solve_upper(x);
    }

    /// x ← L⁻¹x.
    pub(super) fn solve_lower(&self, x: &mut [f64]) {
        for i in 0..x.len() {
            let row = &self.lower[i * self.order..=i * self.order + i];
            x[i] = (x[i] - dot(&row[..i], &x[..i])) / row[i];
        }
    }

    /// x ← L⁻ᵀx, for the leading block of the length of x.
    pub(super) fn solve_upper(&self, x: &mut [f64]) {
        for i in (0..x.len()).rev() {
            let row = &self.lower[i * self.order..=i * self.order + i];
            x[i] /= row[i];
            let solved = x[i];
            for (x, l) in x[..i].iter_mut().zip(row) {
                *x -= l * solved;
            }
        }
    }

    /// After a failure at `index`: v with Av ≈ 0 in the leading `index` + 1 places, v at `index` 1 and zero beyond.
    pub(super) fn null_vector(&self, index: usize, v: &mut [f64]) {
        v.fill(0.0);
        let row = &self.lower[index * self.order..][..index]; // L⁻¹a of the dependent column a
        v[..index].copy_from_slice(row);
        self.solve_upper(&mut v[..index]);
        v[..index].iter_mut().for_each(|v| *v = -*v);
        v[index] = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_and_names_the_dependent_column() {
        let a = [[4.0, 2.0, 6.0], [2.0, 5.0, 7.0], [6.0, 7.0, 13.0]]; // column 2 is the sum of the others
        let mut cholesky = Cholesky::default();
        assert!(cholesky.factor(2, |i, k| a[i][k]).is_ok());
        let mut x = [8.0, 12.0];
        cholesky.solve(&mut x);
        assert!(
            (4.0 * x[0] + 2.0 * x[1] - 8.0).abs() < 1e-14
                && (2.0 * x[0] + 5.0 * x[1] - 12.0).abs() < 1e-14
        );

        assert_eq!(
            cholesky.factor(3, |i, k| a[i][k]),
            Err(NonPositivePivot { index: 2 })
        );
        let mut v = [0.0; 3];
        cholesky.null_vector(2, &mut v);
        assert!(a.iter().all(|row| dot(row, &v).abs() < 1e-13), "{v:?}");
    }
}
