//! Caffe's network descriptions (prototxt) as networks.
//!
//! [`Model::read`] reads the text, of either generation (`layer` and `layers`), and keeps the layers that take part in the
//! test phase. [`Model::network`] then gives them shapes, as Caffe would, and makes a [`wattfarm_cost::Network`] of them, with
//! a [`Coverage`] that says what became of each. Layers that work in place are layers like all others; padding is taken as it
//! is written; a pool rounds up unless it says otherwise.
//!
//! Nothing here does I/O but [`open`], and nothing but `cost` is known.

mod error;
mod lower;
mod net;
mod text;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use wattfarm_cost::network::{Coverage, Sizes};
use wattfarm_cost::{Dtype, Network};

pub use error::CaffeError;
use net::Net;

/// The most bytes of a description. Those of the deepest networks are some hundred thousand.
const BYTES_MAX: u64 = 16 << 20;

/// The layers of a description, checked one by one.
#[derive(Debug)]
pub struct Model {
    net: Net,
}

/// A network from a description, and how much of it it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The network.
    pub network: Network,
    /// What became of the description's layers.
    pub coverage: Coverage,
}

impl Model {
    /// Reads a description of at most 16 MiB.
    pub fn read(file: impl Read) -> Result<Self, CaffeError> {
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(CaffeError::TooLarge(
                "the file has more than 16 MiB".to_owned(),
            ));
        }
        let message = text::parse(&String::from_utf8_lossy(&bytes))?;
        Ok(Self {
            net: Net::of(&message)?,
        })
    }

    /// The network for these sizes, under this name, in this number type.
    pub fn network(
        &self,
        name: &str,
        sizes: &Sizes,
        dtype: Dtype,
    ) -> Result<Converted, CaffeError> {
        let (network, coverage) = lower::lower(&self.net, name, sizes, dtype)?;
        Ok(Converted { network, coverage })
    }
}

/// Reads the description at a path.
pub fn open(path: &Path) -> Result<Model, CaffeError> {
    Model::read(File::open(path)?)
}
