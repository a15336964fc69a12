//! A description's layers, as the test phase has them, whichever generation of the format they are written in.

use crate::error::{CaffeError, shown};
use crate::text::Message;

/// The most layers of a description.
const LAYERS_MAX: usize = 20_000;

/// A layer with its parameters, which are not read yet.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    /// Its type by the newer generation's name, such as `InnerProduct`.
    pub(crate) kind: String,
    /// Names of the blobs that it reads.
    pub(crate) bottoms: Vec<String>,
    /// Names of those that it makes: its own bottom's, where it works in place.
    pub(crate) tops: Vec<String>,
    pub(crate) fields: Message,
}

/// An input of the network, with its shape as far as the file has it.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    /// Batch first.
    pub(crate) shape: Option<Vec<u64>>,
    /// Rows and columns that images are cut to, where the file says no more than that.
    pub(crate) crop: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) inputs: Vec<Input>,
    /// Those that compute, in the order of the file, which is that of execution.
    pub(crate) layers: Vec<Layer>,
}

impl Layer {
    pub(crate) fn error(&self, reason: impl Into<String>) -> CaffeError {
        CaffeError::Layer {
            layer: shown(&self.name),
            kind: shown(&self.kind),
            line: self.fields.line,
            reason: reason.into(),
        }
    }

    /// A message of parameters; an empty one, where all are at their defaults.
    pub(crate) fn parameters(&self, name: &str) -> Message {
        self.fields.message(name).cloned().unwrap_or_default()
    }
}

impl Net {
    pub(crate) fn of(message: &Message) -> Result<Self, CaffeError> {
        let mut net = Self {
            inputs: inputs(message).map_err(CaffeError::Net)?,
            layers: Vec::new(),
        };
        for (generation, fields) in message.all_messages() {
            if !matches!(generation, "layer" | "layers") || !is_in_test_phase(fields) {
                continue;
            }
            if net.layers.len() == LAYERS_MAX {
                return Err(CaffeError::TooLarge(format!(
                    "the network has more than {LAYERS_MAX} layers"
                )));
            }
            let layer = Layer::of(fields);
            match layer.kind.as_str() {
                "Input" | "Data" | "ImageData" | "HDF5Data" | "MemoryData" | "DummyData"
                | "WindowData" | "AnnotatedData" => {
                    let made = data(&layer).map_err(|reason| layer.error(reason))?;
                    net.inputs.extend(made);
                }
                _ => net.layers.push(layer),
            }
        }
        match (net.layers.is_empty(), net.inputs.is_empty()) {
            (true, _) => Err(CaffeError::Net("has no layers".to_owned())),
            (_, true) => Err(CaffeError::Net(
                "has no input: a description to deploy begins with one".to_owned(),
            )),
            (false, false) => Ok(net),
        }
    }
}

impl Layer {
    fn of(fields: &Message) -> Self {
        let texts = |name| fields.words(name).map(str::to_owned).collect();
        let kind = fields.word("type").unwrap_or("nothing").to_owned();
        let tops: Vec<String> = texts("top");
        let name = fields.word("name").map(str::to_owned);
        Self {
            name: name
                .filter(|name| !name.is_empty())
                .or(tops.first().cloned())
                .unwrap_or_else(|| format!("line {}", fields.line)),
            kind: newer(&kind).map_or(kind, str::to_owned),
            bottoms: texts("bottom"),
            tops,
            fields: fields.clone(),
        }
    }
}

/// The newer name of an older generation's type.
fn newer(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "CONVOLUTION" => "Convolution",
        "DECONVOLUTION" => "Deconvolution",
        "INNER_PRODUCT" => "InnerProduct",
        "POOLING" => "Pooling",
        "RELU" => "ReLU",
        "SIGMOID" => "Sigmoid",
        "TANH" => "TanH",
        "BNLL" => "BNLL",
        "ABSVAL" => "AbsVal",
        "POWER" => "Power",
        "EXP" => "Exp",
        "THRESHOLD" => "Threshold",
        "DROPOUT" => "Dropout",
        "LRN" => "LRN",
        "MVN" => "MVN",
        "CONCAT" => "Concat",
        "ELTWISE" => "Eltwise",
        "SLICE" => "Slice",
        "SPLIT" => "Split",
        "FLATTEN" => "Flatten",
        "SOFTMAX" => "Softmax",
        "SOFTMAX_LOSS" => "SoftmaxWithLoss",
        "EUCLIDEAN_LOSS" => "EuclideanLoss",
        "HINGE_LOSS" => "HingeLoss",
        "SIGMOID_CROSS_ENTROPY_LOSS" => "SigmoidCrossEntropyLoss",
        "MULTINOMIAL_LOGISTIC_LOSS" => "MultinomialLogisticLoss",
        "INFOGAIN_LOSS" => "InfogainLoss",
        "CONTRASTIVE_LOSS" => "ContrastiveLoss",
        "ACCURACY" => "Accuracy",
        "ARGMAX" => "ArgMax",
        "SILENCE" => "Silence",
        "IM2COL" => "Im2col",
        "DATA" => "Data",
        "IMAGE_DATA" => "ImageData",
        "HDF5_DATA" => "HDF5Data",
        "MEMORY_DATA" => "MemoryData",
        "DUMMY_DATA" => "DummyData",
        "WINDOW_DATA" => "WindowData",
        _ => return None,
    })
}

/// Whether a layer takes part in the test phase: what is predicted is one pass forwards.
fn is_in_test_phase(layer: &Message) -> bool {
    let is_test = |rule: &Message| rule.word("phase").is_none_or(|phase| phase == "TEST");
    // The older generation wrote the rule's phase alone as well.
    let includes: Vec<bool> = layer.messages("include").map(is_test).collect();
    let is_excluded = layer.messages("exclude").any(is_test);
    (includes.is_empty() || includes.contains(&true)) && !is_excluded
}

/// Inputs written into the network itself.
fn inputs(net: &Message) -> Result<Vec<Input>, String> {
    let names: Vec<&str> = net.words("input").collect();
    let dims = net.sizes("input_dim")?;
    let shapes: Vec<Vec<u64>> = net
        .messages("input_shape")
        .map(|shape| shape.sizes("dim"))
        .collect::<Result<_, _>>()?;
    let shape = |place: usize| match shapes.get(place) {
        Some(shape) => Some(shape.clone()),
        // Four numbers for each input, one after the other.
        None => dims.get(4 * place..4 * place + 4).map(<[u64]>::to_vec),
    };
    let input = |(place, name): (usize, &&str)| Input {
        name: (*name).to_owned(),
        shape: shape(place),
        crop: None,
    };
    Ok(names.iter().enumerate().map(input).collect())
}

/// What a layer of data makes: one input for each top, labels but for their shape's sake left out.
fn data(layer: &Layer) -> Result<Vec<Input>, String> {
    let of_input = layer.parameters("input_param");
    let of_dummy = layer.parameters("dummy_data_param");
    let shapes = of_input.messages("shape").chain(of_dummy.messages("shape"));
    let shapes: Vec<Vec<u64>> = shapes
        .map(|shape| shape.sizes("dim"))
        .collect::<Result<_, _>>()?;
    let crop = layer.parameters("transform_param").size("crop_size")?;
    let memory = layer.parameters("memory_data_param");
    let mut in_memory = Vec::new();
    for field in ["batch_size", "channels", "height", "width"] {
        in_memory.extend(memory.size(field)?);
    }
    let shape = |place: usize| match in_memory.len() {
        4 if place == 0 => Some(in_memory.clone()),
        // One shape is all tops'.
        _ => shapes.get(place).or(shapes.first()).cloned(),
    };
    let is_written = !shapes.is_empty();
    let input = |(place, name): (usize, &String)| Input {
        name: name.clone(),
        shape: shape(place),
        crop,
    };
    let tops = layer.tops.iter().enumerate().map(input);
    // A second top of stored data is its labels, which nothing but losses reads.
    Ok(tops.take(if is_written { usize::MAX } else { 1 }).collect())
}
