//! The lasso problem that descent solves: a Gram matrix with penalty factors, free of unpenalised columns.
//!
//! Unpenalised columns U (fⱼ = 0) are eliminated exactly rather than descended upon, since they would make the dual
//! feasible set thin and the duality gap useless. For fixed penalised β_P the best β_U = Q_UU⁻¹ (q_U − Q_UP β_P), which
//! leaves a lasso in β_P alone over
//!
//! ```text
//! Q′ = Q_PP − Q_PU Q_UU⁻¹ Q_UP      q′ = q_P − Q_PU Q_UU⁻¹ q_U      yy′ = yy − q_Uᵀ Q_UU⁻¹ q_U
//! ```
//!
//! With Q_UU = LLᵀ, a = L⁻¹Q_UP and c = L⁻¹q_U these are Q_PP − aᵀa, q_P − aᵀc and yy − cᵀc, and β_U = L⁻ᵀ(c − aβ_P).

use thiserror::Error;

use super::cholesky::Cholesky;
use super::gram::Gram;
use super::vector::{axpy, dot};

/// A penalised column that keeps at most this share of its variance beside the unpenalised ones depends on them.
const OWN_SHARE_MIN: f64 = 1e-12;

/// Why a fit was not tried.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum FitError {
    /// A parameter is out of its range.
    #[error("parameter {name} is `{value}`, but must be {wanted}")]
    BadParameter {
        /// The parameter's name.
        name: &'static str,
        /// What was given.
        value: f64,
        /// The range, in words.
        wanted: &'static str,
    },
    /// There is not one penalty factor for each column.
    #[error("`{got}` penalty factors were given for `{columns}` columns")]
    PenaltyCount {
        /// p.
        columns: usize,
        /// Number of factors given.
        got: usize,
    },
    /// A penalty factor is negative, NaN, or neither zero nor within 1e-6 to 1e6.
    #[error("penalty factor `{value}` of column `{column}` is neither zero nor from 1e-6 to 1e6")]
    BadPenalty {
        /// Column, from 0.
        column: usize,
        /// The factor given.
        value: f64,
    },
    /// An unpenalised column depends linearly on those before it, so their coefficients are not determined.
    #[error("unpenalised column `{column}` depends on the unpenalised columns before it")]
    UnpenalisedDependent {
        /// Column, from 0.
        column: usize,
    },
}

/// min ½βᵀQβ − qᵀβ + λ Σ fⱼ|βⱼ| over the open columns.
#[derive(Debug)]
pub(super) struct Problem<'g> {
    gram: &'g Gram,
    /// fⱼ.
    factors: Vec<f64>,
    /// Whether βⱼ may leave zero in descent: false for constant and for eliminated columns.
    open: Vec<bool>,
    reduced: Option<Reduced>,
}

/// What takes the Gram matrix's place when there are unpenalised columns U.
#[derive(Debug)]
struct Reduced {
    /// U.
    unpenalised: Vec<usize>,
    /// L.
    cholesky: Cholesky,
    /// a, p columns of length |U|.
    a: Vec<f64>,
    /// c.
    c: Vec<f64>,
    /// Q′, p × p column-major.
    matrix: Vec<f64>,
    /// q′.
    cross: Vec<f64>,
    /// yy′.
    target_square: f64,
}

impl<'g> Problem<'g> {
    /// Takes the factors, one for each column; none means 1 everywhere.
    pub(super) fn new(gram: &'g Gram, factors: Option<&[f64]>) -> Result<Self, FitError> {
        let p = gram.column_count();
        let factors = factors.map_or_else(|| vec![1.0; p], <[f64]>::to_vec);
        if factors.len() != p {
            return Err(FitError::PenaltyCount {
                columns: p,
                got: factors.len(),
            });
        }
        let is_good = |factor: f64| factor == 0.0 || (1e-6..=1e6).contains(&factor);
        if let Some(column) = factors.iter().position(|&factor| !is_good(factor)) {
            return Err(FitError::BadPenalty {
                column,
                value: factors[column],
            });
        }
        let mut open: Vec<bool> = (0..p).map(|j| gram.deviation(j) > 0.0).collect();
        let unpenalised: Vec<usize> = (0..p).filter(|&j| open[j] && factors[j] == 0.0).collect();
        let reduced = if unpenalised.is_empty() {
            None
        } else {
            Some(Reduced::new(gram, unpenalised, &mut open)?)
        };
        Ok(Self {
            gram,
            factors,
            open,
            reduced,
        })
    }

    /// p.
    pub(super) fn column_count(&self) -> usize {
        self.factors.len()
    }

    /// fⱼ.
    pub(super) fn factor(&self, j: usize) -> f64 {
        self.factors[j]
    }

    /// The columns that may enter, in order.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        self.open
            .iter()
            .enumerate()
            .filter_map(|(j, &open)| open.then_some(j))
    }

    /// Column j of Q (or Q′), of length p.
    pub(super) fn column(&self, j: usize) -> &[f64] {
        match &self.reduced {
            None => self.gram.column(j),
            Some(reduced) => &reduced.matrix[j * self.factors.len()..][..self.factors.len()],
        }
    }

    /// q (or q′).
    pub(super) fn cross(&self) -> &[f64] {
        self.reduced
            .as_ref()
            .map_or(self.gram.cross(), |reduced| &reduced.cross)
    }

    /// yy (or yy′).
    pub(super) fn target_square(&self) -> f64 {
        self.reduced
            .as_ref()
            .map_or(self.gram.target_square(), |reduced| reduced.target_square)
    }

    /// The Gram matrix as it was given.
    pub(super) fn gram(&self) -> &'g Gram {
        self.gram
    }

    /// The smallest λ at which every penalised coefficient is zero: maxⱼ |qⱼ| / fⱼ; zero if nothing can enter.
    pub(super) fn lambda_max(&self) -> f64 {
        let cross = self.cross();
        self.open()
            .map(|j| cross[j].abs() / self.factors[j])
            .fold(0.0, f64::max)
    }

    /// Sets β_U, given β_P.
    pub(super) fn complete(&self, beta: &mut [f64]) {
        let Some(reduced) = &self.reduced else { return };
        let order = reduced.unpenalised.len();
        let mut own = reduced.c.clone();
        for (&beta, a) in beta
            .iter()
            .zip(reduced.a.chunks_exact(order))
            .filter(|(beta, _)| **beta != 0.0)
        {
            axpy(-beta, a, &mut own);
        }
        reduced.cholesky.solve_upper(&mut own);
        reduced
            .unpenalised
            .iter()
            .zip(own)
            .for_each(|(&j, own)| beta[j] = own);
    }
}

impl Reduced {
    fn new(gram: &Gram, unpenalised: Vec<usize>, open: &mut [bool]) -> Result<Self, FitError> {
        let (p, order) = (gram.column_count(), unpenalised.len());
        let mut cholesky = Cholesky::default();
        cholesky
            .factor(order, |i, k| gram.column(unpenalised[k])[unpenalised[i]])
            .map_err(|pivot| FitError::UnpenalisedDependent {
                column: unpenalised[pivot.index],
            })?;
        let mut c: Vec<f64> = unpenalised.iter().map(|&u| gram.cross()[u]).collect();
        cholesky.solve_lower(&mut c);
        let mut a = vec![0.0; p * order];
        for (j, a) in a.chunks_exact_mut(order).enumerate() {
            a.iter_mut()
                .zip(&unpenalised)
                .for_each(|(a, &u)| *a = gram.column(j)[u]);
            cholesky.solve_lower(a);
        }
        let mut matrix = Vec::with_capacity(p * p);
        for (j, aj) in a.chunks_exact(order).enumerate() {
            matrix.extend(
                gram.column(j)
                    .iter()
                    .zip(a.chunks_exact(order))
                    .map(|(q, ai)| q - dot(ai, aj)),
            );
        }
        let cross = gram
            .cross()
            .iter()
            .zip(a.chunks_exact(order))
            .map(|(q, a)| q - dot(a, &c))
            .collect();
        for (j, open) in open.iter_mut().enumerate() {
            *open &= matrix[j * p + j] > OWN_SHARE_MIN; // also closes U itself, whose own share is rounding
        }
        unpenalised.iter().for_each(|&u| open[u] = false);
        let target_square = (gram.target_square() - dot(&c, &c)).max(0.0);
        Ok(Self {
            unpenalised,
            cholesky,
            a,
            c,
            matrix,
            cross,
            target_square,
        })
    }
}
