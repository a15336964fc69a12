//! `wattfarm`: the tool of whoever designs networks or runs a farm.
//!
//! What was asked for goes to stdout, everything else to stderr; [`exit::Exit`] lists the exit codes. The tool knows the
//! protocol and the arithmetic, never the code of the coordinator, the agent or the trainer: `wattfarm demo` starts those
//! as processes.

mod args;
mod commands;
mod demo;
mod exit;
mod farm;
mod files;
mod network;
mod output;
mod predictor;
mod quantity;
mod render;
mod session;
mod shelf;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;
use crate::exit::Exit;

/// One thread: the tool waits for others, and what `demo` starts shall inherit this thread's cores.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = commands::run(Args::parse()).await;
    let exit = outcome.as_ref().map_or_else(Exit::of, |()| Exit::Done);
    if let Err(error) = outcome
        && exit != Exit::Done
    {
        output::note(exit::describe(&error));
    }
    exit.into()
}
