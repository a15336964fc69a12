//! The energy-precision ratio (NeuralPower, equation 9): one figure for how much energy a network's accuracy costs.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// The share of items that a classifier gets wrong, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct ErrorRate(f64);

/// A text or a number that is no error rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a share of errors such as `0.24` or `24%`")]
pub struct ErrorRateError(String);

impl ErrorRate {
    /// An error as a fraction: refused below 0 and above 1.
    pub fn new(fraction: f64) -> Result<Self, ErrorRateError> {
        match (0.0..=1.0).contains(&fraction) {
            true => Ok(Self(fraction)),
            false => Err(ErrorRateError(fraction.to_string())),
        }
    }

    /// As a fraction.
    pub fn fraction(self) -> f64 {
        self.0
    }
}

/// A fraction, or a number of percent with its sign. A number without one that only percent could mean is refused.
impl FromStr for ErrorRate {
    type Err = ErrorRateError;
    fn from_str(text: &str) -> Result<Self, ErrorRateError> {
        let refused = || ErrorRateError(text.chars().take(80).collect());
        let fraction = match text.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse::<f64>().map(|value| value / 100.0),
            None => text.parse(),
        };
        Self::new(fraction.map_err(|_| refused())?).map_err(|_| refused())
    }
}

impl fmt::Display for ErrorRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", 100.0 * self.0)
    }
}

/// `error^alpha * energy`, where `energy_mj_per_item` is the energy of one classified item in mJ, and so is the ratio.
/// Lower is better; a larger `alpha` weighs accuracy more.
pub fn energy_precision_ratio(error: ErrorRate, alpha: f64, energy_mj_per_item: f64) -> f64 {
    error.fraction().powf(alpha) * energy_mj_per_item
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 7 of the paper, every entry, from the batch energies of its table 6.
    #[test]
    #[expect(
        clippy::approx_constant,
        reason = "the paper's figure only looks like tau"
    )]
    fn published_table_is_reproduced() {
        let table = [
            ("7.30%", 75_452.0 / 64.0, [86.062, 6.283, 0.459, 0.033]),
            ("17.00%", 7_594.0 / 128.0, [10.086, 1.715, 0.291, 0.050]),
            ("20.20%", 11_465.0 / 128.0, [18.093, 3.655, 0.738, 0.149]),
        ];
        for (error, energy, published) in table {
            let error = error.parse().expect("a share");
            for (alpha, value) in (1..).zip(published) {
                let ratio = energy_precision_ratio(error, f64::from(alpha), energy);
                assert!(
                    (ratio - value).abs() < 0.002,
                    "alpha {alpha}: {ratio} is not {value}"
                );
            }
        }
    }

    #[test]
    fn an_error_is_a_fraction_or_has_its_percent_sign() {
        assert_eq!("24%".parse(), ErrorRate::new(0.24));
        assert_eq!("24 %".parse(), ErrorRate::new(0.24));
        assert_eq!("0.24".parse(), ErrorRate::new(0.24));
        for text in ["24", "-0.1", "101%", "NaN", "", "%", "a quarter"] {
            assert!(text.parse::<ErrorRate>().is_err(), "{text}");
        }
    }
}
