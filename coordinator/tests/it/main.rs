//! Tests of the coordinator from outside: one binary, so that it links once.

#![expect(
    clippy::disallowed_methods,
    reason = "tests of the shells need clocks and tasks"
)]
#![expect(
    clippy::print_stdout,
    reason = "seeds and figures are for whoever runs a test with --nocapture"
)]

mod allocations;
mod process;
mod world;

mod database;
mod farm_agents;
mod farm_campaigns;
mod farm_canary;
mod farm_leases;
mod farm_memory;
mod farm_peers;
mod farm_retractions;
mod farm_shares;
mod faults;
mod grpc;
mod hostile;
mod kill;
mod load;
mod shards;
mod simulation;
mod store;
mod store_dump;
mod store_golden;
