//! A measurement: a job's answer with its provenance. Append-only; missing is missing, never zero.

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, JobId, LeaseNumber};
use crate::{Hash, Layer, Network};

/// Raw samples kept of one measurement, at most.
pub const SAMPLES_MAX: usize = 4096;

/// The longest call that is believed, in ms: an hour.
pub const RUNTIME_MS_MAX: f64 = 3.6e6;

/// The longest measuring of one job that is believed, in s: a day.
pub const SECONDS_MAX: f64 = 86_400.0;

/// The largest power that is believed, in W.
pub const POWER_W_MAX: f64 = 1e5;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// One layer, in the state that its recipe makes.
    Layer(Layer),
    /// A whole network, in eager mode.
    Network(Network),
}

impl Subject {
    /// The name among machines. Layers and networks have canonical forms with different beginnings, so no two meet.
    pub fn hash(&self) -> Hash {
        match self {
            Self::Layer(layer) => layer.hash(),
            Self::Network(network) => network.hash(),
        }
    }
}

/// The named, versioned way of measuring. A change of what it does is a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Recipe {
    /// One layer in about the state that it meets in a network: before each timed call a walk over a scratch buffer
    /// pushes out what was cached, then the inputs are written anew.
    #[serde(rename = "layer-in-network/1")]
    LayerInNetwork1,
    /// The same state, for a shorter time: on a machine that others share, more calls of one layer say less than calls of
    /// more layers. A figure of the first version is one of this, better known.
    #[serde(rename = "layer-in-network/2")]
    LayerInNetwork2,
    /// As the second, with the layer's weights pushed out of every cache, since by the next call of a network whatever else
    /// the machine does has done that; with a large output's buffer not written anew, since it was used a few layers ago; with
    /// calls that take turns at two places in memory, since where tensors lie is chance that an interval has to know of; and
    /// max pools read smooth, rectified values, as they do in networks, since their comparisons are branches.
    #[serde(rename = "layer-in-network/3")]
    LayerInNetwork3,
    /// A whole network, call after call, after warm-up.
    #[serde(rename = "whole-network/1")]
    WholeNetwork1,
    /// The same, with a bound on the time of a network whose calls are long.
    #[serde(rename = "whole-network/2")]
    WholeNetwork2,
}

impl Recipe {
    /// Every recipe.
    pub const ALL: [Self; 5] = [
        Self::LayerInNetwork1,
        Self::LayerInNetwork2,
        Self::LayerInNetwork3,
        Self::WholeNetwork1,
        Self::WholeNetwork2,
    ];

    /// What layers are measured by, when nobody asks for another.
    pub const LAYER: Self = Self::LayerInNetwork3;

    /// What networks are measured by, when nobody asks for another.
    pub const NETWORK: Self = Self::WholeNetwork2;

    /// The recipe's name with its version.
    pub fn name(self) -> &'static str {
        match self {
            Self::LayerInNetwork1 => "layer-in-network/1",
            Self::LayerInNetwork2 => "layer-in-network/2",
            Self::LayerInNetwork3 => "layer-in-network/3",
            Self::WholeNetwork1 => "whole-network/1",
            Self::WholeNetwork2 => "whole-network/2",
        }
    }

    /// The recipe that a subject is measured by when nobody asks for another.
    pub fn of(subject: &Subject) -> Self {
        match subject {
            Subject::Layer(_) => Self::LAYER,
            Subject::Network(_) => Self::NETWORK,
        }
    }
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A text that is no recipe's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a recipe")]
pub struct RecipeError(String);

impl std::str::FromStr for Recipe {
    type Err = RecipeError;
    fn from_str(text: &str) -> Result<Self, RecipeError> {
        let found = Self::ALL.into_iter().find(|recipe| recipe.name() == text);
        found.ok_or_else(|| RecipeError(text.chars().take(80).collect()))
    }
}

/// How long one call took. The interval is that of order statistics, which assume no distribution; of fewer than six
/// samples it is their extremes, which hold the median with a probability of 1 - 2^(1 - n) only: 75 % of three samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// Median of the samples, in ms.
    pub median_ms: f64,
    /// Lower end of the median's 95 % interval, in ms: by order statistics over the calls, and what the device's canary
    /// scatters by between repeats.
    pub low_ms: f64,
    /// Upper end of the median's 95 % interval, in ms.
    pub high_ms: f64,
    /// Timed calls that the figures are made of.
    pub repetitions: u32,
    /// Calls before the first timed one.
    pub warmup: u32,
    /// Timed calls during which the device was not the agent's alone. They are not among the samples, unless fewer than
    /// the recipe's least number of calls were undisturbed: then all calls are, these without the time that they did not have
    /// the device.
    #[serde(default)]
    pub disturbed: u32,
    /// Each of them, in ms, undisturbed ones first and otherwise in order, at most [`SAMPLES_MAX`].
    pub samples_ms: Vec<f32>,
}

/// What the board drew while the calls ran back to back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// Mean over the window, in W, idle power included.
    pub mean_w: f64,
    /// The board's power when idle, in W.
    pub idle_w: Option<f64>,
    /// Where the reading comes from, such as `nvml-total-energy`.
    pub sensor: String,
    /// Length of the window in s.
    pub window_s: f64,
}

/// The conditions a measurement was taken in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// Version of the agent.
    pub agent_version: String,
    /// The box's name for itself.
    pub host: String,
    /// Version of the device's driver.
    pub driver: Option<String>,
    /// Mean clock while measuring, in MHz.
    pub clock_mhz: Option<f64>,
    /// The device's temperature at the end, in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Reasons for lower clocks that were seen, as NVML's bits.
    pub throttle_reasons: u64,
    /// Milliseconds since 1970 when the measurement ended, by the agent's clock.
    pub measured_at_ms: u64,
    /// Seconds of measuring: warm-up, preparing each call, and the calls. Building the subject is not in it. Budgets
    /// count these.
    pub seconds: f64,
    /// What only a board tells, through NVML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board: Option<Board>,
}

/// A board, and how its power was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Board {
    /// Which board of its platform it was: boards of one type differ by 8 to 22 %.
    pub uuid: String,
    /// Median time that the host took to launch a call, in ms. What a device takes for less time than this waits for its
    /// host inside a network.
    pub launch_ms: Option<f64>,
    /// How power was measured.
    pub trial: Option<PowerTrial>,
    /// Why power was not measured although the job asked for it.
    pub power_void: Option<String>,
}

/// How a figure of power came about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PowerTrial {
    /// The named, versioned way of measuring, such as `power-light/1`.
    pub procedure: String,
    /// The mean's 95 % interval in W, apart from the sensor's gain.
    pub low_w: f64,
    /// Its upper end.
    pub high_w: f64,
    /// The sensor's reading over the truth, as the owner gave it: figures are divided by it already.
    pub gain: Option<f64>,
    /// Windows that the mean is of.
    pub windows: u32,
    /// Changes of the sensor in them.
    pub ticks: u32,
    /// Starting points within the sensor's period that they were spread over.
    pub phases: u32,
    /// Time of one call, back to back, in ms.
    pub call_ms: f64,
    /// The lowest clock, in MHz.
    pub clock_min_mhz: Option<f64>,
    /// The clock was held here, in MHz.
    pub locked_mhz: Option<f64>,
    /// Temperature at the beginning.
    pub temperature_before_c: Option<f64>,
    /// When each raw reading came, in s since the first window began; at most [`SAMPLES_MAX`].
    pub samples_s: Vec<f32>,
    /// And what it said, in W.
    pub samples_w: Vec<f32>,
}

/// What the agent found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Runtime of one call.
    pub runtime: Runtime,
    /// Power, where the device has a meter and the job asked for it.
    pub power: Option<Power>,
    /// The conditions.
    pub conditions: Conditions,
}

/// A reading that physics or arithmetic forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ReadingError {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl Board {
    /// Refuses what is not finite, an interval upside down, and texts or samples that are too long.
    fn check(&self) -> Result<(), ReadingError> {
        let refuse = |field, reason: &str| {
            Err(ReadingError {
                field,
                reason: reason.to_owned(),
            })
        };
        if self.uuid.len() > 200
            || self
                .power_void
                .as_ref()
                .is_some_and(|text| text.len() > 1000)
        {
            return refuse("conditions.board", "holds a text that is too long");
        }
        if self
            .launch_ms
            .is_some_and(|ms| !(ms.is_finite() && ms >= 0.0))
        {
            return refuse("conditions.board.launch_ms", "is not a time");
        }
        let Some(trial) = &self.trial else {
            return Ok(());
        };
        if trial.procedure.is_empty() || trial.procedure.len() > 120 {
            return refuse(
                "conditions.board.trial.procedure",
                "must have 1 to 120 bytes",
            );
        }
        let figures = [trial.low_w, trial.high_w, trial.call_ms];
        if figures
            .iter()
            .any(|figure| !(figure.is_finite() && *figure > 0.0))
            || trial.low_w > trial.high_w
        {
            return refuse(
                "conditions.board.trial",
                "holds a figure that is not positive, or an interval upside down",
            );
        }
        if trial.gain.is_some_and(|gain| !(0.1..=10.0).contains(&gain)) {
            return refuse("conditions.board.trial.gain", "must be 0.1 to 10");
        }
        let samples = [&trial.samples_s, &trial.samples_w];
        if trial.samples_s.len() != trial.samples_w.len() || trial.samples_s.len() > SAMPLES_MAX {
            return refuse(
                "conditions.board.trial.samples",
                "must be at most 4096 pairs",
            );
        }
        match samples
            .into_iter()
            .flatten()
            .all(|sample| sample.is_finite())
        {
            true => Ok(()),
            false => refuse(
                "conditions.board.trial.samples",
                "holds what is not a number",
            ),
        }
    }
}

impl Reading {
    /// Refuses NaN, infinite, zero and negative figures, an interval that doesn't hold its median, and samples that are
    /// missing or too many.
    pub fn check(&self) -> Result<(), ReadingError> {
        let positive = |field, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(ReadingError {
                field,
                reason: format!("`{value}` is not a positive number"),
            }),
        };
        let at_most = |field, value: f64, most: f64| match value <= most {
            true => Ok(()),
            false => Err(ReadingError {
                field,
                reason: format!("`{value}` is over {most}"),
            }),
        };
        let refuse = |field, reason: &str| {
            Err(ReadingError {
                field,
                reason: reason.to_owned(),
            })
        };
        let runtime = &self.runtime;
        positive("runtime.median_ms", runtime.median_ms)?;
        positive("runtime.low_ms", runtime.low_ms)?;
        positive("runtime.high_ms", runtime.high_ms)?;
        at_most("runtime.high_ms", runtime.high_ms, RUNTIME_MS_MAX)?;
        if runtime.low_ms > runtime.median_ms || runtime.high_ms < runtime.median_ms {
            return refuse("runtime.median_ms", "lies outside its own interval");
        }
        if runtime.samples_ms.is_empty() || runtime.samples_ms.len() > SAMPLES_MAX {
            return refuse("runtime.samples_ms", "must hold 1 to 4096 samples");
        }
        if (runtime.repetitions as usize) < runtime.samples_ms.len() {
            return refuse("runtime.repetitions", "is less than the number of samples");
        }
        runtime
            .samples_ms
            .iter()
            .try_for_each(|&sample| positive("runtime.samples_ms", f64::from(sample)))?;
        // Samples are rounded to 24 bits. Where only a part of them was kept, the median may lie outside.
        let is_whole = runtime.repetitions as usize == runtime.samples_ms.len();
        let least = runtime.samples_ms.iter().copied().fold(f32::MAX, f32::min);
        let most = runtime.samples_ms.iter().copied().fold(0.0, f32::max);
        let span = f64::from(least) * (1.0 - 1e-6)..=f64::from(most) * (1.0 + 1e-6);
        if is_whole && !span.contains(&runtime.median_ms) {
            return refuse("runtime.median_ms", "lies outside its samples");
        }
        if let Some(power) = &self.power {
            positive("power.mean_w", power.mean_w)?;
            at_most("power.mean_w", power.mean_w, POWER_W_MAX)?;
            positive("power.window_s", power.window_s)?;
            power
                .idle_w
                .map_or(Ok(()), |watts| positive("power.idle_w", watts))?;
            if power.sensor.is_empty() || power.sensor.len() > 120 {
                return refuse("power.sensor", "must have 1 to 120 bytes");
            }
        }
        let conditions = &self.conditions;
        positive("conditions.seconds", conditions.seconds)?;
        at_most("conditions.seconds", conditions.seconds, SECONDS_MAX)?;
        conditions
            .clock_mhz
            .map_or(Ok(()), |clock| positive("conditions.clock_mhz", clock))?;
        if conditions
            .temperature_c
            .is_some_and(|celsius| !(-50.0..=200.0).contains(&celsius))
        {
            return refuse(
                "conditions.temperature_c",
                "is not a temperature of a running device",
            );
        }
        let texts = [&conditions.agent_version, &conditions.host];
        if let Some(board) = &conditions.board {
            board.check()?;
        }
        if texts
            .into_iter()
            .chain(&conditions.driver)
            .any(|text| text.len() > 200)
        {
            return refuse("conditions", "holds a text of over 200 bytes");
        }
        Ok(())
    }

    /// Energy of one call of the whole batch in mJ: the board's, idle included.
    pub fn energy_mj(&self) -> Option<f64> {
        self.power
            .as_ref()
            .map(|power| power.mean_w * self.runtime.median_ms)
    }
}

/// A reading in the farm's books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// Its place in the farm's order of arrival: the cursor that followers read from. Starts at 1.
    pub sequence: u64,
    /// The job that it answers.
    pub job: JobId,
    /// The agent that measured.
    pub agent: AgentId,
    /// The lease it was measured under.
    pub lease: LeaseNumber,
    /// The platform that it belongs to.
    pub platform: Hash,
    /// What was measured.
    pub subject: Subject,
    /// How.
    pub recipe: Recipe,
    /// What was found.
    pub reading: Reading,
    /// Milliseconds since 1970 when the coordinator took it, by its clock.
    pub received_at_ms: u64,
}
