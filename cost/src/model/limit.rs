//! What a layer's time is spent on most.

use serde::{Deserialize, Serialize};

use super::Scale;
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
        let compute = self.per_flop * work.flops as f64;
        let memory = self.per_byte * work.bytes() as f64;
        match (compute >= memory, compute.max(memory) >= self.constant) {
            (_, false) => Limit::Launch,
            (true, true) => Limit::Compute,
            (false, true) => Limit::Memory,
        }
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
            };
            scale.limit(&layer)
        };
        assert_eq!(of(3.0, 1.0, 2.0), Limit::Launch);
        assert_eq!(of(1.0, 3.0, 2.0), Limit::Compute);
        assert_eq!(of(1.0, 2.0, 3.0), Limit::Memory);
    }
}
