//! Models laid out for predicting many layers: names are places, and what several terms share is computed once.

use super::{Factor, Function, Weighted};

/// A sum of weighted products of base functions.
#[derive(Debug, Clone)]
pub(super) struct CompiledSum {
    /// Features, by place, whose logarithms are wanted.
    logged: Vec<usize>,
    /// Each base function once, with its feature's place. The first product index, 0, is the number 1.
    factors: Vec<(usize, Function)>,
    products: Vec<(f64, [u16; super::FACTORS_MAX])>,
}

/// Room that a prediction works in, kept from one to the next.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    logs: Vec<f64>,
    factors: Vec<f64>,
}

impl CompiledSum {
    /// The sum over features with these names in this order. A feature that isn't among them counts as 0.
    pub(super) fn new<'s>(sum: &'s [Weighted], names: &[&str]) -> Self {
        let (mut logged, mut own): (Vec<usize>, Vec<(usize, &'s Factor)>) =
            (Vec::new(), Vec::new());
        let mut index = |factor: &'s Factor| {
            let Factor { feature, function } = factor;
            let known = own.iter().position(|(_, own)| *own == factor);
            let place = names.iter().position(|name| *name == feature);
            let place = place.unwrap_or(usize::MAX);
            if matches!(function, Function::Log(_) | Function::Hinge(_)) && !logged.contains(&place)
            {
                logged.push(place);
            }
            let index = known.unwrap_or_else(|| {
                own.push((place, factor));
                own.len() - 1
            });
            u16::try_from(index + 1).expect("terms are bounded")
        };
        let product = |weighted: &'s Weighted| {
            let mut factors = [0; super::FACTORS_MAX];
            for (place, factor) in factors.iter_mut().zip(weighted.term.factors()) {
                *place = index(factor);
            }
            (weighted.coefficient, factors)
        };
        let products = sum.iter().map(product).collect();
        let factors = own.into_iter();
        Self {
            products,
            factors: factors
                .map(|(place, factor)| (place, factor.function))
                .collect(),
            logged,
        }
    }

    /// Each weighted product in turn, of features with these values.
    pub(super) fn products<'a>(
        &'a self,
        values: &[f64],
        scratch: &'a mut Scratch,
    ) -> impl Iterator<Item = f64> + 'a {
        let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
        scratch.logs.resize(values.len(), 0.0);
        for &place in &self.logged {
            if let Some(log) = scratch.logs.get_mut(place) {
                *log = at(place).max(1.0).ln();
            }
        }
        let log = |place: usize| scratch.logs.get(place).copied().unwrap_or(0.0);
        scratch.factors.clear();
        scratch.factors.push(1.0);
        let factors = self.factors.iter();
        scratch
            .factors
            .extend(factors.map(|&(place, function)| match function {
                Function::Log(centre) => log(place) - centre,
                Function::Hinge(knot) => (log(place) - knot).max(0.0),
                other => other.value(at(place)),
            }));
        let factors: &[f64] = &scratch.factors;
        self.products
            .iter()
            .map(move |&(coefficient, [a, b, c, d])| {
                let factor = |index: u16| factors[usize::from(index)];
                coefficient * (factor(a) * factor(b) * factor(c) * factor(d))
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Kind;
    use crate::model::{Features, Term, sum};

    fn any_factor() -> impl Strategy<Value = Factor> {
        let functions = prop_oneof![
            (-2..=2i32).prop_map(Function::Power),
            (-5.0..30.0f64).prop_map(Function::Log),
            (-5.0..30.0f64).prop_map(Function::Hinge),
            (1.0..64.0f64).prop_map(|tile| Function::Waste(tile.floor())),
            (0.0..8.0f64).prop_map(|value| Function::Equals(value.floor())),
            (0.0..64.0f64).prop_map(|value| Function::From(value.floor())),
        ];
        let features = prop::sample::select(vec!["batch", "in_channels", "flops", "kernel_h", "?"]);
        (features, functions).prop_map(|(feature, function)| Factor::new(feature, function))
    }

    fn any_weighted() -> impl Strategy<Value = Weighted> {
        let factors = prop::collection::vec(any_factor(), 1..=crate::model::FACTORS_MAX);
        (factors, -2.0..2.0f64).prop_map(|(factors, coefficient)| Weighted {
            term: Term::new(factors).expect("few factors"),
            coefficient,
        })
    }

    proptest! {
        /// The same bits as term by term.
        #[test]
        fn a_compiled_sum_is_the_sum(terms in prop::collection::vec(any_weighted(), 0..20)) {
            let features = Features::of(&Kind::Conv2d.example());
            let names: Vec<&str> = features.iter().map(|(name, _)| name).collect();
            let compiled = CompiledSum::new(&terms, &names);
            let mut scratch = Scratch::default();
            let total: f64 = compiled.products(features.values(), &mut scratch).sum();
            let expected = sum(&terms, &features);
            prop_assert!(total.to_bits() == expected.to_bits() || total.is_nan() && expected.is_nan());
        }
    }
}
