//! A file's graph in the order of execution: functions written out, tensors by number, and no cycles.

use std::collections::HashMap;

use crate::error::{OnnxError, shown};
use crate::file::{Attribute, File, Function, Node, ValueInfo};
use crate::value::Info;

/// The most nodes of a graph, its functions written out.
const NODES_MAX: usize = 200_000;

/// How deep functions may call each other.
const CALLS_MAX: u32 = 16;

/// The most nodes of a graph, its functions written out, to each that stands in the file; ten thousand it may always have.
const WRITTEN_MAX: usize = 32;

/// The most bytes of names, lists and constants that functions may come to, written out.
const WRITTEN_BYTES_MAX: usize = 8 << 20;

/// A tensor of the graph, by number.
pub(crate) type TensorId = usize;

/// A node whose inputs and outputs are numbers.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) node: Node,
    /// `None`: left out.
    pub(crate) inputs: Vec<Option<TensorId>>,
    pub(crate) outputs: Vec<Option<TensorId>>,
}

/// A checked graph.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) name: String,
    pub(crate) opset: i64,
    /// In an order in which each reads only what is there.
    pub(crate) steps: Vec<Step>,
    /// Names of tensors.
    pub(crate) names: Vec<String>,
    /// What is known before anything runs: initializers.
    pub(crate) constants: Vec<(TensorId, Info)>,
    /// The inputs that are no initializers.
    pub(crate) inputs: Vec<(TensorId, ValueInfo)>,
    /// The graph's outputs.
    pub(crate) outputs: Vec<TensorId>,
    /// What the exporter wrote about tensors within.
    pub(crate) written: HashMap<TensorId, ValueInfo>,
}

impl Node {
    /// The name that people know it by.
    pub(crate) fn title(&self, index: usize) -> String {
        match self.name.is_empty() {
            true => format!("{}_{index}", shown(&self.operator)),
            false => shown(&self.name),
        }
    }

    pub(crate) fn error(&self, index: usize, reason: impl Into<String>) -> OnnxError {
        OnnxError::Node {
            node: self.title(index),
            operator: shown(&self.operator),
            reason: reason.into(),
        }
    }
}

impl Graph {
    pub(crate) fn of(file: File) -> Result<Self, OnnxError> {
        let File {
            opset,
            graph,
            functions,
        } = file;
        let nodes = match functions.is_empty() {
            true => graph.nodes,
            false => Calls::new(&functions).written_out(graph.nodes)?,
        };
        if nodes.len() > NODES_MAX {
            return Err(OnnxError::TooLarge(format!(
                "the graph has {} nodes, and {NODES_MAX} are the most",
                nodes.len()
            )));
        }
        let mut tensors = Tensors::default();
        let mut constants = Vec::new();
        for constant in graph.initializers {
            let id = tensors.made(&constant.name, || {
                format!("has two initializers named `{}`", shown(&constant.name))
            })?;
            constants.push((
                id,
                Info {
                    shape: constant.shape,
                    element: constant.element,
                    constant: true,
                    values: constant.values.map(Into::into),
                },
            ));
        }
        let mut inputs = Vec::new();
        for input in graph.inputs {
            // Before IR version 4, initializers stood among the inputs too.
            if tensors.is_made(&input.name) {
                if inputs
                    .iter()
                    .any(|(_, known): &(_, ValueInfo)| known.name == input.name)
                {
                    let name = shown(&input.name);
                    return Err(OnnxError::Graph(format!("has two inputs named `{name}`")));
                }
                continue;
            }
            inputs.push((tensors.made(&input.name, String::new)?, input));
        }
        let mut steps = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.into_iter().enumerate() {
            let name = |name: &String| (!name.is_empty()).then(|| name.clone());
            let read = node
                .inputs
                .iter()
                .map(|of| name(of).map(|of| tensors.id(&of)));
            let inputs = read.collect();
            let mut outputs = Vec::with_capacity(node.outputs.len());
            for output in &node.outputs {
                outputs.push(match output.is_empty() {
                    true => None,
                    false => Some(tensors.made(output, || {
                        format!(
                            "makes `{}` a second time at node `{}`",
                            shown(output),
                            node.title(index)
                        )
                    })?),
                });
            }
            steps.push(Step {
                node,
                inputs,
                outputs,
            });
        }
        let outputs = graph.outputs.iter().map(|output| tensors.id(&output.name));
        let outputs: Vec<TensorId> = outputs.collect();
        let mut written = HashMap::new();
        for value in graph.outputs.into_iter().chain(graph.values) {
            let id = tensors.id(&value.name);
            written.entry(id).or_insert(value);
        }
        let known = constants.iter().map(|(id, _)| *id);
        let known = known.chain(inputs.iter().map(|(id, _)| *id)).collect();
        Ok(Self {
            name: graph.name,
            opset: if opset == 0 { 1 } else { opset },
            steps: in_order(steps, &tensors, known)?,
            names: tensors.names,
            constants,
            inputs,
            outputs,
            written,
        })
    }
}

/// Numbers for names.
#[derive(Default)]
struct Tensors {
    ids: HashMap<String, TensorId>,
    names: Vec<String>,
    made: Vec<bool>,
}

impl Tensors {
    fn id(&mut self, name: &str) -> TensorId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = self.names.len();
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        self.made.push(false);
        id
    }

    fn is_made(&self, name: &str) -> bool {
        self.ids.get(name).is_some_and(|&id| self.made[id])
    }

    /// A tensor that something makes: only one thing may.
    fn made(&mut self, name: &str, again: impl Fn() -> String) -> Result<TensorId, OnnxError> {
        let id = self.id(name);
        match std::mem::replace(&mut self.made[id], true) {
            false => Ok(id),
            true => Err(OnnxError::Graph(again())),
        }
    }
}

/// The steps in an order in which each reads only what is there; the file's own order where that is one.
fn in_order(
    steps: Vec<Step>,
    tensors: &Tensors,
    known: Vec<TensorId>,
) -> Result<Vec<Step>, OnnxError> {
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); tensors.names.len()];
    let mut missing: Vec<usize> = vec![0; steps.len()];
    for (index, step) in steps.iter().enumerate() {
        for &input in step.inputs.iter().flatten() {
            readers[input].push(index);
            missing[index] += 1;
            if !tensors.made[input] {
                let name = shown(&tensors.names[input]);
                return Err(step
                    .node
                    .error(index, format!("reads `{name}`, which nothing makes")));
            }
        }
    }
    let mut ready: std::collections::BTreeSet<usize> = (0..steps.len())
        .filter(|&index| missing[index] == 0)
        .collect();
    let mut arrive = |tensor: TensorId, ready: &mut std::collections::BTreeSet<usize>| {
        for &reader in &readers[tensor] {
            missing[reader] -= 1;
            if missing[reader] == 0 {
                ready.insert(reader);
            }
        }
    };
    for tensor in known {
        arrive(tensor, &mut ready);
    }
    let mut order = Vec::with_capacity(steps.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &output in steps[index].outputs.iter().flatten() {
            arrive(output, &mut ready);
        }
    }
    if order.len() < steps.len() {
        let done: std::collections::HashSet<usize> = order.into_iter().collect();
        let (index, step) = steps
            .iter()
            .enumerate()
            .find(|(index, _)| !done.contains(index))
            .expect("one is left over");
        return Err(step.node.error(
            index,
            "reads its own output, directly or through others: the graph is a cycle",
        ));
    }
    let mut steps: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
    Ok(order
        .into_iter()
        .map(|index| steps[index].take().expect("each comes once"))
        .collect())
}

/// Writes out calls of a file's own functions.
struct Calls<'a> {
    functions: HashMap<(&'a str, &'a str), &'a Function>,
    calls: usize,
    nodes: Vec<Node>,
    /// How many nodes there may be.
    most: usize,
    /// Bytes of those that stand in functions.
    bytes: usize,
}

impl<'a> Calls<'a> {
    fn new(functions: &'a [Function]) -> Self {
        let name = |function: &'a Function| (function.domain.as_str(), function.name.as_str());
        Self {
            functions: functions
                .iter()
                .map(|function| (name(function), function))
                .collect(),
            calls: 0,
            nodes: Vec::new(),
            most: 0,
            bytes: 0,
        }
    }

    fn written_out(mut self, nodes: Vec<Node>) -> Result<Vec<Node>, OnnxError> {
        let inner = self.functions.values().map(|function| function.nodes.len());
        let in_file = nodes.len() + inner.sum::<usize>();
        self.most = (in_file * WRITTEN_MAX).clamp(10_000, NODES_MAX);
        for node in nodes {
            self.write(node, 0)?;
        }
        Ok(self.nodes)
    }

    fn write(&mut self, node: Node, depth: u32) -> Result<(), OnnxError> {
        let called = self
            .functions
            .get(&(node.domain.as_str(), node.operator.as_str()))
            .copied();
        if self.nodes.len() >= self.most || self.calls >= self.most {
            return Err(OnnxError::TooLarge(format!(
                "the graph has more than {} nodes with its functions written out",
                self.most
            )));
        }
        let Some(function) = called else {
            self.nodes.push(node);
            return Ok(());
        };
        if depth >= CALLS_MAX {
            return Err(node.error(
                self.nodes.len(),
                format!("functions call each other more than {CALLS_MAX} deep"),
            ));
        }
        self.calls += 1;
        let call = self.calls;
        let mut names: HashMap<&str, &str> = HashMap::new();
        let outer = node
            .inputs
            .iter()
            .map(String::as_str)
            .chain(std::iter::repeat(""));
        names.extend(function.inputs.iter().map(String::as_str).zip(outer));
        let outer = node.outputs.iter().map(String::as_str);
        names.extend(function.outputs.iter().map(String::as_str).zip(outer));
        let renamed = |name: &String| match names.get(name.as_str()) {
            _ if name.is_empty() => String::new(),
            Some(outer) => (*outer).to_owned(),
            None => format!("{name}~{call}"),
        };
        for inner in &function.nodes {
            let attribute = |(name, attribute): &(String, Attribute)| match attribute {
                Attribute::Reference(of) => {
                    let given = node.attribute(of).cloned();
                    let default = || {
                        let mut defaults = function.defaults.iter();
                        defaults
                            .find(|(own, _)| own == of)
                            .map(|(_, value)| value.clone())
                    };
                    Some((name.clone(), given.or_else(default)?))
                }
                _ => Some((name.clone(), attribute.clone())),
            };
            let name = match inner.name.is_empty() {
                true => String::new(),
                false => format!("{}/{}", node.name, inner.name),
            };
            let written = Node {
                name,
                operator: inner.operator.clone(),
                domain: inner.domain.clone(),
                inputs: inner.inputs.iter().map(renamed).collect(),
                outputs: inner.outputs.iter().map(renamed).collect(),
                attributes: inner.attributes.iter().filter_map(attribute).collect(),
            };
            self.bytes += written.bytes();
            if self.bytes > WRITTEN_BYTES_MAX {
                return Err(OnnxError::TooLarge(format!(
                    "the functions, written out, have more than {} MiB of names and lists",
                    WRITTEN_BYTES_MAX >> 20
                )));
            }
            self.write(written, depth + 1)?;
        }
        Ok(())
    }
}
