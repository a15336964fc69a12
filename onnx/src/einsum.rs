//! Sums of products by letters: those of two tensors are matrix products.

use crate::file::Node;

/// A sum of products of one or two tensors, `bhid,bhjd->bhij`.
#[derive(Debug)]
pub(crate) struct Einsum {
    inputs: Vec<Vec<char>>,
    output: Vec<char>,
    sizes: Vec<(char, u64)>,
}

/// The matrix product that a sum of two tensors amounts to: for each input the order of its axes that makes it one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) batch: u64,
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
    /// Batch, rows, summed.
    pub(crate) first: Vec<u64>,
    /// Batch, summed, columns.
    pub(crate) second: Vec<u64>,
    /// The order of batch, rows and columns in the output.
    pub(crate) output: Vec<u64>,
}

impl Einsum {
    pub(crate) fn of(node: &Node, shapes: &[&[u64]]) -> Result<Self, String> {
        let equation = node.text("equation").ok_or("has no equation")?;
        let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = equation
            .split_once("->")
            .ok_or("an equation without an output has no rule")?;
        let inputs: Vec<Vec<char>> = left.split(',').map(|term| term.chars().collect()).collect();
        let output: Vec<char> = right.chars().collect();
        if inputs.len() != shapes.len() {
            return Err("the equation is for another number of inputs".to_owned());
        }
        let mut sizes: Vec<(char, u64)> = Vec::new();
        for (term, shape) in inputs.iter().zip(shapes) {
            let letters = term.iter().all(char::is_ascii_alphabetic);
            if !letters || term.len() != shape.len() || has_twice(term) {
                return Err("the equation has no rule for its letters".to_owned());
            }
            for (&letter, &size) in term.iter().zip(*shape) {
                match sizes.iter().find(|(known, _)| *known == letter) {
                    Some((_, known)) if *known != size => {
                        return Err(format!("`{letter}` is {known} and {size}"));
                    }
                    Some(_) => (),
                    None => sizes.push((letter, size)),
                }
            }
        }
        let known = |letter: &char| sizes.iter().any(|(own, _)| own == letter);
        if !output.iter().all(known) || has_twice(&output) {
            return Err("the equation has no rule for its letters".to_owned());
        }
        Ok(Self {
            inputs,
            output,
            sizes,
        })
    }

    fn size(&self, letter: char) -> u64 {
        let found = self.sizes.iter().find(|(own, _)| *own == letter);
        found.map_or(1, |(_, size)| *size)
    }

    pub(crate) fn output_shape(&self) -> Vec<u64> {
        self.output
            .iter()
            .map(|&letter| self.size(letter))
            .collect()
    }

    /// `None` unless two tensors are multiplied, and what one of them alone has is in the output.
    pub(crate) fn product(&self) -> Option<Product> {
        let [a, b] = self.inputs.as_slice() else {
            return None;
        };
        let of = |term: &[char], in_other: bool, in_output: bool, other: &[char]| -> Vec<char> {
            let fits = |letter: &&char| {
                other.contains(letter) == in_other && self.output.contains(letter) == in_output
            };
            term.iter().filter(fits).copied().collect()
        };
        let (batch, summed) = (of(a, true, true, b), of(a, true, false, b));
        let (rows, columns) = (of(a, false, true, b), of(b, false, true, a));
        if !of(a, false, false, b).is_empty() || !of(b, false, false, a).is_empty() {
            return None;
        }
        let size = |letters: &[char]| {
            letters.iter().try_fold(1u64, |product, &letter| {
                product.checked_mul(self.size(letter))
            })
        };
        let places = |term: &[char], letters: [&[char]; 3]| {
            let place = |letter| {
                term.iter()
                    .position(|own| own == letter)
                    .map(|at| at as u64)
            };
            letters
                .concat()
                .iter()
                .map(place)
                .collect::<Option<Vec<u64>>>()
        };
        let made = [batch.as_slice(), &rows, &columns].concat();
        Some(Product {
            batch: size(&batch)?,
            m: size(&rows)?,
            n: size(&columns)?,
            k: size(&summed)?,
            first: places(a, [&batch, &rows, &summed])?,
            second: places(b, [&batch, &summed, &columns])?,
            output: self
                .output
                .iter()
                .map(|letter| {
                    made.iter()
                        .position(|own| own == letter)
                        .map(|at| at as u64)
                })
                .collect::<Option<_>>()?,
        })
    }
}

fn has_twice(letters: &[char]) -> bool {
    let mut sorted = letters.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Attribute;

    #[test]
    fn scores_of_attention_are_a_matrix_product() {
        let node = Node {
            attributes: vec![(
                "equation".to_owned(),
                Attribute::Text("b g h i d, b g h j d -> b g h i j".to_owned()),
            )],
            ..Node::default()
        };
        let sums = Einsum::of(&node, &[&[2, 3, 4, 5, 6], &[2, 3, 4, 7, 6]]).expect("valid");
        assert_eq!(sums.output_shape(), [2, 3, 4, 5, 7]);
        let product = sums.product().expect("of two");
        assert_eq!(
            (product.batch, product.m, product.n, product.k),
            (24, 5, 7, 6)
        );
        assert_eq!(product.second, [0, 1, 2, 4, 3]);
        assert_eq!(product.output, [0, 1, 2, 3, 4]);
    }
}
