//! The terms that a fit chooses from, as columns over the rows.
//!
//! A product enters the lasso *centred*, (f − f̄)(g − ḡ), so that it competes with what its factors alone explain; it is
//! written out as raw terms, f·g − ḡ·f − f̄·g + f̄ḡ, when the model is made ([`Candidates::expand`]).

use std::collections::{BTreeMap, BTreeSet};

use wattfarm_cost::Kind;
use wattfarm_cost::model::{Factor, Term, Weighted};

use super::factors::{self, Base, Role};
use super::rows::Row;

/// Candidates for each row, and altogether, at most: their products cost time squared, and chance finds many.
const CANDIDATES_PER_ROW: usize = 4;
const CANDIDATES_MAX: usize = 1_500;

/// What a product is penalised by, where a single base function counts 1. On public measurements of three devices 2
/// lowered the error by a twentieth against 1, and a little more or less did as well.
const PRODUCT_PENALTY: f64 = 2.0;

/// A raw term that changes no row's logarithm by more than this is left out.
const EFFECT_MIN: f64 = 1e-6;

/// How much a model may say: each says more than the one before, and needs more rows to be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vocabulary {
    /// Sizes and cases: a power law, with exceptions.
    Plain,
    /// And products of two sizes.
    Curved,
    /// And bends, waste, and products with those.
    Rich,
}

/// Candidates with their columns.
pub(super) struct Candidates {
    base: Vec<Base>,
    terms: Vec<Candidate>,
    /// Column-major: for each candidate a value for each row.
    pub(super) columns: Vec<f64>,
}

/// A base function or a product of two, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Candidate {
    Single(usize),
    Product(usize, usize),
}

impl Candidates {
    /// The candidates for `rows`, all of one kind, the most useful first: no two have the same column, and none is
    /// constant.
    pub(super) fn new(kind: Kind, rows: &[Row], vocabulary: Vocabulary) -> Self {
        let base = factors::base(kind, rows, vocabulary == Vocabulary::Rich);
        let count_max = (CANDIDATES_PER_ROW * rows.len()).min(CANDIDATES_MAX);
        let (mut terms, mut columns, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for candidate in (0..base.len())
            .map(Candidate::Single)
            .chain(products(&base, vocabulary))
        {
            if terms.len() == count_max {
                break;
            }
            let column = column(&base, candidate);
            if fingerprint(&column).is_some_and(|fingerprint| seen.insert(fingerprint)) {
                terms.push(candidate);
                columns.extend(column);
            }
        }
        Self {
            base,
            terms,
            columns,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.terms.len()
    }

    /// What each candidate is penalised by.
    pub(super) fn penalties(&self) -> Vec<f64> {
        let penalty = |candidate: &Candidate| match candidate {
            Candidate::Single(_) => 1.0,
            Candidate::Product(..) => PRODUCT_PENALTY,
        };
        self.terms.iter().map(penalty).collect()
    }

    /// A fit as raw terms, with the constant that writing products out leaves over.
    pub(super) fn expand(&self, coefficients: &[f64]) -> (f64, Vec<Weighted>) {
        let mut constant = 0.0;
        let mut raw: BTreeMap<Candidate, f64> = BTreeMap::new();
        for (&candidate, &coefficient) in self.terms.iter().zip(coefficients) {
            *raw.entry(candidate).or_default() += coefficient;
            if let Candidate::Product(i, j) = candidate {
                let (f, g) = (self.base[i].centre, self.base[j].centre);
                *raw.entry(Candidate::Single(i)).or_default() -= coefficient * g;
                *raw.entry(Candidate::Single(j)).or_default() -= coefficient * f;
                constant += coefficient * f * g;
            }
        }
        let largest = |i: usize| {
            self.base[i]
                .column
                .iter()
                .fold(0.0_f64, |most, value| most.max(value.abs()))
        };
        let weighted = |(candidate, coefficient): (Candidate, f64)| {
            let (places, reach) = match candidate {
                Candidate::Single(i) => (vec![i], largest(i)),
                Candidate::Product(i, j) => (vec![i, j], largest(i) * largest(j)),
            };
            let factors: Vec<Factor> = places
                .into_iter()
                .map(|place| self.base[place].factor.clone())
                .collect();
            let term = Term::new(factors).expect("one or two factors");
            (coefficient.abs() * reach > EFFECT_MIN).then_some(Weighted { term, coefficient })
        };
        (constant, raw.into_iter().filter_map(weighted).collect())
    }
}

/// Products worth having, the most useful first.
fn products(base: &[Base], vocabulary: Vocabulary) -> Vec<Candidate> {
    use Role::{Bend, Case, Multiple, Size, Waste};
    let pairs: &[(Role, Role)] = match vocabulary {
        Vocabulary::Plain => &[],
        Vocabulary::Curved => &[(Size, Size)],
        Vocabulary::Rich => &[
            (Size, Size),
            (Size, Case),
            (Size, Bend),
            (Case, Bend),
            (Case, Case),
            (Size, Waste),
            (Size, Multiple),
            (Bend, Bend),
        ],
    };
    let mut products = Vec::new();
    for &(first, second) in pairs {
        for (i, f) in base.iter().enumerate().filter(|(_, f)| f.role == first) {
            for (j, g) in base.iter().enumerate().filter(|(_, g)| g.role == second) {
                let is_wanted = (f.is_key && g.is_key) || (first, second) == (Size, Size);
                if is_wanted && (first != second || i <= j) {
                    products.push(Candidate::Product(i, j));
                }
            }
        }
    }
    products
}

fn column(base: &[Base], candidate: Candidate) -> Vec<f64> {
    match candidate {
        Candidate::Single(i) => base[i].column.clone(),
        Candidate::Product(i, j) => {
            let (f, g) = (&base[i], &base[j]);
            f.column
                .iter()
                .zip(&g.column)
                .map(|(a, b)| (a - f.centre) * (b - g.centre))
                .collect()
        }
    }
}

/// A column up to scale, shift and rounding; `None` if it is constant.
fn fingerprint(column: &[f64]) -> Option<Vec<i64>> {
    let count = column.len() as f64;
    let mean = column.iter().sum::<f64>() / count;
    let deviation = (column
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count)
        .sqrt();
    let magnitude = column
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    if deviation <= 1e-9 * magnitude {
        return None;
    }
    let standard = |value: &f64| (value - mean) / deviation;
    // The first value that is clearly off the mean decides the sign.
    let sign = column
        .iter()
        .map(standard)
        .find(|value| value.abs() > 0.1)
        .map_or(1.0, f64::signum);
    Some(
        column
            .iter()
            .map(|value| (sign * standard(value) * 1e6).round() as i64)
            .collect(),
    )
}
