//! Tensors as far as shapes need them: size, number type, and the values of small constants.

use std::rc::Rc;

use wattfarm_cost::Dtype;

/// The most values of a constant that are kept or computed. Shapes have a handful; a range over a text some thousands.
pub(crate) const VALUES_MAX: u64 = 1 << 12;

/// The most values that are computed of all constants of a graph together: 16 MiB of them. Past that they are known only when
/// the network runs.
pub(crate) const FOLDED_MAX: u64 = 1 << 21;

/// The most values that are kept of a constant of fractions: scales of a resize, a threshold. Larger ones are weights.
pub(crate) const FRACTIONS_MAX: u64 = 64;

/// The most axes of a tensor.
pub(crate) const RANK_MAX: usize = 16;

/// A number type, by ONNX's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element(pub(crate) i32);

impl Element {
    pub(crate) const FLOAT: Self = Self(1);
    pub(crate) const INT64: Self = Self(7);
    pub(crate) const BOOL: Self = Self(9);

    /// The layers' number type; `None` for whole numbers, text and what layers don't compute in.
    pub(crate) fn dtype(self) -> Option<Dtype> {
        match self.0 {
            1 | 11 => Some(Dtype::F32),
            10 => Some(Dtype::F16),
            16 => Some(Dtype::Bf16),
            _ => None,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        self.dtype().is_some()
    }

    /// Bytes of one number.
    pub(crate) fn bytes(self) -> u64 {
        match self.0 {
            7 | 11 | 13 | 14 => 8,
            1 | 6 | 12 => 4,
            4 | 5 | 10 | 16 => 2,
            15 => 16,
            _ => 1,
        }
    }

    /// Numbers from their bytes.
    pub(crate) fn decode(self, raw: &[u8]) -> Option<Values> {
        fn each<const N: usize, T>(raw: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
            let (chunks, _) = raw.as_chunks::<N>();
            chunks.iter().map(|&chunk| of(chunk)).collect()
        }
        Some(match self.0 {
            1 => Values::Floats(each(raw, |b| f64::from(f32::from_le_bytes(b)))),
            10 => Values::Floats(each(raw, |b| half(u16::from_le_bytes(b)))),
            11 => Values::Floats(each(raw, f64::from_le_bytes)),
            16 => Values::Floats(each(raw, |b: [u8; 2]| {
                f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            })),
            2 | 9 => Values::Ints(each(raw, |[b]: [u8; 1]| i64::from(b))),
            3 => Values::Ints(each(raw, |[b]: [u8; 1]| i64::from(b as i8))),
            4 => Values::Ints(each(raw, |b| i64::from(u16::from_le_bytes(b)))),
            5 => Values::Ints(each(raw, |b| i64::from(i16::from_le_bytes(b)))),
            6 => Values::Ints(each(raw, |b| i64::from(i32::from_le_bytes(b)))),
            7 | 13 => Values::Ints(each(raw, i64::from_le_bytes)),
            12 => Values::Ints(each(raw, |b| i64::from(u32::from_le_bytes(b)))),
            _ => return None,
        })
    }
}

/// An IEEE number of 16 bits.
pub(crate) fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

/// The values of a constant, in the order in which they lie.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
}

impl Values {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ints(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// As whole numbers, fractions cut off.
    pub(crate) fn ints(&self) -> Vec<i64> {
        match self {
            Self::Ints(values) => values.clone(),
            Self::Floats(values) => values.iter().map(|&value| value as i64).collect(),
        }
    }

    pub(crate) fn floats(&self) -> Vec<f64> {
        match self {
            Self::Ints(values) => values.iter().map(|&value| value as f64).collect(),
            Self::Floats(values) => values.clone(),
        }
    }

    /// The values at these places.
    pub(crate) fn pick(&self, places: impl Iterator<Item = usize>) -> Option<Self> {
        Some(match self {
            Self::Ints(values) => Self::Ints(
                places
                    .map(|place| values.get(place).copied())
                    .collect::<Option<_>>()?,
            ),
            Self::Floats(values) => Self::Floats(
                places
                    .map(|place| values.get(place).copied())
                    .collect::<Option<_>>()?,
            ),
        })
    }
}

/// What is known of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Info {
    pub(crate) shape: Vec<u64>,
    pub(crate) element: Element,
    /// Whether it is the same in every call: a weight, or made of nothing but weights and shapes.
    pub(crate) constant: bool,
    /// Of small constants.
    pub(crate) values: Option<Rc<Values>>,
}

impl Info {
    pub(crate) fn new(shape: Vec<u64>, element: Element) -> Self {
        Self {
            shape,
            element,
            constant: false,
            values: None,
        }
    }

    pub(crate) fn of_values(shape: Vec<u64>, element: Element, values: Values) -> Self {
        Self {
            shape,
            element,
            constant: true,
            values: Some(Rc::new(values)),
        }
    }

    /// Values of a tensor. Shapes have been bounded when they were made.
    pub(crate) fn numel(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The one value of a constant that is the same everywhere.
    pub(crate) fn scalar(&self) -> Option<f64> {
        let values = self.values.as_ref()?.floats();
        let first = *values.first()?;
        values.iter().all(|&value| value == first).then_some(first)
    }
}

/// The number of values of a shape, refused where it overflows what a device could hold: any of its axes could, so that a
/// product of some of them never overflows either, empty tensors' included.
pub(crate) fn numel(shape: &[u64]) -> Result<u64, String> {
    let product = shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size.max(1)))
        .filter(|&numel| numel <= 1 << 40 && shape.len() <= RANK_MAX);
    match product {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(numel) => Ok(numel),
        None => Err(format!(
            "a tensor of {} is beyond 2^40 values or {RANK_MAX} axes",
            dims(shape)
        )),
    }
}

/// A shape as people write it.
pub(crate) fn dims(shape: &[u64]) -> String {
    let sizes: Vec<String> = shape.iter().take(RANK_MAX).map(u64::to_string).collect();
    match sizes.len() {
        0 => "one value".to_owned(),
        _ => sizes.join(" x "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_ieees() {
        assert_eq!(half(0x3c00), 1.0);
        assert_eq!(half(0xc000), -2.0);
        assert_eq!(half(0x0001), 2f64.powi(-24));
        assert_eq!(half(0xfc00), f64::NEG_INFINITY);
    }
}
