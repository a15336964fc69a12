//! What a simulated box is like and what happens to it.

use serde::{Deserialize, Serialize};

/// A box: its driver and its boards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The driver's version, such as `580.95.05`.
    pub driver: String,
    /// The boards, in the order of their indices.
    pub boards: Vec<BoardScript>,
}

/// One board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoardScript {
    /// The board's name for itself.
    pub name: String,
    /// Device memory in MiB.
    pub memory_mib: u64,
    /// The enforced power limit in W; absent where the model doesn't tell.
    pub power_limit_w: Option<u32>,
    /// What its sensors are like.
    pub class: Class,
    /// Every reading and the counter are the truth times this.
    pub gain: f64,
    /// What it truly draws when nothing runs, in W.
    pub idle_w: f64,
    /// What it truly draws beyond that, and when.
    pub power: PowerSource,
    /// How warm it gets.
    pub thermal: Thermal,
    /// Its clock when idle and when busy, in MHz.
    pub clock_mhz: (u32, u32),
    /// Whether clocks can be locked.
    pub locking: Locking,
    /// What happens to it.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// Where the true power comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerSource {
    /// From each moment (in s) on this power (in W), until the next.
    OverTime(Vec<(f64, f64)>),
    /// What `wattfarmSimDraw` last said.
    Told,
    /// In proportion to the processor time of this process, up to this power at one core's full use.
    ProcessorTime {
        /// Power in W at full use.
        busy_w: f64,
    },
}

/// Whether clocks can be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Locking {
    /// They can.
    Permitted,
    /// Only root could.
    NoPermission,
    /// This model has no locked clocks.
    NotSupported,
}

/// Temperature follows power as a warming body: `ambient + per_w * (power averaged exponentially over time)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thermal {
    /// Degrees Celsius at no power.
    pub ambient_c: f64,
    /// Degrees for each W.
    pub per_w: f64,
    /// Time constant in s.
    pub time_s: f64,
}

/// Something that happens from one moment to another, in s since the start. Without an end it lasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When it begins.
    pub from_s: f64,
    /// When it ends.
    #[serde(default)]
    pub to_s: Option<f64>,
    /// What it is.
    pub what: Happening,
}

/// What can happen to a board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// These bits are among the reasons for lower clocks.
    Throttle(u64),
    /// The clock is this many MHz lower than it should be.
    ClockDrop(u32),
    /// A process of somebody else computes on it.
    ComputeProcess(u32),
    /// A process of somebody else draws pictures on it.
    GraphicsProcess(u32),
    /// It is split into instances.
    Mig,
    /// It is a virtual machine's share of a board.
    Vgpu,
    /// The driver is loaded anew: the energy counter begins at zero (at `from_s`; the end means nothing).
    CounterReset,
    /// The energy counter stands still.
    CounterStuck,
    /// It has fallen off the bus: every call fails.
    Lost,
}

/// Classes of sensors by their family (field data of arXiv 2312.02741).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A100, A30: a quarter of the time is sampled.
    Ga100,
    /// H100: the average is a second's, the instant a quarter of the time.
    Hopper,
    /// Ampere other than GA100, and Ada: the average is a second's, the instant a tenth's.
    Ampere,
    /// Turing.
    Turing,
    /// Volta: half of the time is sampled.
    Volta,
    /// Pascal: as Volta, and no energy counter.
    Pascal,
    /// Maxwell: a slow exponential average, and no energy counter.
    Maxwell,
    /// Kepler and older: no reading at all.
    None,
    /// Whatever a test wants.
    Custom(Sensors),
}

/// The sensors of a board; what is absent is not supported.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sensors {
    /// `nvmlDeviceGetPowerUsage`.
    pub usage: Option<Sensor>,
    /// Field 185.
    pub average: Option<Sensor>,
    /// Field 186.
    pub instant: Option<Sensor>,
    /// `nvmlDeviceGetTotalEnergyConsumption` and field 83.
    pub counter: Option<Counter>,
}

/// A power reading.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensor {
    /// How often it changes, in s.
    pub update_s: f64,
    /// What it is at a change.
    pub averaging: Averaging,
}

/// What a reading averages over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Averaging {
    /// The last so many s.
    Window(f64),
    /// All the past, weighted by an exponential with this time constant in s.
    Exponential(f64),
}

/// An energy counter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// How often it changes, in s.
    pub update_s: f64,
    /// It counts the truth times this, beside the board's own gain.
    pub gain: f64,
}

impl Class {
    /// The sensors of this class.
    pub fn sensors(&self) -> Sensors {
        let sensor = |update_s, window_s| {
            Some(Sensor {
                update_s,
                averaging: Averaging::Window(window_s),
            })
        };
        let counter = |update_s| {
            Some(Counter {
                update_s,
                gain: 1.0,
            })
        };
        match self {
            Self::Ga100 => Sensors {
                usage: sensor(0.1, 0.025),
                average: None,
                instant: sensor(0.1, 0.025),
                counter: counter(0.1),
            },
            Self::Hopper => Sensors {
                usage: sensor(0.1, 1.0),
                average: sensor(0.1, 1.0),
                instant: sensor(0.1, 0.025),
                counter: counter(0.1),
            },
            Self::Ampere => Sensors {
                usage: sensor(0.1, 1.0),
                average: sensor(0.1, 1.0),
                instant: sensor(0.1, 0.1),
                counter: counter(0.1),
            },
            Self::Turing => Sensors {
                usage: sensor(0.1, 0.1),
                counter: counter(0.1),
                ..Sensors::default()
            },
            Self::Volta => Sensors {
                usage: sensor(0.02, 0.01),
                counter: counter(0.02),
                ..Sensors::default()
            },
            Self::Pascal => Sensors {
                usage: sensor(0.02, 0.01),
                ..Sensors::default()
            },
            Self::Maxwell => Sensors {
                usage: Some(Sensor {
                    update_s: 0.1,
                    averaging: Averaging::Exponential(0.4),
                }),
                ..Sensors::default()
            },
            Self::None => Sensors::default(),
            Self::Custom(sensors) => sensors.clone(),
        }
    }
}

impl Script {
    /// One board of a class, as tests mostly want it: 60 W idle, told what it draws.
    pub fn of_class(class: Class) -> Self {
        Self {
            driver: "580.95.05".to_owned(),
            boards: vec![BoardScript {
                name: "Simulated GPU".to_owned(),
                memory_mib: 81_559,
                power_limit_w: Some(700),
                class,
                gain: 1.0,
                idle_w: 60.0,
                power: PowerSource::Told,
                thermal: Thermal {
                    ambient_c: 28.0,
                    per_w: 0.08,
                    time_s: 20.0,
                },
                clock_mhz: (345, 1980),
                locking: Locking::Permitted,
                events: Vec::new(),
            }],
        }
    }
}
