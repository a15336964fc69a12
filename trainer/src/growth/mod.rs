//! Grows a pool of products of base functions, one best product after the other (forward selection by orthogonal least
//! squares; with hinges for base functions, the forward half of MARS: Friedman 1991). What is grown is a pool to choose
//! from: how much of it a model gets is for cross-validation to say.
//!
//! A product is a parent times a base function. Parents are the constant, every base function, and every product taken so
//! far that has not the largest degree. Each round looks again at some parents only, those whose children did best when
//! last looked at and those not looked at for longest ("Fast MARS": Friedman 1993), and on some of the rows; what looks
//! best there is then judged exactly, on all rows and beside all that was taken.
//!
//! Nothing here knows what a layer is, reads a clock or draws random numbers.

mod basis;
mod parents;

use std::collections::BTreeSet;

use basis::Basis;
use parents::Parents;

/// Products that one round takes, at most, and how much of the first one's gain the others must have.
const TAKEN_A_ROUND: usize = 4;
const GAIN_SHARE_MIN: f64 = 0.5;

/// Products that one round judges exactly.
const JUDGED_A_ROUND: usize = 12;

/// What each further factor of a product takes off its gain: of two that explain as much, the simpler one is right more
/// often.
const FACTOR_DISCOUNT: f64 = 0.8;

/// Rounds for each product wanted, at most.
const ROUNDS_PER_PRODUCT: usize = 4;

/// Growth ends where a round's best product explains less than this share of the target's variance.
const GAIN_MIN: f64 = 1e-6;

/// No row may make up more than this share of a product's variance: a product that lives off a few rows says nothing.
const ROW_SHARE_MAX: f64 = 0.15;

/// A product of base functions by their places, ascending.
pub type Product = Vec<usize>;

/// Base functions with their values on all rows.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// One after the other, each with a value for each row.
    pub columns: &'a [f64],
    /// Rows: at least one.
    pub rows: usize,
}

impl<'a> Base<'a> {
    /// The number of base functions.
    pub fn count(&self) -> usize {
        self.columns.len() / self.rows
    }

    /// The values of one base function.
    pub fn column(&self, place: usize) -> &'a [f64] {
        &self.columns[place * self.rows..][..self.rows]
    }

    /// The values of a product on some rows.
    pub fn product(&self, product: &[usize], rows: &[usize]) -> Vec<f64> {
        let mut values = vec![1.0; rows.len()];
        for &place in product {
            let column = self.column(place);
            values
                .iter_mut()
                .zip(rows)
                .for_each(|(value, &row)| *value *= column[row]);
        }
        values
    }
}

/// How far to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Products, at most.
    pub products: usize,
    /// Factors of a product, at most.
    pub degree: usize,
}

/// Products that explain `target` on `rows` (places in the base's columns; `target` has a value for each), the most useful
/// first. Fewer than the limit where nothing more is explained.
///
/// `seeds` are places of base functions that are taken first, whatever they explain, but for those that depend on others
/// before them; they don't count against the limit.
pub fn grow(
    base: Base<'_>,
    rows: &[usize],
    target: &[f64],
    seeds: &[usize],
    limits: Limits,
) -> Vec<Product> {
    debug_assert_eq!(rows.len(), target.len());
    let mut basis = Basis::new(target);
    let enough = GAIN_MIN * basis.unexplained();
    let seeds = seeds.iter().map(|&place| vec![place]);
    let mut taken: Vec<Product> = seeds
        .filter(|seed| basis.admit(base.product(seed, rows)))
        .collect();
    let limit = limits.products + taken.len();
    let mut known: BTreeSet<Product> = taken.iter().cloned().collect();
    let mut parents = Parents::new(base, rows, limits.degree);
    for _ in 0..ROUNDS_PER_PRODUCT * limits.products {
        let proposed = parents.propose(basis.residual(), &known, JUDGED_A_ROUND);
        let judged = proposed.into_iter().map(|product| {
            let values = base.product(&product, rows);
            (product, values)
        });
        let (broad, narrow): (Vec<_>, Vec<_>) = judged.partition(|(_, values)| is_broad(values));
        let is_narrow = !narrow.is_empty();
        known.extend(narrow.into_iter().map(|(product, _)| product));
        let (products, columns): (Vec<Product>, Vec<Vec<f64>>) = broad.into_iter().unzip();
        let room = (limit - taken.len()).min(TAKEN_A_ROUND);
        let discounts: Vec<f64> = products
            .iter()
            .map(|product| discount(product.len()))
            .collect();
        let accepted = basis.take(columns, &discounts, room, enough);
        if accepted.is_empty() && !is_narrow {
            break;
        }
        // What was judged and not taken may be better placed later.
        for place in accepted {
            let product = products[place].clone();
            known.insert(product.clone());
            parents.add(&product);
            taken.push(product);
        }
        if taken.len() == limit {
            break;
        }
    }
    taken
}

/// By how much a product of so many factors is valued.
fn discount(factors: usize) -> f64 {
    FACTOR_DISCOUNT.powi(factors as i32 - 1)
}

/// Whether no row makes up much of a product's variance.
fn is_broad(values: &[f64]) -> bool {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (sum, most) = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .fold((0.0, 0.0_f64), |(sum, most), square| {
            (sum + square, most.max(square))
        });
    most <= ROW_SHARE_MAX * sum
}

#[cfg(test)]
mod tests;
