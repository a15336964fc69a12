//! The path of fits from λ_max down, and when to leave it.

use super::descent::{Descent, Fit, Stop};
use super::gram::Gram;
use super::problem::{FitError, Problem};

/// Steps of λ over which saturation is judged: one step may gain nothing while a new column is about to enter.
const SATURATION_STEPS: usize = 10;

/// How a path is fitted. [`Default`] is glmnet's grid to 10⁻³ with our stopping.
#[derive(Clone, Debug, PartialEq)]
pub struct PathParameters {
    /// Number of λ, at least 1: λₖ = λ_max · ratio^(k / (count − 1)).
    pub lambda_count: usize,
    /// Smallest λ as a share of λ_max, above 0 and below 1.
    pub lambda_ratio: f64,
    /// Duality gap, as a share of yy, at which a fit has converged: from 1e-15 to 0.1. Below some 1e-12 rounding may
    /// keep an ill-conditioned fit from it.
    pub tolerance: f64,
    /// Sweeps for one λ after which it is given up as not converged, at least 1.
    pub sweeps_max: usize,
    /// The path ends before the first fit with more nonzero coefficients than this (but has at least one fit).
    pub terms_max: Option<usize>,
    /// The path ends with the first fit that leaves at most this share of yy unexplained, from 0 to 1.
    pub unexplained_min: f64,
    /// The path ends where the last ten λ together took away less than this share of what was unexplained before them,
    /// from 0 (never) to below 1; not before some column has entered.
    pub gain_min: f64,
    /// Penalty factors fⱼ, one for each column: 0 (not penalised) or from 1e-6 to 1e6. None: 1 everywhere.
    pub penalty_factors: Option<Vec<f64>>,
}

impl Default for PathParameters {
    fn default() -> Self {
        Self {
            lambda_count: 100,
            lambda_ratio: 1e-3,
            tolerance: 1e-7,
            sweeps_max: 10_000,
            terms_max: None,
            unexplained_min: 1e-8,
            gain_min: 1e-4,
            penalty_factors: None,
        }
    }
}

/// Fits for falling λ, each started from the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// At least one, by falling λ.
    pub points: Vec<PathPoint>,
    /// Why there are no more.
    pub end: PathEnd,
}

/// One fit of a path.
#[derive(Clone, Debug, PartialEq)]
pub struct PathPoint {
    /// λ, in units of y.
    pub lambda: f64,
    /// Share of yy that the fit explains on its own training rows (R²), 0 where y is constant.
    pub explained: f64,
    /// Number of nonzero coefficients.
    pub terms: usize,
    /// The fit.
    pub fit: Fit,
}

/// Why a path ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PathEnd {
    /// Every λ was fitted.
    Complete,
    /// There was nothing more to explain, or next to nothing was gained any more.
    Saturated,
    /// The next fit would have had more terms than allowed.
    TermsMax,
}

/// The lasso for one λ > 0, in units of y. (Where λ is 0, [`refit`](super::refit()) over all columns is the answer.)
/// Of the parameters, `tolerance`, `sweeps_max` and `penalty_factors` matter.
pub fn lasso(gram: &Gram, lambda: f64, parameters: &PathParameters) -> Result<Fit, FitError> {
    let mut path = lasso_path_at(gram, &[lambda], parameters)?;
    Ok(path.swap_remove(0).fit)
}

/// Fits the geometric grid from λ_max, where all penalised coefficients are zero, down to λ_max · `lambda_ratio`, until
/// it is done or an early end is reached. If λ_max is zero (a constant target, or no column that varies or correlates),
/// there is one point, without penalised terms.
pub fn lasso_path(gram: &Gram, parameters: &PathParameters) -> Result<Path, FitError> {
    parameters.check()?;
    let problem = Problem::new(gram, parameters.penalty_factors.as_deref())?;
    let lambdas = grid(&problem, parameters);
    let mut descent = Descent::new(&problem);
    let mut points: Vec<PathPoint> = Vec::with_capacity(lambdas.len());
    let mut unexplained = Vec::with_capacity(lambdas.len());
    for lambda in lambdas {
        let point = next_point(&mut descent, lambda, parameters);
        if !points.is_empty()
            && parameters
                .terms_max
                .is_some_and(|terms_max| point.terms > terms_max)
        {
            return Ok(Path {
                points,
                end: PathEnd::TermsMax,
            });
        }
        let has_terms = point.terms > 0;
        points.push(point);
        unexplained.push(descent.unexplained());
        if has_terms && is_saturated(&unexplained, parameters) {
            return Ok(Path {
                points,
                end: PathEnd::Saturated,
            });
        }
    }
    Ok(Path {
        points,
        end: PathEnd::Complete,
    })
}

/// Fits every given λ > 0, in the order given (falling is fastest), without an early end.
pub fn lasso_path_at(
    gram: &Gram,
    lambdas: &[f64],
    parameters: &PathParameters,
) -> Result<Vec<PathPoint>, FitError> {
    parameters.check()?;
    if let Some(&value) = lambdas
        .iter()
        .find(|&&lambda| !(lambda > 0.0 && lambda.is_finite()))
    {
        return Err(FitError::BadParameter {
            name: "lambda",
            value,
            wanted: "positive and finite",
        });
    }
    let problem = Problem::new(gram, parameters.penalty_factors.as_deref())?;
    let mut descent = Descent::new(&problem);
    Ok(lambdas
        .iter()
        .map(|&lambda| next_point(&mut descent, lambda, parameters))
        .collect())
}

impl PathParameters {
    /// Whether every parameter is in its range; the factors are checked where the columns are known.
    pub(super) fn check(&self) -> Result<(), FitError> {
        let checks = [
            (
                "lambda_count",
                self.lambda_count as f64,
                self.lambda_count >= 1,
                "at least 1",
            ),
            (
                "lambda_ratio",
                self.lambda_ratio,
                self.lambda_ratio > 0.0 && self.lambda_ratio < 1.0,
                "above 0 and below 1",
            ),
            (
                "tolerance",
                self.tolerance,
                (1e-15..=0.1).contains(&self.tolerance),
                "from 1e-15 to 0.1",
            ),
            (
                "sweeps_max",
                self.sweeps_max as f64,
                self.sweeps_max >= 1,
                "at least 1",
            ),
            (
                "unexplained_min",
                self.unexplained_min,
                (0.0..=1.0).contains(&self.unexplained_min),
                "from 0 to 1",
            ),
            (
                "gain_min",
                self.gain_min,
                (0.0..1.0).contains(&self.gain_min),
                "from 0 to below 1",
            ),
        ];
        match checks.into_iter().find(|&(_, _, is_good, _)| !is_good) {
            Some((name, value, _, wanted)) => Err(FitError::BadParameter {
                name,
                value,
                wanted,
            }),
            None => Ok(()),
        }
    }

    fn stop(&self) -> Stop {
        Stop {
            tolerance: self.tolerance,
            sweeps_max: self.sweeps_max,
        }
    }
}

fn next_point(descent: &mut Descent<'_>, lambda: f64, parameters: &PathParameters) -> PathPoint {
    let fit = descent.solve(lambda, parameters.stop());
    let terms = fit
        .coefficients
        .iter()
        .filter(|&&coefficient| coefficient != 0.0)
        .count();
    PathPoint {
        lambda,
        explained: descent.explained(),
        terms,
        fit,
    }
}

fn grid(problem: &Problem<'_>, parameters: &PathParameters) -> Vec<f64> {
    let lambda_max = problem.lambda_max();
    if lambda_max > 0.0 {
        let last = parameters.lambda_count.saturating_sub(1).max(1) as f64;
        let lambda = |k: usize| lambda_max * parameters.lambda_ratio.powf(k as f64 / last);
        return (0..parameters.lambda_count).map(lambda).collect();
    }
    // Nothing enters at any λ: the target's deviation is as good a λ as any for folds, where something may.
    let deviation = problem.gram().target_square().sqrt();
    vec![if deviation > 0.0 { deviation } else { 1.0 }]
}

fn is_saturated(unexplained: &[f64], parameters: &PathParameters) -> bool {
    let Some((&now, before)) = unexplained.split_last() else {
        return false;
    };
    let earlier = before
        .len()
        .checked_sub(SATURATION_STEPS)
        .map(|k| before[k]);
    now <= parameters.unexplained_min
        || earlier.is_some_and(|earlier| earlier - now < parameters.gain_min * earlier)
}

#[cfg(test)]
mod tests;
