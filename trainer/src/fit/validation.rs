//! How good a model is on layers that it did not see. Log ratios are ln(predicted / measured), one for each layer.

use wattfarm_cost::model::Validation;

/// Root mean square of the relative error, as a share.
pub(super) fn rmspe(log_ratios: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = log_ratios.fold((0.0, 0.0), |(sum, count), ratio| {
        (sum + ratio.exp_m1().powi(2), count + 1.0)
    });
    f64::sqrt(sum / count)
}

/// The figures of out-of-fold predictions.
pub(super) fn validation(folds: usize, log_ratios: &[f64]) -> Validation {
    let mut errors: Vec<f64> = log_ratios
        .iter()
        .map(|ratio| ratio.exp_m1().abs())
        .collect();
    errors.sort_by(f64::total_cmp);
    let mut residuals: Vec<f64> = log_ratios.iter().map(|ratio| -ratio).collect();
    residuals.sort_by(f64::total_cmp);
    Validation {
        folds: folds as u32,
        rmspe: 100.0 * rmspe(log_ratios.iter().copied()),
        mape: 100.0 * errors.iter().sum::<f64>() / errors.len() as f64,
        medape: 100.0 * quantile(&errors, 0.5),
        // An interval holds its prediction.
        log_residual_low: quantile(&residuals, 0.05).min(0.0),
        log_residual_high: quantile(&residuals, 0.95).max(0.0),
    }
}

/// The figures where there are too few layers to hold any out: an error of a factor of two, for want of knowledge.
pub(super) fn unknown() -> Validation {
    let twice = std::f64::consts::LN_2;
    Validation {
        folds: 0,
        rmspe: 100.0,
        mape: 100.0,
        medape: 100.0,
        log_residual_low: -twice,
        log_residual_high: twice,
    }
}

/// The quantile of ascending values, linear between neighbours.
pub(crate) fn quantile(ascending: &[f64], share: f64) -> f64 {
    let place = share * (ascending.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    ascending[low] + (ascending[high] - ascending[low]) * (place - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_relative_to_the_measured_value() {
        // Predicted 10 % too much, 10 % too little, right, 20 % too much.
        let log_ratios = [1.1_f64, 0.9, 1.0, 1.2].map(f64::ln);
        let validation = validation(4, &log_ratios);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(
            close(validation.rmspe, 100.0 * (0.06_f64 / 4.0).sqrt()),
            "{validation:?}"
        );
        assert!(
            close(validation.mape, 10.0) && close(validation.medape, 10.0),
            "{validation:?}"
        );
        assert!(
            validation.log_residual_low < -0.15 && validation.log_residual_high > 0.08,
            "{validation:?}"
        );
    }

    #[test]
    fn the_interval_holds_the_prediction() {
        let validation = validation(3, &[0.1, 0.2, 0.3]);
        assert!(validation.log_residual_low < 0.0);
        assert_eq!(validation.log_residual_high, 0.0);
    }
}
