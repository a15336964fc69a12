//! Which terms, and how many: what predicts held-out layers best.
//!
//! Several members are fitted, each without some of the folds, so that every layer has members that did not see it. A
//! member grows a pool of products on its own rows ([`crate::growth`]) and fits the lasso along its path, with its own
//! coefficients and with those of least squares on its support. How far down the path to go is then chosen by the error of
//! held-out layers, and the model is either
//!
//! - the mean of the members: a sum of polynomials is a polynomial, and the mean of several that were each led astray by
//!   other rows is better than any of them (Breiman 1996), where there are few layers or much noise; or
//! - one fit like theirs to all layers, where there are layers enough for one polynomial to fill a model.
//!
//! Whichever errs less on held-out layers.

use std::collections::BTreeMap;

use wattfarm_cost::model::{Features, Term, Weighted};

use super::FitError;
use super::factors::Factors;
use super::prune::prune;
use super::rows::Row;
use super::validation::rmspe;
use crate::growth::{self, Base, Limits, Product};
use crate::lasso::{Design, Gram, PathParameters, lasso_path, refit};
use crate::parallel::in_parallel;

/// Rows from which on members differ little, and fewer do.
const ROWS_FOR_FEW_MEMBERS: usize = 1_500;

/// Rows from which on products of three factors are grown, and a flat yardstick is not tried.
pub(super) const MANY_ROWS: usize = 4_000;

/// Rows for each product of a pool, and what a pool may have nevertheless, with fewer rows for each.
const ROWS_PER_PRODUCT: usize = 8;
const SMALL_POOL: usize = 24;
const ROWS_PER_PRODUCT_OF_SMALL: usize = 3;

/// Rows from which on every size is in a pool: a power law is what a layer's cost is like before anything else.
const ROWS_FOR_SIZES: usize = 40;

/// Factors of a product: among few rows, three factors speak of corners that no row is near.
fn degree(rows: usize) -> usize {
    if rows < MANY_ROWS { 2 } else { 3 }
}

/// How many times as many terms as a model may have the mean of the members may have, before it is pruned.
const UNION_MAX: usize = 3;

/// Keeps nearly dependent columns from blowing up in least squares, without a visible effect on others.
const RIDGE: f64 = 1e-4;

/// A term that changes no row's logarithm by more than this is left out.
const EFFECT_MIN: f64 = 1e-6;

/// What is to be explained.
pub(super) struct Problem<'a> {
    pub(super) rows: &'a [Row],
    /// Of each row, what terms may speak of.
    pub(super) features: &'a [Features],
    /// Correction of each row: ln(measured / scale).
    pub(super) corrections: &'a [f64],
    /// Fold of each row, counted from 0 without gaps.
    pub(super) folds: &'a [usize],
    /// What every prediction is held between.
    pub(super) bounds: (f64, f64),
    /// Terms, at most.
    pub(super) terms_max: usize,
    pub(super) threads: usize,
}

/// A polynomial for the correction.
pub(super) struct Choice {
    pub(super) intercept: f64,
    pub(super) terms: Vec<Weighted>,
    /// Correction of each row, within the bounds, as predicted without the row's fold.
    pub(super) held_out: Vec<f64>,
    /// RMSPE of held-out rows, by which it was chosen.
    pub(super) error: f64,
}

/// A fit along its path.
struct Member {
    pool: Vec<Product>,
    /// By falling λ.
    steps: Vec<Step>,
    /// For each step and each variant, the predictions for the rows that the member did not see, by row.
    held_out: Vec<[BTreeMap<usize, f64>; 2]>,
}

/// One λ: the lasso's own coefficients of the pool, and those of least squares on its support.
struct Step {
    variants: [Polynomial; 2],
}

#[derive(Clone)]
struct Polynomial {
    intercept: f64,
    /// One for each product of the pool.
    coefficients: Vec<f64>,
}

/// The best polynomial.
pub(super) fn choose(problem: &Problem<'_>) -> Result<Choice, FitError> {
    let factors = Factors::of(problem.features);
    let base = Base {
        columns: &factors.columns,
        rows: problem.rows.len(),
    };
    let sizes = match problem.rows.len() {
        0..ROWS_FOR_SIZES => Vec::new(),
        _ => factors.sizes(),
    };
    let folds = 1 + problem.folds.iter().copied().max().unwrap_or(0);
    let plan = Plan::of(problem.rows.len(), folds);
    let members = in_parallel(plan.members, problem.threads, |member| {
        let first = member * plan.stride;
        let is_seen = |row: &usize| (problem.folds[*row] + folds - first) % folds >= plan.left_out;
        let (seen, unseen): (Vec<usize>, Vec<usize>) = (0..problem.rows.len()).partition(is_seen);
        Member::fit(problem, base, &sizes, &seen, &unseen)
    });
    let members = members.into_iter().collect::<Result<Vec<Member>, _>>()?;
    let steps = members
        .iter()
        .map(|member| member.steps.len())
        .min()
        .expect("a fold at least");
    let (mut mean, mut single) = (Best::default(), Best::default());
    for step in 0..steps {
        for variant in 0..2 {
            let outcome = Outcome::of(problem, &members, step, variant);
            if terms_of_mean(&members, step, variant) <= UNION_MAX * problem.terms_max {
                mean.consider(outcome.error_of_mean, step, variant);
            }
            single.consider(outcome.error_of_one, step, variant);
        }
    }
    let is_mean = mean.error <= single.error;
    let Best {
        error,
        step,
        variant,
    } = if is_mean { mean } else { single };
    let held_out = Outcome::of(problem, &members, step, variant);
    let (polynomials, held_out) = if is_mean {
        let polynomials = members
            .into_iter()
            .map(|mut member| {
                (
                    member.pool,
                    member.steps.swap_remove(step).variants[variant].clone(),
                )
            })
            .collect();
        (polynomials, held_out.mean)
    } else {
        let all: Vec<usize> = (0..problem.rows.len()).collect();
        let mut whole = Member::fit(problem, base, &sizes, &all, &[])?;
        let step = step.min(whole.steps.len() - 1);
        let polynomial = whole.steps.swap_remove(step).variants[variant].clone();
        (vec![(whole.pool, polynomial)], held_out.one)
    };
    let mut sum = Sum::of(base, &polynomials);
    let moved = sum.prune(problem.terms_max);
    let (low, high) = problem.bounds;
    let held_out = held_out
        .iter()
        .zip(moved)
        .map(|(value, moved)| (value + moved).clamp(low, high))
        .collect();
    Ok(Choice {
        intercept: sum.intercept,
        terms: sum.terms(&factors),
        held_out,
        error,
    })
}

/// Which folds members leave out: some in a row, each member beginning at another.
struct Plan {
    members: usize,
    stride: usize,
    left_out: usize,
}

impl Plan {
    /// Of few rows a member for each fold, that leaves out three tenths of them, so that three members did not see a row;
    /// of many rows a member for each two folds.
    fn of(rows: usize, folds: usize) -> Self {
        if rows < ROWS_FOR_FEW_MEMBERS {
            Self {
                members: folds,
                stride: 1,
                left_out: (folds * 3 / 10).max(1),
            }
        } else {
            Self {
                members: folds / 2,
                stride: 2,
                left_out: 2,
            }
        }
    }
}

/// The step and variant with the least error.
struct Best {
    error: f64,
    step: usize,
    variant: usize,
}

impl Default for Best {
    fn default() -> Self {
        Self {
            error: f64::INFINITY,
            step: 0,
            variant: 0,
        }
    }
}

impl Best {
    fn consider(&mut self, error: f64, step: usize, variant: usize) {
        if error < self.error {
            *self = Self {
                error,
                step,
                variant,
            };
        }
    }
}

/// What held-out rows say of one step and variant.
struct Outcome {
    /// RMSPE of the mean of the members that did not see a row.
    error_of_mean: f64,
    /// RMSPE of each of these alone.
    error_of_one: f64,
    /// Each row's prediction by their mean.
    mean: Vec<f64>,
    /// Each row's prediction by the first of them.
    one: Vec<f64>,
}

impl Outcome {
    fn of(problem: &Problem<'_>, members: &[Member], step: usize, variant: usize) -> Self {
        let (low, high) = problem.bounds;
        let mut sums = vec![(0.0, 0.0); problem.rows.len()];
        let mut one = vec![f64::NAN; problem.rows.len()];
        let mut alone = Vec::new();
        for member in members {
            for (&row, prediction) in &member.held_out[step][variant] {
                let prediction = prediction.clamp(low, high);
                sums[row].0 += prediction;
                sums[row].1 += 1.0;
                if one[row].is_nan() {
                    one[row] = prediction;
                }
                alone.push(prediction - problem.corrections[row]);
            }
        }
        let mean: Vec<f64> = sums.into_iter().map(|(sum, count)| sum / count).collect();
        let errors = mean
            .iter()
            .zip(problem.corrections)
            .map(|(mean, truth)| mean - truth);
        Self {
            error_of_mean: rmspe(errors),
            error_of_one: rmspe(alone.into_iter()),
            mean,
            one,
        }
    }
}

impl Member {
    fn fit(
        problem: &Problem<'_>,
        base: Base<'_>,
        sizes: &[usize],
        seen: &[usize],
        unseen: &[usize],
    ) -> Result<Self, FitError> {
        let target: Vec<f64> = seen.iter().map(|&row| problem.corrections[row]).collect();
        let weights: Vec<f64> = seen.iter().map(|&row| problem.rows[row].weight).collect();
        let limits = Limits {
            products: pool_size(seen.len()).min(problem.terms_max),
            degree: degree(problem.rows.len()),
        };
        let pool = growth::grow(base, seen, &target, sizes, limits);
        let columns: Vec<f64> = pool
            .iter()
            .flat_map(|product| base.product(product, seen))
            .collect();
        let design =
            Design::new(&columns, pool.len(), &target, Some(&weights)).map_err(FitError::Design)?;
        let gram = Gram::new(&design, 1);
        let path = lasso_path(&gram, &path_parameters(&pool)).map_err(FitError::Path)?;
        let mut steps = Vec::new();
        for point in &path.points {
            let least_squares =
                refit(&gram, &point.fit.support(), RIDGE).map_err(FitError::Refit)?;
            let lasso = Polynomial {
                intercept: point.fit.intercept,
                coefficients: point.fit.coefficients.clone(),
            };
            let relaxed = Polynomial {
                intercept: least_squares.intercept,
                coefficients: least_squares.coefficients,
            };
            steps.push(Step {
                variants: [lasso, relaxed],
            });
        }
        let unseen_columns: Vec<Vec<f64>> = pool
            .iter()
            .map(|product| base.product(product, unseen))
            .collect();
        let predicted = |polynomial: &Polynomial| {
            let mut values = vec![polynomial.intercept; unseen.len()];
            for (column, coefficient) in unseen_columns.iter().zip(&polynomial.coefficients) {
                if *coefficient != 0.0 {
                    values
                        .iter_mut()
                        .zip(column)
                        .for_each(|(value, x)| *value += coefficient * x);
                }
            }
            unseen.iter().copied().zip(values).collect()
        };
        let held_out = steps
            .iter()
            .map(|step| [predicted(&step.variants[0]), predicted(&step.variants[1])])
            .collect();
        Ok(Self {
            pool,
            steps,
            held_out,
        })
    }
}

/// How many products are grown to choose from.
fn pool_size(rows: usize) -> usize {
    let small = SMALL_POOL.min(rows / ROWS_PER_PRODUCT_OF_SMALL);
    (rows / ROWS_PER_PRODUCT).max(small).max(1)
}

/// Members go down the same number of steps, so that a step means the same for all.
fn path_parameters(pool: &[Product]) -> PathParameters {
    PathParameters {
        penalty_factors: Some(pool.iter().map(|product| product.len() as f64).collect()),
        lambda_count: 40,
        lambda_ratio: 1e-4,
        // The members' errors differ by far more than fits at these gaps do.
        tolerance: 1e-5,
        sweeps_max: 1_000,
        gain_min: 0.0,
        unexplained_min: 0.0,
        ..PathParameters::default()
    }
}

/// Different products with a coefficient in any member.
fn terms_of_mean(members: &[Member], step: usize, variant: usize) -> usize {
    let mut products: Vec<&Product> = members
        .iter()
        .flat_map(|member| {
            let coefficients = &member.steps[step].variants[variant].coefficients;
            let used = member.pool.iter().zip(coefficients);
            used.filter(|(_, coefficient)| **coefficient != 0.0)
                .map(|(product, _)| product)
        })
        .collect();
    products.sort_unstable();
    products.dedup();
    products.len()
}

/// The mean of polynomials as one.
struct Sum {
    rows: usize,
    intercept: f64,
    products: Vec<Product>,
    coefficients: Vec<f64>,
    /// Of each product, the values on all rows.
    columns: Vec<Vec<f64>>,
}

impl Sum {
    fn of(base: Base<'_>, polynomials: &[(Vec<Product>, Polynomial)]) -> Self {
        let share = 1.0 / polynomials.len() as f64;
        let mut intercept = 0.0;
        let mut sums: BTreeMap<&Product, f64> = BTreeMap::new();
        for (pool, polynomial) in polynomials {
            intercept += share * polynomial.intercept;
            for (product, coefficient) in pool.iter().zip(&polynomial.coefficients) {
                if *coefficient != 0.0 {
                    *sums.entry(product).or_default() += share * coefficient;
                }
            }
        }
        let rows: Vec<usize> = (0..base.rows).collect();
        Self {
            rows: base.rows,
            intercept,
            columns: sums
                .keys()
                .map(|product| base.product(product, &rows))
                .collect(),
            coefficients: sums.values().copied().collect(),
            products: sums.into_keys().cloned().collect(),
        }
    }

    fn values(&self) -> Vec<f64> {
        let mut values = vec![self.intercept; self.rows];
        for (column, coefficient) in self.columns.iter().zip(&self.coefficients) {
            values
                .iter_mut()
                .zip(column)
                .for_each(|(value, x)| *value += coefficient * x);
        }
        values
    }

    /// Leaves at most `count` terms; returns by how much that moves each row.
    fn prune(&mut self, count: usize) -> Vec<f64> {
        if self.products.len() <= count {
            return vec![0.0; self.rows];
        }
        let before = self.values();
        let pruned = prune(&self.columns, &self.coefficients, self.intercept, count);
        self.intercept = pruned.intercept;
        let (kept, coefficients): (Vec<usize>, Vec<f64>) = pruned.kept.into_iter().unzip();
        self.products = kept
            .iter()
            .map(|&place| self.products[place].clone())
            .collect();
        self.columns = kept
            .iter()
            .map(|&place| self.columns[place].clone())
            .collect();
        self.coefficients = coefficients;
        let after = self.values();
        after
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect()
    }

    /// The terms that change anything, the largest first.
    fn terms(&self, factors: &Factors) -> Vec<Weighted> {
        let mut terms: Vec<(f64, Weighted)> = Vec::new();
        let products = self.products.iter().zip(&self.columns);
        for ((product, column), &coefficient) in products.zip(&self.coefficients) {
            let largest = column
                .iter()
                .fold(0.0_f64, |most, value| most.max(value.abs()));
            let effect = coefficient.abs() * largest;
            if effect > EFFECT_MIN {
                let own = product.iter().map(|&place| factors.get(place).clone());
                let term = Term::new(own.collect()).expect("one to three factors");
                terms.push((effect, Weighted { term, coefficient }));
            }
        }
        terms.sort_by(|a, b| b.0.total_cmp(&a.0));
        terms.into_iter().map(|(_, weighted)| weighted).collect()
    }
}
