//! The coordinator of a Wattfarm: schedules profiling jobs to agents, keeps measurements and models.
//!
//! A library only so that tests can reach the parts: nothing else may depend on it.
#![expect(
    clippy::disallowed_methods,
    reason = "what `clippy.toml` forbids is for the farm, which denies it: the shells around need clocks and randomness"
)]

pub mod certs;
pub mod clock;
pub mod config;
pub mod draft;
pub mod farm;
pub mod grpc;
pub mod recall;
pub mod secret;
pub mod server;
mod shards;
pub mod signal;
pub mod store;
pub mod writer;
