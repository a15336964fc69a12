//! The energy-precision ratio (NeuralPower, equation 9): one figure for how much energy a network's accuracy costs.

/// `error^alpha * energy`, where `error` is the classification error as a fraction and `energy_mj_per_item` the energy
/// of one classified item in mJ. Lower is better; a larger `alpha` weighs accuracy more.
pub fn energy_precision_ratio(error: f64, alpha: f64, energy_mj_per_item: f64) -> f64 {
    error.powf(alpha) * energy_mj_per_item
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
            (0.0730, 75_452.0 / 64.0, [86.062, 6.283, 0.459, 0.033]),
            (0.1700, 7_594.0 / 128.0, [10.086, 1.715, 0.291, 0.050]),
            (0.2020, 11_465.0 / 128.0, [18.093, 3.655, 0.738, 0.149]),
        ];
        for (error, energy, published) in table {
            for (alpha, value) in (1..).zip(published) {
                let ratio = energy_precision_ratio(error, f64::from(alpha), energy);
                assert!(
                    (ratio - value).abs() < 0.002,
                    "alpha {alpha}: {ratio} is not {value}"
                );
            }
        }
    }
}
