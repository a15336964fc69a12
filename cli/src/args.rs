//! The command line, as typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use uuid::Uuid;
use wattfarm_cost::epr::ErrorRate;
use wattfarm_cost::{Dtype, Kind, Target};
use wattfarm_proto::tls::TlsArgs;

use crate::exit::EXIT_CODES;
use crate::network::{FieldValue, InputSize, NetworkName};
use crate::quantity::{Budget, Duration, Sequences, positive};

/// Learns what the layers of a neural network cost on the devices of a farm, and predicts networks from that.
#[derive(Debug, Parser)]
#[command(name = "wattfarm", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Where the coordinator listens. Several addresses, with commas between them, of coordinators over one database.
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        env = "WATTFARM_COORDINATOR",
        default_value = "127.0.0.1:7461"
    )]
    pub(crate) coordinator: String,

    /// File with the caller's key: the operator's, which the coordinator writes into its store as `operator.key`, or one
    /// that `wattfarm keys create` made.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "WATTFARM_OPERATOR_KEY_FILE"
    )]
    pub(crate) operator_key_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    /// How results are written: `text` or `table` for people, `json` with everything, or (of a prediction) `csv` or a page
    /// in `html`.
    #[arg(long, global = true, default_value = "text", value_parser = ["text", "table", "json", "csv", "html"])]
    pub(crate) format: String,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes the token that enrols one agent (operator).
    #[command(subcommand)]
    Token(TokenCommand),
    /// Makes, lists or revokes users' keys (operator).
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Lists the agents, or takes one out of service (operator).
    Agents(AgentsArgs),
    /// Lists the platforms that can be asked about.
    Platforms,
    /// Lists the campaigns, follows one, or ends one (operator, but for --watch).
    Campaigns(CampaignsArgs),
    /// Lists jobs, and why each waits or ended (operator).
    Jobs(JobsArgs),
    /// Asks for the models of a platform: starts a campaign of measurements.
    Request(RequestArgs),
    /// Fetches the newest models of a platform, for predictions offline.
    Fetch(FetchArgs),
    /// Predicts a network, layer by layer.
    Predict(PredictArgs),
    /// Shows what a model is made of: a formula, the most influential terms first.
    Explain(ExplainArgs),
    /// Compares networks on platforms, and tells which no other beats.
    Compare(CompareArgs),
    /// Tells what a network would cost with some of its layers changed.
    Whatif(WhatifArgs),
    /// Weighs networks' errors against their energy: error^alpha times mJ an item, lower is better.
    Epr(EprArgs),
    /// Measures a network as a whole on a platform's agents.
    Measure(MeasureArgs),
    /// Measures networks and each of their layers on a platform's agents, and says how right the predictions were.
    Validate(ValidateArgs),
    /// Lists the built-in networks, one network's layers, or the layer kinds.
    Networks(NetworksArgs),
    /// Writes every measurement into files (operator).
    Export(ExportArgs),
    /// Takes measurements back, for a reason: models are fitted without them from then on (operator).
    Retract(RetractArgs),
    /// Writes all that the coordinator's store holds into a file, while the farm works on (operator).
    Backup {
        /// The file to write; `wattfarm-coordinator import` makes a store of it.
        #[arg(long, short, value_name = "PATH")]
        output: PathBuf,
    },
    /// Runs a farm on this machine, and compares what it predicts with what it measures.
    Demo(DemoArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token: it enrols one agent, once.
    Create {
        /// What it is for.
        #[arg(long, default_value = "")]
        note: String,
        /// How long it can be used.
        #[arg(long, default_value = "1d")]
        ttl: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Makes a key; it is shown once.
    Create {
        /// Whose it is.
        name: String,
        /// What it allows; each may do what those before it may.
        #[arg(long, value_enum, default_value = "request")]
        role: Role,
        /// How long it is valid; until it is revoked, if left out.
        #[arg(long)]
        ttl: Option<Duration>,
    },
    /// Lists the keys that are valid.
    List,
    /// Takes a key back.
    Revoke {
        /// The key's id.
        id: Uuid,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Look at platforms, campaigns and models, and predict.
    Read,
    /// Ask for models and measurements.
    Request,
    /// Everything.
    Operate,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AgentsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<AgentsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// Lists the agents; what `wattfarm agents` alone does.
    List,
    /// Gives an agent no more jobs; it keeps the leases that it has.
    Drain {
        /// The agent.
        id: Uuid,
        /// Puts it back into service.
        #[arg(long)]
        undo: bool,
    },
    /// Takes an agent's rights: its credential opens nothing any more.
    Revoke {
        /// The agent.
        id: Uuid,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CampaignsArgs {
    /// Follows this campaign until it has ended.
    #[arg(long, value_name = "ID", conflicts_with = "cancel")]
    pub(crate) watch: Option<Uuid>,
    /// Ends this campaign; what was measured stays.
    #[arg(long, value_name = "ID")]
    pub(crate) cancel: Option<Uuid>,
    /// Has this campaign's jobs wait.
    #[arg(long, value_name = "ID", conflicts_with_all = ["watch", "cancel"])]
    pub(crate) pause: Option<Uuid>,
    /// Lets this campaign's jobs go on.
    #[arg(long, value_name = "ID", conflicts_with_all = ["watch", "cancel", "pause"])]
    pub(crate) resume: Option<Uuid>,
    /// Gives this campaign more: its new budget is --budget.
    #[arg(long, value_name = "ID", requires = "budget", conflicts_with_all = ["watch", "cancel", "pause", "resume"])]
    pub(crate) extend: Option<Uuid>,
    /// With --extend: so many jobs (`500`), or so much measuring (`30m`), in all.
    #[arg(long, requires = "extend")]
    pub(crate) budget: Option<Budget>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct JobsArgs {
    /// Only those of this platform (slug or hash).
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Only those in these states.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) state: Vec<JobState>,
    /// At most so many.
    #[arg(long, default_value_t = 1000)]
    pub(crate) limit: u32,
    /// Only those that wait or are under way, each reason once with how many jobs it holds up.
    #[arg(long, conflicts_with = "state")]
    pub(crate) why: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum JobState {
    /// Waits for an agent.
    Queued,
    /// An agent has it.
    Leased,
    /// Measured.
    Done,
    /// The platform cannot run it: an answer.
    Infeasible,
    /// Failed too often.
    Parked,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RequestArgs {
    /// The platform (slug or hash).
    #[arg(long)]
    pub(crate) platform: String,
    /// Layer kinds, such as `conv2d,linear`; all, if left out.
    #[arg(long, value_delimiter = ',')]
    pub(crate) kinds: Vec<Kind>,
    /// Number type of the layers.
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: Dtype,
    /// Ends when every kind's cross-validated error (RMSPE, in percent) is at most this.
    #[arg(long, value_name = "PERCENT")]
    pub(crate) target_error: Option<f64>,
    /// Ends after so many jobs (`500`), or so much measuring summed over agents (`30m`).
    #[arg(long, default_value = "30m")]
    pub(crate) budget: Budget,
    /// Its share of the platform beside others' campaigns, 1 to 100.
    #[arg(long, default_value_t = 1)]
    pub(crate) weight: u32,
    /// Goes before campaigns that are not urgent (operator).
    #[arg(long)]
    pub(crate) urgent: bool,
    /// Networks whose layers are not sampled, to judge the models by: `resnet18,neuralpower/nin@8,net.onnx@1`.
    #[arg(long, value_name = "NETWORK[@BATCH]", value_delimiter = ',')]
    pub(crate) exclude: Vec<NetworkName>,
    /// The campaign's id; the same request under the same id is one campaign. A new one, if left out.
    #[arg(long)]
    pub(crate) id: Option<Uuid>,
    /// Follows the campaign until it has ended.
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FetchArgs {
    /// The platform (slug or hash).
    #[arg(long)]
    pub(crate) platform: String,
    /// The file to write; stdout, if left out.
    #[arg(long, short, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// A folder to put the models into under the platform's name, with their checksum: `--models` finds them there by it.
    #[arg(long, value_name = "FOLDER", conflicts_with = "output")]
    pub(crate) shelf: Option<PathBuf>,
}

/// What predicts.
#[derive(Debug, ClapArgs)]
pub(crate) struct PredictorArgs {
    #[command(flatten)]
    pub(crate) of: PredictorName,
    #[command(flatten)]
    pub(crate) shelf: ShelfArgs,
}

/// A platform, or its models.
#[derive(Debug, ClapArgs)]
#[group(id = "predictor", required = true, multiple = false)]
pub(crate) struct PredictorName {
    /// The platform (slug or hash): the coordinator predicts or, if there is none or it has no models of the platform, those
    /// that are on the shelf under its name.
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// A file that `wattfarm fetch` wrote, or a platform on the shelf: predicts here, without a coordinator.
    #[arg(long, value_name = "PATH|PLATFORM")]
    pub(crate) models: Option<PathBuf>,
}

/// Where models lie that are found by their platform's name.
#[derive(Debug, ClapArgs)]
pub(crate) struct ShelfArgs {
    /// A folder that `wattfarm fetch --shelf` filled, to look for a platform's models in first. Looked through after it are
    /// `platforms` in the current folder and what was installed with this command.
    #[arg(long, value_name = "FOLDER", env = "WATTFARM_PLATFORMS")]
    pub(crate) shelf: Option<PathBuf>,
}

/// What a network leaves open.
#[derive(Debug, ClapArgs)]
pub(crate) struct SizesArgs {
    /// Items in a batch, one prediction for each; the network's own, if left out.
    #[arg(long, value_delimiter = ',')]
    pub(crate) batch: Vec<u64>,
    /// Sizes that a file leaves open, or others than it has: the shape of one item (`3x224x224`), that of one item of a
    /// named input (`ids=128`), or the size of a named axis (`length=128`).
    #[arg(long, value_name = "[NAME=]SHAPE")]
    pub(crate) input: Vec<InputSize>,
    /// Number type of the layers; a file's own, or f32, if left out.
    #[arg(long)]
    pub(crate) dtype: Option<Dtype>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PredictArgs {
    /// An ONNX file, Caffe's prototxt, or a built-in network: `wattfarm networks` lists them.
    pub(crate) network: String,
    #[command(flatten)]
    pub(crate) predictor: PredictorArgs,
    #[command(flatten)]
    pub(crate) sizes: SizesArgs,
    /// Ends with exit code 7 if one call takes longer, in ms.
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub(crate) budget_ms: Option<f64>,
    /// Ends with exit code 7 if one call takes more energy, in mJ.
    #[arg(long, value_name = "MJ", value_parser = positive)]
    pub(crate) budget_mj: Option<f64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PredictorsArgs {
    #[command(flatten)]
    pub(crate) of: PredictorNames,
    #[command(flatten)]
    pub(crate) shelf: ShelfArgs,
}

/// Platforms, or the models of some.
#[derive(Debug, ClapArgs)]
#[group(id = "predictors", required = true, multiple = true)]
pub(crate) struct PredictorNames {
    /// Platforms (slugs or hashes): the coordinator predicts or, of those that it has no models of, the shelf.
    #[arg(long, visible_alias = "platform", value_delimiter = ',')]
    pub(crate) platforms: Vec<String>,
    /// Files that `wattfarm fetch` wrote, or platforms on the shelf: predicts here, without a coordinator.
    #[arg(long, value_name = "PATH|PLATFORM", value_delimiter = ',')]
    pub(crate) models: Vec<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompareArgs {
    /// ONNX files, Caffe's prototxts and built-in networks: `wattfarm networks` lists them.
    #[arg(required = true)]
    pub(crate) networks: Vec<String>,
    /// Each network's error, as a fraction (`0.24`) or in percent (`24%`), in the networks' order: what is traded for time
    /// then, instead of energy.
    #[arg(long, value_delimiter = ',', value_name = "ERROR")]
    pub(crate) error: Vec<ErrorRate>,
    #[command(flatten)]
    pub(crate) predictors: PredictorsArgs,
    #[command(flatten)]
    pub(crate) sizes: SizesArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WhatifArgs {
    /// An ONNX file, Caffe's prototxt, or a built-in network: `wattfarm networks` lists them.
    pub(crate) network: String,
    /// Layers to change, by name; `*` stands for any characters (`layer1.*.conv2`). The layers behind follow.
    #[arg(long, required = true, value_delimiter = ',', value_name = "NAME")]
    pub(crate) layer: Vec<String>,
    /// What to change in each of them: a field (`out_channels=192`), all that begin alike (`kernel=5`), or `kind=relu`.
    #[arg(long, required = true, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<FieldValue>,
    #[command(flatten)]
    pub(crate) predictor: PredictorArgs,
    #[command(flatten)]
    pub(crate) sizes: SizesArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    /// The layer kind.
    pub(crate) kind: Kind,
    #[command(flatten)]
    pub(crate) predictor: PredictorArgs,
    /// What it predicts: `runtime_ms`, `power_w` or `energy_mj`.
    #[arg(long, default_value_t = Target::RuntimeMs)]
    pub(crate) target: Target,
    /// The number type of its layers.
    #[arg(long, default_value_t = Dtype::F32)]
    pub(crate) dtype: Dtype,
    /// Terms of the polynomial that the text shows; JSON has all.
    #[arg(long, default_value_t = 20)]
    pub(crate) terms: usize,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EprArgs {
    /// ONNX files, Caffe's prototxts and built-in networks; only their names, with --energy-mj.
    #[arg(required = true)]
    pub(crate) networks: Vec<String>,
    /// Each network's classification error, as a fraction (`0.24`) or in percent (`24%`), in the networks' order.
    #[arg(long, required = true, value_delimiter = ',', value_name = "ERROR")]
    pub(crate) error: Vec<ErrorRate>,
    /// How much accuracy weighs; one ratio for each.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4")]
    pub(crate) alpha: Vec<f64>,
    /// Each network's energy of one item in mJ, in the networks' order: nothing is predicted.
    #[arg(long, group = "predictor", value_delimiter = ',', value_name = "MJ")]
    pub(crate) energy_mj: Vec<f64>,
    #[command(flatten)]
    pub(crate) predictor: PredictorArgs,
    #[command(flatten)]
    pub(crate) sizes: SizesArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct MeasureArgs {
    /// A built-in network: `wattfarm networks` lists them.
    pub(crate) network: String,
    /// The platform (slug or hash).
    #[arg(long)]
    pub(crate) platform: String,
    /// Items in a batch; the network's own, if left out.
    #[arg(long, value_delimiter = ',')]
    pub(crate) batch: Vec<u64>,
    /// Number type of the layers.
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: Dtype,
    /// Measurements wanted, those already there included; 0 shows only what is there.
    #[arg(long, default_value_t = 1)]
    pub(crate) replicas: u32,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ValidateArgs {
    /// ONNX files, Caffe's prototxts and built-in networks: `wattfarm networks` lists them.
    #[arg(required = true)]
    pub(crate) networks: Vec<String>,
    /// The platform (slug or hash).
    #[arg(long)]
    pub(crate) platform: String,
    #[command(flatten)]
    pub(crate) sizes: SizesArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NetworksArgs {
    /// Lists the layers of this network.
    pub(crate) network: Option<NetworkName>,
    /// Lists the layer kinds with their fields and defaults.
    #[arg(long, conflicts_with = "network")]
    pub(crate) kinds: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    // The id is the global option's, which this one replaces here.
    /// One file a layer kind: CSV, or JSON lines with everything, raw samples included.
    #[arg(id = "format", long, value_name = "FORMAT", default_value = "csv", value_parser = ["csv", "ndjson"])]
    pub(crate) encoding: String,
    /// The folder to write into.
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) output: PathBuf,
    /// Only those of this platform (slug or hash).
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// With those that were retracted, and why in `retractions.ndjson`.
    #[arg(long)]
    pub(crate) retracted: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RetractArgs {
    /// Sequences of measurements, as exports have them: `17`, or `20-25` for all from 20 to 25.
    #[arg(required = true, value_name = "SEQUENCE")]
    pub(crate) sequences: Vec<Sequences>,
    /// Why they are not to be believed.
    #[arg(long, value_name = "REASON")]
    pub(crate) because: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DemoArgs {
    /// How long to measure layers.
    #[arg(long, default_value = "5m")]
    pub(crate) budget: Duration,
    /// Where the demo's farm keeps everything; a second run goes on from there.
    #[arg(long, default_value = "target/demo")]
    pub(crate) dir: PathBuf,
    /// The networks to judge by, at batch 1.
    #[arg(long, value_delimiter = ',', default_values_t = crate::demo::NETWORKS.map(str::to_owned))]
    pub(crate) networks: Vec<String>,
}
