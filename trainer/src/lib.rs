//! The trainer: decides which layers to measure ([`design`]), learns from the measurements ([`fit`], by [`lasso`]), and
//! speaks with the coordinator ([`service`]). It holds nothing that it cannot rebuild from what the coordinator tells.

pub mod design;
pub mod fit;
pub mod lasso;
pub mod service;
