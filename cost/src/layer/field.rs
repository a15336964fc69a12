//! The values that a layer's fields can have, and their text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{LIST_MAX, LayerError, SIZE_MAX};

/// A field's value as the wire, the store and the CSV have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A size, a count, or a switch (0 or 1).
    Size(u64),
    /// A list of sizes.
    Sizes(Vec<u64>),
    /// One of a closed set of words.
    Word(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => size.fmt(f),
            Self::Sizes(sizes) => {
                let texts: Vec<String> = sizes.iter().map(u64::to_string).collect();
                f.write_str(&texts.join(";"))
            }
            Self::Word(word) => f.write_str(word),
        }
    }
}

/// Text as a cell of the layer CSV has it: `64`, `64;32`, `relu`. Every text is some value; the field decides whether it
/// is one of its own.
impl From<&str> for Value {
    fn from(text: &str) -> Self {
        if let Ok(size) = text.parse() {
            return Self::Size(size);
        }
        match text.split(';').map(str::parse).collect() {
            Ok(sizes) => Self::Sizes(sizes),
            Err(_) => Self::Word(text.to_owned()),
        }
    }
}

/// A type that a layer's field can have.
pub(super) trait Field: Sized {
    const EXPECTED: &'static str;
    fn to_value(&self) -> Value;
    fn from_value(value: &Value) -> Option<Self>;
    /// The value as a number: a list as its sum, a word as its place among its kind's words.
    fn number(&self) -> f64;
}

/// The most characters of a value that an error repeats.
const ECHOED_MAX: usize = 80;

/// A value as an error repeats it: enough of it to be recognised.
fn echo(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(ECHOED_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

pub(super) fn required<T: Field>(field: &'static str, value: &Value) -> Result<T, LayerError> {
    let reason = || format!("`{}` is not {}", echo(value), T::EXPECTED);
    T::from_value(value).ok_or_else(|| LayerError::Invalid {
        field,
        reason: reason(),
    })
}

impl Field for u64 {
    const EXPECTED: &'static str = "a size of at most 2^40";
    fn to_value(&self) -> Value {
        Value::Size(*self)
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Size(size) if *size <= SIZE_MAX => Some(*size),
            _ => None,
        }
    }
    fn number(&self) -> f64 {
        *self as f64
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "0 or 1";
    fn to_value(&self) -> Value {
        Value::Size(u64::from(*self))
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Size(0) => Some(false),
            Value::Size(1) => Some(true),
            _ => None,
        }
    }
    fn number(&self) -> f64 {
        f64::from(*self)
    }
}

impl Field for Vec<u64> {
    const EXPECTED: &'static str = "a list of 1 to 256 sizes, each at most 2^40";
    fn to_value(&self) -> Value {
        Value::Sizes(self.clone())
    }
    fn from_value(value: &Value) -> Option<Self> {
        let sizes = match value {
            Value::Size(size) => vec![*size],
            Value::Sizes(sizes) => sizes.clone(),
            Value::Word(_) => return None,
        };
        (!sizes.is_empty() && sizes.len() <= LIST_MAX && sizes.iter().all(|&size| size <= SIZE_MAX))
            .then_some(sizes)
    }
    fn number(&self) -> f64 {
        self.iter().sum::<u64>() as f64
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $expected:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for it, in the canonical form and everywhere else.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = LayerError;
            fn from_str(text: &str) -> Result<Self, LayerError> {
                required($expected, &Value::Word(text.to_owned()))
            }
        }

        impl Field for $name {
            const EXPECTED: &'static str = concat!("one of", $(" ", $word,)*);
            fn to_value(&self) -> Value {
                Value::Word(self.name().to_owned())
            }
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $(Value::Word(word) if word == $word => Some(Self::$variant),)*
                    _ => None,
                }
            }
            fn number(&self) -> f64 {
                f64::from(*self as u8)
            }
        }
    };
}

words! {
    /// What follows a layer inside the same kernel.
    Activation, "activation" {
        /// Nothing.
        None = "none",
        /// max(0, x).
        Relu = "relu",
        /// min(max(0, x), 6).
        Relu6 = "relu6",
        /// x times the normal distribution function of x.
        Gelu = "gelu",
        /// x times the sigmoid of x.
        Silu = "silu",
        /// 1 / (1 + exp(-x)).
        Sigmoid = "sigmoid",
        /// x times relu6(x + 3) / 6.
        Hardswish = "hardswish",
        /// The hyperbolic tangent.
        Tanh = "tanh",
    }
}

words! {
    /// The number type that a layer computes in. `F32` means 32 bits throughout: TF32 is off for it.
    Dtype, "dtype" {
        /// 32-bit floats.
        F32 = "f32",
        /// 32-bit floats in memory, multiplied in TF32.
        Tf32 = "tf32",
        /// 16-bit IEEE floats.
        F16 = "f16",
        /// bfloat16.
        Bf16 = "bf16",
    }
}

impl Dtype {
    /// Bytes of one number in memory.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 | Self::Tf32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

words! {
    /// How four-dimensional tensors lie in memory.
    MemoryFormat, "memory_format" {
        /// Batch, channels, height, width.
        Contiguous = "contiguous",
        /// Batch, height, width, channels.
        ChannelsLast = "channels_last",
    }
}
