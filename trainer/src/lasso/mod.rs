//! Lasso over Gram matrices: decides which terms of a sparse polynomial earn their place, and with what coefficient.
//!
//! With columns xⱼ (n rows, p of them), target y, weights w > 0 and W = Σw, every column is centred by its weighted
//! mean and divided by its weighted standard deviation (glmnet: Friedman, Hastie, Tibshirani 2010); y is only
//! centred. On these standardised columns
//!
//! ```text
//! Q = XᵀWX / W   (p × p, unit diagonal)      q = XᵀWy / W   (units of y)      yy = yᵀWy / W   (units of y²)
//!
//! minimise over β    ½βᵀQβ − qᵀβ + ½yy + λ Σⱼ fⱼ|βⱼ|    =    1/(2W) Σᵢ wᵢ (yᵢ − xᵢᵀβ)² + λ Σⱼ fⱼ|βⱼ|
//! ```
//!
//! λ is in units of y, and the penalty factors fⱼ ≥ 0 are 1 unless the caller says otherwise. What comes out is on the
//! caller's own scale: ŷ = intercept + Σⱼ coefficientⱼ xⱼ. This is the objective of scikit-learn's `Lasso` on scaled
//! columns, and of glmnet up to its scaling of y.
//!
//! - [`Design`]: the checked data.
//! - [`Moments`], [`Gram`]: Q, q and yy, with or without a fold's rows.
//! - [`lasso`], [`lasso_path`]: one λ, or a falling grid of them. - [`cross_validate`]: which λ, by the caller's metric.
//! - [`refit`]: (ridge) least squares on a chosen support, without the lasso's shrinkage.
//!
//! Nothing here reads a clock, a file or a random number, and no result depends on the number of threads: each sum is
//! formed by one thread, in an order that the shapes alone decide.

mod cholesky;
mod crossval;
mod descent;
mod design;
mod gram;
mod path;
mod problem;
mod refit;
#[cfg(test)]
mod testing;
mod vector;

pub(crate) use cholesky::Cholesky;
pub use crossval::{
    CrossValidation, CrossValidationError, CrossValidationParameters, HeldOut, Scores,
    cross_validate,
};
pub use descent::Fit;
pub use design::{Design, DesignError, MAGNITUDE_MAX};
pub use gram::{Gram, Moments};
pub use path::{Path, PathEnd, PathParameters, PathPoint, lasso, lasso_path, lasso_path_at};
pub use problem::FitError;
pub use refit::{Refit, RefitError, refit};
