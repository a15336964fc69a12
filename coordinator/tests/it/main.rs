//! Tests of the coordinator from outside: one binary, so that it links once.

#![expect(
    clippy::disallowed_methods,
    reason = "tests of the shells need clocks and tasks"
)]

mod world;

mod farm_agents;
mod farm_campaigns;
mod farm_leases;
mod grpc;
mod kill;
mod simulation;
mod store;
