//! Models that know only how much work a layer is: two constants of the device, fitted to the rows.

use wattfarm_cost::layer::Layer;

/// How often the roofline's constants are fitted in turn: they settle within a few.
const ROUNDS: usize = 30;

/// Paleo (Qi et al. 2017): operations and bytes one after the other, `flops / peak + bytes / bandwidth`. Its constants,
/// which Paleo reads off a data sheet and scales by a platform percentage, are fitted here by non-negative least squares
/// of the relative error.
pub(super) struct Paleo {
    per_flop: f64,
    per_byte: f64,
}

/// The roofline (Williams et al. 2009) with a floor: whichever of operations, bytes and a call's own cost takes longest.
/// The constants minimise the squared relative error, one at a time.
pub(super) struct Roofline {
    /// Cost of an operation, of a byte, and of a call.
    costs: [f64; 3],
}

/// Operations and bytes.
fn work(layer: &Layer) -> [f64; 2] {
    let work = layer.work();
    [work.flops as f64, work.bytes() as f64]
}

impl Paleo {
    pub(super) fn fit(layers: &[&Layer], values: &[f64]) -> Self {
        let ratios: Vec<[f64; 2]> = layers
            .iter()
            .zip(values)
            .map(|(layer, value)| work(layer).map(|amount| amount / value))
            .collect();
        let sum = |of: &dyn Fn(&[f64; 2]) -> f64| ratios.iter().map(of).sum::<f64>();
        let (aa, ab, bb) = (
            sum(&|r| r[0] * r[0]),
            sum(&|r| r[0] * r[1]),
            sum(&|r| r[1] * r[1]),
        );
        let (a, b) = (sum(&|r| r[0]), sum(&|r| r[1]));
        let alone = |own: f64, square: f64| if square > 0.0 { own / square } else { 0.0 };
        let determinant = aa * bb - ab * ab;
        let both = [
            (a * bb - b * ab) / determinant,
            (b * aa - a * ab) / determinant,
        ];
        let candidates = [both, [alone(a, aa), 0.0], [0.0, alone(b, bb)]];
        let error = |[f, g]: [f64; 2]| sum(&|r| (f * r[0] + g * r[1] - 1.0).powi(2));
        let is_valid = |pair: &[f64; 2]| pair.iter().all(|cost| cost.is_finite() && *cost >= 0.0);
        let best = candidates
            .into_iter()
            .filter(is_valid)
            .min_by(|x, y| error(*x).total_cmp(&error(*y)));
        let [per_flop, per_byte] = best.unwrap_or_default();
        Self { per_flop, per_byte }
    }

    pub(super) fn predict(&self, layer: &Layer) -> f64 {
        let [flops, bytes] = work(layer);
        self.per_flop * flops + self.per_byte * bytes
    }
}

impl Roofline {
    pub(super) fn fit(layers: &[&Layer], values: &[f64]) -> Self {
        let amounts: Vec<[f64; 3]> = layers
            .iter()
            .map(|layer| {
                let [flops, bytes] = work(layer);
                [flops, bytes, 1.0]
            })
            .collect();
        let median = |j: usize| {
            let mut costs: Vec<f64> = amounts
                .iter()
                .zip(values)
                .filter(|(amount, _)| amount[j] > 0.0)
                .map(|(amount, value)| value / amount[j])
                .collect();
            costs.sort_by(f64::total_cmp);
            costs.get(costs.len() / 4).copied().unwrap_or(0.0)
        };
        let mut model = Self {
            costs: [median(0), median(1), median(2)],
        };
        let error = |costs: [f64; 3]| {
            let ratio = |(amount, value): (&[f64; 3], &f64)| longest(costs, *amount) / value - 1.0;
            amounts
                .iter()
                .zip(values)
                .map(ratio)
                .map(|r| r * r)
                .sum::<f64>()
        };
        let mut step = 2.0_f64;
        for _ in 0..ROUNDS {
            let before = model.costs;
            for j in 0..3 {
                let moved = |factor: f64| {
                    let mut costs = model.costs;
                    costs[j] *= factor;
                    costs
                };
                let best = [1.0, step, 1.0 / step].map(moved).into_iter();
                model.costs = best
                    .min_by(|x, y| error(*x).total_cmp(&error(*y)))
                    .expect("three candidates");
            }
            if model.costs == before {
                step = step.sqrt();
            }
        }
        model
    }

    pub(super) fn predict(&self, layer: &Layer) -> f64 {
        let [flops, bytes] = work(layer);
        longest(self.costs, [flops, bytes, 1.0])
    }
}

fn longest(costs: [f64; 3], amounts: [f64; 3]) -> f64 {
    costs
        .iter()
        .zip(amounts)
        .map(|(cost, amount)| cost * amount)
        .fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Kind;
    use wattfarm_cost::layer::Value;

    use super::*;

    fn layers() -> Vec<Layer> {
        let linear = |batch: u64, features: u64| {
            let fields = [
                ("batch", batch),
                ("in_features", features),
                ("out_features", features),
            ];
            Layer::from_fields(
                Kind::Linear,
                fields.map(|(name, size)| (name, Value::Size(size))),
            )
            .expect("a layer")
        };
        let batches = [1, 8, 64, 512];
        batches
            .into_iter()
            .flat_map(|batch| [16, 128, 1024].map(|size| linear(batch, size)))
            .collect()
    }

    #[test]
    fn paleos_constants_are_recovered() {
        let layers = layers();
        let values: Vec<f64> = layers
            .iter()
            .map(|layer| 2e-9 * work(layer)[0] + 3e-8 * work(layer)[1])
            .collect();
        let paleo = Paleo::fit(&layers.iter().collect::<Vec<_>>(), &values);
        assert!(
            (paleo.per_flop / 2e-9 - 1.0).abs() < 1e-6
                && (paleo.per_byte / 3e-8 - 1.0).abs() < 1e-6
        );
    }

    #[test]
    fn the_rooflines_constants_are_found() {
        let layers = layers();
        let truth = Roofline {
            costs: [2e-9, 3e-8, 0.01],
        };
        let values: Vec<f64> = layers.iter().map(|layer| truth.predict(layer)).collect();
        let found = Roofline::fit(&layers.iter().collect::<Vec<_>>(), &values);
        for (layer, value) in layers.iter().zip(&values) {
            assert!((found.predict(layer) / value - 1.0).abs() < 0.05, "{layer}");
        }
    }
}
