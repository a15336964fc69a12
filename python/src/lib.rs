//! Wattfarm's arithmetic for Python: networks, models and predictions of them, as `cost` has them. What is not a number or a
//! text goes over as JSON; `wattfarm/__init__.py` gives it types.

mod source;

use std::path::PathBuf;

use prost::Message as _;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Value as Json, json};
use wattfarm_cost::epr::{ErrorRate, energy_precision_ratio};
use wattfarm_cost::layer::Value;
use wattfarm_cost::network::{Change, Coverage, Node, Sizes, Source, Step, zoo};
use wattfarm_cost::{Dtype, Layer, ModelSet, Platform, model, pareto};
use wattfarm_proto::convert::required;
use wattfarm_proto::v1;

use source::Source as File;

pyo3::create_exception!(
    _native,
    Error,
    PyValueError,
    "What cannot be read, built or predicted, and why."
);

/// An error with its causes, as a text.
fn refused(error: impl std::error::Error) -> PyErr {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(own) = cause {
        text.push_str(&format!(", because {own}"));
        cause = own.source();
    }
    Error::new_err(text)
}

fn parsed<T: std::str::FromStr<Err: std::error::Error>>(text: &str) -> PyResult<T> {
    text.parse().map_err(refused)
}

fn to_json(value: &impl serde::Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(refused)
}

/// Sizes that a file leaves open.
fn sizes(batch: Option<u64>, item: Option<Vec<u64>>, named: Vec<(String, Vec<u64>)>) -> Sizes {
    Sizes { batch, item, named }
}

/// A network of layers.
#[pyclass(frozen, module = "wattfarm._native")]
struct Network {
    network: wattfarm_cost::Network,
    coverage: Option<Coverage>,
    notes: Vec<String>,
}

impl Network {
    fn alone(network: wattfarm_cost::Network) -> Self {
        Self {
            network,
            coverage: None,
            notes: Vec::new(),
        }
    }
}

#[pymethods]
impl Network {
    /// A network built in by name.
    #[staticmethod]
    fn built_in(name: &str, batch: Option<u64>, dtype: &str) -> PyResult<Self> {
        let network = zoo::build(name, batch, parsed(dtype)?).map_err(refused)?;
        Ok(Self::alone(network))
    }

    /// The network of an ONNX file; its weights are not read. A path is its name, if it is given none.
    #[staticmethod]
    fn onnx(
        file: File<'_>,
        name: Option<String>,
        batch: Option<u64>,
        item: Option<Vec<u64>>,
        named: Vec<(String, Vec<u64>)>,
        dtype: Option<&str>,
    ) -> PyResult<Self> {
        let model = file.onnx().map_err(refused)?;
        let name = name.unwrap_or_else(|| file.name());
        let dtype = dtype.map(parsed::<Dtype>).transpose()?;
        let converted = model
            .network(
                &name,
                &sizes(batch, item, named),
                dtype.unwrap_or(model.dtype()),
            )
            .map_err(refused)?;
        Ok(Self {
            network: converted.network,
            coverage: Some(converted.coverage),
            notes: Vec::new(),
        })
    }

    /// The network of Caffe's description, as its test phase.
    #[staticmethod]
    fn caffe(
        path: PathBuf,
        name: Option<String>,
        batch: Option<u64>,
        item: Option<Vec<u64>>,
        named: Vec<(String, Vec<u64>)>,
        dtype: Option<&str>,
    ) -> PyResult<Self> {
        let model = wattfarm_caffe::open(&path).map_err(refused)?;
        let name = name.unwrap_or_else(|| source::stem(&path));
        let dtype = dtype.map(parsed::<Dtype>).transpose()?;
        let converted = model
            .network(
                &name,
                &sizes(batch, item, named),
                dtype.unwrap_or(Dtype::F32),
            )
            .map_err(refused)?;
        Ok(Self {
            network: converted.network,
            coverage: Some(converted.coverage),
            notes: Vec::new(),
        })
    }

    /// Layers by hand, as JSON objects with a kind and its fields. Each has inputs of its own, so that they need not fit
    /// each other.
    #[staticmethod]
    fn of_layers(name: String, layers: Vec<(String, String)>) -> PyResult<Self> {
        let mut nodes = Vec::new();
        let mut batch = None;
        for (name, fields) in layers {
            let in_layer = |reason: String| Error::new_err(format!("layer `{name}`: {reason}"));
            let layer: Layer =
                serde_json::from_str(&fields).map_err(|error| in_layer(error.to_string()))?;
            let shapes = layer.input_shapes();
            batch = batch.or(shapes.first().and_then(|shape| shape.first()).copied());
            let mut inputs = Vec::with_capacity(shapes.len());
            for (place, shape) in shapes.into_iter().enumerate() {
                inputs.push(Source::Node(nodes.len()));
                nodes.push(Node {
                    name: format!("{name}.input{place}"),
                    step: Step::Parameter(shape),
                    inputs: Vec::new(),
                });
            }
            nodes.push(Node {
                name,
                step: Step::Layer(layer),
                inputs,
            });
        }
        let input = vec![batch.unwrap_or(1)];
        let network = wattfarm_cost::Network::new(name, input, nodes).map_err(refused)?;
        Ok(Self::alone(network))
    }

    #[getter]
    fn name(&self) -> &str {
        self.network.name()
    }

    #[getter]
    fn batch(&self) -> u64 {
        self.network.batch()
    }

    /// The layers as a JSON array: name, hash, the kind with its fields, and what each has to do.
    fn layers(&self) -> PyResult<String> {
        let layer = |(name, layer): (&str, &Layer)| {
            let work = layer.work();
            json!({
                "name": name,
                "hash": layer.hash().to_string(),
                "layer": layer,
                "flops": work.flops,
                "bytes": work.bytes(),
                "parameters": work.parameters,
            })
        };
        to_json(&self.network.layers().map(layer).collect::<Vec<Json>>())
    }

    /// What a reader of predictions must know of the file, a line each.
    fn warnings(&self) -> Vec<String> {
        let told = self.coverage.iter().flat_map(Coverage::warnings);
        self.notes.iter().cloned().chain(told).collect()
    }

    /// How much of its file it stands for, as JSON; `None` if it is from none.
    fn coverage(&self) -> PyResult<Option<String>> {
        self.coverage.as_ref().map(to_json).transpose()
    }

    /// The network with fields of some layers set, and the layers behind as that has it.
    fn changed(&self, layers: Vec<String>, set: Vec<(String, String)>) -> PyResult<Self> {
        let set = set
            .into_iter()
            .map(|(field, text)| (field, Value::from(text.as_str())))
            .collect();
        let changed = self
            .network
            .changed(&Change { layers, set })
            .map_err(refused)?;
        Ok(Self {
            network: changed.network,
            coverage: self.coverage.clone(),
            notes: changed.notes,
        })
    }
}

/// A prediction and, apart from it, what a call from Python takes longer.
#[derive(serde::Serialize)]
struct Called {
    #[serde(flatten)]
    prediction: model::NetworkPrediction,
    python_overhead_ms: Option<f64>,
    python_overhead_ms_low: Option<f64>,
    python_overhead_ms_high: Option<f64>,
}

/// The models of one platform.
#[pyclass(frozen, module = "wattfarm._native")]
struct Models(ModelSet);

#[pymethods]
impl Models {
    /// Models as `wattfarm fetch` writes them.
    #[staticmethod]
    fn of_json(text: &str) -> PyResult<Self> {
        let models: ModelSet = serde_json::from_str(text).map_err(refused)?;
        models.check().map_err(refused)?;
        Ok(Self(models))
    }

    /// Models as the coordinator sends them: a header's bytes, and each model's.
    #[staticmethod]
    fn of_wire(header: &[u8], models: Vec<Bound<'_, PyBytes>>) -> PyResult<Self> {
        let header = v1::PlatformHeader::decode(header).map_err(refused)?;
        let platform = required("header.platform", header.platform).map_err(refused)?;
        let model = |bytes: &Bound<'_, PyBytes>| -> PyResult<model::Model> {
            let model = v1::Model::decode(bytes.as_bytes()).map_err(refused)?;
            model::Model::try_from(model).map_err(refused)
        };
        let models = models.iter().map(model).collect::<PyResult<Vec<_>>>()?;
        let platform = Platform::try_from(platform).map_err(refused)?;
        let models = ModelSet::new(header.slug, platform, models);
        models.check().map_err(refused)?;
        Ok(Self(models))
    }

    fn to_json(&self) -> PyResult<String> {
        serde_json::to_string_pretty(&self.0).map_err(refused)
    }

    /// What people call the platform.
    #[getter]
    fn platform(&self) -> &str {
        &self.0.slug
    }

    /// Each model's kind, dtype, target and cross-validated error, as a JSON array.
    fn list(&self) -> PyResult<String> {
        let one = |model: &model::Model| {
            json!({
                "kind": model.key.kind,
                "dtype": model.key.dtype,
                "target": model.key.target,
                "version": model.version,
                "rmspe": model.validation.rmspe,
                "samples": model.provenance.samples,
            })
        };
        to_json(&self.0.models.iter().map(one).collect::<Vec<Json>>())
    }

    /// A network's prediction as JSON, with what Python adds to it where each of its operators takes so much longer there:
    /// microseconds, and their least and most.
    fn predict(&self, network: &Network, python_us: Option<(f64, f64, f64)>) -> PyResult<String> {
        let mut prediction = model::predict(&network.network, &self.0);
        prediction.warnings.extend(network.warnings());
        let operators = network.network.layers().count() as f64;
        let ms = |us: f64| operators * us / 1e3;
        to_json(&Called {
            prediction,
            python_overhead_ms: python_us.map(|(us, _, _)| ms(us)),
            python_overhead_ms_low: python_us.map(|(_, low, _)| ms(low)),
            python_overhead_ms_high: python_us.map(|(_, _, high)| ms(high)),
        })
    }
}

/// error^alpha times the energy of an item, in the energy's unit.
#[pyfunction]
fn epr(error: f64, alpha: f64, energy_mj_per_item: f64) -> PyResult<f64> {
    let error = ErrorRate::new(error).map_err(refused)?;
    Ok(energy_precision_ratio(error, alpha, energy_mj_per_item))
}

/// Which points no other is at least as good as in both figures and better in one; lower is better.
#[pyfunction]
fn pareto_front(points: Vec<(f64, f64)>) -> Vec<bool> {
    pareto::front(&points)
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Network>()?;
    module.add_class::<Models>()?;
    module.add("Error", module.py().get_type::<Error>())?;
    module.add_function(wrap_pyfunction!(epr, module)?)?;
    module.add_function(wrap_pyfunction!(pareto_front, module)?)
}
