//! The grammar of a model's terms.
//!
//! ```text
//! term   = factor { " * " factor }
//! factor = feature                      the value itself
//!        | feature "^" integer          a power of it
//!        | "log(" feature ")"           ln(max(value, 1))
//!        | "log(" feature ", " k ")"    ln(max(value, 1)) - k: how far from the usual size
//!        | "hinge(" feature ", " k ")"  max(0, ln(max(value, 1)) - k)
//!        | "eq(" feature ", " v ")"     1 if the value is v, else 0
//!        | "not(" feature ", " v ")"    0 if the value is v, else 1
//!        | "from(" feature ", " v ")"   1 if the value is v or more, else 0
//!        | "ceil(" feature ", " t ")"   the value rounded up to a multiple of t
//!        | "multiple(" feature ", " n ")"  1 if the value is a multiple of n, else 0
//!        | "waste(" feature ", " t ")"  ln(ceil(value / t) * t / value): what rounding up to tiles of t costs
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Features;

/// The most factors that a term may have.
pub const FACTORS_MAX: usize = 4;

/// A base function of one feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    /// A power of the value.
    Power(i32),
    /// ln(max(value, 1)) - centre.
    Log(f64),
    /// max(0, ln(max(value, 1)) - knot).
    Hinge(f64),
    /// 1 where the value equals this.
    Equals(f64),
    /// 1 where the value differs from this.
    Not(f64),
    /// 1 where the value is at least this.
    From(f64),
    /// The value rounded up to a multiple of this.
    Ceil(f64),
    /// 1 where the value is a multiple of this.
    Multiple(f64),
    /// ln(ceil(value / tile) * tile / value).
    Waste(f64),
}

impl Function {
    /// The function's value.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Self::Power(exponent) => x.powi(exponent),
            Self::Log(centre) => x.max(1.0).ln() - centre,
            Self::Hinge(knot) => (x.max(1.0).ln() - knot).max(0.0),
            Self::Equals(value) => f64::from(x == value),
            Self::Not(value) => f64::from(x != value),
            Self::From(value) => f64::from(x >= value),
            Self::Ceil(tile) => (x / tile).ceil() * tile,
            Self::Multiple(of) => f64::from(x % of == 0.0),
            Self::Waste(tile) => {
                let x = x.max(1.0);
                ((x / tile).ceil() * tile / x).ln()
            }
        }
    }
}

/// A base function applied to a feature.
#[derive(Debug, Clone, PartialEq)]
pub struct Factor {
    /// The feature's name.
    pub feature: String,
    /// The function.
    pub function: Function,
}

impl Factor {
    /// A function of a feature.
    pub fn new(feature: &str, function: Function) -> Self {
        Self {
            feature: feature.to_owned(),
            function,
        }
    }

    /// The factor's value. A feature that the layer doesn't have counts as 0.
    pub fn value(&self, features: &Features) -> f64 {
        self.function
            .value(features.get(&self.feature).unwrap_or(0.0))
    }
}

/// One product of base functions.
#[derive(Debug, Clone, PartialEq)]
pub struct Term(Vec<Factor>);

impl Term {
    /// A product of 1 to [`FACTORS_MAX`] factors.
    pub fn new(factors: Vec<Factor>) -> Result<Self, TermError> {
        match factors.len() {
            1..=FACTORS_MAX => Ok(Self(factors)),
            count => Err(TermError(format!(
                "{count} factors: a term has 1 to {FACTORS_MAX}"
            ))),
        }
    }

    /// A feature itself.
    pub fn amount(feature: &str) -> Self {
        Self(vec![Factor::new(feature, Function::Power(1))])
    }

    /// The product's value.
    pub fn value(&self, features: &Features) -> f64 {
        self.0.iter().map(|factor| factor.value(features)).product()
    }

    /// Its factors.
    pub fn factors(&self) -> impl Iterator<Item = &Factor> {
        self.0.iter()
    }

    /// The features that it speaks of.
    pub fn features(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|factor| factor.feature.as_str())
    }
}

/// A text that is not a term.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a term: {0}")]
pub struct TermError(String);

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let feature = &self.feature;
        match self.function {
            Function::Power(1) => f.write_str(feature),
            Function::Power(exponent) => write!(f, "{feature}^{exponent}"),
            Function::Log(0.0) => write!(f, "log({feature})"),
            Function::Log(centre) => write!(f, "log({feature}, {centre})"),
            Function::Not(value) => write!(f, "not({feature}, {value})"),
            Function::From(value) => write!(f, "from({feature}, {value})"),
            Function::Ceil(tile) => write!(f, "ceil({feature}, {tile})"),
            Function::Hinge(knot) => write!(f, "hinge({feature}, {knot})"),
            Function::Equals(value) => write!(f, "eq({feature}, {value})"),
            Function::Multiple(of) => write!(f, "multiple({feature}, {of})"),
            Function::Waste(tile) => write!(f, "waste({feature}, {tile})"),
        }
    }
}

impl FromStr for Factor {
    type Err = TermError;

    fn from_str(text: &str) -> Result<Self, TermError> {
        let refuse = || {
            TermError(format!(
                "`{}` is not a factor",
                text.chars().take(80).collect::<String>()
            ))
        };
        let feature = |name: &str| {
            let fine = !name.is_empty()
                && name.len() <= 40
                && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if fine {
                Ok(name.to_owned())
            } else {
                Err(refuse())
            }
        };
        let Some((function, rest)) = text.split_once('(') else {
            let (name, exponent) = text.split_once('^').unwrap_or((text, "1"));
            let exponent: i32 = exponent.parse().map_err(|_| refuse())?;
            if !(-8..=8).contains(&exponent) {
                return Err(refuse());
            }
            return Ok(Self {
                feature: feature(name)?,
                function: Function::Power(exponent),
            });
        };
        let arguments = rest.strip_suffix(')').ok_or_else(refuse)?;
        let (name, parameter) = match arguments.split_once(", ") {
            Some((name, parameter)) => {
                let parameter: f64 = parameter.parse().map_err(|_| refuse())?;
                (
                    name,
                    Some(parameter).filter(|parameter| parameter.is_finite()),
                )
            }
            None => (arguments, None),
        };
        let positive = parameter.filter(|&parameter| parameter >= 1.0);
        let function = match function {
            "log" if !arguments.contains(',') => Some(Function::Log(0.0)),
            "log" => parameter.map(Function::Log),
            "not" => parameter.map(Function::Not),
            "from" => parameter.map(Function::From),
            "ceil" => positive.map(Function::Ceil),
            "hinge" => parameter.map(Function::Hinge),
            "eq" => parameter.map(Function::Equals),
            "multiple" => positive.map(Function::Multiple),
            "waste" => positive.map(Function::Waste),
            _ => None,
        };
        Ok(Self {
            feature: feature(name)?,
            function: function.ok_or_else(refuse)?,
        })
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, factor) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " * " };
            write!(f, "{separator}{factor}")?;
        }
        Ok(())
    }
}

impl FromStr for Term {
    type Err = TermError;
    fn from_str(text: &str) -> Result<Self, TermError> {
        if text.len() > 1000 {
            return Err(TermError("longer than 1000 bytes".to_owned()));
        }
        Self::new(
            text.split(" * ")
                .map(str::parse)
                .collect::<Result<_, _>>()?,
        )
    }
}

impl Serialize for Term {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Term {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Kind;

    #[test]
    fn functions_have_their_written_values() {
        assert_eq!(Function::Power(-2).value(4.0), 1.0 / 16.0);
        assert_eq!(Function::Log(0.0).value(0.0), 0.0);
        assert_eq!(Function::Log(2.0).value(1.0), -2.0);
        assert_eq!(Function::Ceil(32.0).value(33.0), 64.0);
        assert_eq!(
            (
                Function::Not(3.0).value(3.0),
                Function::From(3.0).value(3.0)
            ),
            (0.0, 1.0)
        );
        assert_eq!(Function::Hinge(2.0).value(std::f64::consts::E.powi(3)), 1.0);
        assert_eq!(Function::Hinge(2.0).value(1.0), 0.0);
        assert_eq!(Function::Multiple(16.0).value(48.0), 1.0);
        assert_eq!(Function::Multiple(16.0).value(40.0), 0.0);
        assert_eq!(Function::Waste(16.0).value(17.0), (32f64 / 17.0).ln());
    }

    #[test]
    fn a_term_is_the_product_of_its_factors() {
        let term: Term = "log(flops) * eq(kernel_h, 3) * batch^2"
            .parse()
            .expect("a term");
        let features = Features::of(&Kind::Conv2d.example());
        let flops = features.get("flops").expect("every kind has it");
        assert_eq!(term.value(&features), flops.ln());
        assert_eq!(
            term.features().collect::<Vec<_>>(),
            ["flops", "kernel_h", "batch"]
        );
    }

    #[test]
    fn what_is_no_term_is_refused() {
        for text in [
            "",
            "log()",
            "log(a",
            "exp(a)",
            "a^99",
            "hinge(a, NaN)",
            "waste(a, 0)",
            "a * ",
            "A",
            "log(a, b)",
            "ceil(a)",
        ] {
            assert!(text.parse::<Term>().is_err(), "{text}");
        }
    }

    fn any_function() -> impl Strategy<Value = Function> {
        let positive = 1.0..1e6f64;
        prop_oneof![
            (-8..=8i32).prop_map(Function::Power),
            (-5.0..30.0f64).prop_map(Function::Log),
            Just(Function::Log(0.0)),
            positive.clone().prop_map(Function::Not),
            positive.clone().prop_map(Function::From),
            positive.clone().prop_map(Function::Ceil),
            (-5.0..30.0f64).prop_map(Function::Hinge),
            positive.clone().prop_map(Function::Equals),
            positive.clone().prop_map(Function::Multiple),
            positive.prop_map(Function::Waste),
        ]
    }

    proptest! {
        /// A model means the same after a trip through its text, to the last bit.
        #[test]
        fn text_round_trips(factors in prop::collection::vec(("[a-z_]{1,12}", any_function()), 1..=FACTORS_MAX)) {
            let factors = factors.into_iter().map(|(feature, function)| Factor { feature, function }).collect();
            let term = Term::new(factors).expect("few factors");
            prop_assert_eq!(term.to_string().parse::<Term>().expect("its own text"), term);
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = text.parse::<Term>();
        }
    }
}
