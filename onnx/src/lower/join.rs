//! Two tensors joined value by value, and tensors joined along an axis.

use wattfarm_cost::layer::{Binary, Concat, Op};
use wattfarm_cost::network::Tensor;

use super::{Lowering, Outcome};
use crate::graph::Step;
use crate::infer::place;
use crate::value::numel;

/// The most tensors that one concatenation joins.
const JOINED_MAX: usize = 256;

impl Lowering<'_> {
    /// Two or more tensors, joined one after the other.
    pub(super) fn joined(
        &mut self,
        step: &Step,
        op: fn(Binary) -> Op,
        kind: &str,
    ) -> Result<Outcome, String> {
        if !matches!(step.node.operator.as_str(), "Add" | "Mul" | "Sum") {
            self.stands_for(step, kind);
        }
        let shape = self.output(step, 0)?.1.shape.clone();
        let mut made = self.read_input(step, 0)?;
        for place in 1..step.inputs.len() {
            let other = self.read_input(step, place)?;
            made = match place == step.inputs.len() - 1 {
                true => self.binary(made, other, &shape, op),
                false => {
                    let shape = self.net.shape(made).clone();
                    let shape = crate::infer::broadcast(&shape, &self.net.shape(other).clone())?;
                    self.binary(made, other, &shape, op)
                }
            };
        }
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    /// A choice between two tensors reads the condition with them: as a product of two does, and a bit.
    pub(super) fn chosen(&mut self, step: &Step) -> Result<Outcome, String> {
        self.stands_for(step, "mul");
        let shape = self.output(step, 0)?.1.shape.clone();
        // The one that is computed is read; beside it the condition.
        let computed =
            (1..3).find(|&place| self.id(step, place).is_ok_and(|id| !self.is_constant(id)));
        let value = self.read_input(step, computed.unwrap_or(1))?;
        let condition = self.read_input(step, 0)?;
        let made = self.binary(value, condition, &shape, Op::Mul);
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    /// One layer over two tensors that make `shape` together. The kind takes tensors of three axes, the second with 1
    /// where it is repeated; where two tensors need more axes than that, or each repeats the other, the smaller is counted
    /// as if it had been repeated before.
    fn binary(&mut self, a: Tensor, b: Tensor, shape: &[u64], op: fn(Binary) -> Op) -> Tensor {
        let of = |shape: &[u64]| numel(shape).unwrap_or(u64::MAX);
        let total = of(shape);
        let (full, other) = match (
            of(self.net.shape(a)) == total,
            of(self.net.shape(b)) == total,
        ) {
            (true, _) => (a, b),
            (false, true) => (b, a),
            (false, false) => (self.detached(shape), b),
        };
        let full_shape = self.net.shape(full).clone();
        let mut other_shape = self.net.shape(other).clone();
        while other_shape.len() < full_shape.len() {
            other_shape.insert(0, 1);
        }
        let Some([batch, channels, inner]) = thirds(&full_shape, &other_shape) else {
            let repeated = self.detached(&full_shape);
            return self.binary(full, repeated, shape, op);
        };
        let sizes = Binary {
            batch: batch.0,
            channels: channels.0,
            inner: inner.0,
            other_batch: batch.1,
            other_channels: channels.1,
            other_inner: inner.1,
        };
        // The network's own three axes: the first, the second, the others.
        let natural = [
            full_shape[0],
            full_shape.get(1).copied().unwrap_or(1),
            full_shape.iter().skip(2).product(),
        ];
        let full = match natural == [batch.0, channels.0, inner.0] {
            true => full,
            false => self.view(full, &[batch.0, channels.0, inner.0]),
        };
        let other = match other_shape.len() == full_shape.len()
            && natural == [batch.0, channels.0, inner.0]
        {
            true => self.view(other, &other_shape),
            false => self.view(other, &[batch.1, channels.1, inner.1]),
        };
        self.layer(&[full, other], op(sizes))
    }

    pub(super) fn concat(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.output(step, 0)?.1.shape.clone();
        let axis = step.node.int("axis").unwrap_or(0);
        let axis = place(axis, shape.len()).ok_or("an axis that is not there")?;
        let (batch, inner) = (
            shape[..axis].iter().product(),
            shape[axis + 1..].iter().product(),
        );
        let mut parts = Vec::with_capacity(step.inputs.len());
        for place in 0..step.inputs.len() {
            let size = self.input_info(step, place)?.shape[axis];
            if size == 0 {
                continue;
            }
            let part = self.read_input(step, place)?;
            let part = match axis == 1 {
                true => part,
                false => self.view(part, &[batch, size, inner]),
            };
            parts.push((part, size));
        }
        if parts.len() > JOINED_MAX {
            return Ok(self.one_each(step));
        }
        let (tensors, in_channels): (Vec<Tensor>, Vec<u64>) = parts.into_iter().unzip();
        let concat = Concat {
            batch,
            in_channels,
            inner,
        };
        let made = self.layer(&tensors, Op::Concat(concat));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }
}

/// Two shapes of one rank as three axes each, as pairs of sizes: of the first, and of the second, which is the same or 1.
/// The shapes' own first, second and other axes where that does; else axes that behave alike joined. `None` if three
/// don't do.
fn thirds(full: &[u64], other: &[u64]) -> Option<[(u64, u64); 3]> {
    let product = |sizes: &[u64]| sizes.iter().product::<u64>();
    let natural = |shape: &[u64]| {
        [
            shape[0],
            shape.get(1).copied().unwrap_or(1),
            product(shape.get(2..).unwrap_or(&[])),
        ]
    };
    let (a, b) = (natural(full), natural(other));
    if a.iter().zip(b).all(|(&a, b)| a == b || b == 1) {
        return Some([(a[0], b[0]), (a[1], b[1]), (a[2], b[2])]);
    }
    let mut groups: Vec<(u64, u64)> = Vec::new();
    for (&size, &of_other) in full.iter().zip(other).filter(|&(&size, _)| size != 1) {
        match groups.last_mut() {
            Some(last) if (last.0 == last.1) == (size == of_other) => {
                *last = (last.0 * size, last.1 * of_other);
            }
            _ => groups.push((size, of_other)),
        }
    }
    while groups.len() < 3 {
        groups.insert(0, (1, 1));
    }
    groups.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::thirds;

    #[test]
    fn axes_that_behave_alike_are_one() {
        // Residual, excitation, a row's bias, a mask for all heads.
        assert_eq!(
            thirds(&[2, 8, 7, 7], &[2, 8, 7, 7]),
            Some([(2, 2), (8, 8), (49, 49)])
        );
        assert_eq!(
            thirds(&[2, 8, 7, 7], &[2, 8, 1, 1]),
            Some([(2, 2), (8, 8), (49, 1)])
        );
        assert_eq!(
            thirds(&[2, 64, 256], &[1, 1, 256]),
            Some([(2, 1), (64, 1), (256, 256)])
        );
        assert_eq!(
            thirds(&[2, 4, 64, 64], &[2, 1, 1, 64]),
            Some([(2, 2), (256, 1), (64, 64)])
        );
        assert_eq!(thirds(&[2, 4, 6, 5], &[2, 1, 6, 1]), None);
    }
}
