//! Networks by name.

use std::convert::Infallible;
use std::str::FromStr;

use anyhow::Context as _;
use wattfarm_cost::Network;
use wattfarm_cost::layer::Dtype;
use wattfarm_cost::network::zoo;

use crate::exit::{Exit, Failure};

/// `NAME`, or `NAME@BATCH`. Whether there is such a network shows when it is built, so that an unknown one gets the same
/// exit code everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkName(String);

impl FromStr for NetworkName {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl NetworkName {
    /// The network, for its own batch unless the name has one.
    pub(crate) fn build(&self, dtype: Dtype) -> anyhow::Result<Network> {
        match self.0.rsplit_once('@') {
            Some((name, batch)) => {
                let refused = || {
                    Failure::new(
                        Exit::Usage,
                        format!("`{batch}` in `{}` is not a batch", self.0),
                    )
                };
                build(name, Some(batch.parse().with_context(refused)?), dtype)
            }
            None => build(&self.0, None, dtype),
        }
    }
}

/// A built-in network.
pub(crate) fn build(name: &str, batch: Option<u64>, dtype: Dtype) -> anyhow::Result<Network> {
    Ok(zoo::build(name, batch, dtype)?)
}

/// A built-in network once for each batch, or for its own if there is none.
pub(crate) fn build_batches(
    name: &str,
    batches: &[u64],
    dtype: Dtype,
) -> anyhow::Result<Vec<Network>> {
    match batches {
        [] => Ok(vec![build(name, None, dtype)?]),
        batches => batches
            .iter()
            .map(|&batch| build(name, Some(batch), dtype))
            .collect(),
    }
}
