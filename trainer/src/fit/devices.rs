//! How the devices that samples are from differ. Healthy boards of one type do, by a tenth or two; a model that took
//! their mixture for one device's figures would learn who measured what.
//!
//! Of each layer and device, what is left of the measurement after the model's held-out prediction is
//! `device + layer + noise`: the device's effect, what the model does not know of the layer, and the rest. A layer that two
//! devices measured tells their difference by itself; of others many are needed. Weighing the two is generalised least
//! squares with a random part for each layer.

use std::collections::BTreeMap;

use wattfarm_cost::id::AgentId;
use wattfarm_cost::model::{DEVICES_MAX, DeviceEffect};

use super::rows::Row;
use crate::lasso::Cholesky;

/// Standard deviation of devices' effects before anything is known of them: boards of one type lie within 8 to 22 % of each
/// other (arXiv 2208.11035).
const PRIOR: f64 = 0.15;

/// Devices that are farther than this from the median one are not in the mean: twice [`PRIOR`].
const ALIKE: f64 = 0.3;

/// Devices are told apart only where each of two at least measured so many layers.
const LAYERS_MIN: usize = 5;

/// From the median of absolute deviations to a normal distribution's standard deviation.
const NORMAL: f64 = 1.4826;

/// Residuals count up to so many standard deviations.
const OUTLIER: f64 = 4.0;

/// No two measurements agree better than this, as a share.
const NOISE_MIN: f64 = 1e-3;

/// One layer on one device: what ln(measured) is over the prediction.
struct Cell {
    row: usize,
    device: usize,
    residual: f64,
}

/// The devices' effects, given ln(predicted) of each row by a model that did not see it. Empty where there is one device, or
/// too little to tell them apart by.
pub(super) fn effects(rows: &[Row], predicted: &[f64]) -> Vec<DeviceEffect> {
    let mut layers: BTreeMap<AgentId, usize> = BTreeMap::new();
    for own in rows.iter().flat_map(|row| &row.devices) {
        *layers.entry(own.agent).or_default() += 1;
    }
    let known = layers
        .values()
        .filter(|&&count| count >= LAYERS_MIN)
        .count();
    if known < 2 || layers.len() > DEVICES_MAX {
        return Vec::new();
    }
    let agents: Vec<AgentId> = layers.keys().copied().collect();
    let place = |agent: &AgentId| agents.binary_search(agent).expect("it is one of them");
    let cells = rows.iter().zip(predicted).enumerate();
    let mut cells: Vec<Cell> = cells
        .flat_map(|(row, (own, predicted))| {
            own.devices.iter().map(move |device| Cell {
                row,
                device: place(&device.agent),
                residual: device.log_value - predicted,
            })
        })
        .collect();
    let noise = Noise::of(&mut cells, agents.len());
    let (log_ratios, log_errors) = solve(&cells, agents.len(), &noise);
    let counts: Vec<usize> = layers.values().copied().collect();
    let mean = mean_of_alike(&log_ratios, &counts);
    (layers.iter().zip(log_ratios).zip(log_errors))
        .map(|(((&agent, &count), log_ratio), log_error)| DeviceEffect {
            agent,
            layers: count as u64,
            log_ratio: log_ratio - mean,
            log_error,
        })
        .collect()
}

/// The mean device: the mean, by layers, of those that are within [`ALIKE`] of the median device, so that one that went mad does not
/// move what the others are predicted.
fn mean_of_alike(log_ratios: &[f64], layers: &[usize]) -> f64 {
    let mut order: Vec<(f64, usize)> = log_ratios
        .iter()
        .copied()
        .zip(layers.iter().copied())
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half: usize = layers.iter().sum::<usize>().div_ceil(2);
    let mut passed = 0;
    let middle = order.iter().find(|(_, count)| {
        passed += count;
        passed >= half
    });
    let median = middle.map_or(0.0, |(ratio, _)| *ratio);
    let alike = order
        .iter()
        .filter(|(ratio, _)| (ratio - median).abs() <= ALIKE);
    let (sum, count) = alike.fold((0.0, 0.0), |(sum, count), &(ratio, layers)| {
        (sum + ratio * layers as f64, count + layers as f64)
    });
    sum / count
}

/// Variances of what is left.
struct Noise {
    /// Of what the model does not know of a layer, which is the same on every device.
    layer: f64,
    /// Of the rest.
    rest: f64,
}

impl Noise {
    /// By medians, which a device that went mad moves little. Residuals that are far out are drawn in.
    fn of(cells: &mut [Cell], devices: usize) -> Self {
        let mut own = vec![Vec::new(); devices];
        cells
            .iter()
            .for_each(|cell| own[cell.device].push(cell.residual));
        let centres: Vec<f64> = own.into_iter().map(median).collect();
        let around = |cell: &Cell| cell.residual - centres[cell.device];
        let spread = NORMAL * median(cells.iter().map(|cell| around(cell).abs()).collect());
        let spread = spread.max(NOISE_MIN);
        for cell in cells.iter_mut() {
            let centre = centres[cell.device];
            let reach = OUTLIER * spread;
            cell.residual = cell.residual.clamp(centre - reach, centre + reach);
        }
        // Cells of a layer stand one after another.
        let pairs = cells.windows(2).filter(|pair| pair[0].row == pair[1].row);
        let differences = pairs.map(|pair| (around(&pair[0]) - around(&pair[1])).abs());
        let differences: Vec<f64> = differences.collect();
        let total = spread * spread;
        let rest = match differences.is_empty() {
            // Nothing tells the two apart, and their sum is all that matters.
            true => total,
            false => (NORMAL * median(differences)).powi(2) / 2.0,
        };
        let rest = rest.clamp(NOISE_MIN * NOISE_MIN, total);
        Self {
            layer: total - rest,
            rest,
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        _ => super::quantile(&values, 0.5),
    }
}

/// Effects with their standard errors. Of a layer's k cells the covariance is `rest · I + layer · 11ᵀ`, whose inverse is
/// `(I - share · 11ᵀ) / rest` with `share = layer / (rest + k · layer)`.
fn solve(cells: &[Cell], devices: usize, noise: &Noise) -> (Vec<f64>, Vec<f64>) {
    let mut normal = vec![0.0; devices * devices];
    let mut right = vec![0.0; devices];
    for device in 0..devices {
        normal[device * devices + device] = PRIOR.powi(-2);
    }
    for layer in cells.chunk_by(|a, b| a.row == b.row) {
        let share = noise.layer / (noise.rest + layer.len() as f64 * noise.layer);
        let sum: f64 = layer.iter().map(|cell| cell.residual).sum();
        for cell in layer {
            right[cell.device] += (cell.residual - share * sum) / noise.rest;
            normal[cell.device * devices + cell.device] += 1.0 / noise.rest;
            for other in layer {
                normal[cell.device * devices + other.device] -= share / noise.rest;
            }
        }
    }
    let mut cholesky = Cholesky::default();
    cholesky
        .factor(devices, |i, k| normal[i * devices + k])
        .expect("a prior makes it positive definite");
    cholesky.solve(&mut right);
    let error = |device: usize| {
        let mut unit = vec![0.0; devices];
        unit[device] = 1.0;
        cholesky.solve(&mut unit);
        unit[device].sqrt()
    };
    (right, (0..devices).map(error).collect())
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::fit::rows::testing::row_on;

    const TRUTH: [f64; 3] = [0.10, -0.06, -0.04];

    /// Layers that a model misses by `layer` and measurements that scatter by `rest`, uniformly; each layer is measured by
    /// `of_each` devices by turns.
    fn rows(count: usize, of_each: usize, (layer, rest): (f64, f64)) -> Vec<Row> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut around = move |width: f64| width * 12f64.sqrt() * (random.random::<f64>() - 0.5);
        (0..count)
            .map(|row| {
                let unknown = around(layer);
                let devices = (0..of_each).map(|turn| (row + turn) % TRUTH.len());
                row_on(devices.map(|device| (device, TRUTH[device] + unknown + around(rest))))
            })
            .collect()
    }

    fn worst(found: &[DeviceEffect]) -> f64 {
        let off = found.iter().zip(TRUTH);
        off.map(|(effect, truth)| (effect.log_ratio - truth).abs() / effect.log_error)
            .fold(0.0, f64::max)
    }

    #[test]
    fn devices_are_told_apart_with_honest_errors() {
        let apart = effects(&rows(300, 1, (0.1, 0.02)), &[0.0; 300]);
        let shared = effects(&rows(300, 2, (0.1, 0.02)), &[0.0; 300]);
        assert_eq!((apart.len(), shared.len()), (3, 3));
        assert!(worst(&apart) < 3.0 && worst(&shared) < 3.0);
        let difference = |found: &[DeviceEffect]| found[0].log_ratio - found[1].log_ratio;
        let off = |found: &[DeviceEffect]| (difference(found) - (TRUTH[0] - TRUTH[1])).abs();
        assert!(off(&shared) < 0.005, "{shared:?}");
        assert!(off(&apart) < 0.04, "{apart:?}");
    }

    #[test]
    fn a_device_that_went_mad_moves_the_others_little() {
        let mut rows = rows(300, 1, (0.1, 0.02));
        for row in rows.iter_mut().step_by(30) {
            row.devices[0].log_value += 3.0;
        }
        assert!(worst(&effects(&rows, &[0.0; 300])) < 3.0);
    }

    #[test]
    fn a_device_that_is_twice_as_slow_is_not_in_the_mean() {
        let slow = std::f64::consts::LN_2;
        let by_turns = (0..300).map(|row| {
            let device = row % 3;
            row_on([(device, if device == 2 { slow } else { 0.0 })].into_iter())
        });
        let found = effects(&by_turns.collect::<Vec<_>>(), &[0.0; 300]);
        assert!(found[0].log_ratio.abs() < 0.01 && found[1].log_ratio.abs() < 0.01);
        assert!((found[2].log_ratio - slow).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn one_device_or_a_stranger_with_few_layers_has_no_effect() {
        let one = (0..20)
            .map(|_| row_on([(0, 0.3)].into_iter()))
            .collect::<Vec<_>>();
        assert_eq!(effects(&one, &[0.0; 20]), []);
        let mut two = one;
        two.extend((0..4).map(|_| row_on([(1, 0.5)].into_iter())));
        assert_eq!(effects(&two, &[0.0; 24]), []);
    }
}
