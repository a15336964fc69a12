//! The vocabulary of Wattfarm and its arithmetic: layers, networks, platforms, measurements and fitted models.
//!
//! Nothing here reads a clock, a file, a socket or a device, and this crate knows none of the others. What two parts of
//! the farm must agree on (when two layers are one, what a term of a model means, how a network's time is summed) is
//! decided here, once.

pub mod epr;
pub mod hash;
pub mod id;
pub mod layer;
pub mod measurement;
pub mod model;
pub mod network;
pub mod pareto;
pub mod platform;

pub use hash::Hash;
pub use layer::{Dtype, Kind, Layer, LayerError, MemoryFormat};
pub use measurement::{Measurement, Subject};
pub use model::{Model, ModelSet, Target};
pub use network::Network;
pub use platform::Platform;
