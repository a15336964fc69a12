//! Networks by name, and from files.

use std::convert::Infallible;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;
use wattfarm_cost::Network;
use wattfarm_cost::layer::{Dtype, Value};
use wattfarm_cost::network::zoo;
use wattfarm_cost::network::{Coverage, Sizes};

use crate::args::SizesArgs;
use crate::exit::{Exit, Failure};

/// `NAME`, or `NAME@BATCH`, of a built-in network or a file. Whether there is such a network shows when it is loaded, so that
/// an unknown one gets the same exit code everywhere.
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
    pub(crate) fn load(&self, dtype: Dtype) -> anyhow::Result<Network> {
        let (name, batch) = match self.0.rsplit_once('@') {
            Some((name, batch)) => {
                let refused = || {
                    Failure::new(
                        Exit::Usage,
                        format!("`{batch}` in `{}` is not a batch", self.0),
                    )
                };
                (name, Some(batch.parse().with_context(refused)?))
            }
            None => (&*self.0, None),
        };
        let sizes = SizesArgs {
            batch: batch.into_iter().collect(),
            input: Vec::new(),
            dtype: Some(dtype),
        };
        let mut loaded = load(name, &sizes)?;
        Ok(loaded.swap_remove(0).network)
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

/// A layer's field with its value, as typed: `out_channels=192`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldValue {
    pub(crate) field: String,
    pub(crate) value: Value,
}

impl FromStr for FieldValue {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((field, value)) if !field.is_empty() && !value.is_empty() => Ok(Self {
                field: field.to_owned(),
                value: Value::from(value),
            }),
            _ => Err("is not a field with its value, such as out_channels=192".to_owned()),
        }
    }
}

/// A network to predict, and how much of its file it stands for, if it comes from one.
pub(crate) struct Loaded {
    pub(crate) network: Network,
    pub(crate) coverage: Option<Coverage>,
}

/// What a file's name says that it is.
enum File {
    Onnx(wattfarm_onnx::Model),
    Caffe(wattfarm_caffe::Model),
}

impl File {
    /// Reads a file by its extension; `None` if the name is no file's.
    fn open(path: &Path) -> Option<anyhow::Result<Self>> {
        match path.extension()?.to_str()? {
            "onnx" => Some(
                wattfarm_onnx::open(path)
                    .map(Self::Onnx)
                    .map_err(Into::into),
            ),
            "prototxt" => Some(
                wattfarm_caffe::open(path)
                    .map(Self::Caffe)
                    .map_err(Into::into),
            ),
            _ => None,
        }
    }

    /// The number type of its weights, where it has any.
    fn dtype(&self) -> Dtype {
        match self {
            Self::Onnx(model) => model.dtype(),
            Self::Caffe(_) => Dtype::F32,
        }
    }

    fn load(&self, name: &str, sizes: &Sizes, dtype: Dtype) -> anyhow::Result<Loaded> {
        let (network, coverage) = match self {
            Self::Onnx(model) => {
                let converted = model.network(name, sizes, dtype)?;
                (converted.network, converted.coverage)
            }
            Self::Caffe(model) => {
                let converted = model.network(name, sizes, dtype)?;
                (converted.network, converted.coverage)
            }
        };
        Ok(Loaded {
            network,
            coverage: Some(coverage),
        })
    }
}

/// A network once for each batch, or for its own if there is none: from an ONNX file or Caffe's description if the name is
/// one's, else built in.
pub(crate) fn load(name: &str, sizes: &SizesArgs) -> anyhow::Result<Vec<Loaded>> {
    let SizesArgs {
        batch: batches,
        input: inputs,
        dtype,
    } = sizes;
    let path = Path::new(name);
    let doing = || format!("read a network from {}", path.display());
    let Some(file) = File::open(path) else {
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
    };
    let file = file.with_context(doing)?;
    let title = path.file_stem().unwrap_or_default().to_string_lossy();
    let dtype = dtype.unwrap_or(file.dtype());
    let mut sizes = Sizes::default();
    for input in inputs {
        match &input.name {
            Some(name) => sizes.named.push((name.clone(), input.shape.clone())),
            None => sizes.item = Some(input.shape.clone()),
        }
    }
    let batches: Vec<Option<u64>> = match batches.as_slice() {
        [] => vec![None],
        batches => batches.iter().copied().map(Some).collect(),
    };
    batches
        .into_iter()
        .map(|batch| {
            let sizes = Sizes {
                batch,
                ..sizes.clone()
            };
            file.load(&title, &sizes, dtype).with_context(doing)
        })
        .collect()
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
