//! The agent: measures layers and whole networks on one device and reports to a coordinator.
//!
//! `executor` knows libtorch and never times; `recipe` times and never sees libtorch; `meter` reads power and knows
//! neither; `worker` talks to the coordinator and does none of it.

pub mod additivity;
pub mod canary;
mod cgroup;
pub mod device;
pub mod executor;
pub mod identity;
pub mod measuring;
pub mod meter;
pub mod recipe;
pub mod self_check;
pub mod worker;

/// The agent's version, part of every measurement's provenance.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
