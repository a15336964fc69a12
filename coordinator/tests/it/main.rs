//! Tests of the coordinator from outside: one binary, so that it links once.

mod world;

mod farm_agents;
mod farm_campaigns;
mod farm_leases;
mod grpc;
mod kill;
mod simulation;
mod store;
