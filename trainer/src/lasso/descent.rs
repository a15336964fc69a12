//! Coordinate descent on a Gram matrix, for a falling sequence of λ.
//!
//! **Which columns.** Work goes on over a *working set* W that only grows: the columns that the strong rule keeps
//! (Tibshirani et al. 2012: |gⱼ| ≥ fⱼ(2λ − λ_before), g the gradient q − Qβ at λ_before), and any that a look at the
//! whole gradient then finds to violate |gⱼ| ≤ λfⱼ. Rows and columns of Q that belong to W are kept together.
//!
//! **Which steps.** Sweeps of one-coordinate minimisations, first over W, then over its nonzero part. Polynomial
//! features are nearly collinear, where sweeps crawl; so between bouts of sweeps stands a *polish*: with the signs s of
//! the nonzero part A fixed, the objective is a quadratic whose minimiser solves Q_AA δ = g_A − λ f_A s_A, and the
//! step goes along δ to that minimiser or to the first coordinate that would change its sign, which becomes zero.
//! Sweeps let columns in, polishes finish; neither can raise the objective.
//!
//! **When to stop.** At a duality gap of at most `tolerance`·yy. With r = y − Xβ and all norms weighted and over W:
//! ‖r‖² = yy − 2qᵀβ + βᵀQβ = yy − qᵀβ − βᵀg, and any θ = c·r with |c gⱼ| ≤ λfⱼ is feasible for the dual
//! max ½yy − ½‖y − θ‖². As yᵀr = ‖r‖² + βᵀg, primal minus dual is, without a difference of large numbers,
//!
//! ```text
//! gap(c) = ½(1 − c)² ‖r‖² + λ Σ fⱼ|βⱼ| − c βᵀg,      least at c = 1 + βᵀg / ‖r‖², held to 0 ≤ c ≤ min λfⱼ / |gⱼ|
//! ```
//!
//! so Q, q and yy give it exactly, and at the optimum (βⱼgⱼ = λfⱼ|βⱼ|, c = 1) it is zero.

use super::cholesky::Cholesky;
use super::problem::Problem;
use super::vector::{axpy, dot, soft_threshold};

/// Least number of sweeps over the nonzero part between two looks at the gap.
const ACTIVE_SWEEPS_MIN: usize = 5;

/// A bout of sweeps ends when the largest step has fallen to this share of its first one: more would be for nothing
/// before the next look.
const STEP_SHARE_MIN: f64 = 1e-3;

/// A fit on the caller's scale, with what is known of how it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// One for each column, in units of y per unit of the column; exactly zero for what was not chosen.
    pub coefficients: Vec<f64>,
    /// ŷ where every column is zero, in units of y.
    pub intercept: f64,
    /// Sweeps made for this λ alone, over the working set or its nonzero part.
    pub sweeps: usize,
    /// Primal minus dual objective, in units of y², at these coefficients: the objective is at most this far above its
    /// minimum.
    pub duality_gap: f64,
    /// Whether the gap came down to the tolerance; if false, the sweeps were used up.
    pub converged: bool,
}

impl Fit {
    /// The columns with a nonzero coefficient, ascending.
    pub fn support(&self) -> Vec<usize> {
        (0..self.coefficients.len())
            .filter(|&j| self.coefficients[j] != 0.0)
            .collect()
    }
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// Gap as a share of the Gram matrix's yy.
    pub(super) tolerance: f64,
    /// Sweeps for one λ.
    pub(super) sweeps_max: usize,
}

/// Coordinate descent with the state that is handed from one λ to the next.
#[derive(Debug)]
pub(super) struct Descent<'p> {
    problem: &'p Problem<'p>,
    /// β over all columns, as of the last look at the whole gradient.
    beta: Vec<f64>,
    /// g = q − Qβ over all columns, as of the same look.
    gradient: Vec<f64>,
    /// The λ last solved for; at first λ_max, where β = 0 is the answer.
    lambda_before: f64,
    working: Working,
    is_working: Vec<bool>,
}

/// The working set: its part of the problem, kept together so that a step's cost depends on it alone.
#[derive(Debug, Default)]
struct Working {
    /// The columns, by order of entry; all else here goes by this order.
    columns: Vec<usize>,
    /// Q restricted to `columns`.
    gram: Vec<Vec<f64>>,
    /// fⱼ.
    factors: Vec<f64>,
    beta: Vec<f64>,
    gradient: Vec<f64>,
    polish: Polish,
}

/// Workspace of [`Working::polish`].
#[derive(Debug, Default)]
struct Polish {
    cholesky: Cholesky,
    /// Places in the working set of the nonzero coefficients: A.
    active: Vec<usize>,
    /// g_A − λ f_A s_A.
    slope: Vec<f64>,
    /// δ.
    direction: Vec<f64>,
    /// Q_WA δ.
    image: Vec<f64>,
}

/// How a polish ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Polished {
    /// At the minimum of its face, or nowhere because rounding left no way down.
    Done,
    /// At the edge: a coefficient became zero.
    Blocked,
}

impl<'p> Descent<'p> {
    pub(super) fn new(problem: &'p Problem<'p>) -> Self {
        let p = problem.column_count();
        Self {
            problem,
            beta: vec![0.0; p],
            gradient: problem.cross().to_vec(),
            lambda_before: problem.lambda_max(),
            working: Working::default(),
            is_working: vec![false; p],
        }
    }

    /// Solves for λ > 0, starting from the solution of the λ before, which should be larger.
    pub(super) fn solve(&mut self, lambda: f64, stop: Stop) -> Fit {
        let gap_wanted = stop.tolerance * self.problem.gram().target_square();
        let threshold = 2.0 * lambda - self.lambda_before.max(lambda);
        self.admit(|gradient, factor| gradient.abs() >= factor * threshold);
        let mut sweeps = 0;
        let (duality_gap, converged) = loop {
            self.working.minimise(
                lambda,
                gap_wanted,
                self.problem.target_square(),
                stop.sweeps_max,
                &mut sweeps,
            );
            self.look();
            let duality_gap = self.gap(lambda);
            if duality_gap <= gap_wanted {
                break (duality_gap, true);
            }
            if sweeps >= stop.sweeps_max {
                break (duality_gap, false);
            }
            // Where none is left to admit, the gap was met but for drift, which the look has removed: once more.
            self.admit(|gradient, factor| gradient.abs() > factor * lambda);
        };
        self.lambda_before = lambda;
        let mut beta = self.beta.clone();
        self.problem.complete(&mut beta);
        let (coefficients, intercept) = self.problem.gram().unstandardise(&beta);
        Fit {
            coefficients,
            intercept,
            sweeps,
            duality_gap,
            converged,
        }
    }

    /// ‖r‖² / yy of the last solution: the share of the variance of y that it leaves unexplained.
    pub(super) fn unexplained(&self) -> f64 {
        let total = self.problem.gram().target_square();
        if total > 0.0 {
            self.residual_square() / total
        } else {
            0.0
        }
    }

    /// 1 − ‖r‖² / yy of the last solution, 0 where y is constant.
    pub(super) fn explained(&self) -> f64 {
        if self.problem.gram().target_square() > 0.0 {
            1.0 - self.unexplained()
        } else {
            0.0
        }
    }

    fn residual_square(&self) -> f64 {
        residual_square(
            self.problem.target_square(),
            self.problem.cross(),
            &self.beta,
            &self.gradient,
        )
    }

    /// Takes into the working set every open column for which `is_wanted(gⱼ, fⱼ)`; returns how many.
    fn admit(&mut self, is_wanted: impl Fn(f64, f64) -> bool) -> usize {
        let before = self.working.columns.len();
        for j in self.problem.open() {
            if !self.is_working[j] && is_wanted(self.gradient[j], self.problem.factor(j)) {
                self.is_working[j] = true;
                self.working.push(
                    j,
                    self.problem.column(j),
                    self.problem.factor(j),
                    self.gradient[j],
                );
            }
        }
        self.working.columns.len() - before
    }

    /// Computes the whole gradient from scratch, and hands the working set its part, free of drift.
    fn look(&mut self) {
        self.gradient.copy_from_slice(self.problem.cross());
        for (&j, &beta) in self.working.columns.iter().zip(&self.working.beta) {
            self.beta[j] = beta;
            if beta != 0.0 {
                axpy(-beta, self.problem.column(j), &mut self.gradient); // g = q − Σ βⱼ Qⱼ
            }
        }
        for (gradient, &j) in self.working.gradient.iter_mut().zip(&self.working.columns) {
            *gradient = self.gradient[j];
        }
    }

    /// The duality gap over all open columns.
    fn gap(&self, lambda: f64) -> f64 {
        let terms = self
            .problem
            .open()
            .map(|j| (self.problem.factor(j), self.beta[j], self.gradient[j]));
        duality_gap(lambda, self.residual_square(), terms)
    }
}

impl Working {
    fn push(&mut self, j: usize, column: &[f64], factor: f64, gradient: f64) {
        for (own, &other) in self.gram.iter_mut().zip(&self.columns) {
            own.push(column[other]);
        }
        self.columns.push(j);
        self.gram
            .push(self.columns.iter().map(|&other| column[other]).collect());
        self.factors.push(factor);
        self.beta.push(0.0);
        self.gradient.push(gradient);
    }

    /// Sweeps and polishes until the gap over the working set is at most `gap_wanted`, or `sweeps` reaches its limit.
    fn minimise(
        &mut self,
        lambda: f64,
        gap_wanted: f64,
        target_square: f64,
        sweeps_max: usize,
        sweeps: &mut usize,
    ) {
        // qᵀβ = βᵀ(g + Qβ) is needed for ‖r‖²; q is g plus what β has taken from it, so it is formed once, here.
        let cross = self.cross();
        loop {
            self.sweep(lambda, |_| true);
            *sweeps += 1;
            let residual = residual_square(target_square, &cross, &self.beta, &self.gradient);
            let terms =
                (0..self.beta.len()).map(|k| (self.factors[k], self.beta[k], self.gradient[k]));
            if duality_gap(lambda, residual, terms) <= gap_wanted || *sweeps >= sweeps_max {
                return;
            }
            let active = self.beta.iter().filter(|&&beta| beta != 0.0).count();
            // As much time for sweeps (|A||W| each) as the polish takes to factor its matrix (|A|³/6).
            let bout = ACTIVE_SWEEPS_MIN.max(active * active / (6 * self.beta.len().max(1)));
            let mut first_step = 0.0;
            for turn in 0..bout.min(sweeps_max - *sweeps) {
                let step = self.sweep(lambda, |beta| beta != 0.0);
                *sweeps += 1;
                if turn == 0 {
                    first_step = step;
                }
                if step <= STEP_SHARE_MIN * first_step {
                    break;
                }
            }
            // To the end: a face left half-way lets the next sweep take back what was just dropped.
            while self.polish(lambda, target_square) == Polished::Blocked {}
            if *sweeps >= sweeps_max {
                return;
            }
        }
    }

    /// q over the working set: g + Qβ.
    fn cross(&self) -> Vec<f64> {
        let mut cross = self.gradient.clone();
        for (column, &beta) in self
            .gram
            .iter()
            .zip(&self.beta)
            .filter(|(_, beta)| **beta != 0.0)
        {
            axpy(beta, column, &mut cross);
        }
        cross
    }

    /// One step in each coordinate whose β is wanted; returns the largest, in units of y.
    fn sweep(&mut self, lambda: f64, is_wanted: impl Fn(f64) -> bool) -> f64 {
        let mut largest = 0.0_f64;
        for k in 0..self.columns.len() {
            if is_wanted(self.beta[k]) {
                let threshold = lambda * self.factors[k];
                largest = largest.max(descend(
                    k,
                    &self.gram[k],
                    threshold,
                    &mut self.gradient,
                    &mut self.beta,
                ));
            }
        }
        largest
    }

    /// Goes to the minimum over the nonzero coefficients with their signs kept, or as far as the signs allow. Each
    /// time it is blocked there is one nonzero coefficient less.
    fn polish(&mut self, lambda: f64, target_square: f64) -> Polished {
        let Self {
            gram,
            factors,
            beta,
            gradient,
            polish,
            ..
        } = self;
        let Polish {
            cholesky,
            active,
            slope,
            direction,
            image,
        } = polish;
        active.clear();
        active.extend((0..beta.len()).filter(|&k| beta[k] != 0.0));
        if active.is_empty() {
            return Polished::Done;
        }
        slope.clear();
        slope.extend(
            active
                .iter()
                .map(|&k| gradient[k] - lambda * factors[k] * beta[k].signum()),
        );
        direction.clear();
        direction.extend_from_slice(slope);
        // δ = Q_AA⁻¹ (g_A − λ f_A s_A); where Q_AA is singular, a direction in which it does not curve, downhill.
        let reach = match cholesky.factor(active.len(), |i, k| gram[active[k]][active[i]]) {
            Ok(_) => {
                cholesky.solve(direction);
                1.0
            }
            Err(pivot) => {
                cholesky.null_vector(pivot.index, direction);
                if dot(direction, slope) < 0.0 {
                    direction.iter_mut().for_each(|d| *d = -*d);
                }
                f64::INFINITY
            }
        };
        // The first coordinate to reach zero on the way, if any, ends it.
        let (mut length, mut blocking) = (reach, None);
        for (a, (&k, &d)) in active.iter().zip(direction.iter()).enumerate() {
            let to_zero = -beta[k] / d;
            if to_zero >= 0.0 && to_zero < length {
                (length, blocking) = (to_zero, Some(a));
            }
        }
        if !length.is_finite() {
            return Polished::Done;
        }
        image.clear();
        image.resize(beta.len(), 0.0);
        for (&k, &d) in active.iter().zip(direction.iter()) {
            axpy(d, &gram[k], image); // Qδ
        }
        // Change of the objective along tδ: ½t² δᵀQδ − t δᵀ(g_A − λ f_A s_A). Rounding may make an ill-conditioned
        // step go uphill; a step that drops a coordinate may be level.
        let curvature: f64 = active
            .iter()
            .zip(direction.iter())
            .map(|(&k, d)| d * image[k])
            .sum();
        let change = length * (0.5 * length * curvature - dot(direction, slope));
        let allowed = if blocking.is_some() {
            f64::EPSILON * target_square
        } else {
            0.0
        };
        if change.is_nan() || change > allowed {
            return Polished::Done;
        }
        for (&k, &d) in active.iter().zip(direction.iter()) {
            beta[k] += length * d;
        }
        axpy(-length, image, gradient); // g = q − Qβ
        match blocking {
            None => Polished::Done,
            Some(a) => {
                let k = active[a];
                let left = std::mem::replace(&mut beta[k], 0.0); // rounding, if not zero already
                axpy(left, &gram[k], gradient);
                Polished::Blocked
            }
        }
    }
}

/// One coordinate of min ½βᵀQβ − qᵀβ + λ Σ fⱼ|βⱼ|, keeping `gradient` = q − Qβ; `threshold` is λfₖ. Returns how far
/// the fit moved, |step|·√Qₖₖ.
fn descend(
    k: usize,
    gram_column: &[f64],
    threshold: f64,
    gradient: &mut [f64],
    beta: &mut [f64],
) -> f64 {
    let before = beta[k];
    let curvature = gram_column[k]; // Qₖₖ, positive: constant columns never get this far
    beta[k] = soft_threshold(gradient[k] + curvature * before, threshold) / curvature;
    let step = beta[k] - before;
    if step != 0.0 {
        axpy(-step, gram_column, gradient);
    }
    step.abs() * curvature.sqrt()
}

/// ‖r‖² = yy − qᵀβ − βᵀg; never negative, whatever rounding says.
fn residual_square(target_square: f64, cross: &[f64], beta: &[f64], gradient: &[f64]) -> f64 {
    (target_square - dot(cross, beta) - dot(beta, gradient)).max(0.0)
}

/// The gap of the module's head, from (fⱼ, βⱼ, gⱼ) of every open column.
fn duality_gap(
    lambda: f64,
    residual_square: f64,
    terms: impl Iterator<Item = (f64, f64, f64)>,
) -> f64 {
    let (mut penalty, mut beta_gradient, mut c_max) = (0.0, 0.0, f64::INFINITY);
    for (factor, beta, gradient) in terms {
        penalty += lambda * factor * beta.abs(); // λ Σ fⱼ|βⱼ|
        beta_gradient += beta * gradient; // βᵀg
        if gradient.abs() * c_max > lambda * factor {
            c_max = lambda * factor / gradient.abs();
        }
    }
    let c_best = if residual_square > 0.0 {
        1.0 + beta_gradient / residual_square
    } else {
        1.0
    };
    let c = c_best.clamp(0.0, c_max);
    (0.5 * (1.0 - c) * (1.0 - c) * residual_square + penalty - c * beta_gradient).max(0.0)
}
