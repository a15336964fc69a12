//! Numbers for a design: the first few of each place fill space evenly, any more are random.
//!
//! A place's first numbers are one point of a Halton sequence, whose digits are permuted by the seed: any stretch of the
//! sequence covers the unit cube far more evenly than random points, in every projection onto its first axes. A kind
//! spends these on what matters most for cost, and draws the rest from a generator seeded by place.

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// One prime for each evenly filled axis. Longer bases need longer stretches to fill, so there are few.
const BASES: [u64; 7] = [2, 3, 5, 7, 11, 13, 17];

/// An endless sequence of places, fixed by its seed.
#[derive(Debug)]
pub(super) struct Sequence {
    seed: [u8; 32],
    /// For each base, what each digit is replaced by.
    digits: Vec<Vec<u64>>,
}

impl Sequence {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        let mut random = ChaCha8Rng::from_seed(seed);
        let permuted = |&base: &u64| {
            let mut digits: Vec<u64> = (0..base).collect();
            digits.shuffle(&mut random);
            digits
        };
        Self {
            seed,
            digits: BASES.iter().map(permuted).collect(),
        }
    }

    /// The numbers of one place.
    pub(super) fn draw(&self, place: u64) -> Draw {
        let even = BASES
            .iter()
            .zip(&self.digits)
            .map(|(&base, digits)| radical_inverse(place, base, digits))
            .collect();
        let mut random = ChaCha8Rng::from_seed(self.seed);
        random.set_stream(place + 1); // stream 0 permuted the digits
        Draw {
            even,
            spent: 0,
            random,
        }
    }
}

/// The digits of `place`, least first, as digits after the point. Leading zeros count too, since they are permuted.
fn radical_inverse(mut place: u64, base: u64, digits: &[u64]) -> f64 {
    let mut unit = 1.0 / base as f64;
    let mut sum = 0.0;
    while unit > 1e-12 {
        sum += digits[(place % base) as usize] as f64 * unit;
        place /= base;
        unit /= base as f64;
    }
    sum.min(1.0 - f64::EPSILON)
}

/// The numbers of one place, in the order that they are asked for.
#[derive(Debug)]
pub(super) struct Draw {
    even: Vec<f64>,
    spent: usize,
    random: ChaCha8Rng,
}

/// Sizes of images that networks have more often than chance would.
const EXTENTS: [u64; 28] = [
    1, 2, 4, 6, 7, 8, 13, 14, 17, 27, 28, 32, 35, 54, 55, 56, 64, 71, 73, 109, 111, 112, 128, 147,
    149, 192, 224, 227,
];

impl Draw {
    /// From 0 to below 1.
    pub(super) fn unit(&mut self) -> f64 {
        self.spent += 1;
        match self.even.get(self.spent - 1) {
            Some(&even) => even,
            None => self.random.random(),
        }
    }

    /// From 0 to below 1 without spending an even number: for details.
    fn detail(&mut self) -> f64 {
        self.random.random()
    }

    /// True for this share of the places.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.detail() < share
    }

    /// One of a few, each as likely as another.
    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.detail() * choices.len() as f64) as usize]
    }

    /// One of a few, each for its share of the places; evenly, so that every stretch of the sequence has its shares.
    pub(super) fn stratum<T: Copy>(&mut self, strata: &[(f64, T)]) -> T {
        let mut rest = self.unit() * strata.iter().map(|(share, _)| share).sum::<f64>();
        for &(share, stratum) in strata {
            if rest < share {
                return stratum;
            }
            rest -= share;
        }
        strata[strata.len() - 1].1 // only rounding gets here
    }

    /// A size from `low` to `high`, evenly in its logarithm.
    pub(super) fn size(&mut self, low: u64, high: u64) -> u64 {
        let (low_log, high_log) = ((low as f64).ln(), ((high + 1) as f64).ln());
        let size = (low_log + self.unit() * (high_log - low_log)).exp() as u64;
        size.clamp(low, high)
    }

    /// A number of channels or features: most networks use multiples of 8, 16 or 32, a quarter of ours are odd ones.
    pub(super) fn channels(&mut self, low: u64, high: u64) -> u64 {
        let size = self.size(low, high);
        let tile = self.one_of(&[1, 8, 16, 32]);
        if size < 2 * tile {
            size
        } else {
            (size / tile * tile).max(low)
        }
    }

    /// Rows or columns of an image: half of them at sizes that networks have often.
    pub(super) fn extent(&mut self, low: u64, high: u64) -> u64 {
        let size = self.size(low, high);
        let usual = EXTENTS
            .into_iter()
            .filter(|extent| (low..=high).contains(extent));
        let nearest = usual.min_by_key(|extent| extent.abs_diff(size));
        nearest.filter(|_| self.chance(0.5)).unwrap_or(size)
    }

    /// Items in a batch: one, most often.
    pub(super) fn batch(&mut self) -> u64 {
        if self.chance(0.7) {
            1
        } else {
            self.size(2, 16)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_fills_each_axis_and_each_pair() {
        let sequence = Sequence::new([7; 32]);
        let points: Vec<(f64, f64)> = (0..72)
            .map(|place| sequence.draw(place))
            .map(|mut d| (d.unit(), d.unit()))
            .collect();
        for cell in 0..36 {
            let (row, column) = (f64::from(cell / 6), f64::from(cell % 6));
            let inside =
                |&&(x, y): &&(f64, f64)| (x * 6.0).floor() == row && (y * 6.0).floor() == column;
            assert!(
                points.iter().filter(inside).count() >= 1,
                "cell {row}, {column} is empty"
            );
        }
    }

    #[test]
    fn the_seed_and_the_place_decide() {
        let numbers = |seed, place| {
            let mut draw = Sequence::new([seed; 32]).draw(place);
            (0..12).map(|_| draw.unit()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1, 5), numbers(1, 5));
        assert_ne!(numbers(1, 5), numbers(2, 5));
        assert_ne!(numbers(1, 5), numbers(1, 6));
        assert!(
            numbers(3, 1_000_000)
                .iter()
                .all(|unit| (0.0..1.0).contains(unit))
        );
    }

    #[test]
    fn sizes_keep_their_bounds_and_reach_them() {
        let sequence = Sequence::new([9; 32]);
        let sizes: Vec<u64> = (0..500)
            .map(|place| sequence.draw(place).channels(3, 64))
            .collect();
        assert!(sizes.iter().all(|size| (3..=64).contains(size)));
        assert!(sizes.contains(&3) && sizes.contains(&64) && sizes.contains(&32));
    }
}
