//! How good a model is on layers that it did not see. Log ratios are ln(predicted / measured), one for each layer.

use wattfarm_cost::model::{Band, EFFORT, Features, Validation};

/// Root mean square of the relative error, as a share.
pub(super) fn rmspe(log_ratios: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = log_ratios.fold((0.0, 0.0), |(sum, count), ratio| {
        (sum + ratio.exp_m1().powi(2), count + 1.0)
    });
    f64::sqrt(sum / count)
}

/// The figures of out-of-fold predictions for layers with these features.
pub(super) fn validation(folds: usize, layers: &[Features], log_ratios: &[f64]) -> Validation {
    let mut errors: Vec<f64> = log_ratios
        .iter()
        .map(|ratio| ratio.exp_m1().abs())
        .collect();
    errors.sort_by(f64::total_cmp);
    let residuals: Vec<f64> = log_ratios.iter().map(|ratio| -ratio).collect();
    let (log_residual_low, log_residual_high) = interval(residuals.clone());
    Validation {
        folds: folds as u32,
        rmspe: 100.0 * rmspe(log_ratios.iter().copied()),
        mape: 100.0 * errors.iter().sum::<f64>() / errors.len() as f64,
        medape: 100.0 * quantile(&errors, 0.5),
        log_residual_low,
        log_residual_high,
        bands: bands(layers, &residuals),
        correlation: correlation(layers, &residuals),
        additivity: None,
        holdout: None,
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
        bands: Vec::new(),
        correlation: 1.0,
        additivity: None,
        holdout: None,
    }
}

/// What nine tenths of the residuals are within; an interval holds its prediction.
fn interval(mut residuals: Vec<f64>) -> (f64, f64) {
    residuals.sort_by(f64::total_cmp);
    // Of n values the k-th is beyond a new one in k of n + 1 cases: a few values must reach further out.
    let count = residuals.len() as f64;
    let tail = (0.05 * (count + 1.0) - 1.0).max(0.0) / (count - 1.0).max(1.0);
    let (low, high) = (quantile(&residuals, tail), quantile(&residuals, 1.0 - tail));
    (low.min(0.0), high.max(0.0))
}

/// Layers for each band, and the most bands.
const ROWS_PER_BAND: usize = 40;
const BANDS: usize = 16;

/// Intervals by size. A band's is that of the layers within it and half of its neighbours.
fn bands(layers: &[Features], residuals: &[f64]) -> Vec<Band> {
    let mut by_effort: Vec<(f64, f64)> = layers
        .iter()
        .zip(residuals)
        .map(|(features, &residual)| (features.get(EFFORT).unwrap_or(1.0), residual))
        .collect();
    by_effort.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let count = (by_effort.len() / ROWS_PER_BAND).min(BANDS);
    if count < 2 {
        return Vec::new();
    }
    let edge = |half_bands: usize| half_bands * by_effort.len() / (2 * count);
    let mut bands: Vec<Band> = Vec::new();
    for band in 0..count {
        let within = edge((2 * band).saturating_sub(1))..edge((2 * band + 3).min(2 * count));
        let effort = by_effort[edge(2 * band + 1)].0;
        let (low, high) = interval(by_effort[within].iter().map(|(_, r)| *r).collect());
        // Layers without sizes of their own are one band.
        if bands.last().is_none_or(|last| last.effort < effort) {
            bands.push(Band { effort, low, high });
        }
    }
    bands
}

/// Layers whose neighbours are looked for, at most.
const NEIGHBOURS_OF: usize = 400;

/// How far the residuals of like layers go together: of each layer and the one that is nearest by its features'
/// logarithms. Layers of one network are less alike than that, so it is rather too large.
fn correlation(layers: &[Features], residuals: &[f64]) -> f64 {
    let places: Vec<Vec<f64>> = layers
        .iter()
        .map(|features| {
            features
                .iter()
                .map(|(_, value)| value.max(0.0).ln_1p())
                .collect()
        })
        .collect();
    let distance = |a: usize, b: usize| -> f64 {
        let pairs = places[a].iter().zip(&places[b]);
        pairs.map(|(a, b)| (a - b).powi(2)).sum()
    };
    let (mut together, mut alone) = (0.0, 0.0);
    for layer in 0..layers.len().min(NEIGHBOURS_OF) {
        let others = (0..layers.len()).filter(|&other| other != layer);
        let nearest = others.min_by(|&a, &b| distance(layer, a).total_cmp(&distance(layer, b)));
        if let Some(nearest) = nearest {
            together += residuals[layer] * residuals[nearest];
            alone += (residuals[layer].powi(2) + residuals[nearest].powi(2)) / 2.0;
        }
    }
    match alone > 0.0 {
        true => (together / alone).clamp(0.0, 1.0),
        false => 1.0,
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
    use wattfarm_cost::layer::Value;
    use wattfarm_cost::model::Scale;
    use wattfarm_cost::{Kind, Layer};

    use super::*;

    /// Layers of rising size, with what the yardstick of bytes says of them.
    fn layers(count: u64) -> Vec<Features> {
        let scale = Scale::of_work(1.0, 0.0, 1e-3);
        let layer = |size: u64| {
            let fields = [("batch", 1), ("features", 1000 * size + 1)];
            let fields = fields.map(|(name, value)| (name, Value::Size(value)));
            let layer = Layer::from_fields(Kind::Relu, fields).expect("a layer");
            let mut features = Features::of(&layer);
            scale.derive(&mut features);
            features
        };
        (0..count).map(layer).collect()
    }

    #[test]
    fn figures_are_relative_to_the_measured_value() {
        // Predicted 10 % too much, 10 % too little, right, 20 % too much.
        let log_ratios = [1.1_f64, 0.9, 1.0, 1.2].map(f64::ln);
        let validation = validation(4, &layers(4), &log_ratios);
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
        assert_eq!(validation.bands, []);
    }

    #[test]
    fn the_interval_holds_the_prediction() {
        let validation = validation(3, &layers(3), &[0.1, 0.2, 0.3]);
        assert!(validation.log_residual_low < 0.0);
        assert_eq!(validation.log_residual_high, 0.0);
    }

    #[test]
    fn small_layers_that_scatter_do_not_widen_the_intervals_of_large_ones() {
        let layers = layers(400);
        let sign = |layer: usize| if layer.is_multiple_of(2) { 1.0 } else { -1.0 };
        let residual = |layer: usize| match layer {
            0..200 => 0.4 * sign(layer) * (layer % 7) as f64 / 7.0,
            _ => 0.05 * sign(layer) * (layer % 7) as f64 / 7.0,
        };
        let log_ratios: Vec<f64> = (0..400).map(residual).collect();
        let validation = validation(10, &layers, &log_ratios);
        let width = |layer: &Features| {
            let (low, high) = validation.interval(layer.get(EFFORT));
            high - low
        };
        assert!(validation.bands.len() > 5, "{validation:?}");
        assert!(
            width(&layers[10]) > 0.6 && width(&layers[390]) < 0.1,
            "{validation:?}"
        );
    }

    #[test]
    fn like_layers_that_err_alike_are_seen() {
        let layers = layers(200);
        let slow = |layer: usize| if layer < 100 { 0.2 } else { -0.2 };
        let alike: Vec<f64> = (0..200).map(slow).collect();
        assert!(validation(10, &layers, &alike).correlation > 0.9);
        let by_turns: Vec<f64> = (0..200).map(|layer| slow(100 * (layer % 2))).collect();
        assert!(validation(10, &layers, &by_turns).correlation < 0.1);
    }
}
