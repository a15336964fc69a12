//! Networks by name, and from files.

use std::convert::Infallible;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;
use wattfarm_cost::Network;
use wattfarm_cost::layer::Dtype;
use wattfarm_cost::network::zoo;
use wattfarm_onnx::{Coverage, Sizes};

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

/// Sizes of an input, as typed: `3x224x224`, or `NAME=128`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputSize {
    name: Option<String>,
    shape: Vec<u64>,
}

impl FromStr for InputSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, shape) = match text.rsplit_once('=') {
            Some((name, shape)) => (Some(name.to_owned()), shape),
            None => (None, text),
        };
        let sizes = shape.split('x').map(|size| size.parse::<u64>());
        match sizes.collect::<Result<Vec<u64>, _>>() {
            Ok(shape) if !shape.contains(&0) => Ok(Self { name, shape }),
            _ => Err(format!("`{shape}` is not a shape such as 3x224x224")),
        }
    }
}

/// A network to predict, and how much of its file it stands for, if it comes from one.
pub(crate) struct Loaded {
    pub(crate) network: Network,
    pub(crate) coverage: Option<Coverage>,
}

/// A network once for each batch, or for its own if there is none: from an ONNX file if the name is one's, else built in.
pub(crate) fn load(
    name: &str,
    batches: &[u64],
    inputs: &[InputSize],
    dtype: Option<Dtype>,
) -> anyhow::Result<Vec<Loaded>> {
    let path = Path::new(name);
    if path.extension().is_none_or(|extension| extension != "onnx") {
        if !inputs.is_empty() {
            let message =
                format!("`{name}` is a built-in network: its input has a size of its own");
            return Err(Failure::new(Exit::Usage, message).into());
        }
        let networks = build_batches(name, batches, dtype.unwrap_or(Dtype::F32))?.into_iter();
        let built_in = |network| Loaded {
            network,
            coverage: None,
        };
        return Ok(networks.map(built_in).collect());
    }
    let doing = || format!("read a network from {}", path.display());
    let model = wattfarm_onnx::open(path).with_context(doing)?;
    let title = path.file_stem().unwrap_or_default().to_string_lossy();
    let dtype = dtype.unwrap_or(model.dtype());
    let mut sizes = Sizes::default();
    for input in inputs {
        match &input.name {
            Some(name) => sizes.named.push((name.clone(), input.shape.clone())),
            None => sizes.item = Some(input.shape.clone()),
        }
    }
    let batches: Vec<Option<u64>> = match batches {
        [] => vec![None],
        batches => batches.iter().copied().map(Some).collect(),
    };
    let mut loaded = Vec::with_capacity(batches.len());
    for batch in batches {
        let sizes = Sizes {
            batch,
            ..sizes.clone()
        };
        let converted = model.network(&title, &sizes, dtype).with_context(doing)?;
        loaded.push(Loaded {
            network: converted.network,
            coverage: Some(converted.coverage),
        });
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_names_or_not() {
        let of = |text: &str| text.parse::<InputSize>();
        let size = |name: Option<&str>, shape: &[u64]| InputSize {
            name: name.map(str::to_owned),
            shape: shape.to_vec(),
        };
        assert_eq!(of("3x224x224"), Ok(size(None, &[3, 224, 224])));
        assert_eq!(of("a=b=128"), Ok(size(Some("a=b"), &[128])));
        for wrong in ["", "3x", "x3", "3x0", "ids=", "3*4", "-1"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
