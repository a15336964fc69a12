//! Shapes of tensors, node by node, and the values of those that shapes are made of.

mod fold;
mod window;

use crate::bind::Bound;
use crate::error::OnnxError;
use crate::file::{Attribute, Node};
use crate::graph::Graph;
use crate::value::{Element, FOLDED_MAX, Info, Values, dims, numel};

pub(crate) use window::{Windows, transposed, windows};

/// Why a node's outputs are not known.
pub(crate) enum Unknown {
    /// The node is wrong.
    Wrong(String),
    /// An operator that we have no rule for, or whose output's shape depends on the values of a call.
    Open(String),
}

impl From<String> for Unknown {
    fn from(reason: String) -> Self {
        Self::Wrong(reason)
    }
}

impl From<&str> for Unknown {
    fn from(reason: &str) -> Self {
        Self::Wrong(reason.to_owned())
    }
}

type Inferred = Result<Vec<Info>, Unknown>;

/// Whether an operator is ONNX's own, under whatever name of its domain.
pub(crate) fn is_standard(node: &Node) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx")
}

/// What is known of every tensor of a graph.
pub(crate) fn infer(graph: &Graph, bound: &Bound) -> Result<Vec<Option<Info>>, OnnxError> {
    let mut infos: Vec<Option<Info>> = vec![None; graph.names.len()];
    for (id, info) in &graph.constants {
        infos[*id] = Some(info.clone());
    }
    for ((id, input), shape) in graph.inputs.iter().zip(&bound.inputs) {
        infos[*id] = Some(Info::new(shape.clone(), input.element));
    }
    let mut left = FOLDED_MAX;
    for (index, step) in graph.steps.iter().enumerate() {
        let inputs: Vec<Option<&Info>> = step
            .inputs
            .iter()
            .map(|id| id.and_then(|id| infos[id].as_ref()))
            .collect();
        let context = Context {
            node: &step.node,
            inputs: &inputs,
            rebatched: bound.rebatched,
            outputs: step.outputs.len(),
        };
        let outputs = match context.infer(&mut left) {
            Ok(outputs) => outputs,
            Err(Unknown::Wrong(reason)) => return Err(step.node.error(index, reason)),
            Err(Unknown::Open(reason)) => {
                let written = |id: &Option<usize>| {
                    let Some(id) = id else {
                        return Some(Info::new(vec![], Element(0)));
                    };
                    let value = graph.written.get(id)?;
                    Some(Info::new(bound.written(value)?, value.element))
                };
                let written: Option<Vec<Info>> = step.outputs.iter().map(written).collect();
                for info in written.iter().flatten() {
                    numel(&info.shape).map_err(|reason| step.node.error(index, reason))?;
                }
                written.ok_or_else(|| {
                    step.node.error(
                        index,
                        format!(
                            "{reason}, and the file does not say the shape of its output: export it with shapes, or \
                             cut the network before this node"
                        ),
                    )
                })?
            }
        };
        let constant = !step.inputs.is_empty() && inputs.iter().flatten().all(|info| info.constant);
        for (id, mut info) in step.outputs.iter().zip(outputs) {
            if let Some(id) = id {
                info.constant |= constant;
                infos[*id] = Some(info);
            }
        }
    }
    Ok(infos)
}

/// One node with what is known of its inputs.
struct Context<'a> {
    node: &'a Node,
    inputs: &'a [Option<&'a Info>],
    rebatched: Option<(u64, u64)>,
    outputs: usize,
}

impl Context<'_> {
    fn input(&self, index: usize) -> Result<&Info, Unknown> {
        let found = self.inputs.get(index).copied().flatten();
        found.ok_or_else(|| Unknown::Wrong(format!("input {index} is missing")))
    }

    fn has(&self, index: usize) -> bool {
        self.inputs.get(index).copied().flatten().is_some()
    }

    /// Whole numbers of a constant input.
    fn ints(&self, index: usize) -> Result<Vec<i64>, Unknown> {
        match &self.input(index)?.values {
            Some(values) => Ok(values.ints()),
            None => Err(Unknown::Open(format!(
                "the values of input {index} are known only when the network runs"
            ))),
        }
    }

    /// Whole numbers of an attribute or, since some opset, of an input; `None` if neither is there.
    fn ints_of(&self, name: &str, index: usize) -> Result<Option<Vec<i64>>, Unknown> {
        match self.node.ints(name) {
            Some(values) => Ok(Some(values.to_vec())),
            None if self.has(index) => self.ints(index).map(Some),
            None => Ok(None),
        }
    }

    fn like(&self, index: usize) -> Inferred {
        let of = self.input(index)?;
        let one = Info::new(of.shape.clone(), of.element);
        Ok(vec![one; self.outputs.max(1)])
    }

    fn one(&self, shape: Vec<u64>, element: Element) -> Inferred {
        Ok(vec![Info::new(shape, element)])
    }

    fn axis(&self, axis: i64, rank: usize) -> Result<usize, Unknown> {
        place(axis, rank)
            .ok_or_else(|| Unknown::Wrong(format!("axis {axis} of a tensor of {rank} axes")))
    }

    /// What is known of the outputs. Of values, at most as many are computed as are `left`.
    fn infer(&self, left: &mut u64) -> Inferred {
        let mut outputs = self.shapes()?;
        for output in &outputs {
            numel(&output.shape)?;
        }
        if outputs.len() == 1
            && outputs[0].values.is_none()
            && outputs[0].numel() <= *left
            && let Some(values) = fold::fold(self.node, self.inputs, &outputs[0])
        {
            *left -= outputs[0].numel();
            outputs[0] = Info::of_values(outputs[0].shape.clone(), outputs[0].element, values);
        }
        Ok(outputs)
    }

    #[expect(clippy::too_many_lines, reason = "a table: an operator, its rule")]
    fn shapes(&self) -> Inferred {
        let node = self.node;
        let operator = node.operator.as_str();
        if !is_standard(node) {
            return match (node.domain.as_str(), operator) {
                ("com.microsoft", "Gelu" | "FastGelu" | "QuickGelu" | "BiasGelu") => self.like(0),
                _ => Err(Unknown::Open(format!(
                    "there is no rule for operators of `{}`",
                    crate::error::shown(&node.domain)
                ))),
            };
        }
        match operator {
            "Abs"
            | "Acos"
            | "Acosh"
            | "Asin"
            | "Asinh"
            | "Atan"
            | "Atanh"
            | "Bernoulli"
            | "BitwiseNot"
            | "Ceil"
            | "Celu"
            | "Clip"
            | "Cos"
            | "Cosh"
            | "CumSum"
            | "Elu"
            | "Erf"
            | "Exp"
            | "Floor"
            | "Gelu"
            | "HardSigmoid"
            | "HardSwish"
            | "Hardmax"
            | "Identity"
            | "InstanceNormalization"
            | "LRN"
            | "LeakyRelu"
            | "Log"
            | "LogSoftmax"
            | "LpNormalization"
            | "MeanVarianceNormalization"
            | "Mish"
            | "Neg"
            | "PRelu"
            | "RMSNormalization"
            | "Reciprocal"
            | "Relu"
            | "Round"
            | "Selu"
            | "Shrink"
            | "Sigmoid"
            | "Sign"
            | "Sin"
            | "Sinh"
            | "Softmax"
            | "Softplus"
            | "Softsign"
            | "Sqrt"
            | "Swish"
            | "Tan"
            | "Tanh"
            | "ThresholdedRelu"
            | "Trilu"
            | "GroupNormalization"
            | "RotaryEmbedding"
            | "ScatterElements"
            | "ScatterND"
            | "Scatter"
            | "ReverseSequence"
            | "TensorScatter" => self.like(0),
            "BatchNormalization" => {
                let of = self.input(0)?;
                let mut outputs = vec![Info::new(of.shape.clone(), of.element)];
                let channels = vec![of.shape.get(1).copied().unwrap_or(1)];
                outputs.resize(self.outputs.max(1), Info::new(channels, of.element));
                Ok(outputs)
            }
            "Dropout" => {
                let of = self.input(0)?;
                Ok(vec![
                    Info::new(of.shape.clone(), of.element),
                    Info::new(of.shape.clone(), Element::BOOL),
                ])
            }
            "LayerNormalization" => {
                let of = self.input(0)?;
                let axis = self.axis(node.int("axis").unwrap_or(-1), of.shape.len())?;
                let mut statistics = of.shape.clone();
                statistics[axis..].fill(1);
                let mut outputs = vec![Info::new(of.shape.clone(), of.element)];
                outputs.resize(self.outputs.max(1), Info::new(statistics, Element::FLOAT));
                Ok(outputs)
            }
            "QuantizeLinear" => self.one(self.input(0)?.shape.clone(), Element(2)),
            "DequantizeLinear" => self.one(self.input(0)?.shape.clone(), Element::FLOAT),
            "Not" | "IsNaN" | "IsInf" => self.one(self.input(0)?.shape.clone(), Element::BOOL),
            "Cast" => {
                let to = Element(node.int("to").unwrap_or(1) as i32);
                self.one(self.input(0)?.shape.clone(), to)
            }
            "CastLike" => self.one(self.input(0)?.shape.clone(), self.input(1)?.element),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "BitShift" | "BitwiseAnd"
            | "BitwiseOr" | "BitwiseXor" => {
                self.one(self.broadcast(&[0, 1])?, self.input(0)?.element)
            }
            "And" | "Or" | "Xor" | "Equal" | "Greater" | "GreaterOrEqual" | "Less"
            | "LessOrEqual" => self.one(self.broadcast(&[0, 1])?, Element::BOOL),
            "Max" | "Min" | "Sum" | "Mean" => {
                let all: Vec<usize> = (0..self.inputs.len()).collect();
                self.one(self.broadcast(&all)?, self.input(0)?.element)
            }
            "Where" => self.one(self.broadcast(&[0, 1, 2])?, self.input(1)?.element),
            "Conv" => {
                let windows = self.conv()?;
                let of = self.input(0)?;
                let mut shape = vec![of.shape[0], self.input(1)?.shape[0]];
                shape.extend(windows.output);
                self.one(shape, of.element)
            }
            "ConvTranspose" => {
                let (of, weight) = (self.input(0)?, self.input(1)?);
                let output = window::transposed(node, &of.shape, &weight.shape)?.output;
                let groups = positive(node.int("group").unwrap_or(1))?;
                let channels = weight.shape[1]
                    .checked_mul(groups)
                    .ok_or("too many channels")?;
                let mut shape = vec![of.shape[0], channels];
                shape.extend(output);
                self.one(shape, of.element)
            }
            "MaxPool" | "AveragePool" | "LpPool" => {
                let of = self.input(0)?;
                let kernel = node.ints("kernel_shape").ok_or("has no kernel_shape")?;
                let kernel = kernel.iter().map(|&size| positive(size));
                let kernel = kernel.collect::<Result<Vec<u64>, String>>()?;
                let windows = windows(node, &of.shape, &kernel)?;
                let mut shape = of.shape[..2].to_vec();
                shape.extend(windows.output);
                Ok(vec![
                    Info::new(shape.clone(), of.element),
                    Info::new(shape, Element::INT64),
                ])
            }
            "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                let of = self.input(0)?;
                let mut shape = of.shape.clone();
                shape.iter_mut().skip(2).for_each(|size| *size = 1);
                self.one(shape, of.element)
            }
            "Gemm" => {
                let (a, b) = (self.input(0)?, self.input(1)?);
                let ([rows, depth], [depth_b, columns]) = (
                    transposed_if(a, node.int("transA") == Some(1))?,
                    transposed_if(b, node.int("transB") == Some(1))?,
                );
                match depth == depth_b {
                    true => self.one(vec![rows, columns], a.element),
                    false => Err(format!("{depth} columns meet {depth_b} rows").into()),
                }
            }
            "MatMul" => {
                let (a, b) = (self.input(0)?, self.input(1)?);
                self.one(matmul(&a.shape, &b.shape)?, a.element)
            }
            "Einsum" => {
                let shapes: Vec<&[u64]> = self
                    .inputs
                    .iter()
                    .flatten()
                    .map(|info| info.shape.as_slice())
                    .collect();
                let sums = crate::einsum::Einsum::of(node, &shapes).map_err(Unknown::Open)?;
                self.one(sums.output_shape(), self.input(0)?.element)
            }
            "Flatten" => {
                let of = self.input(0)?;
                let axis = node.int("axis").unwrap_or(1);
                let axis = match axis == of.shape.len() as i64 {
                    true => of.shape.len(),
                    false => self.axis(axis, of.shape.len())?,
                };
                let (outer, inner) = of.shape.split_at(axis);
                self.one(
                    vec![outer.iter().product(), inner.iter().product()],
                    of.element,
                )
            }
            "Reshape" => {
                let of = self.input(0)?;
                let wanted = self.ints_of("shape", 1)?.ok_or("has no shape")?;
                let shape = reshape(
                    &of.shape,
                    &wanted,
                    node.int("allowzero") == Some(1),
                    self.rebatched,
                )?;
                self.one(shape, of.element)
            }
            "Squeeze" => {
                let of = self.input(0)?;
                let rank = of.shape.len();
                let drop: Vec<usize> = match self.ints_of("axes", 1)? {
                    Some(axes) => axes
                        .iter()
                        .map(|&axis| self.axis(axis, rank))
                        .collect::<Result<_, _>>()?,
                    None => (0..rank).filter(|&axis| of.shape[axis] == 1).collect(),
                };
                if let Some(axis) = drop.iter().find(|&&axis| of.shape[axis] != 1) {
                    return Err(format!("axis {axis} of {} is not 1", dims(&of.shape)).into());
                }
                let kept = (0..rank).filter(|axis| !drop.contains(axis));
                self.one(kept.map(|axis| of.shape[axis]).collect(), of.element)
            }
            "Unsqueeze" => {
                let of = self.input(0)?;
                let axes = self.ints_of("axes", 1)?.ok_or("has no axes")?;
                let rank = of.shape.len() + axes.len();
                let new: Vec<usize> = axes
                    .iter()
                    .map(|&axis| self.axis(axis, rank))
                    .collect::<Result<_, _>>()?;
                let mut old = of.shape.iter();
                let shape: Option<Vec<u64>> = (0..rank)
                    .map(|axis| match new.contains(&axis) {
                        true => Some(1),
                        false => old.next().copied(),
                    })
                    .collect();
                self.one(shape.ok_or("lists an axis twice")?, of.element)
            }
            "Transpose" => {
                let of = self.input(0)?;
                let order = order(node, of.shape.len())?;
                self.one(
                    order.iter().map(|&axis| of.shape[axis]).collect(),
                    of.element,
                )
            }
            "Concat" => {
                let first = self.input(0)?;
                let rank = first.shape.len();
                let axis = self.axis(node.int("axis").ok_or("has no axis")?, rank)?;
                let mut shape = first.shape.clone();
                shape[axis] = 0;
                for part in self.inputs.iter().flatten() {
                    let fits = part.shape.len() == rank
                        && (0..rank).all(|of| of == axis || part.shape[of] == first.shape[of]);
                    if !fits {
                        return Err(format!(
                            "{} and {} do not join along axis {axis}",
                            dims(&first.shape),
                            dims(&part.shape)
                        )
                        .into());
                    }
                    shape[axis] = shape[axis].saturating_add(part.shape[axis]);
                }
                self.one(shape, first.element)
            }
            "Split" => {
                let of = self.input(0)?;
                let axis = self.axis(node.int("axis").unwrap_or(0), of.shape.len())?;
                let parts: Vec<u64> = match self.ints_of("split", 1)? {
                    Some(parts) => parts.iter().map(|&part| part.max(0) as u64).collect(),
                    None => {
                        let count = node.int("num_outputs").unwrap_or(self.outputs as i64);
                        let part = of.shape[axis].div_ceil(positive(count)?);
                        let parts = (0..count.min(1 << 16) as u64)
                            .map(|i| part.min(of.shape[axis].saturating_sub(i * part)));
                        parts.collect()
                    }
                };
                let sum = parts
                    .iter()
                    .fold(0u64, |sum, &part| sum.saturating_add(part));
                if sum != of.shape[axis] {
                    return Err(format!("parts of {sum} from an axis of {}", of.shape[axis]).into());
                }
                let of_part = |part| {
                    let mut shape = of.shape.clone();
                    shape[axis] = part;
                    Info::new(shape, of.element)
                };
                Ok(parts.into_iter().map(of_part).collect())
            }
            "Slice" => {
                let of = self.input(0)?;
                let mut shape = of.shape.clone();
                for cut in self.cuts()? {
                    shape[cut.axis] = cut.length;
                }
                self.one(shape, of.element)
            }
            "Gather" => {
                let (of, places) = (self.input(0)?, self.input(1)?);
                let axis = self.axis(node.int("axis").unwrap_or(0), of.shape.len())?;
                let shape = [&of.shape[..axis], &places.shape, &of.shape[axis + 1..]].concat();
                self.one(shape, of.element)
            }
            "GatherElements" => self.one(self.input(1)?.shape.clone(), self.input(0)?.element),
            "GatherND" => {
                let (of, places) = (self.input(0)?, self.input(1)?);
                let batch = node.int("batch_dims").unwrap_or(0).max(0) as usize;
                let (depth, outer) = places.shape.split_last().ok_or("places without axes")?;
                let rest = of
                    .shape
                    .get(batch.saturating_add(*depth as usize)..)
                    .ok_or("places have more axes than the tensor")?;
                self.one([outer, rest].concat(), of.element)
            }
            "Shape" => {
                let of = self.input(0)?;
                let rank = of.shape.len() as i64;
                let bound = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
                let start = bound(node.int("start").unwrap_or(0));
                let end = bound(node.int("end").unwrap_or(rank)).max(start);
                let sizes: Vec<i64> = of.shape[start..end]
                    .iter()
                    .map(|&size| size as i64)
                    .collect();
                Ok(vec![Info::of_values(
                    vec![sizes.len() as u64],
                    Element::INT64,
                    Values::Ints(sizes),
                )])
            }
            "Size" => Ok(vec![Info::of_values(
                vec![],
                Element::INT64,
                Values::Ints(vec![self.input(0)?.numel() as i64]),
            )]),
            "Constant" => constant(node),
            "ConstantOfShape" => {
                let element = match node.attribute("value") {
                    Some(Attribute::Tensor(constant)) => constant.element,
                    _ => Element::FLOAT,
                };
                let mut outputs = self.one(sizes(&self.ints(0)?)?, element)?;
                outputs[0].constant = true;
                Ok(outputs)
            }
            "Range" => {
                let known = |index| match self.input(index)?.scalar() {
                    Some(value) => Ok(value),
                    None => Err(Unknown::Open(
                        "the range is known only when it runs".to_owned(),
                    )),
                };
                let (start, limit, delta) = (known(0)?, known(1)?, known(2)?);
                let count = ((limit - start) / delta).ceil().max(0.0);
                match count < 1e12 {
                    true => self.one(vec![count as u64], self.input(0)?.element),
                    false => Err(format!("a range of {count} values").into()),
                }
            }
            "Expand" => {
                let of = self.input(0)?;
                let wanted = sizes(&self.ints(1)?)?;
                self.one(broadcast(&of.shape, &wanted)?, of.element)
            }
            "Tile" => {
                let of = self.input(0)?;
                let times = sizes(&self.ints(1)?)?;
                if times.len() != of.shape.len() {
                    return Err("repeats do not fit the axes".into());
                }
                let shape = of.shape.iter().zip(&times);
                let shape = shape.map(|(&size, &times)| size.saturating_mul(times));
                self.one(shape.collect(), of.element)
            }
            "Pad" => {
                let of = self.input(0)?;
                let pads = self.ints_of("pads", 1)?.ok_or("has no pads")?;
                let axes: Vec<usize> = match self.has(3) {
                    true => {
                        let axes = self.ints(3)?;
                        let axes = axes.iter().map(|&axis| self.axis(axis, of.shape.len()));
                        axes.collect::<Result<_, _>>()?
                    }
                    false => (0..of.shape.len()).collect(),
                };
                if pads.len() != 2 * axes.len() {
                    return Err("pads do not fit the axes".into());
                }
                let mut shape = of.shape.clone();
                for (place, &axis) in axes.iter().enumerate() {
                    let padded = i128::from(shape[axis])
                        + i128::from(pads[place])
                        + i128::from(pads[place + axes.len()]);
                    shape[axis] = u64::try_from(padded).map_err(|_| "pads away an axis")?;
                }
                self.one(shape, of.element)
            }
            "Resize" | "Upsample" => self.resized(),
            "DepthToSpace" | "SpaceToDepth" => {
                let of = self.input(0)?;
                let block = positive(node.int("blocksize").unwrap_or(1))?;
                let &[batch, channels, height, width] = of.shape.as_slice() else {
                    return Err("takes images".into());
                };
                let square = block.checked_mul(block).ok_or("the blocks are too large")?;
                let shape = match operator {
                    "DepthToSpace" => vec![
                        batch,
                        channels / square,
                        height.saturating_mul(block),
                        width.saturating_mul(block),
                    ],
                    _ => vec![
                        batch,
                        channels.saturating_mul(square),
                        height / block,
                        width / block,
                    ],
                };
                self.one(shape, of.element)
            }
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
            | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => {
                let of = self.input(0)?;
                let axes = self.reduced_axes()?;
                let keep = node.int("keepdims").unwrap_or(1) == 1;
                self.one(reduced(&of.shape, &axes, keep), of.element)
            }
            "ArgMax" | "ArgMin" => {
                let of = self.input(0)?;
                let axis = self.axis(node.int("axis").unwrap_or(0), of.shape.len())?;
                let keep = node.int("keepdims").unwrap_or(1) == 1;
                self.one(reduced(&of.shape, &[axis], keep), Element::INT64)
            }
            "TopK" => {
                let of = self.input(0)?;
                let axis = self.axis(node.int("axis").unwrap_or(-1), of.shape.len())?;
                let count = match self.node.int("k") {
                    Some(count) => count,
                    None => *self.ints(1)?.first().ok_or("k is empty")?,
                };
                let mut shape = of.shape.clone();
                shape[axis] = positive(count)?;
                Ok(vec![
                    Info::new(shape.clone(), of.element),
                    Info::new(shape, Element::INT64),
                ])
            }
            "OneHot" => {
                let (of, depth) = (self.input(0)?, self.ints(1)?);
                let axis = node.int("axis").unwrap_or(-1);
                let axis = self.axis(axis, of.shape.len() + 1)?;
                let mut shape = of.shape.clone();
                shape.insert(axis, positive(*depth.first().ok_or("depth is empty")?)?);
                self.one(shape, self.input(2)?.element)
            }
            "LSTM" | "GRU" | "RNN" => {
                let of = self.input(0)?;
                let &[first, second, _] = of.shape.as_slice() else {
                    return Err("takes steps x batch x features".into());
                };
                let hidden = positive(node.int("hidden_size").ok_or("has no hidden_size")?)?;
                let directions = self.input(1)?.shape.first().copied().unwrap_or(1);
                let batch_first = node.int("layout") == Some(1);
                let (batch, sequence, state) = match batch_first {
                    true => (
                        first,
                        vec![first, second, directions, hidden],
                        vec![first, directions, hidden],
                    ),
                    false => (
                        second,
                        vec![first, directions, second, hidden],
                        vec![directions, second, hidden],
                    ),
                };
                debug_assert!(batch > 0 || state.contains(&0));
                let state = Info::new(state, of.element);
                Ok(vec![Info::new(sequence, of.element), state.clone(), state])
            }
            "Attention" => self.attention(),
            "EyeLike" => self.like(0),
            "RandomNormalLike" | "RandomUniformLike" => self.like(0),
            _ => Err(Unknown::Open(
                "there is no rule for this operator".to_owned(),
            )),
        }
    }

    /// The shape that all these inputs make together.
    fn broadcast(&self, indices: &[usize]) -> Result<Vec<u64>, Unknown> {
        let mut shape = Vec::new();
        for &index in indices {
            shape = broadcast(&shape, &self.input(index)?.shape)?;
        }
        Ok(shape)
    }

    fn conv(&self) -> Result<Windows, Unknown> {
        let (of, weight) = (&self.input(0)?.shape, &self.input(1)?.shape);
        if of.len() < 3 || weight.len() != of.len() {
            return Err(format!("weights of {} for {}", dims(weight), dims(of)).into());
        }
        let groups = positive(self.node.int("group").unwrap_or(1))?;
        if weight[1].checked_mul(groups) != Some(of[1]) {
            return Err(format!(
                "{} channels, and weights for {groups} groups of {}",
                of[1], weight[1]
            )
            .into());
        }
        Ok(windows(self.node, of, &weight[2..])?)
    }

    /// The axes that a reduction takes away, in order.
    fn reduced_axes(&self) -> Result<Vec<usize>, Unknown> {
        let rank = self.input(0)?.shape.len();
        let given = self.ints_of("axes", 1)?.unwrap_or_default();
        let mut axes: Vec<usize> = match given.is_empty() {
            true if self.node.int("noop_with_empty_axes") == Some(1) => vec![],
            true => (0..rank).collect(),
            false => given
                .iter()
                .map(|&axis| self.axis(axis, rank))
                .collect::<Result<_, _>>()?,
        };
        axes.sort_unstable();
        axes.dedup();
        Ok(axes)
    }

    /// What a slice keeps of each axis.
    fn cuts(&self) -> Result<Vec<Cut>, Unknown> {
        let of = &self.input(0)?.shape;
        let missing = "has no starts or ends";
        let starts = self.ints_of("starts", 1)?.ok_or(missing)?;
        let ends = self.ints_of("ends", 2)?.ok_or(missing)?;
        let axes = self
            .ints_of("axes", 3)?
            .unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = match self.has(4) {
            true => self.ints(4)?,
            false => vec![1; starts.len()],
        };
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            return Err("starts, ends, axes and steps are not as many".into());
        }
        let mut cuts = Vec::with_capacity(starts.len());
        for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
            let axis = self.axis(axis, of.len())?;
            let size = of[axis] as i64;
            let wrap = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
            let (start, length) = match step {
                0 => return Err("steps by 0".into()),
                1.. => {
                    let (start, end) = (wrap(start).clamp(0, size), wrap(end).clamp(0, size));
                    (
                        start,
                        (end - start).max(0).div_euclid(step)
                            + i64::from((end - start).max(0) % step > 0),
                    )
                }
                _ => {
                    let start = wrap(start).clamp(-1, size - 1);
                    let end = match end < -size {
                        true => -1,
                        false => wrap(end).clamp(-1, size - 1),
                    };
                    let span = (start - end).max(0);
                    let back = step.unsigned_abs().min(1 << 62) as i64;
                    (start.max(0), span / back + i64::from(span % back > 0))
                }
            };
            cuts.push(Cut {
                axis,
                start: start as u64,
                step,
                length: length as u64,
            });
        }
        Ok(cuts)
    }

    fn resized(&self) -> Inferred {
        let of = self.input(0)?;
        let old = |index: usize| self.inputs.get(index).copied().flatten();
        // Upsample had an attribute, and then its second input; Resize in opset 10 its second, since 11 its third.
        let scales = match self.node.attribute("scales") {
            Some(Attribute::Floats(scales)) => Some(scales.clone()),
            _ => {
                let index = if self.inputs.len() >= 3 { 2 } else { 1 };
                let given = old(index).filter(|info| info.numel() > 0);
                match given {
                    Some(info) => Some(
                        info.values
                            .as_ref()
                            .ok_or_else(|| {
                                Unknown::Open("the scales are known only when it runs".to_owned())
                            })?
                            .floats(),
                    ),
                    None => None,
                }
            }
        };
        let axes: Vec<usize> = match self.node.ints("axes") {
            Some(axes) => axes
                .iter()
                .map(|&axis| self.axis(axis, of.shape.len()))
                .collect::<Result<_, _>>()?,
            None => (0..of.shape.len()).collect(),
        };
        let mut shape = of.shape.clone();
        match scales {
            Some(scales) if scales.len() == axes.len() => {
                for (&axis, scale) in axes.iter().zip(scales) {
                    let size = (shape[axis] as f64 * scale + 1e-6).floor();
                    if !(1.0..1e12).contains(&size) {
                        return Err(format!("a scale of {scale}").into());
                    }
                    shape[axis] = size as u64;
                }
            }
            Some(_) => return Err("scales do not fit the axes".into()),
            None => {
                let wanted = sizes(&self.ints(3)?)?;
                if wanted.len() != axes.len() {
                    return Err("sizes do not fit the axes".into());
                }
                for (axis, size) in axes.into_iter().zip(wanted) {
                    shape[axis] = size;
                }
            }
        }
        self.one(shape, of.element)
    }

    /// The fused operator of opset 23.
    fn attention(&self) -> Inferred {
        let (query, value) = (self.input(0)?, self.input(2)?);
        let mut shape = query.shape.clone();
        match (query.shape.len(), value.shape.len()) {
            (4, 4) => shape[3] = value.shape[3],
            (3, 3) => {
                let missing = "has no q_num_heads or kv_num_heads";
                let heads = positive(self.node.int("q_num_heads").ok_or(missing)?)?;
                let of_value = positive(self.node.int("kv_num_heads").ok_or(missing)?)?;
                shape[2] = (value.shape[2] / of_value).saturating_mul(heads);
            }
            _ => return Err("takes tensors of 3 or 4 axes".into()),
        }
        let mut outputs = vec![Info::new(shape, query.element)];
        if self.outputs > 1 {
            // Keys and values with those of earlier calls before them.
            let grown = |index: usize, past: usize| {
                let mut info = self.input(index)?.clone();
                info.constant = false;
                if let (Ok(past), 4) = (self.input(past), info.shape.len()) {
                    info.shape[2] =
                        info.shape[2].saturating_add(past.shape.get(2).copied().unwrap_or(0));
                }
                Ok::<Info, Unknown>(info)
            };
            outputs.extend([grown(1, 4)?, grown(2, 5)?]);
        }
        if self.outputs > 3 {
            return Err(Unknown::Open(
                "its scores are an output of their own".to_owned(),
            ));
        }
        Ok(outputs)
    }
}

/// What a slice keeps of an axis.
pub(crate) struct Cut {
    pub(crate) axis: usize,
    pub(crate) start: u64,
    pub(crate) step: i64,
    pub(crate) length: u64,
}

/// What a checked slice keeps. Its node has been through `infer`.
pub(crate) fn cuts(node: &Node, inputs: &[Option<&Info>]) -> Option<Vec<Cut>> {
    let context = Context {
        node,
        inputs,
        rebatched: None,
        outputs: 1,
    };
    context.cuts().ok()
}

/// The axes that a checked reduction takes away.
pub(crate) fn reduced_axes(node: &Node, inputs: &[Option<&Info>]) -> Option<Vec<usize>> {
    let context = Context {
        node,
        inputs,
        rebatched: None,
        outputs: 1,
    };
    context.reduced_axes().ok()
}

/// An axis counted from the front; negative ones count from the back.
pub(crate) fn place(axis: i64, rank: usize) -> Option<usize> {
    let rank = rank as i64;
    let axis = if axis < 0 { axis + rank } else { axis };
    (0..rank).contains(&axis).then_some(axis as usize)
}

fn positive(size: i64) -> Result<u64, String> {
    u64::try_from(size)
        .ok()
        .filter(|&size| size > 0 && size <= 1 << 40)
        .ok_or_else(|| format!("a size of {size}"))
}

fn sizes(ints: &[i64]) -> Result<Vec<u64>, String> {
    ints.iter()
        .map(|&size| u64::try_from(size).map_err(|_| format!("a size of {size}")))
        .collect()
}

fn reduced(shape: &[u64], axes: &[usize], keep: bool) -> Vec<u64> {
    let sizes = shape.iter().enumerate();
    let sizes = sizes.filter_map(|(axis, &size)| match axes.contains(&axis) {
        true => keep.then_some(1),
        false => Some(size),
    });
    sizes.collect()
}

/// The shape of two tensors joined value by value, each repeated along axes where it is 1.
pub(crate) fn broadcast(a: &[u64], b: &[u64]) -> Result<Vec<u64>, String> {
    let rank = a.len().max(b.len());
    let size = |of: &[u64], axis: usize| match (axis + of.len()).checked_sub(rank) {
        Some(axis) => of[axis],
        None => 1,
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (a, b) if a == b => Ok(a),
            (1, b) => Ok(b),
            (a, 1) => Ok(a),
            _ => Err(format!("{} and {} do not fit each other", dims(a), dims(b))),
        })
        .collect()
}

fn matmul(a: &[u64], b: &[u64]) -> Result<Vec<u64>, String> {
    let wrong = || format!("{} cannot be multiplied by {}", dims(a), dims(b));
    let (outer_a, rows, depth) = match a {
        [] => return Err(wrong()),
        [depth] => (&a[..0], None, *depth),
        [outer @ .., rows, depth] => (outer, Some(*rows), *depth),
    };
    let (outer_b, depth_b, columns) = match b {
        [] => return Err(wrong()),
        [depth] => (&b[..0], *depth, None),
        [outer @ .., depth, columns] => (outer, *depth, Some(*columns)),
    };
    if depth != depth_b {
        return Err(wrong());
    }
    let mut shape = broadcast(outer_a, outer_b)?;
    shape.extend(rows);
    shape.extend(columns);
    Ok(shape)
}

fn transposed_if(of: &Info, transposed: bool) -> Result<[u64; 2], String> {
    match (of.shape.as_slice(), transposed) {
        (&[rows, columns], false) => Ok([rows, columns]),
        (&[rows, columns], true) => Ok([columns, rows]),
        (shape, _) => Err(format!("{} is no matrix", dims(shape))),
    }
}

/// The order of axes of a transposition: reversed if there is none.
pub(crate) fn order(node: &Node, rank: usize) -> Result<Vec<usize>, String> {
    let Some(given) = node.ints("perm") else {
        return Ok((0..rank).rev().collect());
    };
    let order: Option<Vec<usize>> = given.iter().map(|&axis| place(axis, rank)).collect();
    let mut sorted = order.clone().unwrap_or_default();
    sorted.sort_unstable();
    match order {
        Some(order) if sorted.into_iter().eq(0..rank) => Ok(order),
        _ => Err(format!("perm is not an order of {rank} axes")),
    }
}

/// The shape that a tensor is given. A file written for one batch has it in such shapes: where the values fit only if
/// the first axis grows with the batch, it does.
fn reshape(
    of: &[u64],
    wanted: &[i64],
    allow_zero: bool,
    rebatched: Option<(u64, u64)>,
) -> Result<Vec<u64>, String> {
    if wanted.len() > crate::value::RANK_MAX {
        return Err(format!("{} axes", wanted.len()));
    }
    let total = numel(of)?;
    let attempt = |first: Option<u64>| {
        let mut shape = Vec::with_capacity(wanted.len());
        let mut open = None;
        for (axis, &size) in wanted.iter().enumerate() {
            shape.push(match size {
                _ if axis == 0 && first.is_some() => first.unwrap_or(1),
                -1 if open.is_none() => {
                    open = Some(axis);
                    1
                }
                0 if !allow_zero => *of.get(axis)?,
                size => u64::try_from(size).ok()?,
            });
        }
        let product = numel(&shape).ok()?;
        match open {
            Some(axis) if product > 0 && total.is_multiple_of(product) => {
                shape[axis] = total / product;
                Some(shape)
            }
            Some(_) => None,
            None => (product == total).then_some(shape),
        }
    };
    // Only where the first axis is the batch alone: of 197 tokens, a multiple of one, nothing tells.
    let found = match (rebatched, wanted.first()) {
        (Some((from, to)), Some(&first)) if u64::try_from(first) == Ok(from) => attempt(Some(to)),
        _ => None,
    };
    found.or_else(|| attempt(None)).ok_or_else(|| {
        let wanted: Vec<String> = wanted.iter().map(i64::to_string).collect();
        let hint = match rebatched {
            Some((from, _)) => format!(
                ": the file was written for a batch of {from}; export it with a batch that is open"
            ),
            None => String::new(),
        };
        format!("{} cannot become {}{hint}", dims(of), wanted.join(" x "))
    })
}

/// A `Constant` node in any of its forms.
fn constant(node: &Node) -> Inferred {
    let one = |shape: Vec<u64>, element, values| Ok(vec![Info::of_values(shape, element, values)]);
    for (name, attribute) in &node.attributes {
        match (name.as_str(), attribute) {
            ("value", Attribute::Tensor(constant)) => {
                return Ok(vec![Info {
                    shape: constant.shape.clone(),
                    element: constant.element,
                    constant: true,
                    values: constant.values.clone().map(Into::into),
                }]);
            }
            ("value_int", Attribute::Int(value)) => {
                return one(vec![], Element::INT64, Values::Ints(vec![*value]));
            }
            ("value_float", Attribute::Float(value)) => {
                return one(vec![], Element::FLOAT, Values::Floats(vec![*value]));
            }
            ("value_ints", Attribute::Ints(values)) => {
                let shape = vec![values.len() as u64];
                return one(shape, Element::INT64, Values::Ints(values.clone()));
            }
            ("value_floats", Attribute::Floats(values)) => {
                let shape = vec![values.len() as u64];
                return one(shape, Element::FLOAT, Values::Floats(values.clone()));
            }
            _ => (),
        }
    }
    let mut info = Info::new(vec![], Element(8));
    info.constant = true;
    Ok(vec![info])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_as_numpys() {
        assert_eq!(broadcast(&[8, 1, 6], &[7, 1]), Ok(vec![8, 7, 6]));
        assert_eq!(broadcast(&[], &[3]), Ok(vec![3]));
        assert!(broadcast(&[3], &[4]).is_err());
        assert_eq!(matmul(&[2, 1, 4, 5], &[3, 5, 6]), Ok(vec![2, 3, 4, 6]));
        assert_eq!(matmul(&[5], &[5]), Ok(vec![]));
        assert!(matmul(&[4, 5], &[4, 5]).is_err());
    }

    #[test]
    fn a_file_for_one_batch_serves_another() {
        let reshape = |of: &[u64], wanted: &[i64]| reshape(of, wanted, false, Some((1, 8)));
        assert_eq!(
            reshape(&[8, 768, 14, 14], &[1, 768, 196]),
            Ok(vec![8, 768, 196])
        );
        assert_eq!(reshape(&[8, 512, 1, 1], &[1, -1]), Ok(vec![8, 512]));
        assert_eq!(reshape(&[8, 512, 1, 1], &[-1, 512]), Ok(vec![8, 512]));
        // Tokens first: nothing says which axis the batch is in.
        let refused = reshape(&[8, 197, 768], &[197, 12, 64]).expect_err("no axis grows");
        assert!(refused.contains("written for a batch of 1"), "{refused}");
    }
}
