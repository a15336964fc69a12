//! The yardstick that a model's polynomial corrects, and what it says of a layer.

use serde::{Deserialize, Serialize};

use super::{Features, Term, Weighted, sum};

/// What work costs. Of time or energy: `constant + costs`, in the target's unit. Of power, with a yardstick of `time`:
/// `constant + costs / time`, that is, what each sort of work draws, weighted by the share of the time that it takes.
/// It carries the model where the polynomial has no samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Scale {
    /// What a call costs however small: positive.
    pub constant: f64,
    /// What amounts of work cost, such as bytes, or operations rounded up to whole tiles; no coefficient is negative.
    pub costs: Vec<Weighted>,
    /// A yardstick of time, itself without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Box<Scale>>,
}

/// A scale as it was ever written: early ones had costs of operations and bytes as fields of their own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    constant: f64,
    #[serde(default)]
    per_flop: f64,
    #[serde(default)]
    per_byte: f64,
    #[serde(default)]
    costs: Vec<Weighted>,
    #[serde(default)]
    time: Option<Box<Scale>>,
}

impl From<Written> for Scale {
    fn from(written: Written) -> Self {
        let mut scale = Self::of_work(written.constant, written.per_flop, written.per_byte);
        scale.costs.extend(written.costs);
        scale.time = written.time;
        scale
    }
}

/// What kind of work the largest part of a layer's time goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Its floating-point operations.
    Compute,
    /// The bytes that it moves.
    Memory,
    /// That it is called at all.
    Launch,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 3] = [Self::Compute, Self::Memory, Self::Launch];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
            Self::Launch => "launch",
        }
    }
}

/// What a layer's time is made of, by the yardstick of time, in its unit; all positive or zero.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Parts {
    /// Operations.
    pub compute: f64,
    /// Bytes.
    pub memory: f64,
    /// What each call costs, or each item of a batch.
    pub launch: f64,
}

impl Parts {
    /// All of it.
    pub fn sum(&self) -> f64 {
        self.compute + self.memory + self.launch
    }

    /// The largest.
    pub fn limit(&self) -> Limit {
        match (
            self.compute >= self.memory,
            self.compute.max(self.memory) >= self.launch,
        ) {
            (_, false) => Limit::Launch,
            (true, true) => Limit::Compute,
            (false, true) => Limit::Memory,
        }
    }
}

impl Scale {
    /// The same for every layer.
    pub fn flat(constant: f64) -> Self {
        Self {
            constant,
            costs: Vec::new(),
            time: None,
        }
    }

    /// A constant, and a cost for each operation and byte.
    pub fn of_work(constant: f64, per_flop: f64, per_byte: f64) -> Self {
        let costs = [("flops", per_flop), ("bytes", per_byte)]
            .into_iter()
            .filter(|(_, coefficient)| *coefficient != 0.0);
        let cost = |(amount, coefficient)| Weighted {
            term: Term::amount(amount),
            coefficient,
        };
        Self {
            costs: costs.map(cost).collect(),
            ..Self::flat(constant)
        }
    }

    /// The number of costs, those of the yardstick of time included.
    pub fn count(&self) -> usize {
        self.costs.len() + self.time.as_ref().map_or(0, |time| time.costs.len())
    }

    /// The yardstick of a layer with these features, positive.
    pub fn of(&self, features: &Features) -> f64 {
        let costs = sum(&self.costs, features);
        match &self.time {
            None => self.constant + costs,
            Some(time) => self.constant + costs / time.of(features),
        }
    }

    /// What a layer's time is made of; for a yardstick of energy, its energy. The polynomial corrects their sum, not each.
    pub fn parts(&self, features: &Features) -> Parts {
        match &self.time {
            Some(time) => time.parts(features),
            None => {
                let each = self.costs.iter().map(|cost| {
                    let part = cost.coefficient * cost.term.value(features);
                    (limit_of(&cost.term), part)
                });
                measure(self.constant, each).1
            }
        }
    }

    /// What each of the costs is a cost of.
    pub(super) fn limits(&self) -> Vec<Limit> {
        self.costs.iter().map(|cost| limit_of(&cost.term)).collect()
    }

    /// Adds what the yardstick says to a layer's features, by the names of [`DERIVED`].
    pub fn derive(&self, features: &mut Features) {
        let parts = self.parts(features);
        self.derive_from(&parts, features);
    }

    /// The same, where the parts are known.
    pub(super) fn derive_from(&self, parts: &Parts, features: &mut Features) {
        let constant = (self.time.as_ref()).map_or(self.constant, |time| time.constant);
        let whole = parts.sum();
        let values = [
            whole / constant,
            parts.compute / whole,
            parts.memory / whole,
            parts.launch / whole,
        ];
        features.derive(&DERIVED, &values);
    }
}

/// A constant and costs added up: all together, and by what they are costs of.
pub(super) fn measure(constant: f64, costs: impl Iterator<Item = (Limit, f64)>) -> (f64, Parts) {
    let mut parts = Parts {
        launch: constant,
        ..Parts::default()
    };
    let mut sum = 0.0;
    for (limit, part) in costs {
        sum += part;
        match limit {
            Limit::Compute => parts.compute += part,
            Limit::Memory => parts.memory += part,
            Limit::Launch => parts.launch += part,
        }
    }
    (constant + sum, parts)
}

/// Features that a model's yardstick gives to each layer, whatever its kind: how many times the cost of an empty call it
/// is, at least 1; and the shares of its [`Parts`], each from 0 to 1.
pub const DERIVED: [&str; 4] = [EFFORT, "compute_share", "memory_share", "launch_share"];

/// The first of [`DERIVED`]: a layer's size, as its platform feels it.
pub const EFFORT: &str = "effort";

/// What a cost is a cost of: operations, or window elements; bytes, or two sides of a matrix product; else a call.
fn limit_of(term: &Term) -> Limit {
    let is_of = |feature: &str| term.features().any(|own| own == feature);
    let sides = ["gemm_m", "gemm_n", "gemm_k"]
        .into_iter()
        .filter(|side| is_of(side))
        .count();
    if is_of("flops") || is_of("kernel_h") || sides == 3 {
        Limit::Compute
    } else if sides == 2 || term.features().any(|own| own.ends_with("bytes")) {
        Limit::Memory
    } else {
        Limit::Launch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn the_largest_part_decides() {
        let features = Features::of(&Kind::Relu.example());
        let amount = |name| features.get(name).expect("every kind has it");
        let of = |constant: f64, compute: f64, memory: f64| {
            let scale = Scale::of_work(
                constant,
                compute / amount("flops"),
                memory / amount("bytes"),
            );
            scale.parts(&features).limit()
        };
        assert_eq!(of(3.0, 1.0, 2.0), Limit::Launch);
        assert_eq!(of(1.0, 3.0, 2.0), Limit::Compute);
        assert_eq!(of(1.0, 2.0, 3.0), Limit::Memory);
        let of_term = |text: &str| limit_of(&text.parse().expect("a term"));
        assert_eq!(
            of_term("gemm_m * ceil(gemm_n, 32) * gemm_k"),
            Limit::Compute
        );
        assert_eq!(of_term("gemm_m * gemm_k"), Limit::Memory);
        assert_eq!(of_term("not(bias, 0) * output_bytes"), Limit::Memory);
        assert_eq!(of_term("output_bytes * eq(kernel_h, 3)"), Limit::Compute);
        assert_eq!(of_term("batch"), Limit::Launch);
    }

    /// Half of the time goes to calls, three tenths to operations, at 40 W and 60 W more than nothing.
    #[test]
    fn power_is_a_mean_by_shares_of_the_time() {
        let mut features = Features::of(&Kind::Relu.example());
        let (flops, bytes) = (
            features.get("flops").expect("flops"),
            features.get("bytes").expect("bytes"),
        );
        let time = Scale::of_work(5.0, 3.0 / flops, 2.0 / bytes);
        let drawn = Scale::of_work(1.0, 60.0 * 3.0 / flops, 40.0 * 2.0 / bytes);
        let power = Scale {
            constant: 20.0,
            time: Some(Box::new(time)),
            ..drawn
        };
        assert!((power.of(&features) - (20.0 + 0.3 * 60.0 + 0.2 * 40.0)).abs() < 1e-9);
        power.derive(&mut features);
        let derived = DERIVED.map(|name| features.get(name).expect("derived"));
        for (value, expected) in derived.into_iter().zip([2.0, 0.3, 0.2, 0.5]) {
            assert!((value - expected).abs() < 1e-12, "{derived:?}");
        }
    }

    #[test]
    fn early_scales_are_read_as_costs() {
        let text = r#"{"constant":0.5,"per_flop":1e-9,"per_byte":0.0}"#;
        let scale: Scale = serde_json::from_str(text).expect("an early scale");
        assert_eq!(scale, Scale::of_work(0.5, 1e-9, 0.0));
        assert_eq!(
            serde_json::to_string(&scale).expect("plain data"),
            r#"{"constant":0.5,"costs":[{"term":"flops","coefficient":1e-9}]}"#
        );
    }
}
