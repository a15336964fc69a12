//! Steps that move values, pick some of them, or make them fewer.

use wattfarm_cost::layer::{Elementwise, Embedding, Op, Permute, Reduce};

use super::{Lowering, Outcome, network_shape};
use crate::graph::Step;
use crate::infer::{cuts, order, place, reduced_axes};

impl Lowering<'_> {
    /// The same values under another name, or other axes.
    pub(super) fn renamed(&mut self, step: &Step) -> Result<Outcome, String> {
        let x = self.read_input(step, 0)?;
        match step.node.operator.as_str() {
            // A call of its own, as frameworks have it: of its kind, whose bytes are none.
            "Flatten"
                if self.output(step, 0)?.1.shape.len() == 2
                    && step.node.int("axis").unwrap_or(1) == 1 =>
            {
                let made = self.net.elementwise(&self.step_name, x, Op::Flatten);
                self.put(step, 0, made)?;
            }
            _ => self.put(step, 0, x)?,
        }
        Ok(Outcome::Free)
    }

    /// Between number types values are copied; to the same type, nothing happens.
    pub(super) fn cast(&mut self, step: &Step) -> Result<Outcome, String> {
        let (from, to) = (
            self.input_info(step, 0)?.element,
            self.output(step, 0)?.1.element,
        );
        match from == to {
            true => self.renamed(step),
            false => self.like(step, Op::Copy, "copy"),
        }
    }

    /// Operators that move values about: a copy of the output costs about that.
    pub(super) fn copied(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.output(step, 0)?.1.shape.clone();
        let input = self.read_input(step, 0)?;
        // Padding by nothing, repeating once.
        if matches!(step.node.operator.as_str(), "Pad" | "Tile")
            && *self.net.shape(input) == network_shape(&shape)
        {
            self.put(step, 0, input)?;
            return Ok(Outcome::Free);
        }
        self.stands_for(step, "copy");
        let numel = |shape: &[u64]| {
            shape
                .iter()
                .fold(1u64, |all, &size| all.saturating_mul(size))
        };
        let shape = network_shape(&shape);
        let of = match numel(self.net.shape(input)) == numel(&shape) {
            true => self.view(input, &shape),
            false => self.detached(&shape),
        };
        let copy = Elementwise {
            batch: shape[0],
            features: shape[1..].iter().product(),
        };
        let made = self.layer(&[of], Op::Copy(copy));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    /// Repeated values are the same ones, read again: a view.
    pub(super) fn expanded(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.output(step, 0)?.1.shape.clone();
        let input = self.read_input(step, 0)?;
        let numel = |shape: &[u64]| {
            shape
                .iter()
                .fold(1u64, |all, &size| all.saturating_mul(size))
        };
        let made = match numel(self.net.shape(input)) == numel(&shape) {
            true => input,
            false => self.detached(&shape),
        };
        self.put(step, 0, made)?;
        Ok(Outcome::Free)
    }

    /// Axes in another order: a view where only products and attention read it, or where no value moves; else a copy.
    pub(super) fn transpose(&mut self, index: usize, step: &Step) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let order = order(&step.node, shape.len())?;
        let x = self.read_input(step, 0)?;
        let mut moved = order.iter().filter(|&&axis| shape[axis] > 1);
        if moved.clone().is_sorted() || moved.next().is_none() {
            self.put(step, 0, x)?;
            return Ok(Outcome::Free);
        }
        if self.is_read_as_it_lies(index, &order) {
            let made = self.turned(x, &order);
            self.put(step, 0, made)?;
            return Ok(Outcome::Free);
        }
        let order = order.iter().map(|&axis| axis as u64).collect();
        let made = self.layer(&[x], Op::Permute(Permute { shape, order }));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    /// Whether what makes or reads a transposed tensor takes values as they lie: products do where the last two axes
    /// change places, attention wherever the features stay last, and recurrent layers have them so in a framework.
    fn is_read_as_it_lies(&self, index: usize, order: &[usize]) -> bool {
        let graph = self.graph;
        let step = &graph.steps[index];
        let rank = order.len();
        let (input, output) = (step.inputs[0], step.outputs.first().copied().flatten());
        let maker = input.and_then(|id| self.makers[id]);
        let made_by_cells = maker.is_some_and(|maker| {
            matches!(graph.steps[maker].node.operator.as_str(), "LSTM" | "GRU")
        });
        let readers = output.map_or(&[][..], |id| self.readers[id].as_slice());
        let swapped = rank >= 2
            && order[rank - 2..] == [rank - 1, rank - 2]
            && order[..rank - 2].iter().copied().eq(0..rank - 2);
        let read_so = !readers.is_empty()
            && !graph.outputs.iter().any(|&id| Some(id) == output)
            && readers
                .iter()
                .all(|&reader| match graph.steps[reader].node.operator.as_str() {
                    "MatMul" => swapped,
                    "Attention" => order.last() == Some(&(rank - 1)),
                    _ => false,
                });
        made_by_cells || read_so
    }

    /// Parts along an axis: views.
    pub(super) fn split(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let axis = step.node.int("axis").unwrap_or(0);
        let axis = place(axis, shape.len()).ok_or("an axis that is not there")?;
        let x = self.read_input(step, 0)?;
        let mut start = 0;
        for place in 0..step.outputs.len() {
            let Ok((_, info)) = self.output(step, place) else {
                return Err("a part that is left out".to_owned());
            };
            let length = info.shape[axis];
            if length > 0 {
                let name = format!("{}.{place}", self.step_name);
                let part = self.net.slice(&name, x, axis as u64, (start, 1, length));
                self.put(step, place, part)?;
            }
            start += length;
        }
        Ok(Outcome::Free)
    }

    pub(super) fn slice(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let cuts = cuts(&step.node, &self.inputs_info(step)).ok_or("slices are not known")?;
        if cuts.iter().any(|cut| cut.step < 0 && cut.length > 1) {
            return self.copied(step);
        }
        let mut made = self.read_input(step, 0)?;
        for cut in cuts {
            if cut.length == shape[cut.axis] {
                continue;
            }
            let name = self.step_name.clone();
            let kept = (cut.start, cut.step.unsigned_abs(), cut.length);
            made = self.net.slice(&name, made, cut.axis as u64, kept);
        }
        self.put(step, 0, made)?;
        Ok(Outcome::Free)
    }

    /// Rows of a table are an embedding; one place of a tensor is a view; else values are copied.
    pub(super) fn gather(&mut self, step: &Step) -> Result<Outcome, String> {
        let (data, places) = (
            self.input_info(step, 0)?.clone(),
            self.input_info(step, 1)?.clone(),
        );
        let axis = step.node.int("axis").unwrap_or(0);
        let axis = place(axis, data.shape.len()).ok_or("an axis that is not there")?;
        if data.constant
            && let (&[rows, features], 0) = (data.shape.as_slice(), axis)
        {
            let x = self.read_input(step, 1)?;
            let table = Embedding {
                batch: places.numel(),
                rows,
                features,
            };
            let made = self.layer(&[x], Op::Embedding(table));
            self.put(step, 0, made)?;
            return Ok(Outcome::Costed);
        }
        let one = places.values.as_ref().filter(|values| values.len() == 1);
        if let Some(index) = one.and_then(|values| values.ints().first().copied()) {
            let size = data.shape[axis];
            let index = if index < 0 {
                index + size as i64
            } else {
                index
            };
            let start = u64::try_from(index).map_err(|_| "a place before the first".to_owned())?;
            let x = self.read_input(step, 0)?;
            let name = self.step_name.clone();
            let made = self.net.slice(&name, x, axis as u64, (start, 1, 1));
            self.put(step, 0, made)?;
            return Ok(Outcome::Free);
        }
        self.copied(step)
    }

    /// A mean, or what costs as one, along axes that lie side by side.
    pub(super) fn reduce(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let axes = reduced_axes(&step.node, &self.inputs_info(step)).ok_or("axes are not known")?;
        if step.node.operator != "ReduceMean" {
            self.stands_for(step, "mean");
        }
        if axes.iter().all(|&axis| shape[axis] == 1) {
            return self.renamed(step);
        }
        if step.node.operator == "ReduceMean" && shape.len() == 4 && axes == [2, 3] {
            return self.channel_mean(step);
        }
        // From the first reduced axis to the last; what lies between is as if reduced with them, which costs as much.
        let (first, last) = (axes[0], axes[axes.len() - 1]);
        let together = axes.len() == last - first + 1;
        let product = |sizes: &[u64]| sizes.iter().product::<u64>();
        let reduce = Reduce {
            batch: product(&shape[..first]),
            length: product(&shape[first..=last]),
            inner: product(&shape[last + 1..]),
        };
        let x = self.read_input(step, 0)?;
        let x = self.view(x, &[reduce.batch, reduce.length, reduce.inner]);
        let made = self.layer(&[x], Op::Mean(reduce));
        let made = match together {
            true => made,
            false => {
                let shape = self.output(step, 0)?.1.shape.clone();
                self.detached(&shape)
            }
        };
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }
}
