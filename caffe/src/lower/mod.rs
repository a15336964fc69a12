//! Layers of a description as layers of a network.

mod shape;
mod window;

use std::collections::HashMap;

use wattfarm_cost::layer::{BatchNorm2d, Elementwise, Op, Shape};
use wattfarm_cost::network::{Coverage, NetworkBuilder, NetworkError, Sizes, Tensor, Uncosted};
use wattfarm_cost::{Dtype, Network};

use crate::error::{CaffeError, shown};
use crate::net::{Input, Layer, Net};

/// What a layer came to.
enum Outcome {
    /// Layers stand for it, and it makes this.
    Costed(Tensor),
    /// It costs nothing, and makes these.
    Free(Vec<Tensor>),
    /// Nothing of one pass forwards: a loss, a count of what is right.
    Aside,
    /// Nothing stands for it, and what it makes has the shape of what it reads.
    Uncosted,
    /// Nothing stands for it, and what it makes is not known.
    Unknown,
}

/// Makes the network of a description.
pub(crate) fn lower(
    net: &Net,
    name: &str,
    sizes: &Sizes,
    dtype: Dtype,
) -> Result<(Network, Coverage), CaffeError> {
    let shapes = input_shapes(&net.inputs, sizes)?;
    let mut lowering = Lowering {
        builder: NetworkBuilder::new(name, shapes[0].clone(), dtype),
        blobs: HashMap::new(),
        normed: None,
        coverage: Coverage {
            nodes: net.layers.len(),
            ..Coverage::default()
        },
    };
    for (place, (input, shape)) in net.inputs.iter().zip(&shapes).enumerate() {
        let tensor = match place {
            0 => lowering.builder.input(),
            _ => lowering.builder.parameter(&shown(&input.name), shape),
        };
        lowering
            .blobs
            .insert(input.name.clone(), Blob::Known(tensor));
    }
    if net.inputs.len() > 1 {
        lowering.coverage.notes.push(format!(
            "of the inputs, `{}` is the network's; the others are counted as constants that lie there",
            shown(&net.inputs[0].name)
        ));
    }
    for layer in &net.layers {
        lowering.layer(layer)?;
    }
    let Lowering {
        builder,
        mut coverage,
        ..
    } = lowering;
    let network = builder.finish()?;
    coverage.count_layers(&network);
    coverage.parameters = network
        .layers()
        .map(|(_, layer)| layer.work().parameters)
        .sum();
    Ok((network, coverage))
}

/// The inputs' shapes, batch first: the file's, as the caller changes them.
fn input_shapes(inputs: &[Input], sizes: &Sizes) -> Result<Vec<Shape>, CaffeError> {
    for (name, _) in &sizes.named {
        if !inputs.iter().any(|input| input.name == *name) {
            let names: Vec<String> = inputs
                .iter()
                .map(|input| format!("`{}`", shown(&input.name)))
                .collect();
            return Err(CaffeError::Input {
                input: shown(name),
                reason: format!("is no input: the inputs are {}", names.join(", ")),
            });
        }
    }
    let own_batch = inputs[0].shape.as_ref().and_then(|shape| shape.first());
    let batch = sizes.batch.or(own_batch.copied()).unwrap_or(1);
    let shape = |(place, input): (usize, &Input)| {
        let named = sizes.named.iter().rev();
        let named = named.clone().find(|(name, _)| *name == input.name);
        let item = named.map(|(_, item)| item);
        let item = item.or(sizes.item.as_ref().filter(|_| place == 0));
        match (item, &input.shape) {
            (Some(item), _) => Ok([&[batch], item.as_slice()].concat()),
            // Inputs that share the first one's batch go with it.
            (None, Some(shape)) if place == 0 || shape.first() == own_batch => {
                let mut shape = shape.clone();
                if let Some(first) = shape.first_mut() {
                    *first = batch;
                }
                Ok(shape)
            }
            (None, Some(shape)) => Ok(shape.clone()),
            (None, None) => {
                let like = input
                    .crop
                    .map_or("3x224x224".to_owned(), |crop| format!("3x{crop}x{crop}"));
                Err(CaffeError::Input {
                    input: shown(&input.name),
                    reason: format!(
                        "the file does not say its shape: give that of one item by --input {like}"
                    ),
                })
            }
        }
    };
    inputs.iter().enumerate().map(shape).collect()
}

/// What a name stands for by now.
#[derive(Clone)]
enum Blob {
    Known(Tensor),
    /// What a layer makes of which nothing is known.
    Unknown {
        layer: String,
        kind: String,
    },
}

struct Lowering {
    builder: NetworkBuilder,
    /// By name. What works in place puts another tensor under the same name.
    blobs: HashMap<String, Blob>,
    /// What the last batch normalisation made: a scale that follows it is a part of it.
    normed: Option<Tensor>,
    coverage: Coverage,
}

impl Lowering {
    fn layer(&mut self, layer: &Layer) -> Result<(), CaffeError> {
        let outcome = self.outcome(layer).map_err(|reason| layer.error(reason))?;
        if let Some(error) = self.builder.failed() {
            let reason = match error {
                NetworkError::Node { reason, .. } => reason.clone(),
                NetworkError::UnknownName(_)
                | NetworkError::Size(_)
                | NetworkError::Name(_)
                | NetworkError::Input(_) => error.to_string(),
            };
            return Err(layer.error(reason));
        }
        let made: Vec<Tensor> = match outcome {
            Outcome::Costed(tensor) => {
                self.coverage.costed += 1;
                vec![tensor]
            }
            Outcome::Free(tensors) => {
                self.coverage.free += 1;
                tensors
            }
            Outcome::Aside => {
                self.coverage.free += 1;
                Vec::new()
            }
            Outcome::Uncosted => {
                let x = self.read(layer, 0).map_err(|reason| layer.error(reason))?;
                let shape = self.builder.shape(x).clone();
                self.uncosted(layer, shape.iter().product());
                vec![self.builder.parameter(&self.title(layer), &shape)]
            }
            Outcome::Unknown => {
                self.uncosted(layer, 0);
                Vec::new()
            }
        };
        if made.len() > 1 && made.len() < layer.tops.len() {
            return Err(layer.error(format!(
                "has {} tops, and makes {}",
                layer.tops.len(),
                made.len()
            )));
        }
        for (place, top) in layer.tops.iter().enumerate() {
            let blob = match made.get(place) {
                Some(tensor) => Blob::Known(*tensor),
                None => Blob::Unknown {
                    layer: shown(&layer.name),
                    kind: shown(&layer.kind),
                },
            };
            self.blobs.insert(top.clone(), blob);
        }
        Ok(())
    }

    fn uncosted(&mut self, layer: &Layer, flops: u64) {
        self.coverage.uncosted.push(Uncosted {
            node: shown(&layer.name),
            operator: shown(&layer.kind),
            flops,
            bytes: flops.saturating_mul(8),
        });
    }

    /// The layer's name, as a network's node may have it.
    fn title(&self, layer: &Layer) -> String {
        shown(&layer.name)
    }

    /// The tensor that a layer reads at a place.
    fn read(&self, layer: &Layer, place: usize) -> Result<Tensor, String> {
        let name = layer
            .bottoms
            .get(place)
            .ok_or_else(|| format!("bottom {place} is missing"))?;
        match self.blobs.get(name) {
            Some(Blob::Known(tensor)) => Ok(*tensor),
            Some(Blob::Unknown { layer, kind }) => Err(format!(
                "reads `{}`, whose shape is not known: no rule tells what `{layer}` ({kind}) makes. Cut the network before it",
                shown(name)
            )),
            None => Err(format!(
                "reads `{}`, which nothing before it makes",
                shown(name)
            )),
        }
    }

    fn reads(&self, layer: &Layer) -> Result<Vec<Tensor>, String> {
        (0..layer.bottoms.len())
            .map(|place| self.read(layer, place))
            .collect()
    }

    fn stands_for(&mut self, layer: &Layer, kind: &str) {
        let what = format!("{} as {kind}", shown(&layer.kind));
        *self.coverage.stand_ins.entry(what).or_default() += 1;
    }

    fn each(&mut self, layer: &Layer, op: fn(Elementwise) -> Op) -> Result<Outcome, String> {
        let x = self.read(layer, 0)?;
        let title = self.title(layer);
        Ok(Outcome::Costed(self.builder.elementwise(&title, x, op)))
    }

    fn like(
        &mut self,
        layer: &Layer,
        op: fn(Elementwise) -> Op,
        kind: &str,
    ) -> Result<Outcome, String> {
        self.stands_for(layer, kind);
        self.each(layer, op)
    }

    fn outcome(&mut self, layer: &Layer) -> Result<Outcome, String> {
        match layer.kind.as_str() {
            "Convolution" | "ConvolutionDepthwise" | "DepthwiseConvolution" => {
                self.convolution(layer)
            }
            "Deconvolution" => self.deconvolution(layer),
            "Pooling" => self.pooling(layer),
            "InnerProduct" => self.inner_product(layer),
            "LRN" => self.local_response_norm(layer),
            "BatchNorm" => self.batch_norm(layer),
            "Scale" => self.scale(layer),
            "ReLU" => {
                let slope = layer.parameters("relu_param").number("negative_slope")?;
                match slope.is_none_or(|slope| slope == 0.0) {
                    true => self.each(layer, Op::Relu),
                    false => self.like(layer, Op::Relu, "relu"),
                }
            }
            "ReLU6" => self.each(layer, Op::Relu6),
            "PReLU" | "AbsVal" | "Threshold" | "Power" | "Bias" => {
                self.like(layer, Op::Relu, "relu")
            }
            "Sigmoid" => self.each(layer, Op::Sigmoid),
            "TanH" => self.each(layer, Op::Tanh),
            "Swish" => self.each(layer, Op::Silu),
            "ELU" | "BNLL" | "Exp" | "Log" => self.like(layer, Op::Sigmoid, "sigmoid"),
            "Dropout" => self.dropout(layer),
            "Softmax" => self.softmax(layer),
            "Eltwise" => self.eltwise(layer),
            "Concat" => self.concat(layer),
            "Slice" => self.slice(layer),
            "Split" => {
                let x = self.read(layer, 0)?;
                Ok(Outcome::Free(vec![x; layer.tops.len()]))
            }
            "Flatten" => self.flatten(layer),
            "Reshape" => self.reshape(layer),
            "Permute" => self.permute(layer),
            "Crop" => self.crop(layer),
            "Interp" | "Upsample" => self.enlarge(layer),
            "ShuffleChannel" => self.shuffle(layer),
            "MVN" | "Normalize" => Ok(Outcome::Uncosted),
            "Silence"
            | "Accuracy"
            | "SoftmaxWithLoss"
            | "EuclideanLoss"
            | "HingeLoss"
            | "SigmoidCrossEntropyLoss"
            | "MultinomialLogisticLoss"
            | "InfogainLoss"
            | "ContrastiveLoss"
            | "MultiBoxLoss" => Ok(Outcome::Aside),
            _ => Ok(Outcome::Unknown),
        }
    }

    /// At inference nothing is dropped. The ratio is the share that training drops: nothing is made of it, but that it is one.
    fn dropout(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let ratio = layer.parameters("dropout_param").number("dropout_ratio")?;
        match ratio.is_none_or(|ratio| (0.0..1.0).contains(&ratio)) {
            true => self.each(layer, Op::Dropout),
            false => Err("dropout_ratio is no share that could be dropped".to_owned()),
        }
    }

    /// Normalisation by stored statistics; the scale that follows it is counted with it.
    fn batch_norm(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let x = self.read(layer, 0)?;
        let made = self.channel_affine(layer, x)?;
        self.normed = Some(made);
        Ok(Outcome::Costed(made))
    }

    /// A factor, and perhaps a bias, for each channel: what a batch normalisation costs.
    fn channel_affine(&mut self, layer: &Layer, x: Tensor) -> Result<Tensor, String> {
        let shape = self.builder.shape(x).clone();
        let &[batch, channels, ref inner @ ..] = shape.as_slice() else {
            return Err(format!("reads {shape:?}, which has no channels"));
        };
        let (height, width) = match inner {
            &[height, width] => (height, width),
            inner => (inner.iter().product(), 1),
        };
        let title = self.title(layer);
        let image = self.view(
            &format!("{title}.image"),
            x,
            &[batch, channels, height, width],
        );
        let norm = BatchNorm2d {
            batch,
            channels,
            height,
            width,
        };
        let made = self.builder.layer(&title, &[image], Op::BatchNorm2d(norm));
        Ok(self.view(&format!("{title}.view"), made, &shape))
    }

    fn scale(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let x = self.read(layer, 0)?;
        if layer.bottoms.len() == 2 {
            let factor = self.read(layer, 1)?;
            // A factor for each channel stands before the axes that it lacks.
            let mut shape = self.builder.shape(factor).clone();
            shape.resize(self.builder.shape(x).len().max(shape.len()), 1);
            let title = self.title(layer);
            let factor = self.view(&format!("{title}.factor"), factor, &shape);
            return Ok(Outcome::Costed(self.builder.mul(&title, x, factor)));
        }
        if self.normed == Some(x) {
            self.normed = None;
            return Ok(Outcome::Costed(x));
        }
        self.stands_for(layer, "batch_norm2d");
        Ok(Outcome::Costed(self.channel_affine(layer, x)?))
    }

    /// The same values under other axes, if they are others.
    fn view(&mut self, name: &str, x: Tensor, shape: &[u64]) -> Tensor {
        match self.builder.shape(x) == shape {
            true => x,
            false => self.builder.reshape(name, x, shape),
        }
    }
}
