//! The command with real farms.

mod commands;
mod demo;
mod farm;
