//! The meter: power and energy of a board through NVML, with proof of the conditions.
//!
//! [`Board`] alone knows NVML. A [`Recorder`] writes what it says into a [`Trace`]; everything that is said of power is a
//! pure function of a trace. A [`Stage`] keeps the device busy or idle while a trace is written: on a real one a thread
//! polls beside the one that launches, under test time is played.
//!
//! No table of models can be trusted with what a sensor does, so [`probe`] finds out at enrolment how often each reading
//! changes, over what window it averages, and whether the energy counter agrees with integrated power: the
//! [`SensorClass`]. [`power_trial`] then measures by the best of them, or tells by [`Void`] why there is no figure.

mod board;
mod class;
mod clocks;
mod mean;
mod probe;
mod recorder;
mod session;
mod stage;
mod trace;
mod trial;
mod void;

pub use board::{Board, Description, Fault, Readings, State};
pub use class::{Counter, Sensor, SensorClass};
pub use clocks::LockedClock;
pub use mean::Mean;
pub use probe::{Thoroughness, probe};
pub use recorder::{Offsets, Recorder, Timepiece};
pub use session::{Found, Session, Settings};
pub use stage::{Bench, Busy, MachineTime, Stage, Work};
pub use trace::{Source, Trace};
pub use trial::{Ground, NoFigure, Policy, Tier, Trial, idle_power, power_trial};
pub use void::Void;
