//! A network with some of its layers changed: what lies behind them follows.

use super::refit::{refit, reshaped, resliced};
use super::{Network, NetworkError, Node, Source, Step};
use crate::layer::{Layer, LayerError, Op, Shape, Value};

/// Fields of some layers, with what they shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The layers' names; in each, `*` stands for any characters.
    pub layers: Vec<String>,
    /// Fields with their new values. `kernel`, `stride`, `pad` and `dilation` stand for all fields that begin so, and `kind`
    /// makes a layer one of another kind with the same fields.
    pub set: Vec<(String, Value)>,
}

/// A network after a [`Change`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The network, with the nodes that it had before, in the same order.
    pub network: Network,
    /// Where the graph doesn't say how it would follow, and what was taken to be meant.
    pub notes: Vec<String>,
}

/// Why a network cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// No layer has such a name.
    #[error("no layer is named `{pattern}`; there is {}", .near.join(", "))]
    UnknownLayer {
        /// The name that was given.
        pattern: String,
        /// Names of layers that begin alike, or the first ones.
        near: Vec<String>,
    },
    /// A layer refuses the field or its value.
    #[error("layer `{layer}`: {error}")]
    Field {
        /// The layer's name.
        layer: String,
        /// What is wrong.
        error: LayerError,
    },
    /// A field that is not the layer's own to choose.
    #[error("layer `{layer}`: {field} follows from what the layer reads: change the layer before")]
    Follows {
        /// The layer's name.
        layer: String,
        /// The field.
        field: String,
    },
    /// Something behind the changed layers does not fit any more.
    #[error("the network doesn't fit together with this change: {0}")]
    Unfit(#[from] NetworkError),
}

/// The most names that an error suggests.
const NEAR_MAX: usize = 5;

impl Network {
    /// The network with layers changed, and the layers behind them as their inputs' new shapes have it: channels are taken
    /// over, a convolution that keeps its channels apart keeps them apart, views and slices keep what they mean, and a
    /// constant that is joined with a tensor follows the tensor's axes. Errors: see [`ChangeError`]; where two tensors
    /// don't meet any more, such as those of a shortcut, the node that joins them is named.
    pub fn changed(&self, change: &Change) -> Result<Changed, ChangeError> {
        let named = |node: &Node| {
            matches!(node.step, Step::Layer(_))
                && change.layers.iter().any(|name| is_match(name, &node.name))
        };
        for pattern in &change.layers {
            if !self.layers().any(|(name, _)| is_match(pattern, name)) {
                return Err(self.unknown(pattern));
            }
        }
        let mut rebuild = Rebuild::of(self);
        for node in self.nodes() {
            let set: &[(String, Value)] = if named(node) { &change.set } else { &[] };
            rebuild.follow(node, set)?;
        }
        Ok(Changed {
            network: Self::new(self.name.clone(), self.input.clone(), rebuild.nodes)?,
            notes: rebuild.notes,
        })
    }

    fn unknown(&self, pattern: &str) -> ChangeError {
        let alike = |name: &str| {
            let both = name.bytes().zip(pattern.bytes());
            both.take_while(|(own, given)| own == given).count()
        };
        let mut names: Vec<&str> = self.layers().map(|(name, _)| name).collect();
        names.sort_by_key(|name| std::cmp::Reverse(alike(name)));
        ChangeError::UnknownLayer {
            pattern: pattern.chars().take(80).collect(),
            near: names
                .iter()
                .take(NEAR_MAX)
                .map(|name| format!("`{name}`"))
                .collect(),
        }
    }
}

/// Whether a name fits a pattern in which `*` stands for any characters.
fn is_match(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut left) = name.strip_prefix(first) else {
        return false;
    };
    // Each part between two asterisks at its earliest place leaves most to those behind it.
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

/// The nodes so far, each as it follows from the change.
struct Rebuild<'a> {
    of: &'a Network,
    nodes: Vec<Node>,
    shapes: Vec<Shape>,
    /// How many nodes read each.
    readers: Vec<usize>,
    notes: Vec<String>,
}

impl<'a> Rebuild<'a> {
    fn of(network: &'a Network) -> Self {
        let mut readers = vec![0; network.nodes().len()];
        for source in network.nodes().iter().flat_map(|node| &node.inputs) {
            if let Source::Node(index) = source {
                readers[*index] += 1;
            }
        }
        Self {
            of: network,
            nodes: Vec::with_capacity(readers.len()),
            shapes: Vec::with_capacity(readers.len()),
            readers,
            notes: Vec::new(),
        }
    }

    /// Puts the next node behind what has been rebuilt, with its own fields as set.
    fn follow(&mut self, node: &Node, set: &[(String, Value)]) -> Result<(), ChangeError> {
        let index = self.nodes.len();
        let unfit = |reason: String| NetworkError::Node {
            index,
            name: node.name.clone(),
            reason,
        };
        let before: Vec<Shape> = node.inputs.iter().map(|of| self.before(of)).collect();
        let mut reads: Vec<Shape> = node.inputs.iter().map(|of| self.after(of)).collect();
        let step = match &node.step {
            step if set.is_empty() && before == reads => step.clone(),
            Step::Layer(layer) => {
                let (wanted, fields) = with_fields(&node.name, layer, set)?;
                self.constants_follow(wanted.op(), node, &before, &mut reads);
                let fitted = refit(wanted.op(), &reads).and_then(|op| {
                    let layer = Layer::new(op, wanted.dtype(), wanted.memory_format());
                    layer.map_err(|error| error.to_string())
                });
                let fitted =
                    fitted.map_err(|reason| unfit(format!("reads {reads:?}: {reason}")))?;
                if let Some(field) = overruled(&fields, &wanted, &fitted) {
                    return Err(ChangeError::Follows {
                        layer: node.name.clone(),
                        field,
                    });
                }
                Step::Layer(fitted)
            }
            Step::Reshape(shape) => {
                let view = reshaped(&before[0], shape, &reads[0]).map_err(unfit)?;
                if view.is_guess {
                    self.notes.push(format!(
                        "`{}` is taken to view {:?} as {:?}: it viewed {:?} as {shape:?}",
                        node.name, reads[0], view.shape, before[0]
                    ));
                }
                Step::Reshape(view.shape)
            }
            &Step::Slice {
                axis,
                start,
                step,
                length,
            } => {
                let of = |shape: &Shape| shape[axis as usize];
                let (start, length) =
                    resliced((start, step, length), of(&before[0]), of(&reads[0]));
                Step::Slice {
                    axis,
                    start,
                    step,
                    length,
                }
            }
            step @ (Step::Select { .. } | Step::Parameter(_) | Step::Transpose(_)) => step.clone(),
        };
        let node = Node {
            name: node.name.clone(),
            step,
            inputs: node.inputs.clone(),
        };
        let shape = node.shape(self.of.input(), &self.shapes).map_err(unfit)?;
        self.nodes.push(node);
        self.shapes.push(shape);
        Ok(())
    }

    fn before(&self, source: &Source) -> Shape {
        match source {
            Source::Input => self.of.input().clone(),
            Source::Node(index) => self.of.shape(*index).clone(),
        }
    }

    fn after(&self, source: &Source) -> Shape {
        match source {
            Source::Input => self.of.input().clone(),
            Source::Node(index) => self.shapes[*index].clone(),
        }
    }

    /// Constants that a layer joins with a tensor take the tensor's new axes where they had its old ones.
    fn constants_follow(&mut self, op: &Op, node: &Node, before: &[Shape], reads: &mut [Shape]) {
        let chains: Vec<Option<Vec<usize>>> =
            node.inputs.iter().map(|of| self.constant(of)).collect();
        let Some(leader) = chains.iter().position(Option::is_none) else {
            return;
        };
        for (place, chain) in chains.iter().enumerate() {
            let Some(chain) = chain else { continue };
            let (old, new) = (&before[leader], &reads[leader]);
            let mut shape = reads[place].clone();
            match op {
                Op::Add(_) | Op::Mul(_) | Op::Concat(_) if shape.len() == old.len() => {
                    for axis in 0..shape.len() {
                        // Along its second axis a concatenation joins what may differ.
                        let is_joined = matches!(op, Op::Concat(_)) && axis == 1;
                        if shape[axis] == old[axis] && !is_joined {
                            shape[axis] = new[axis];
                        }
                    }
                }
                Op::Matmul(_) if place == 1 => (shape[0], shape[1]) = (new[0], new[2]),
                Op::Matmul(_) => (shape[0], shape[2]) = (new[0], new[1]),
                _ => continue,
            }
            for &index in chain {
                self.shapes[index] = shape.clone();
                self.nodes[index].step = match &self.nodes[index].step {
                    Step::Reshape(_) => Step::Reshape(shape.clone()),
                    _ => Step::Parameter(shape.clone()),
                };
            }
            reads[place] = shape;
        }
    }

    /// The nodes from a constant to a source that views it, if nothing else reads it.
    fn constant(&self, source: &Source) -> Option<Vec<usize>> {
        let mut chain = Vec::new();
        let mut source = *source;
        loop {
            let Source::Node(index) = source else {
                return None;
            };
            if self.readers[index] > 1 {
                return None;
            }
            chain.push(index);
            match &self.nodes[index].step {
                Step::Parameter(_) => return Some(chain),
                Step::Reshape(_) => source = self.nodes[index].inputs[0],
                Step::Layer(_) | Step::Select { .. } | Step::Slice { .. } | Step::Transpose(_) => {
                    return None;
                }
            }
        }
    }
}

/// A layer with fields set, its sizes as they were, and the names of those fields.
fn with_fields<'a>(
    name: &str,
    layer: &'a Layer,
    set: &'a [(String, Value)],
) -> Result<(Layer, Vec<&'a str>), ChangeError> {
    let refused = |error| ChangeError::Field {
        layer: name.to_owned(),
        error,
    };
    let mut kind = layer.kind();
    let mut given: Vec<(&str, &Value)> = Vec::new();
    for (field, value) in set {
        if field == "kind" {
            kind = value.to_string().parse().map_err(refused)?;
            continue;
        }
        let begins = |name: &&&str| {
            let rest = name.strip_prefix(field.as_str());
            rest.is_some_and(|rest| rest.starts_with('_'))
        };
        let several: Vec<&str> = kind.field_names().iter().filter(begins).copied().collect();
        match kind.field_names().contains(&field.as_str()) || several.is_empty() {
            true => given.push((field, value)),
            false => given.extend(several.into_iter().map(|name| (name, value))),
        }
    }
    let words = [
        ("dtype", Value::Word(layer.dtype().to_string())),
        (
            "memory_format",
            Value::Word(layer.memory_format().to_string()),
        ),
    ];
    // The last value of a name counts.
    let own = layer.fields().into_iter().chain(words);
    let given_values = given.iter().map(|&(name, value)| (name, value.clone()));
    let changed = Layer::from_fields(kind, own.chain(given_values)).map_err(refused)?;
    Ok((changed, given.into_iter().map(|(name, _)| name).collect()))
}

/// The first of these fields whose value was overruled by the shapes that the layer reads.
fn overruled(fields: &[&str], wanted: &Layer, fitted: &Layer) -> Option<String> {
    let (wanted, fitted) = (wanted.fields(), fitted.fields());
    let differing = wanted
        .iter()
        .zip(&fitted)
        .find(|(wanted, fitted)| fields.contains(&wanted.0) && wanted.1 != fitted.1);
    differing.map(|(wanted, _)| wanted.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{NetworkBuilder, window, zoo};
    use crate::{Dtype, Kind};

    fn change(layers: &[&str], set: &[(&str, &str)]) -> Change {
        Change {
            layers: layers.iter().map(|&name| name.to_owned()).collect(),
            set: set
                .iter()
                .map(|&(field, text)| (field.to_owned(), Value::from(text)))
                .collect(),
        }
    }

    fn built(name: &str) -> Network {
        zoo::build(name, Some(2), Dtype::F32).expect("built in")
    }

    /// A network without a change is itself, whatever it is made of.
    #[test]
    fn what_is_set_as_it_was_changes_nothing() {
        for builtin in zoo::all() {
            let network = builtin.build(None, Dtype::F32).expect("built in");
            let (name, layer) = network.layers().next().expect("has layers");
            let own = layer.fields().pop().expect("has fields");
            let same = Change {
                layers: vec![name.to_owned()],
                set: vec![(own.0.to_owned(), own.1)],
            };
            let changed = network.changed(&same).expect("fits");
            assert_eq!(changed.network, network, "{}", builtin.name);
            assert_eq!(changed.notes, Vec::<String>::new());
        }
    }

    /// Every layer refitted to the shapes that it reads anyway is itself.
    #[test]
    fn refitting_to_what_is_read_changes_nothing() {
        for builtin in zoo::all() {
            let network = builtin.build(None, Dtype::F32).expect("built in");
            for node in network.nodes() {
                let reads: Vec<Shape> = node
                    .inputs
                    .iter()
                    .map(|source| match source {
                        Source::Input => network.input().clone(),
                        Source::Node(index) => network.shape(*index).clone(),
                    })
                    .collect();
                if let Step::Layer(layer) = &node.step {
                    assert_eq!(refit(layer.op(), &reads).as_ref(), Ok(layer.op()));
                }
            }
        }
    }

    #[test]
    fn a_width_flows_through_the_layers_behind() {
        let network = built("vgg16");
        let changed = network
            .changed(&change(&["features.28"], &[("out_channels", "384")]))
            .expect("fits")
            .network;
        let shown = |name: &str| {
            let found = changed.layers().find(|(own, _)| *own == name);
            found.expect("there").1.to_string()
        };
        assert!(shown("features.28").contains("out_channels=384"));
        // 384 channels of 7 x 7 are what the first linear layer reads.
        assert!(shown("classifier.0").contains("in_features=18816"));
        let differing = network.nodes().iter().zip(changed.nodes());
        let differing = differing.filter(|(was, is)| was != is).count();
        assert_eq!(
            differing, 6,
            "its relu, two pools, a flattening and a product"
        );
    }

    /// The reference: the same network built with the other width.
    #[test]
    fn a_change_is_the_network_built_so() {
        let of = |width: u64, kernel: u64| {
            let mut b = NetworkBuilder::new("separable", vec![2, 16, 28, 28], Dtype::F32);
            let x = b.input();
            let x = b.conv2d("widen", x, width, window(kernel, 1, kernel / 2), 1, false);
            let x = b.conv2d("depthwise", x, width, window(3, 2, 1), width, false);
            let x = b.batch_norm2d("norm", x);
            let halves = [0, 1].map(|half| {
                let slice = (half * width / 2, 1, width / 2);
                b.slice(&format!("half_{half}"), x, 1, slice)
            });
            let x = b.concat("shuffled", &[halves[1], halves[0]]);
            let bias = b.parameter("bias", &[1, width, 1, 1]);
            let x = b.add("biased", x, bias);
            let x = b.adaptive_avg_pool2d("pool", x, 1, 1);
            let x = b.flatten("flat", x);
            b.linear("head", x, 10, true);
            b.finish().expect("valid")
        };
        let set = [("out_channels", "48"), ("kernel", "5"), ("pad", "2")];
        let changed = of(64, 3).changed(&change(&["widen"], &set)).expect("fits");
        assert_eq!(changed.network, of(48, 5));
        assert_eq!(changed.notes, Vec::<String>::new());
    }

    #[test]
    fn several_layers_change_together() {
        let network = built("vit_b_16");
        let wide = network.changed(&change(&["*.mlp.0"], &[("out_features", "2048")]));
        let wide = wide.expect("fits").network;
        let widths = wide.layers().filter(|(name, _)| name.ends_with("mlp.3"));
        let widths: Vec<bool> = widths
            .map(|(_, layer)| layer.to_string().contains("in_features=2048"))
            .collect();
        assert_eq!(widths, [true; 12]);
        let kinds = change(&["*.mlp.1"], &[("kind", "relu")]);
        let relu = network.changed(&kinds).expect("fits").network;
        let count = relu
            .layers()
            .filter(|(_, layer)| layer.kind() == Kind::Relu);
        assert_eq!(count.count(), 12);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let network = built("resnet18");
        let told = |layers: &[&str], set: &[(&str, &str)]| {
            let error = network.changed(&change(layers, set));
            error.expect_err("cannot be").to_string()
        };
        assert_eq!(
            told(&["layer1.0.conv1"], &[("in_channels", "32")]),
            "layer `layer1.0.conv1`: in_channels follows from what the layer reads: change the layer before"
        );
        assert_eq!(
            told(&["layer1.0.conv1"], &[("width", "32")]),
            "layer `layer1.0.conv1`: width: conv2d has no such field"
        );
        let shortcut = told(&["layer1.0.conv2"], &[("out_channels", "48")]);
        assert!(
            shortcut.starts_with(
                "the network doesn't fit together with this change: node 9 (`layer1.0.add`): reads"
            ),
            "{shortcut}"
        );
        assert!(
            told(&["layer1.0.conv3"], &[("stride", "2")])
                .starts_with("no layer is named `layer1.0.conv3`; there is `layer1.0.conv"),
        );
    }

    #[test]
    fn an_asterisk_is_any_characters() {
        for (pattern, name) in [
            ("conv1", "conv1"),
            ("*", ""),
            ("layer*.conv1", "layer1.0.conv1"),
            ("*conv*1", "a.conv.1"),
            ("a**b", "ab"),
        ] {
            assert!(is_match(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("conv1", "conv10"),
            ("*1", "conv2"),
            ("a*a", "a"),
            ("*ab*ab", "ab"),
        ] {
            assert!(!is_match(pattern, name), "{pattern} {name}");
        }
    }
}
