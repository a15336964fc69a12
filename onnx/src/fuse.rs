//! What exporters spell out, and frameworks run as one kernel: found again in the graph.

use std::collections::BTreeSet;

use crate::file::Attribute;
use crate::graph::{Graph, Step, TensorId};
use crate::infer::{is_standard, order, place, reduced_axes};
use crate::value::Info;

/// What a step is to the layers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Role {
    /// A layer, or a free step, of its own.
    Own,
    /// Inside what a later step stands for.
    Part,
    /// The last of several steps that are one.
    Whole(Whole),
}

/// Several steps as one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Whole {
    Gelu(TensorId),
    Silu(TensorId),
    Hardswish(TensorId),
    Hardsigmoid(TensorId),
    LayerNorm(TensorId),
    RmsNorm(TensorId),
    /// The product of this step, and a bias.
    Biased(usize),
    Attention {
        query: Strided,
        key: Strided,
        value: Strided,
    },
}

/// A tensor seen with its axes in another order, as matrix products and attention take it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Strided {
    pub(crate) tensor: TensorId,
    pub(crate) order: Vec<usize>,
}

/// A graph with what is known of it, to look for patterns in.
pub(crate) struct Patterns<'a> {
    graph: &'a Graph,
    infos: &'a [Option<Info>],
    /// The step that makes a tensor.
    makers: Vec<Option<usize>>,
    /// The steps that read its values, and not only its shape; the graph's outputs are read by nobody's step, `usize::MAX`.
    readers: Vec<Vec<usize>>,
    roles: Vec<Role>,
}

/// The steps of a pattern, the last of them apart.
struct Found {
    last: usize,
    parts: BTreeSet<usize>,
    whole: Whole,
}

/// The role of every step.
pub(crate) fn roles(graph: &Graph, infos: &[Option<Info>]) -> Vec<Role> {
    let mut makers = vec![None; graph.names.len()];
    let mut readers = vec![Vec::new(); graph.names.len()];
    for (index, step) in graph.steps.iter().enumerate() {
        for &output in step.outputs.iter().flatten() {
            makers[output] = Some(index);
        }
        let is_constant = |output: &TensorId| infos[*output].as_ref().is_some_and(|it| it.constant);
        if !step.outputs.iter().flatten().all(is_constant) {
            for &input in step.inputs.iter().flatten() {
                readers[input].push(index);
            }
        }
    }
    for &output in &graph.outputs {
        readers[output].push(usize::MAX);
    }
    let mut patterns = Patterns {
        graph,
        infos,
        makers,
        readers,
        roles: vec![Role::Own; graph.steps.len()],
    };
    for index in 0..graph.steps.len() {
        if let Some(found) = patterns.find(index) {
            patterns.claim(found);
        }
    }
    patterns.roles
}

impl Patterns<'_> {
    fn find(&self, index: usize) -> Option<Found> {
        let step = &self.graph.steps[index];
        if !is_standard(&step.node) || step.outputs.first()?.is_none() {
            return None;
        }
        match step.node.operator.as_str() {
            "Erf" | "Tanh" => self.gelu(index),
            "Mul" => self.gated(index).or_else(|| self.rms_norm(index)),
            "Div" => self
                .layer_norm(index)
                .or_else(|| self.rms_norm(index))
                .or_else(|| self.hardswish_divided(index)),
            "Softmax" => self.attention(index),
            "Add" => self.biased(index),
            _ => None,
        }
    }

    /// Gives the steps their roles, unless one has another already or something outside reads what is inside.
    fn claim(&mut self, found: Found) {
        let inside = |reader: &usize| *reader == found.last || found.parts.contains(reader);
        let is_free = |index: &usize| self.roles[*index] == Role::Own;
        let closed = found.parts.iter().all(|&part| {
            let outputs = self.graph.steps[part].outputs.iter().flatten();
            outputs
                .into_iter()
                .all(|&output| self.readers[output].iter().all(inside))
        });
        if !closed || found.parts.contains(&found.last) {
            return;
        }
        if !found.parts.iter().all(is_free) || !is_free(&found.last) {
            return;
        }
        for &part in &found.parts {
            self.roles[part] = Role::Part;
        }
        self.roles[found.last] = Role::Whole(found.whole);
    }

    fn info(&self, tensor: TensorId) -> Option<&Info> {
        self.infos[tensor].as_ref()
    }

    fn scalar(&self, tensor: TensorId) -> Option<f64> {
        self.info(tensor)?.scalar()
    }

    fn step(&self, index: usize) -> &Step {
        &self.graph.steps[index]
    }

    fn input(&self, index: usize, place: usize) -> Option<TensorId> {
        self.step(index).inputs.get(place).copied().flatten()
    }

    fn output(&self, index: usize) -> Option<TensorId> {
        self.step(index).outputs.first().copied().flatten()
    }

    /// The step that makes a tensor, if it has this operator.
    fn made_by(&self, tensor: TensorId, operator: &str) -> Option<usize> {
        let index = self.makers[tensor]?;
        let node = &self.step(index).node;
        (node.operator == operator && is_standard(node)).then_some(index)
    }

    /// The one step that reads a tensor, if it has this operator.
    fn read_by(&self, tensor: TensorId, operator: &str) -> Option<usize> {
        match self.readers[tensor].as_slice() {
            &[index] if index != usize::MAX => {
                let node = &self.step(index).node;
                (node.operator == operator && is_standard(node)).then_some(index)
            }
            _ => None,
        }
    }

    /// The other input of a step of two.
    fn other(&self, index: usize, tensor: TensorId) -> Option<TensorId> {
        match (self.input(index, 0)?, self.input(index, 1)?) {
            (a, b) if a == tensor => Some(b),
            (a, b) if b == tensor => Some(a),
            _ => None,
        }
    }

    /// A step that joins a tensor with one number: the tensor and the number.
    fn with_scalar(&self, index: usize) -> Option<(TensorId, f64)> {
        let (a, b) = (self.input(index, 0)?, self.input(index, 1)?);
        match (self.scalar(a), self.scalar(b)) {
            (None, Some(number)) => Some((a, number)),
            (Some(number), None) if self.step(index).node.operator != "Div" => Some((b, number)),
            _ => None,
        }
    }

    /// A tensor scaled by one number: what it was, and the factor.
    fn scaled(&self, tensor: TensorId) -> Option<(usize, TensorId, f64)> {
        if let Some(index) = self.made_by(tensor, "Mul") {
            let (of, factor) = self.with_scalar(index)?;
            return Some((index, of, factor));
        }
        let index = self.made_by(tensor, "Div")?;
        let (of, divisor) = self.with_scalar(index)?;
        Some((index, of, 1.0 / divisor))
    }

    /// x / 2 · (1 + erf(x / √2)), and its approximation by tanh, from the erf or tanh on.
    fn gelu(&self, index: usize) -> Option<Found> {
        let mut parts = BTreeSet::from([index]);
        let of = self.input(index, 0)?;
        let (scaling, inner, _) = self.scaled(of)?;
        parts.insert(scaling);
        let x = match self.step(index).node.operator.as_str() {
            "Erf" => inner,
            _ => {
                // x + 0.044715 x³
                let sum = self.made_by(inner, "Add")?;
                let (a, b) = (self.input(sum, 0)?, self.input(sum, 1)?);
                let (x, cubed) = if self.scaled(b).is_some() {
                    (a, b)
                } else {
                    (b, a)
                };
                let (scaling, cube, _) = self.scaled(cubed)?;
                parts.extend([sum, scaling]);
                match self.made_by(cube, "Pow") {
                    Some(power) if self.input(power, 0)? == x => {
                        parts.insert(power);
                    }
                    _ => {
                        let product = self.made_by(cube, "Mul")?;
                        let square = self.made_by(self.other(product, x)?, "Mul")?;
                        if (self.input(square, 0)?, self.input(square, 1)?) != (x, x) {
                            return None;
                        }
                        parts.extend([product, square]);
                    }
                }
                x
            }
        };
        let sum = self.read_by(self.output(index)?, "Add")?;
        if self.with_scalar(sum)?.1 != 1.0 {
            return None;
        }
        parts.insert(sum);
        // Times x and a half, in either order.
        let first = self.read_by(self.output(sum)?, "Mul")?;
        let other = self.other(first, self.output(sum)?)?;
        if let Some((halving, of, _)) = self.scaled(other)
            && of == x
        {
            parts.insert(halving);
            return Some(Found {
                last: first,
                parts,
                whole: Whole::Gelu(x),
            });
        }
        if other != x && self.scalar(other).is_none() {
            return None;
        }
        parts.insert(first);
        let between = self.output(first)?;
        let last = self
            .read_by(between, "Mul")
            .or_else(|| self.read_by(between, "Div"))?;
        let fits = match other == x {
            true => self.with_scalar(last).is_some(),
            false => self.other(last, between)? == x,
        };
        fits.then_some(Found {
            last,
            parts,
            whole: Whole::Gelu(x),
        })
    }

    /// min(max(x + 3, 0), 6): the steps, and x.
    fn hard_ramp(&self, tensor: TensorId) -> Option<(BTreeSet<usize>, TensorId)> {
        let clip = self.made_by(tensor, "Clip")?;
        let sum = self.made_by(self.input(clip, 0)?, "Add")?;
        let (x, three) = self.with_scalar(sum)?;
        (three == 3.0 && self.is_relu6(clip)).then(|| (BTreeSet::from([clip, sum]), x))
    }

    fn is_relu6(&self, clip: usize) -> bool {
        clip_bounds(self.step(clip), self.infos) == (Some(0.0), Some(6.0))
    }

    /// relu6(x + 3) / 6, as one operator or spelled out.
    fn hardsigmoid(&self, tensor: TensorId) -> Option<(BTreeSet<usize>, TensorId)> {
        if let Some(index) = self.made_by(tensor, "HardSigmoid") {
            return Some((BTreeSet::from([index]), self.input(index, 0)?));
        }
        let (scaling, ramp, factor) = self.scaled(tensor)?;
        let (mut parts, x) = self.hard_ramp(ramp)?;
        parts.insert(scaling);
        ((factor - 1.0 / 6.0).abs() < 1e-3).then_some((parts, x))
    }

    /// A product of x and a gate of x.
    fn gated(&self, index: usize) -> Option<Found> {
        let (a, b) = (self.input(index, 0)?, self.input(index, 1)?);
        for (x, gate) in [(a, b), (b, a)] {
            if let Some(sigmoid) = self.made_by(gate, "Sigmoid")
                && self.input(sigmoid, 0) == Some(x)
            {
                return Some(Found {
                    last: index,
                    parts: BTreeSet::from([sigmoid]),
                    whole: Whole::Silu(x),
                });
            }
            if let Some((parts, of)) = self.hardsigmoid(gate)
                && of == x
            {
                return Some(Found {
                    last: index,
                    parts,
                    whole: Whole::Hardswish(x),
                });
            }
        }
        None
    }

    /// x · relu6(x + 3) / 6, divided last; or without the product, the gate alone.
    fn hardswish_divided(&self, index: usize) -> Option<Found> {
        let (of, six) = self.with_scalar(index)?;
        if six != 6.0 {
            return None;
        }
        if let Some((parts, x)) = self.hard_ramp(of) {
            // The gate of a product is found with it: the product comes later.
            let read = self.read_by(self.output(index)?, "Mul");
            if read.is_some_and(|product| {
                self.output(index)
                    .and_then(|gate| self.other(product, gate))
                    == Some(x)
            }) {
                return None;
            }
            return Some(Found {
                last: index,
                parts,
                whole: Whole::Hardsigmoid(x),
            });
        }
        let product = self.made_by(of, "Mul")?;
        let (a, b) = (self.input(product, 0)?, self.input(product, 1)?);
        [(a, b), (b, a)].into_iter().find_map(|(x, ramp)| {
            let (mut parts, of) = self.hard_ramp(ramp)?;
            parts.insert(product);
            (of == x).then_some(Found {
                last: index,
                parts,
                whole: Whole::Hardswish(x),
            })
        })
    }

    /// The mean over the last axis: its step, and what it is of.
    fn row_mean(&self, tensor: TensorId) -> Option<(usize, TensorId)> {
        let index = self.made_by(tensor, "ReduceMean")?;
        let of = self.input(index, 0)?;
        let inputs: Vec<Option<&Info>> = self
            .step(index)
            .inputs
            .iter()
            .map(|id| id.and_then(|id| self.info(id)))
            .collect();
        let axes = reduced_axes(&self.step(index).node, &inputs)?;
        (axes == [self.info(of)?.shape.len().checked_sub(1)?]).then_some((index, of))
    }

    /// √(mean of squares + ε) over the last axis: the steps, and what is squared.
    fn root_mean_square(&self, tensor: TensorId) -> Option<(BTreeSet<usize>, TensorId)> {
        let root = self.made_by(tensor, "Sqrt")?;
        let sum = self.made_by(self.input(root, 0)?, "Add")?;
        let (mean, _) = self.with_scalar(sum)?;
        let (mean, square) = self.row_mean(mean)?;
        let (power, of) = match (self.made_by(square, "Pow"), self.made_by(square, "Mul")) {
            (Some(power), _) if self.scalar(self.input(power, 1)?) == Some(2.0) => {
                (power, self.input(power, 0)?)
            }
            (_, Some(product)) if self.input(product, 0) == self.input(product, 1) => {
                (product, self.input(product, 0)?)
            }
            _ => return None,
        };
        Some((BTreeSet::from([root, sum, mean, power]), of))
    }

    /// (x - mean) / √(variance + ε) · scale + shift, from the quotient on.
    fn layer_norm(&self, index: usize) -> Option<Found> {
        let (centred, root) = (self.input(index, 0)?, self.input(index, 1)?);
        let (mut parts, squared) = self.root_mean_square(root)?;
        let mut x = None;
        for difference in [squared, centred] {
            let difference = self.made_by(difference, "Sub")?;
            let of = self.input(difference, 0)?;
            let (mean, of_mean) = self.row_mean(self.input(difference, 1)?)?;
            if of_mean != of || x.is_some_and(|x| x != of) {
                return None;
            }
            parts.extend([difference, mean]);
            x = Some(of);
        }
        let x = x?;
        let last = self.with_vectors(index, &["Mul", "Add"], x, &mut parts)?;
        Some(Found {
            last,
            parts,
            whole: Whole::LayerNorm(x),
        })
    }

    /// x / √(mean of x² + ε) · scale, from the quotient on.
    fn rms_norm(&self, index: usize) -> Option<Found> {
        let (a, b) = (self.input(index, 0)?, self.input(index, 1)?);
        let is_product = self.step(index).node.operator == "Mul";
        let (x, root, inverse) = match is_product {
            false => (a, b, None),
            true => {
                let inverse = |tensor: TensorId| {
                    if let Some(reciprocal) = self.made_by(tensor, "Reciprocal") {
                        return Some((self.input(reciprocal, 0)?, reciprocal));
                    }
                    let quotient = self.made_by(tensor, "Div")?;
                    let one = self.scalar(self.input(quotient, 0)?)?;
                    (one == 1.0).then_some((self.input(quotient, 1)?, quotient))
                };
                match (inverse(a), inverse(b)) {
                    (_, Some((root, step))) => (a, root, Some(step)),
                    (Some((root, step)), _) => (b, root, Some(step)),
                    _ => return None,
                }
            }
        };
        let (mut parts, squared) = self.root_mean_square(root)?;
        parts.extend(inverse);
        if squared != x {
            return None;
        }
        let last = self.with_vectors(index, &["Mul"], x, &mut parts)?;
        Some(Found {
            last,
            parts,
            whole: Whole::RmsNorm(x),
        })
    }

    /// Follows a normalisation into the constant rows that it is scaled and shifted by, as far as there are any. Returns
    /// the last step; the others become parts.
    fn with_vectors(
        &self,
        from: usize,
        operators: &[&str],
        x: TensorId,
        parts: &mut BTreeSet<usize>,
    ) -> Option<usize> {
        let features = *self.info(x)?.shape.last()?;
        let mut last = from;
        for operator in operators {
            let output = self.output(last)?;
            let Some(next) = self.read_by(output, operator) else {
                break;
            };
            let Some(other) = self.other(next, output) else {
                break;
            };
            match self.info(other) {
                Some(info) if info.constant && info.numel() == features => (),
                _ => break,
            }
            parts.insert(last);
            last = next;
        }
        Some(last)
    }

    /// A bias after a product or a convolution that has none.
    fn biased(&self, index: usize) -> Option<Found> {
        let (a, b) = (self.input(index, 0)?, self.input(index, 1)?);
        for (of, bias) in [(a, b), (b, a)] {
            let (of_info, bias) = (self.info(of)?, self.info(bias)?);
            let Some(product) = self.makers[of].filter(|_| bias.constant) else {
                continue;
            };
            let step = self.step(product);
            let weight = step
                .inputs
                .get(1)
                .copied()
                .flatten()
                .and_then(|id| self.info(id));
            let fits = match step.node.operator.as_str() {
                "MatMul" => {
                    let is_weight =
                        weight.is_some_and(|info| info.constant && info.shape.len() == 2);
                    is_weight
                        && bias.numel() == *of_info.shape.last()?
                        && bias.shape.last() == of_info.shape.last()
                }
                "Conv" | "ConvTranspose" => {
                    let channels = of_info.shape.get(1).copied()?;
                    let behind = of_info.shape.len() - 2;
                    step.inputs.get(2).copied().flatten().is_none()
                        && bias.numel() == channels
                        && bias.shape.len() > behind
                        && bias.shape[bias.shape.len() - behind - 1] == channels
                }
                _ => false,
            };
            if fits && is_standard(&step.node) {
                return Some(Found {
                    last: index,
                    parts: BTreeSet::from([product]),
                    whole: Whole::Biased(product),
                });
            }
        }
        None
    }

    /// softmax(QKᵀ · scale + mask) V, from the softmax to both sides.
    fn attention(&self, index: usize) -> Option<Found> {
        let scores_info = self.info(self.input(index, 0)?)?;
        let rank = scores_info.shape.len();
        let axis = self.step(index).node.int("axis");
        if !(3..=4).contains(&rank) || place(axis.unwrap_or(-1), rank)? != rank - 1 {
            return None;
        }
        let mut parts = BTreeSet::from([index]);
        let mut scores = self.input(index, 0)?;
        let product = loop {
            let maker = self.makers[scores]?;
            if parts.len() > 10 {
                return None;
            }
            parts.insert(maker);
            let whole_scores = |tensor: &TensorId| {
                self.info(*tensor)
                    .is_some_and(|info| !info.constant && info.shape == scores_info.shape)
            };
            scores = match self.step(maker).node.operator.as_str() {
                "MatMul" => break maker,
                "Mul" | "Div" => self.with_scalar(maker)?.0,
                // A mask, or a bias by position, is one more input of the kernel.
                "Add" => {
                    let sides = [self.input(maker, 0)?, self.input(maker, 1)?];
                    let computed = |tensor: &TensorId| {
                        ["MatMul", "Mul", "Div", "Add"]
                            .iter()
                            .any(|operator| self.made_by(*tensor, operator).is_some())
                    };
                    sides.into_iter().filter(whole_scores).find(computed)?
                }
                "Where" => {
                    let sides = [self.input(maker, 1)?, self.input(maker, 2)?];
                    sides.into_iter().find(whole_scores)?
                }
                "Cast" => self.input(maker, 0)?,
                _ => return None,
            };
        };
        let mut weights = self.output(index)?;
        let last = loop {
            if let Some(product) = self.read_by(weights, "MatMul") {
                if self.input(product, 0)? != weights {
                    return None;
                }
                break product;
            }
            let pass = ["Cast", "Dropout", "Identity"]
                .iter()
                .find_map(|operator| self.read_by(weights, operator));
            let pass = match pass {
                Some(pass) => pass,
                // Rows that see nothing are made zero.
                None => {
                    let readers = self.readers[weights].iter();
                    let of = |operator: &str| {
                        let mut readers = readers.clone().copied();
                        readers.find(|&reader| {
                            reader != usize::MAX && self.step(reader).node.operator == operator
                        })
                    };
                    let (test, choice) = (of("IsNaN")?, of("Where")?);
                    parts.insert(test);
                    choice
                }
            };
            parts.insert(pass);
            weights = self.output(pass)?;
            if parts.len() > 16 {
                return None;
            }
        };
        let swapped = |mut order: Vec<usize>| {
            order.swap(rank - 2, rank - 1);
            order
        };
        let plain: Vec<usize> = (0..rank).collect();
        let query = self.strided(self.input(product, 0)?, plain.clone(), &mut parts);
        let key = self.strided(self.input(product, 1)?, swapped(plain.clone()), &mut parts);
        let value = self.strided(self.input(last, 1)?, plain, &mut parts);
        let shape = |of: &Strided| {
            let info = self.info(of.tensor)?;
            Some(
                of.order
                    .iter()
                    .map(|&axis| info.shape[axis])
                    .collect::<Vec<u64>>(),
            )
        };
        let (of_query, of_key, of_value) = (shape(&query)?, shape(&key)?, shape(&value)?);
        let fits = of_query[..rank - 2] == of_key[..rank - 2]
            && of_key == of_value
            && of_query.last() == of_key.last();
        fits.then_some(Found {
            last,
            parts,
            whole: Whole::Attention { query, key, value },
        })
    }

    /// Looks through scaling and transpositions that only this reads.
    fn strided(
        &self,
        mut tensor: TensorId,
        mut order_seen: Vec<usize>,
        parts: &mut BTreeSet<usize>,
    ) -> Strided {
        while self.readers[tensor].len() == 1 {
            if let Some((scaling, of, _)) = self.scaled(tensor) {
                parts.insert(scaling);
                tensor = of;
            } else if let Some(transposition) = self.made_by(tensor, "Transpose")
                && let Ok(inner) = order(&self.step(transposition).node, order_seen.len())
                && let Some(of) = self.input(transposition, 0)
            {
                parts.insert(transposition);
                order_seen = order_seen.iter().map(|&axis| inner[axis]).collect();
                tensor = of;
            } else if let Some((steps, of)) = self.swapped_apart(tensor) {
                parts.extend(steps);
                let rank = order_seen.len();
                for axis in &mut order_seen {
                    *axis = match *axis {
                        axis if axis == rank - 1 => rank - 2,
                        axis if axis == rank - 2 => rank - 1,
                        axis => axis,
                    };
                }
                tensor = of;
            } else {
                break;
            }
        }
        Strided {
            tensor,
            order: order_seen,
        }
    }
}

impl Patterns<'_> {
    /// The last two axes swapped between a reshape that joins those before them and one that parts them again, as PyTorch's
    /// newer exporter writes it: the three steps, and what they read.
    fn swapped_apart(&self, tensor: TensorId) -> Option<([usize; 3], TensorId)> {
        let parting = self.made_by(tensor, "Reshape")?;
        let swapped = self.input(parting, 0)?;
        let swap = self.made_by(swapped, "Transpose")?;
        let joined = self.input(swap, 0)?;
        let joining = self.made_by(joined, "Reshape")?;
        let of = self.input(joining, 0)?;
        let shape = |tensor: TensorId| Some(self.info(tensor)?.shape.as_slice());
        let (from, between, to) = (shape(of)?, shape(joined)?, shape(tensor)?);
        let (&[.., rows, columns], &[_, one, other]) = (from, between) else {
            return None;
        };
        let is_swap = order(&self.step(swap).node, 3).is_ok_and(|order| order == [0, 2, 1])
            && (one, other) == (rows, columns)
            && to.len() == from.len()
            && to[..to.len() - 2] == from[..from.len() - 2]
            && to.ends_with(&[columns, rows]);
        let alone = [swapped, joined]
            .iter()
            .all(|&tensor| self.readers[tensor].len() == 1);
        (is_swap && alone).then_some(([parting, swap, joining], of))
    }
}

/// The bounds of a clipping, from attributes or inputs.
pub(crate) fn clip_bounds(step: &Step, infos: &[Option<Info>]) -> (Option<f64>, Option<f64>) {
    let bound = |name: &str, place: usize| match step.node.attribute(name) {
        Some(Attribute::Float(bound)) => Some(*bound),
        _ => infos[step.inputs.get(place).copied().flatten()?]
            .as_ref()?
            .scalar(),
    };
    (bound("min", 1), bound("max", 2))
}
