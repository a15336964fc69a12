//! What a layer's time is spent on most.

use serde::{Deserialize, Serialize};

use super::{Features, Scale, Term};
use crate::Layer;

/// The largest part of a layer's yardstick.
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

impl Scale {
    /// Which of the yardstick's parts is the largest for a layer. The polynomial corrects their sum, not each.
    pub fn limit(&self, layer: &Layer) -> Limit {
        let work = layer.work();
        let mut compute = self.per_flop * work.flops as f64;
        let mut memory = self.per_byte * work.bytes() as f64;
        let mut launch = self.constant;
        let features = Features::of(layer);
        for cost in &self.costs {
            let part = match limit_of(&cost.term) {
                Limit::Compute => &mut compute,
                Limit::Memory => &mut memory,
                Limit::Launch => &mut launch,
            };
            *part += cost.coefficient * cost.term.value(&features);
        }
        match (compute >= memory, compute.max(memory) >= launch) {
            (_, false) => Limit::Launch,
            (true, true) => Limit::Compute,
            (false, true) => Limit::Memory,
        }
    }
}

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
        let layer = Kind::Relu.example();
        let work = layer.work();
        let of = |constant: f64, compute: f64, memory: f64| {
            let scale = Scale {
                constant,
                per_flop: compute / work.flops as f64,
                per_byte: memory / work.bytes() as f64,
                costs: Vec::new(),
            };
            scale.limit(&layer)
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
}
