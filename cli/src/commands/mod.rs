//! The commands. Each asks, and shows what it got.

mod agents;
mod backup;
mod campaigns;
mod compare;
mod epr;
mod explain;
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
mod validate;
mod whatif;

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
        "html" => Output::Html,
        _ => Output::Text,
    };
    check_format(output, &args.command)?;
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
        Command::Explain(args) => explain::run(&session, output, args).await,
        Command::Compare(args) => compare::run(&session, output, args).await,
        Command::Whatif(args) => whatif::run(&session, output, args).await,
        Command::Epr(args) => epr::run(&session, output, args).await,
        Command::Measure(args) => measure::run(&session, output, args).await,
        Command::Validate(args) => validate::run(&session, output, args).await,
        Command::Networks(args) => networks::run(output, &args),
        Command::Export(args) => export::run(&session, args).await,
        Command::Retract(args) => retract::run(&session, output, args).await,
        Command::Backup { output } => backup::run(&session, &output).await,
        Command::Demo(args) => demo::run(output, args).await,
    }
}

/// Refuses a form that a command's result doesn't have, before anything is done.
fn check_format(output: Output, command: &Command) -> Result<(), Failure> {
    let has_page = matches!(
        command,
        Command::Predict(_) | Command::Compare(_) | Command::Validate(_)
    );
    let has_csv = has_page
        || matches!(
            command,
            Command::Whatif(_) | Command::Epr(_) | Command::Export(_)
        );
    match output {
        Output::Csv if !has_csv => Err(Failure::new(
            Exit::Usage,
            "only predictions and exports are written as csv",
        )),
        Output::Html if !has_page => Err(Failure::new(
            Exit::Usage,
            "only predictions, comparisons and validations are written as html",
        )),
        Output::Text | Output::Json | Output::Csv | Output::Html => Ok(()),
    }
}
