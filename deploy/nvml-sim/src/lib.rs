//! A simulated NVIDIA driver: a shared library with NVML's C interface, as far as the agent uses it.
//!
//! What the boards truly draw comes from a [`Script`], a JSON file: over time, over the load that a test tells it of, or
//! over the processor time of the process that loaded it. What NVML then says of it is made as real sensors make it: each
//! reading is renewed only so often, averages over a window that can be shorter or longer than that, and is off by a gain.
//!
//! The script is the file that `WATTFARM_NVML_SIM` names, or else the one beside the library with the ending `json`, so
//! that several tests of one process each have a copy of the library with a script and a time of their own.

mod abi;
mod board;
mod control;
mod history;
mod script;

pub use control::Simulation;
pub use history::History;
pub use script::{
    Averaging, BoardScript, Class, Counter, Event, Happening, Locking, PowerSource, Script, Sensor,
    Sensors, Thermal,
};

/// The environment variable that names the script.
pub const SCRIPT_VARIABLE: &str = "WATTFARM_NVML_SIM";
