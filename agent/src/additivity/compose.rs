//! What a sum of layers lacks to be its network: a correction by how much the network touches, fitted on a platform.
//!
//! A recipe measures every layer as in one typical network. In a smaller one weights are nearer when they are read again, in
//! a larger one farther: `ln(whole / sum of layers) = level + slope * ln(touched / TYPICAL)`.

use super::Gap;

/// Bytes that the typical network touches: what the recipe walks over.
const TYPICAL_BYTES: f64 = (24u64 << 20) as f64;

/// Fewer networks determine no two numbers.
const NETWORKS_MIN: usize = 4;

/// The two numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Composition {
    level: f64,
    slope: f64,
}

fn touched(gap: &Gap) -> f64 {
    (gap.touched_bytes.max(1) as f64 / TYPICAL_BYTES).ln()
}

impl Composition {
    /// By least squares over networks that are not those it will be judged by. `None` of too few, or of networks that all
    /// touch as much.
    pub fn fit(gaps: &[&Gap]) -> Option<Self> {
        let count = gaps.len() as f64;
        let mean = |of: &dyn Fn(&Gap) -> f64| gaps.iter().map(|gap| of(gap)).sum::<f64>() / count;
        let lacks = |gap: &Gap| (gap.whole_mean_ms() / gap.layers_mean_ms()).ln();
        let (mean_touched, mean_lacks) = (mean(&touched), mean(&lacks));
        let covariance = mean(&|gap| (touched(gap) - mean_touched) * (lacks(gap) - mean_lacks));
        let variance = mean(&|gap| (touched(gap) - mean_touched).powi(2));
        if gaps.len() < NETWORKS_MIN || variance < 1e-6 {
            return None;
        }
        let slope = covariance / variance;
        Some(Self {
            level: mean_lacks - slope * mean_touched,
            slope,
        })
    }

    /// What a sum of layers is to be multiplied by.
    pub fn factor(&self, gap: &Gap) -> f64 {
        (self.level + self.slope * touched(gap)).exp()
    }

    /// The gap that is left, in percent.
    pub fn percent(&self, gap: &Gap) -> f64 {
        (gap.layers_mean_ms() * self.factor(gap) / gap.whole_mean_ms() - 1.0) * 100.0
    }
}

impl std::fmt::Display for Composition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (level, slope) = (self.level.exp(), self.slope);
        write!(f, "{level:.3} * (touched / 24 MiB)^{slope:+.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    /// Made of a law, it finds the law, and leaves no gap of a network that it hasn't seen.
    #[test]
    fn a_law_is_found() {
        let made = |index: u32| {
            let touched_bytes = (4 << 20) << index;
            let touched = (touched_bytes as f64 / TYPICAL_BYTES).ln();
            Gap {
                touched_bytes,
                ..example("n", u64::from(index), 10.0 / (0.02 + 0.03 * touched).exp())
            }
        };
        let gaps: Vec<Gap> = (0..6).map(made).collect();
        let seen: Vec<&Gap> = gaps[..5].iter().collect();
        let found = Composition::fit(&seen).expect("enough");
        assert!((found.level - 0.02).abs() < 1e-9 && (found.slope - 0.03).abs() < 1e-9);
        assert!(found.percent(&gaps[5]).abs() < 1e-9);
        assert_eq!(Composition::fit(&seen[..3]), None);
        assert_eq!(Composition::fit(&[seen[0]; 5]), None);
    }
}
