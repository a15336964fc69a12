//! How well a model does on layers that it wasn't fitted to, and the intervals that follow from it.

use serde::{Deserialize, Serialize};

use super::Additivity;

/// The most bands that a model may have.
pub const BANDS_MAX: usize = 32;

/// Figures over held-out layers. Residuals are ln(measured / predicted).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Folds; all measurements of one layer are in one.
    pub folds: u32,
    /// Root mean square of the relative error, in percent.
    pub rmspe: f64,
    /// Mean absolute relative error, in percent.
    pub mape: f64,
    /// Median absolute relative error, in percent.
    pub medape: f64,
    /// The residuals' quantile of 5 % over all layers: the lower end of the 90 % interval where there are no bands.
    pub log_residual_low: f64,
    /// Their quantile of 95 %.
    pub log_residual_high: f64,
    /// The same for layers of some sizes, by rising effort: small layers scatter more than large ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bands: Vec<Band>,
    /// How far the residuals of layers that are like each other go together: 0 not at all, 1 always.
    #[serde(default = "together")]
    pub correlation: f64,
    /// How the platform's networks added up when a model of runtimes was fitted; unknown until some are measured whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additivity: Option<Additivity>,
    /// How good it is on layers that no version is fitted to; none of few layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdout: Option<Holdout>,
}

/// Figures over layers that every version of a model leaves out of its fit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holdout {
    /// How many there are.
    pub layers: u32,
    /// Root mean square of the relative error, in percent.
    pub rmspe: f64,
}

/// What is not known is taken to err together, which makes a network's interval the widest.
fn together() -> f64 {
    1.0
}

/// The residuals of layers of about one size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// The size: how many times the cost of an empty call ([`super::EFFORT`]).
    pub effort: f64,
    /// Quantile of 5 %: not over 0.
    pub low: f64,
    /// Quantile of 95 %: not under 0.
    pub high: f64,
}

impl Validation {
    /// Refuses bands that are not in order, or do not hold 0, a correlation that is none, and figures over nothing.
    pub(super) fn check(&self) -> Result<(), String> {
        let is_fine = |band: &Band| {
            let numbers = [band.effort, band.low, band.high];
            numbers.iter().all(|number| number.is_finite())
                && band.effort > 0.0
                && band.low <= 0.0
                && band.high >= 0.0
        };
        if self.bands.len() > BANDS_MAX {
            return Err(format!("{} are more than {BANDS_MAX}", self.bands.len()));
        }
        if !self.bands.iter().all(is_fine) || !self.bands.is_sorted_by(|a, b| a.effort < b.effort) {
            return Err("do not rise, or do not hold 0".to_owned());
        }
        if !(0.0..=1.0).contains(&self.correlation) {
            return Err(format!(
                "correlation {} is not from 0 to 1",
                self.correlation
            ));
        }
        if let Some(Holdout { layers, rmspe }) = self.holdout
            && !(layers > 0 && rmspe.is_finite() && rmspe >= 0.0)
        {
            return Err(format!("{rmspe} % over {layers} layers held out"));
        }
        self.additivity.map_or(Ok(()), |found| found.check())
    }

    /// The 90 % interval of ln(measured / predicted) for a layer of this effort: between two bands linear in the effort's
    /// logarithm, beyond the last as in the last.
    pub fn interval(&self, effort: Option<f64>) -> (f64, f64) {
        let effort = effort.unwrap_or(1.0);
        let after = self.bands.partition_point(|band| band.effort <= effort);
        match (
            after.checked_sub(1).map(|k| &self.bands[k]),
            self.bands.get(after),
        ) {
            (None, None) => (self.log_residual_low, self.log_residual_high),
            (Some(band), None) | (None, Some(band)) => (band.low, band.high),
            (Some(before), Some(after)) => {
                let share = (effort / before.effort).ln() / (after.effort / before.effort).ln();
                (
                    before.low + share * (after.low - before.low),
                    before.high + share * (after.high - before.high),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validation(bands: Vec<Band>) -> Validation {
        Validation {
            folds: 10,
            rmspe: 1.0,
            mape: 1.0,
            medape: 1.0,
            log_residual_low: -0.5,
            log_residual_high: 0.25,
            bands,
            correlation: 0.5,
            additivity: None,
            holdout: None,
        }
    }

    fn band(effort: f64, low: f64, high: f64) -> Band {
        Band { effort, low, high }
    }

    #[test]
    fn intervals_go_from_band_to_band() {
        let banded = validation(vec![band(1.0, -0.4, 0.2), band(100.0, -0.2, 0.1)]);
        let close = |effort, expected: (f64, f64)| {
            let (low, high) = banded.interval(Some(effort));
            assert!((low - expected.0).abs() < 1e-12 && (high - expected.1).abs() < 1e-12);
        };
        close(0.5, (-0.4, 0.2));
        close(1.0, (-0.4, 0.2));
        close(10.0, (-0.3, 0.15));
        close(1e6, (-0.2, 0.1));
        assert_eq!(validation(Vec::new()).interval(Some(7.0)), (-0.5, 0.25));
    }

    #[test]
    fn bands_that_mean_nothing_are_refused() {
        assert!(validation(vec![band(1.0, -0.1, 0.1)]).check().is_ok());
        for bands in [
            vec![band(2.0, -0.1, 0.1), band(1.0, -0.1, 0.1)],
            vec![band(1.0, 0.1, 0.2)],
            vec![band(0.0, -0.1, 0.2)],
            vec![band(1.0, f64::NAN, 0.2)],
        ] {
            assert!(validation(bands).check().is_err());
        }
        let of = |correlation| Validation {
            correlation,
            additivity: None,
            holdout: None,
            ..validation(Vec::new())
        };
        assert!(of(1.5).check().is_err() && of(f64::NAN).check().is_err());
    }
}
