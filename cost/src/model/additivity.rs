//! How networks add up, and what a network's total owes to it.

use serde::{Deserialize, Serialize};

/// How far networks measured whole are from the sums of their layers, each measured alone on the same platform: figures
/// over ln(network / sum). Without a correction no model of layers can predict networks better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Additivity {
    /// How many networks were compared.
    pub networks: u32,
    /// Their mean: over 0 where networks take longer than their layers.
    pub mean: f64,
    /// Their root mean square.
    pub rms: f64,
}

impl Additivity {
    /// 95 % of a normal distribution are under so many standard deviations: the ends of a 90 % interval.
    const NORMAL: f64 = 1.645;

    /// The figures of some networks' ln(network / sum); `None` of none.
    pub fn of(gaps: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (mut networks, mut sum, mut squares) = (0, 0.0, 0.0);
        for gap in gaps {
            networks += 1;
            sum += gap;
            squares += gap * gap;
        }
        let mean = |of: f64| of / f64::from(networks);
        (networks > 0).then(|| Self {
            networks,
            mean: mean(sum),
            rms: mean(squares).sqrt(),
        })
    }

    /// What is added to ln(sum of the layers) of another network: the mean, drawn towards 0 as if one more network had none.
    /// Nothing of one network, nor where that would have left the networks that it is of farther away than they were.
    pub fn correction(&self) -> f64 {
        match self.networks > 1 && self.corrected_rms() < self.rms {
            true => self.mean * self.count() / (self.count() + 1.0),
            false => 0.0,
        }
    }

    /// What is left of the root mean square when each network is corrected by the others. Of n gaps gᵢ with the mean m the others'
    /// correction is (n m - gᵢ) / n, so that (1 + 1/n) gᵢ - m is left.
    pub fn corrected_rms(&self) -> f64 {
        let share = 1.0 + self.count().recip();
        let [own, mean] = [self.rms, self.mean].map(|figure| figure * figure);
        (share * share * own - (2.0 * share - 1.0) * mean)
            .max(0.0)
            .sqrt()
    }

    /// How far a network's 90 % interval reaches to either side because of it, relative to the network.
    pub(super) fn reach(&self) -> f64 {
        Self::NORMAL * self.rms.min(self.corrected_rms())
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let Self {
            networks,
            mean,
            rms,
        } = *self;
        // Up to rounding, which a mean of alike figures shows.
        let is_one = mean.is_finite() && rms.is_finite() && mean.abs() <= rms * (1.0 + 1e-9);
        match networks > 0 && is_one {
            true => Ok(()),
            false => Err(format!(
                "additivity of {networks} networks, mean {mean}, root mean square {rms}"
            )),
        }
    }

    fn count(&self) -> f64 {
        f64::from(self.networks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Left out one by one, by hand and by the formula.
    #[test]
    fn each_network_is_corrected_by_the_others() {
        let gaps = [0.08, 0.03, 0.05, -0.01, 0.06];
        let found = Additivity::of(gaps).expect("five");
        let left = gaps.map(|own| {
            let others: Vec<f64> = gaps.into_iter().filter(|gap| *gap != own).collect();
            let mean: f64 = others.iter().sum::<f64>() / 4.0;
            own - mean * 4.0 / 5.0
        });
        let rms = (left.iter().map(|left| left * left).sum::<f64>() / 5.0).sqrt();
        assert!((found.corrected_rms() - rms).abs() < 1e-12);
        assert!(rms < found.rms && (found.correction() - 0.042 * 5.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn a_correction_that_would_not_have_helped_is_none() {
        for gaps in [vec![0.05], vec![0.07], vec![0.05, -0.05, 0.04, -0.03]] {
            let found = Additivity::of(gaps).expect("some");
            assert_eq!(found.correction(), 0.0);
            assert!((found.reach() - 1.645 * found.rms).abs() < 1e-12);
        }
        assert_eq!(Additivity::of([]), None);
    }

    #[test]
    fn figures_that_no_networks_have_are_refused() {
        let of = |networks, mean, rms| Additivity {
            networks,
            mean,
            rms,
        };
        assert_eq!(of(3, -0.1, 0.1).check(), Ok(()));
        for bad in [
            of(0, 0.0, 0.1),
            of(1, 0.2, 0.1),
            of(1, f64::NAN, 0.1),
            of(1, 0.0, -0.1),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
