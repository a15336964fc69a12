//! The numbers that layers compute with: seeded, normally distributed, never zero throughout. The values of inputs change
//! a GPU's power by up to 40 %, and denormal ones slow a CPU.

use tch::{Kind, TchError, Tensor};

use super::device;

/// Values drawn once, copied into every tensor: drawing anew would take longer than measuring.
const POOL: i64 = 1 << 20;

/// The seed of the pool. Part of the recipe: another seed is another recipe.
const SEED: i64 = 20_171_115;

/// A pool of standard normal values.
pub(super) struct Values {
    pool: Tensor,
}

impl Values {
    pub(super) fn new() -> Self {
        tch::manual_seed(SEED);
        Self {
            pool: Tensor::randn([POOL], (Kind::Float, device())),
        }
    }

    /// The same pool once more.
    pub(super) fn share(&self) -> Self {
        Self {
            pool: self.pool.shallow_clone(),
        }
    }

    /// Fills a tensor, whatever its strides, with `mean + deviation * normal`.
    pub(super) fn fill(
        &self,
        tensor: &mut Tensor,
        mean: f64,
        deviation: f64,
    ) -> Result<(), TchError> {
        let count = tensor.numel() as i64;
        // No more of the pool than is copied: most tensors are small, and all of it takes longer than to measure them.
        let flat = self
            .pool
            .f_narrow(0, 0, POOL.min(count))?
            .f_mul_scalar(deviation)?
            .f_add_scalar(mean)?
            .f_to_kind(tensor.kind())?;
        // A view of the values in the order in which they lie; channels-last tensors are dense too.
        let view = tensor.f_as_strided([count], [1], None::<i64>)?;
        let mut start = 0;
        while start < count {
            let length = POOL.min(count - start);
            view.f_narrow(0, start, length)?
                .f_copy_(&flat.f_narrow(0, 0, length)?)?;
            start += length;
        }
        Ok(())
    }
}
