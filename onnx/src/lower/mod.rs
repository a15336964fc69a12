//! Steps of the graph as layers of a network.

mod join;
mod matrix;
mod name;
mod tensor;
mod window;

use std::collections::{HashMap, HashSet};

use wattfarm_cost::layer::{Elementwise, Op, Rows, Shape};
use wattfarm_cost::network::{Coverage, NetworkBuilder, NetworkError, Tensor, Uncosted};
use wattfarm_cost::{Dtype, Network};

use crate::error::{OnnxError, shown};
use crate::fuse::{Role, Whole, clip_bounds, roles};
use crate::graph::{Graph, Step, TensorId};
use crate::infer::is_standard;
use crate::value::Info;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// Layers stand for it.
    Costed,
    /// It costs nothing.
    Free,
    /// Nothing stands for it; so many operations are not counted.
    Uncosted(u64),
}

/// Makes the network of a graph whose tensors are known.
pub(crate) fn lower(
    graph: &Graph,
    infos: &[Option<Info>],
    name: &str,
    dtype: Dtype,
) -> Result<(Network, Coverage), OnnxError> {
    let (first, _) = graph.inputs[0];
    let input = infos[first]
        .as_ref()
        .map_or_else(Vec::new, |info| info.shape.clone());
    let mut lowering = Lowering {
        graph,
        infos,
        roles: roles(graph, infos),
        net: NetworkBuilder::new(name, input, dtype),
        made: vec![None; graph.names.len()],
        needed: needed(graph),
        weights: weights(graph),
        names: HashMap::new(),
        readers: readers(graph),
        makers: makers(graph),
        step_name: String::new(),
        coverage: Coverage {
            nodes: graph.steps.len(),
            ..Coverage::default()
        },
    };
    lowering.made[first] = Some(lowering.net.input());
    for index in 0..graph.steps.len() {
        lowering.step(index)?;
    }
    lowering.finish()
}

/// The steps whose outputs reach an output of the graph; all, if it names none.
fn needed(graph: &Graph) -> Vec<bool> {
    let mut tensors = vec![graph.outputs.is_empty(); graph.names.len()];
    for &output in &graph.outputs {
        tensors[output] = true;
    }
    let mut needed = vec![false; graph.steps.len()];
    for (index, step) in graph.steps.iter().enumerate().rev() {
        needed[index] = step.outputs.iter().flatten().any(|&output| tensors[output]);
        if needed[index] {
            for &input in step.inputs.iter().flatten() {
                tensors[input] = true;
            }
        }
    }
    needed
}

fn readers(graph: &Graph) -> Vec<Vec<usize>> {
    let mut readers = vec![Vec::new(); graph.names.len()];
    for (index, step) in graph.steps.iter().enumerate() {
        for &input in step.inputs.iter().flatten() {
            readers[input].push(index);
        }
    }
    readers
}

fn makers(graph: &Graph) -> Vec<Option<usize>> {
    let mut makers = vec![None; graph.names.len()];
    for (index, step) in graph.steps.iter().enumerate() {
        for &output in step.outputs.iter().flatten() {
            makers[output] = Some(index);
        }
    }
    makers
}

/// The file's own constants, and other names for them.
fn weights(graph: &Graph) -> HashSet<TensorId> {
    let mut weights: HashSet<TensorId> = graph.constants.iter().map(|(id, _)| *id).collect();
    for step in graph
        .steps
        .iter()
        .filter(|step| step.node.operator == "Identity")
    {
        if step.inputs.iter().flatten().any(|id| weights.contains(id)) {
            weights.extend(step.outputs.iter().flatten());
        }
    }
    weights
}

struct Lowering<'a> {
    graph: &'a Graph,
    infos: &'a [Option<Info>],
    roles: Vec<Role>,
    net: NetworkBuilder,
    /// The network's tensor for each of the graph's, where there is one. Its axes are the graph's; a single value has one.
    made: Vec<Option<Tensor>>,
    needed: Vec<bool>,
    weights: HashSet<TensorId>,
    /// Names that are taken, and how many have asked for each.
    names: HashMap<String, u64>,
    /// The steps that read a tensor.
    readers: Vec<Vec<usize>>,
    /// The step that makes it.
    makers: Vec<Option<usize>>,
    /// The name that layers of the current step have.
    step_name: String,
    coverage: Coverage,
}

impl Lowering<'_> {
    fn step(&mut self, index: usize) -> Result<(), OnnxError> {
        let graph = self.graph;
        let step = &graph.steps[index];
        let constant = step
            .outputs
            .iter()
            .flatten()
            .all(|&id| self.is_constant(id));
        if !self.needed[index] || constant {
            self.coverage.free += 1;
            return Ok(());
        }
        let role = self.roles[index].clone();
        if role == Role::Part {
            // Counted with its whole, which comes later.
            self.coverage.costed += 1;
            return Ok(());
        }
        self.step_name = self.unique(name::of(graph, step, index, &role));
        let outcome = match &role {
            Role::Whole(whole) => self.whole(whole, step),
            Role::Own | Role::Part => self.own(index, step),
        };
        let outcome = outcome.map_err(|reason| step.node.error(index, reason))?;
        match outcome {
            Outcome::Costed => self.coverage.costed += 1,
            Outcome::Free => self.coverage.free += 1,
            Outcome::Uncosted(flops) => self.uncosted(index, step, flops),
        }
        if let Some(error) = self.net.failed() {
            let reason = match error {
                NetworkError::Node { reason, .. } => reason.clone(),
                NetworkError::UnknownName(_)
                | NetworkError::Size(_)
                | NetworkError::Name(_)
                | NetworkError::Input(_) => error.to_string(),
            };
            return Err(step.node.error(index, reason));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Network, Coverage), OnnxError> {
        let others = self.graph.inputs.len() - 1;
        if others > 0
            && self.graph.inputs[1..]
                .iter()
                .any(|(id, _)| self.made[*id].is_some())
        {
            let (_, first) = &self.graph.inputs[0];
            self.coverage.notes.push(format!(
                "of the inputs, `{}` is the network's; the others are counted as constants that lie there",
                shown(&first.name)
            ));
        }
        self.coverage.parameters = self.parameters();
        if self.net.steps() == 0 {
            return Err(OnnxError::Graph(match self.coverage.uncosted.first() {
                None => "has no layers: everything in it is constant or free".to_owned(),
                Some(first) => format!(
                    "has no layers: none stands for `{}` ({}), and what else there may be is constant or free",
                    first.node, first.operator
                ),
            }));
        }
        let network = self.net.finish()?;
        self.coverage.count_layers(&network);
        Ok((network, self.coverage))
    }

    /// Numbers in the constants that steps compute with, whatever they were made of. Exporters make one of weights that
    /// happen to be alike, and a tensor of another name for each module that has them. Single numbers are thresholds and
    /// factors, not weights.
    fn parameters(&self) -> u64 {
        let mut counted = vec![false; self.infos.len()];
        let mut sum = 0u64;
        for (step, _) in self
            .graph
            .steps
            .iter()
            .zip(&self.needed)
            .filter(|(_, needed)| **needed)
        {
            if step
                .outputs
                .iter()
                .flatten()
                .all(|&id| self.is_constant(id))
            {
                continue;
            }
            for &id in step.inputs.iter().flatten() {
                let weights = self.infos[id]
                    .as_ref()
                    .filter(|info| info.constant && info.element.is_float() && info.numel() > 1);
                if let Some(info) = weights.filter(|_| !std::mem::replace(&mut counted[id], true)) {
                    sum = sum.saturating_add(info.numel());
                }
            }
        }
        sum
    }

    /// A name that no other step has.
    fn unique(&mut self, name: String) -> String {
        let mut found = name.clone();
        while let Some(count) = self.names.get_mut(&found) {
            // Of many that are alike, each goes on where the last ended.
            *count += 1;
            found = format!("{name}#{count}");
        }
        self.names.insert(found.clone(), 1);
        found
    }

    // What is known of tensors.

    fn info(&self, id: TensorId) -> Result<&Info, String> {
        self.infos[id]
            .as_ref()
            .ok_or_else(|| format!("nothing is known of `{}`", shown(&self.graph.names[id])))
    }

    fn is_constant(&self, id: TensorId) -> bool {
        self.infos[id].as_ref().is_some_and(|info| info.constant)
    }

    fn id(&self, step: &Step, place: usize) -> Result<TensorId, String> {
        let id = step.inputs.get(place).copied().flatten();
        id.ok_or_else(|| format!("input {place} is missing"))
    }

    /// Whether a bias is added. Some exporters write zeros where there is none.
    fn has_bias(&self, step: &Step) -> bool {
        let bias = self.input_info(step, 2);
        bias.is_ok_and(|bias| bias.scalar() != Some(0.0) || self.is_weight(step, 2))
    }

    /// Whether an input is among the file's own weights, and not made of other constants.
    fn is_weight(&self, step: &Step, place: usize) -> bool {
        let id = step.inputs.get(place).copied().flatten();
        id.is_some_and(|id| self.weights.contains(&id))
    }

    fn input_info(&self, step: &Step, place: usize) -> Result<&Info, String> {
        self.info(self.id(step, place)?)
    }

    fn inputs_info(&self, step: &Step) -> Vec<Option<&Info>> {
        let info = |id: &Option<TensorId>| id.and_then(|id| self.infos[id].as_ref());
        step.inputs.iter().map(info).collect()
    }

    fn output(&self, step: &Step, place: usize) -> Result<(TensorId, &Info), String> {
        let id = step.outputs.get(place).copied().flatten();
        let id = id.ok_or_else(|| format!("output {place} is left out"))?;
        Ok((id, self.info(id)?))
    }

    // Tensors of the network.

    /// A tensor to be read by a layer: a constant becomes one of the network.
    fn read(&mut self, id: TensorId) -> Result<Tensor, String> {
        if let Some(tensor) = self.made[id] {
            return Ok(tensor);
        }
        let shape = network_shape(&self.info(id)?.shape);
        let name = self.unique(name::shorten(&shown(&self.graph.names[id])));
        let tensor = self.net.parameter(&name, &shape);
        self.made[id] = Some(tensor);
        Ok(tensor)
    }

    fn read_input(&mut self, step: &Step, place: usize) -> Result<Tensor, String> {
        self.read(self.id(step, place)?)
    }

    /// The same values under other axes, if they are others.
    fn view(&mut self, tensor: Tensor, shape: &[u64]) -> Tensor {
        match self.net.shape(tensor) == shape {
            true => tensor,
            false => {
                let name = format!("{}.view", self.step_name);
                self.net.reshape(&name, tensor, shape)
            }
        }
    }

    /// What a step makes, in the graph's own axes.
    fn put(&mut self, step: &Step, place: usize, tensor: Tensor) -> Result<(), String> {
        if let Some(id) = step.outputs.get(place).copied().flatten() {
            let shape = network_shape(&self.info(id)?.shape);
            let tensor = self.view(tensor, &shape);
            self.made[id] = Some(tensor);
        }
        Ok(())
    }

    fn layer(&mut self, inputs: &[Tensor], op: Op) -> Tensor {
        let name = self.step_name.clone();
        self.net.layer(&name, inputs, op)
    }

    /// A tensor of a shape that no step of a network makes: what is behind a layer that stands for another operator.
    fn detached(&mut self, shape: &[u64]) -> Tensor {
        let name = format!("{}.values", self.step_name);
        self.net.parameter(&name, &network_shape(shape))
    }

    fn stands_for(&mut self, step: &Step, kind: &str) {
        let what = format!("{} as {kind}", shown(&step.node.operator));
        *self.coverage.stand_ins.entry(what).or_default() += 1;
    }

    // Steps.

    fn uncosted(&mut self, index: usize, step: &Step, flops: u64) {
        let bytes = step.inputs.iter().chain(&step.outputs).flatten();
        let bytes = bytes.filter_map(|&id| self.infos[id].as_ref());
        let bytes = bytes.fold(0u64, |sum, info| {
            sum.saturating_add(info.numel().saturating_mul(info.element.bytes()))
        });
        self.coverage.uncosted.push(Uncosted {
            node: step.node.title(index),
            operator: shown(&step.node.operator),
            flops,
            bytes,
        });
    }

    /// One operation for each value of the output.
    fn one_each(&self, step: &Step) -> Outcome {
        let values = step
            .outputs
            .iter()
            .flatten()
            .filter_map(|&id| self.infos[id].as_ref());
        Outcome::Uncosted(values.fold(0u64, |sum, info| sum.saturating_add(info.numel())))
    }

    fn whole(&mut self, whole: &Whole, step: &Step) -> Result<Outcome, String> {
        match whole {
            Whole::Gelu(x) => self.elementwise(*x, step, Op::Gelu),
            Whole::Silu(x) => self.elementwise(*x, step, Op::Silu),
            Whole::Hardswish(x) => self.elementwise(*x, step, Op::Hardswish),
            Whole::Hardsigmoid(x) => self.elementwise(*x, step, Op::Hardsigmoid),
            Whole::LayerNorm(x) => {
                let x = self.read(*x)?;
                let made = self.net.row_wise(&self.step_name, x, Op::LayerNorm);
                self.put(step, 0, made)?;
                Ok(Outcome::Costed)
            }
            Whole::RmsNorm(x) => {
                let x = self.read(*x)?;
                let made = self.net.row_wise(&self.step_name, x, Op::RmsNorm);
                self.put(step, 0, made)?;
                Ok(Outcome::Costed)
            }
            Whole::Biased(product) => {
                let graph = self.graph;
                let product = &graph.steps[*product];
                match product.node.operator.as_str() {
                    "MatMul" => self.matmul(product, step, true),
                    "Conv" => self.conv(product, step, true),
                    _ => self.conv_transpose(product, step, true),
                }
            }
            Whole::Attention { query, key, value } => {
                let [query, key, value] = [query, key, value].map(|of| self.strided(of));
                self.attention(step, query?, key?, value?, false)
            }
        }
    }

    fn elementwise(
        &mut self,
        x: TensorId,
        step: &Step,
        op: fn(Elementwise) -> Op,
    ) -> Result<Outcome, String> {
        let x = self.read(x)?;
        let made = self.net.elementwise(&self.step_name, x, op);
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    fn own(&mut self, index: usize, step: &Step) -> Result<Outcome, String> {
        let node = &step.node;
        let own_name = is_standard(node)
            || (node.domain == "com.microsoft" && node.operator.ends_with("Gelu"));
        if !own_name {
            return Ok(self.one_each(step));
        }
        let x = |this: &Self| this.id(step, 0);
        match node.operator.as_str() {
            "Relu" => self.elementwise(x(self)?, step, Op::Relu),
            "Sigmoid" => self.elementwise(x(self)?, step, Op::Sigmoid),
            "Tanh" => self.elementwise(x(self)?, step, Op::Tanh),
            "HardSigmoid" => self.elementwise(x(self)?, step, Op::Hardsigmoid),
            "HardSwish" => self.elementwise(x(self)?, step, Op::Hardswish),
            "Gelu" | "FastGelu" | "BiasGelu" => self.elementwise(x(self)?, step, Op::Gelu),
            "Swish" | "QuickGelu" => self.elementwise(x(self)?, step, Op::Silu),
            "Clip" if clip_bounds(step, self.infos) == (Some(0.0), Some(6.0)) => {
                self.elementwise(x(self)?, step, Op::Relu6)
            }
            "Clip" => self.like(step, Op::Relu6, "relu6"),
            "LeakyRelu" | "PRelu" | "ThresholdedRelu" | "Abs" | "Neg" | "Sign" | "Floor"
            | "Ceil" | "Round" | "Not" | "IsNaN" | "IsInf" | "Shrink" | "Sqrt" | "Reciprocal"
            | "BitwiseNot" => self.like(step, Op::Relu, "relu"),
            "Elu" | "Selu" | "Celu" | "Softplus" | "Softsign" | "Mish" | "Exp" | "Log" | "Erf"
            | "Sin" | "Cos" | "Tan" | "Atan" => self.like(step, Op::Sigmoid, "sigmoid"),
            "Identity" | "Dropout" => self.renamed(step),
            "Cast" | "CastLike" => self.cast(step),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.renamed(step),
            "Add" | "Sub" | "And" | "Or" | "Xor" | "Equal" | "Greater" | "GreaterOrEqual"
            | "Less" | "LessOrEqual" | "Max" | "Min" | "Sum" | "Mean" => {
                self.joined(step, Op::Add, "add")
            }
            "Mul" | "Div" | "Pow" | "Mod" => self.joined(step, Op::Mul, "mul"),
            "Where" => self.chosen(step),
            "Softmax" | "LogSoftmax" | "Hardmax" => self.softmax(step),
            "LayerNormalization" => self.normalised_rows(step, Op::LayerNorm),
            "RMSNormalization" => self.normalised_rows(step, Op::RmsNorm),
            "BatchNormalization" => self.batch_norm(step),
            "InstanceNormalization" | "GroupNormalization" => self.group_norm(step),
            "LRN" => self.local_response_norm(step),
            "Conv" => self.conv(step, step, false),
            "ConvTranspose" => self.conv_transpose(step, step, false),
            "MaxPool" | "AveragePool" | "LpPool" => self.pool(step),
            "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => self.global_pool(step),
            "Resize" | "Upsample" => self.resize(step),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
            | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => {
                self.reduce(step)
            }
            "MatMul" => self.matmul(step, step, false),
            "Gemm" => self.gemm(step),
            "Einsum" => self.einsum(step),
            "Attention" => self.fused_attention(step),
            "LSTM" | "GRU" => self.recurrent(step),
            "Concat" => self.concat(step),
            "Split" => self.split(step),
            "Slice" => self.slice(step),
            "Gather" => self.gather(step),
            "Transpose" => self.transpose(index, step),
            "Expand" => self.expanded(step),
            "Pad" | "Tile" | "GatherElements" | "GatherND" | "Trilu" | "ScatterND"
            | "ScatterElements" | "DepthToSpace" | "SpaceToDepth" | "ReverseSequence" => {
                self.copied(step)
            }
            "Shape" | "Size" | "Constant" | "ConstantOfShape" | "EyeLike" => Ok(Outcome::Free),
            _ => Ok(self.one_each(step)),
        }
    }

    /// An operator on single values that has no kind of its own.
    fn like(
        &mut self,
        step: &Step,
        op: fn(Elementwise) -> Op,
        kind: &str,
    ) -> Result<Outcome, String> {
        self.stands_for(step, kind);
        let x = self.id(step, 0)?;
        self.elementwise(x, step, op)
    }

    /// A softmax over the last axis, or over any as over rows. Before opset 13 it was over all axes from one on.
    fn softmax(&mut self, step: &Step) -> Result<Outcome, String> {
        let info = self.input_info(step, 0)?;
        let (shape, numel) = (info.shape.clone(), info.numel());
        let old = self.graph.opset < 13;
        let axis = step.node.int("axis").unwrap_or(if old { 1 } else { -1 });
        let axis = crate::infer::place(axis, shape.len()).ok_or("an axis that is not there")?;
        let features = match old {
            true => shape[axis..].iter().product(),
            false => shape[axis],
        };
        if step.node.operator != "Softmax" {
            self.stands_for(step, "softmax");
        }
        let batch = numel.checked_div(features).ok_or("an empty axis")?;
        let x = self.read_input(step, 0)?;
        let rows = match shape.last() == Some(&features) {
            true => x,
            false => self.view(x, &[batch, features]),
        };
        let made = self.layer(&[rows], Op::Softmax(Rows { batch, features }));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    fn normalised_rows(&mut self, step: &Step, op: fn(Rows) -> Op) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let axis = step.node.int("axis").unwrap_or(-1);
        let axis = crate::infer::place(axis, shape.len()).ok_or("an axis that is not there")?;
        let rows = Rows {
            batch: shape[..axis].iter().product(),
            features: shape[axis..].iter().product(),
        };
        let x = self.read_input(step, 0)?;
        let x = match axis + 1 == shape.len() {
            true => x,
            false => self.view(x, &[rows.batch, rows.features]),
        };
        let made = self.layer(&[x], op(rows));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }
}

/// A shape in the network: a single value has one axis there.
fn network_shape(shape: &[u64]) -> Shape {
    match shape.is_empty() {
        true => vec![1],
        false => shape.to_vec(),
    }
}
