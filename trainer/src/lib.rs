//! The trainer: decides which layers to measure ([`design`]), learns from the measurements ([`fit`], by [`growth`] and [`lasso`]), and
//! speaks with the coordinator ([`service`]). [`evaluate`] judges the fit on files, [`rebuild`] models by their provenance. It holds nothing that it cannot rebuild from what the coordinator tells.

pub mod design;
pub mod evaluate;
pub mod fit;
pub mod growth;
pub mod lasso;
mod parallel;
pub mod rebuild;
pub mod service;
