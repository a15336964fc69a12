//! Products of matrices, attention, and recurrent layers.

use wattfarm_cost::layer::{Activation, Attention, Linear, Matmul, Op, Recurrent};
use wattfarm_cost::network::Tensor;

use super::{Lowering, Outcome};
use crate::fuse::Strided;
use crate::graph::Step;

impl Lowering<'_> {
    /// A tensor with its axes in another order, taken as it lies.
    pub(super) fn strided(&mut self, of: &Strided) -> Result<Tensor, String> {
        let tensor = self.read(of.tensor)?;
        Ok(self.turned(tensor, &of.order))
    }

    pub(super) fn turned(&mut self, tensor: Tensor, order: &[usize]) -> Tensor {
        if order.is_sorted() {
            return tensor;
        }
        let order: Vec<u64> = order.iter().map(|&axis| axis as u64).collect();
        let name = format!("{}.turned", self.step_name);
        self.net.transpose(&name, tensor, &order)
    }

    /// A product with a constant matrix is a linear layer; `last` makes the output: a later addition of the bias, or the
    /// same step.
    pub(super) fn matmul(
        &mut self,
        step: &Step,
        last: &Step,
        bias: bool,
    ) -> Result<Outcome, String> {
        let (a, b) = (
            self.input_info(step, 0)?.clone(),
            self.input_info(step, 1)?.clone(),
        );
        let (a_shape, b_shape) = (matrix(&a.shape, true), matrix(&b.shape, false));
        let ([.., rows, depth], [.., columns]) = (a_shape.as_slice(), b_shape.as_slice()) else {
            return Err("a product of single values".to_owned());
        };
        let (rows, depth, columns) = (*rows, *depth, *columns);
        if b.constant && b_shape.len() == 2 {
            let x = self.read_input(step, 0)?;
            let linear = Linear {
                batch: a.numel() / depth.max(1),
                in_features: depth,
                out_features: columns,
                bias,
                activation: Activation::None,
            };
            let made = self.layer(&[x], Op::Linear(linear));
            self.put(last, 0, made)?;
            return Ok(Outcome::Costed);
        }
        // One matrix for all: the rows of all products are those of one.
        let output = self.output(last, 0)?.1.numel();
        let all = match b_shape.len() == 2 {
            true => Matmul {
                batch: 1,
                m: output / columns.max(1),
                n: columns,
                k: depth,
            },
            false => Matmul {
                batch: output / (rows * columns).max(1),
                m: rows,
                n: columns,
                k: depth,
            },
        };
        let (first, second) = (self.read_input(step, 0)?, self.read_input(step, 1)?);
        self.product(last, all, first, second)
    }

    /// A product of two tensors that lie as (batch, m, k) and (batch, k, n), or are repeated to.
    fn product(
        &mut self,
        last: &Step,
        product: Matmul,
        first: Tensor,
        second: Tensor,
    ) -> Result<Outcome, String> {
        let Matmul { batch, m, n, k } = product;
        let first = self.viewed_or_repeated(first, &[batch, m, k]);
        let second = self.viewed_or_repeated(second, &[batch, k, n]);
        let made = self.layer(&[first, second], Op::Matmul(product));
        self.put(last, 0, made)?;
        Ok(Outcome::Costed)
    }

    fn viewed_or_repeated(&mut self, tensor: Tensor, shape: &[u64]) -> Tensor {
        let numel = |shape: &[u64]| {
            shape
                .iter()
                .fold(1u64, |all, &size| all.saturating_mul(size))
        };
        match numel(self.net.shape(tensor)) == numel(shape) {
            true => self.view(tensor, shape),
            false => self.detached(shape),
        }
    }

    pub(super) fn gemm(&mut self, step: &Step) -> Result<Outcome, String> {
        let weight = self.input_info(step, 1)?.clone();
        let output = self.output(step, 0)?.1.shape.clone();
        let (turned_a, turned_b) = (
            step.node.int("transA") == Some(1),
            step.node.int("transB") == Some(1),
        );
        let depth = weight.shape[usize::from(turned_b)];
        let x = self.read_input(step, 0)?;
        let x = if turned_a { self.turned(x, &[1, 0]) } else { x };
        let bias = self.has_bias(step);
        if weight.constant {
            let linear = Linear {
                batch: output[0],
                in_features: depth,
                out_features: output[1],
                bias,
                activation: Activation::None,
            };
            let made = self.layer(&[x], Op::Linear(linear));
            self.put(step, 0, made)?;
            return Ok(Outcome::Costed);
        }
        let other = self.read_input(step, 1)?;
        let other = if turned_b {
            self.turned(other, &[1, 0])
        } else {
            other
        };
        let product = Matmul {
            batch: 1,
            m: output[0],
            n: output[1],
            k: depth,
        };
        self.product(step, product, x, other)
    }

    pub(super) fn einsum(&mut self, step: &Step) -> Result<Outcome, String> {
        let inputs: Option<Vec<_>> = self.inputs_info(step).into_iter().collect();
        let shapes: Vec<&[u64]> = inputs
            .iter()
            .flatten()
            .map(|info| info.shape.as_slice())
            .collect();
        let sums = crate::einsum::Einsum::of(&step.node, &shapes)?;
        let Some(product) = sums.product() else {
            return Ok(self.one_each(step));
        };
        let order = |order: &[u64]| order.iter().map(|&axis| axis as usize).collect::<Vec<_>>();
        let first = self.read_input(step, 0)?;
        let first = self.turned(first, &order(&product.first));
        let second = self.read_input(step, 1)?;
        let second = self.turned(second, &order(&product.second));
        let matmul = Matmul {
            batch: product.batch,
            m: product.m,
            n: product.n,
            k: product.k,
        };
        let first = self.view(first, &[matmul.batch, matmul.m, matmul.k]);
        let second = self.view(second, &[matmul.batch, matmul.k, matmul.n]);
        let made = self.layer(&[first, second], Op::Matmul(matmul));
        // The output's axes come in whatever order; the product leaves them as they are, a view away from it.
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    /// The fused operator: tensors of (batch, heads, tokens, features), or of (batch, tokens, heads · features).
    pub(super) fn fused_attention(&mut self, step: &Step) -> Result<Outcome, String> {
        let missing = "has no q_num_heads or kv_num_heads";
        let mut tensors = Vec::with_capacity(3);
        for place in 0..3 {
            let shape = self.input_info(step, place)?.shape.clone();
            let x = self.read_input(step, place)?;
            tensors.push(match *shape.as_slice() {
                [batch, tokens, features] => {
                    let name = if place == 0 {
                        "q_num_heads"
                    } else {
                        "kv_num_heads"
                    };
                    let heads = step
                        .node
                        .int(name)
                        .filter(|&heads| heads > 0)
                        .ok_or(missing)? as u64;
                    let x = self.view(x, &[batch, tokens, heads, features / heads]);
                    self.turned(x, &[0, 2, 1, 3])
                }
                _ => x,
            });
        }
        let causal = step.node.int("is_causal") == Some(1);
        self.attention(step, tensors[0], tensors[1], tensors[2], causal)
    }

    /// One kernel over queries, keys and values. Heads that share keys read them again each.
    pub(super) fn attention(
        &mut self,
        step: &Step,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        causal: bool,
    ) -> Result<Outcome, String> {
        let four = |shape: &[u64]| match *shape {
            [heads, tokens, features] => Ok([1, heads, tokens, features]),
            [batch, heads, tokens, features] => Ok([batch, heads, tokens, features]),
            _ => Err("attention over tensors of other than 3 or 4 axes".to_owned()),
        };
        let [batch, heads, query_length, head_dim] = four(self.net.shape(query))?;
        let [_, _, key_length, of_key] = four(self.net.shape(key))?;
        if head_dim != of_key {
            return Err(format!(
                "queries of {head_dim} features meet keys of {of_key}"
            ));
        }
        let query = self.view(query, &[batch, heads, query_length, head_dim]);
        let keys = [batch, heads, key_length, head_dim];
        let (key, value) = (
            self.viewed_or_repeated(key, &keys),
            self.viewed_or_repeated(value, &keys),
        );
        let attention = Attention {
            batch,
            heads,
            query_length,
            key_length,
            head_dim,
            causal: causal && query_length <= key_length,
        };
        let made = self.layer(&[query, key, value], Op::Attention(attention));
        // Values of another width than the keys' change the output, and little else.
        let output = network_numel(&self.output(step, 0)?.1.shape);
        let made = match network_numel(self.net.shape(made)) == output {
            true => made,
            false => {
                let shape = self.output(step, 0)?.1.shape.clone();
                self.detached(&shape)
            }
        };
        // Of three axes, heads come back beside their features.
        let rank = self.output(step, 0)?.1.shape.len();
        let made = match rank == 3 && step.node.operator == "Attention" {
            true => self.turned(made, &[0, 2, 1, 3]),
            false => made,
        };
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    pub(super) fn recurrent(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let &[first, second, in_features] = shape.as_slice() else {
            return Ok(self.one_each(step));
        };
        let hidden = step.node.int("hidden_size").unwrap_or(0).max(0) as u64;
        let directions = self
            .input_info(step, 1)?
            .shape
            .first()
            .copied()
            .unwrap_or(1);
        let batch_first = step.node.int("layout") == Some(1);
        let (length, batch) = if batch_first {
            (second, first)
        } else {
            (first, second)
        };
        let cells = Recurrent {
            batch,
            length,
            in_features,
            hidden,
            directions,
        };
        let x = self.read_input(step, 0)?;
        let x = if batch_first {
            self.turned(x, &[1, 0, 2])
        } else {
            x
        };
        let made = match step.node.operator.as_str() {
            "LSTM" => self.layer(&[x], Op::Lstm(cells)),
            _ => self.layer(&[x], Op::Gru(cells)),
        };
        // As frameworks make it, directions lie beside each other; ONNX has them apart.
        let apart = self.view(made, &[length, batch, directions, hidden]);
        let sequence = match batch_first {
            true => self.turned(apart, &[1, 0, 2, 3]),
            false => self.turned(apart, &[0, 2, 1, 3]),
        };
        self.put(step, 0, sequence)?;
        let last = format!("{}.last", self.step_name);
        for place in 1..step.outputs.len() {
            if step.outputs[place].is_some() {
                let state = self.net.slice(&last, made, 0, (length - 1, 1, 1));
                self.put(step, place, state)?;
            }
        }
        Ok(Outcome::Costed)
    }
}

fn network_numel(shape: &[u64]) -> u64 {
    shape
        .iter()
        .fold(1u64, |all, &size| all.saturating_mul(size))
}

/// A vector as a matrix of one row (on the left) or one column.
fn matrix(shape: &[u64], left: bool) -> Vec<u64> {
    match *shape {
        [size] if left => vec![1, size],
        [size] => vec![size, 1],
        _ => shape.to_vec(),
    }
}
