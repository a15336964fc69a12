//! Which products look best: parents times base functions, on a sample of the rows and in single precision, since what
//! looks best is judged exactly afterwards.

use std::collections::BTreeSet;

use super::{Base, Product, discount};

/// Rows that are looked at, at most. Callers have rows in no particular order, so the first are as good as any.
const ROWS_MAX: usize = 4096;

/// Parents looked at in one round: those whose children did best, and those not looked at for longest.
const BEST_A_ROUND: usize = 16;
const STALE_A_ROUND: usize = 16;

/// Children that one parent proposes in one round.
const CHILDREN: usize = 3;

/// A product with less than this share of its square sum about its mean is constant.
const SPREAD_SHARE_MIN: f32 = 1e-5;

/// Base functions on a sample of rows, with what may be multiplied by them.
pub(super) struct Parents<'a> {
    base: Base<'a>,
    rows: &'a [usize],
    degree: usize,
    /// Base functions one after the other, each with a value for each row of the sample.
    columns: Vec<f32>,
    parents: Vec<Parent>,
    round: u32,
}

struct Parent {
    product: Product,
    values: Vec<f32>,
    /// Square sum about the mean of the product with each base function; none until it is first looked at.
    spreads: Vec<f32>,
    looked_at: u32,
    children: Vec<(f32, usize)>,
}

impl Parent {
    fn new(product: Product, values: Vec<f32>) -> Self {
        Self {
            product,
            values,
            spreads: Vec::new(),
            looked_at: 0,
            children: Vec::new(),
        }
    }

    fn best(&self) -> f32 {
        self.children.first().map_or(0.0, |(gain, _)| *gain)
    }

    /// Finds the children that explain most of `residual`.
    fn look(&mut self, columns: &[f32], residual: &[f32], round: u32) {
        let rows = residual.len();
        let product = |with: &[f32]| -> Vec<f32> {
            self.values.iter().zip(with).map(|(a, b)| a * b).collect()
        };
        if self.spreads.is_empty() {
            let spread = |column: &[f32]| {
                let child = product(column);
                let square = dot(&child, &child);
                let sum = dot(&self.values, column);
                let spread = square - sum * sum / rows as f32;
                if spread > SPREAD_SHARE_MIN * square {
                    spread
                } else {
                    f32::INFINITY
                }
            };
            self.spreads = columns.chunks_exact(rows).map(spread).collect();
        }
        let weighted = product(residual);
        let discount = discount(self.product.len() + 1) as f32;
        let gains = columns
            .chunks_exact(rows)
            .zip(&self.spreads)
            .map(|(column, spread)| {
                let along = dot(&weighted, column);
                discount * along * along / spread
            });
        let mut children: Vec<(f32, usize)> = gains.zip(0..).collect();
        let by_gain = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if children.len() > CHILDREN {
            children.select_nth_unstable_by(CHILDREN - 1, by_gain);
            children.truncate(CHILDREN);
        }
        children.sort_by(by_gain);
        self.children = children;
        self.looked_at = round;
    }
}

impl<'a> Parents<'a> {
    /// The constant and every base function.
    pub(super) fn new(base: Base<'a>, rows: &'a [usize], degree: usize) -> Self {
        let sample = &rows[..rows.len().min(ROWS_MAX)];
        let columns: Vec<f32> = (0..base.count())
            .flat_map(|place| {
                let column = base.column(place);
                sample.iter().map(move |&row| column[row] as f32)
            })
            .collect();
        let mut parents = vec![Parent::new(Vec::new(), vec![1.0; sample.len()])];
        if degree > 1 {
            let single =
                |(place, values): (usize, &[f32])| Parent::new(vec![place], values.to_vec());
            parents.extend(
                columns
                    .chunks_exact(sample.len())
                    .enumerate()
                    .map(|(place, values)| single((place, values))),
            );
        }
        Self {
            base,
            rows: sample,
            degree,
            columns,
            parents,
            round: 0,
        }
    }

    /// A product that was taken may be multiplied further.
    pub(super) fn add(&mut self, product: &Product) {
        if product.len() > 1 && product.len() < self.degree {
            let values = self.base.product(product, self.rows);
            let values = values.into_iter().map(|value| value as f32).collect();
            self.parents.push(Parent::new(product.clone(), values));
        }
    }

    /// Up to `count` products that look best, none of them known.
    pub(super) fn propose(
        &mut self,
        residual: &[f64],
        known: &BTreeSet<Product>,
        count: usize,
    ) -> Vec<Product> {
        self.round += 1;
        let residual: Vec<f32> = residual[..self.rows.len()]
            .iter()
            .map(|value| *value as f32)
            .collect();
        let mean = residual.iter().sum::<f32>() / residual.len() as f32;
        let residual: Vec<f32> = residual.iter().map(|value| value - mean).collect();
        for place in self.due() {
            self.parents[place].look(&self.columns, &residual, self.round);
        }
        let mut proposals: Vec<(f32, Product)> = Vec::new();
        for parent in &self.parents {
            for &(gain, place) in &parent.children {
                let mut product = parent.product.clone();
                product.push(place);
                product.sort_unstable();
                if gain > 0.0 && !known.contains(&product) {
                    proposals.push((gain, product));
                }
            }
        }
        proposals.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        proposals.dedup_by(|a, b| a.1 == b.1);
        proposals.truncate(count);
        proposals.into_iter().map(|(_, product)| product).collect()
    }

    /// The parents to look at now: all of them that are new, then the best, then the stalest.
    fn due(&self) -> Vec<usize> {
        let mut due: BTreeSet<usize> = (0..self.parents.len())
            .filter(|&place| self.parents[place].looked_at == 0)
            .collect();
        due.insert(0);
        let mut order: Vec<usize> = (0..self.parents.len()).collect();
        order.sort_by(|&a, &b| {
            self.parents[b]
                .best()
                .total_cmp(&self.parents[a].best())
                .then(a.cmp(&b))
        });
        due.extend(order.iter().take(BEST_A_ROUND));
        order.sort_by_key(|&place| (self.parents[place].looked_at, place));
        due.extend(order.iter().take(STALE_A_ROUND));
        due.into_iter().collect()
    }
}

/// aᵀb in sixteen lanes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<16>();
    let (b_chunks, b_rest) = b.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}
