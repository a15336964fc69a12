//! The commands. Each asks, and shows what it got.

mod agents;
mod backup;
mod campaigns;
mod export;
mod fetch;
mod jobs;
mod keys;
mod measure;
mod networks;
mod platforms;
mod predict;
mod request;
mod retract;
mod token;

use crate::args::{Args, Command};
use crate::demo;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::session::Session;

/// Does what the command line asks.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = Session::new(args.coordinator, args.tls, args.operator_key_file);
    let output = match args.format.as_str() {
        "json" => Output::Json,
        "csv" => Output::Csv,
        _ => Output::Text,
    };
    if output == Output::Csv && !matches!(args.command, Command::Predict(_) | Command::Export(_)) {
        let message = "only predictions and exports are written as csv";
        return Err(Failure::new(Exit::Usage, message).into());
    }
    match args.command {
        Command::Token(command) => token::run(&session, output, command).await,
        Command::Keys(command) => keys::run(&session, output, command).await,
        Command::Agents(args) => agents::run(&session, output, args).await,
        Command::Platforms => platforms::run(&session, output).await,
        Command::Campaigns(args) => campaigns::run(&session, output, args).await,
        Command::Jobs(args) => jobs::run(&session, output, args).await,
        Command::Request(args) => request::run(&session, output, args).await,
        Command::Fetch(args) => fetch::run(&session, args).await,
        Command::Predict(args) => predict::run(&session, output, args).await,
        Command::Measure(args) => measure::run(&session, output, args).await,
        Command::Networks(args) => networks::run(output, &args),
        Command::Export(args) => export::run(&session, args).await,
        Command::Retract(args) => retract::run(&session, output, args).await,
        Command::Backup { output } => backup::run(&session, &output).await,
        Command::Demo(args) => demo::run(output, args).await,
    }
}
