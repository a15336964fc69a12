//! A layer: a kind with its hyperparameters, its number type and its memory format.
//!
//! [`Layer`] is checked once, when it is made: whoever holds one knows that its output is not empty and that none of its
//! sizes overflow. [`Layer::canonical`] is the form that two machines compare; its hash is the layer's name.

mod field;
mod kinds;
mod shape;
mod work;

use std::fmt;

use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};

use crate::Hash;

pub use field::{Activation, Dtype, MemoryFormat, Value};
pub use kinds::{
    Adaptive, Attention, BatchNorm2d, Binary, Concat, Conv2d, ConvTranspose2d, Elementwise,
    Embedding, GroupNorm, Kind, Linear, LocalResponseNorm, Matmul, Op, Permute, Pool2d, Recurrent,
    Reduce, Rows,
};
pub use work::{Gemm, Work};

/// Sizes of a tensor, outermost first.
pub type Shape = Vec<u64>;

/// The largest size a field may have, and the largest number of bytes a layer may touch: far beyond any device, so that
/// arithmetic on a checked layer never overflows.
pub const SIZE_MAX: u64 = 1 << 40;

/// The most entries that a list-valued field (a concatenation's inputs, a permutation's axes) may have.
pub const LIST_MAX: usize = 256;

/// Why a layer cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// No layer kind has this name.
    #[error("kind: `{0}` is not a layer kind")]
    UnknownKind(String),
    /// The kind has no such field.
    #[error("{field}: {kind} has no such field")]
    UnknownField {
        /// The layer's kind.
        kind: Kind,
        /// The name that was given.
        field: String,
    },
    /// A field without a default was left out.
    #[error("{field}: missing for {kind}")]
    Missing {
        /// The layer's kind.
        kind: Kind,
        /// The field that is missing.
        field: &'static str,
    },
    /// A field has a value that its type or the layer's geometry forbids.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl LayerError {
    /// The field at fault, for errors that name one to a client.
    pub fn field(&self) -> &str {
        match self {
            Self::UnknownKind(_) => "kind",
            Self::UnknownField { field, .. } => field,
            Self::Missing { field, .. } | Self::Invalid { field, .. } => field,
        }
    }
}

/// A layer whose geometry has been checked.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Layer {
    op: Op,
    dtype: Dtype,
    memory_format: MemoryFormat,
}

impl Layer {
    /// Checks a layer: every size in range, channels divisible by groups, an output that is not empty, and no tensor
    /// larger than [`SIZE_MAX`] bytes.
    pub fn new(op: Op, dtype: Dtype, memory_format: MemoryFormat) -> Result<Self, LayerError> {
        shape::check(&op)?;
        let layer = Self {
            op,
            dtype,
            memory_format,
        };
        work::check(&layer)?;
        Ok(layer)
    }

    /// A layer in 32-bit floats and contiguous memory.
    pub fn f32(op: Op) -> Result<Self, LayerError> {
        Self::new(op, Dtype::F32, MemoryFormat::Contiguous)
    }

    /// Reads a layer from named values, as the wire and the CSV have them. Fields with a default may be left out; a name
    /// that the kind doesn't have is an error.
    pub fn from_fields<'a>(
        kind: Kind,
        fields: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<Self, LayerError> {
        let mut dtype = Dtype::F32;
        let mut memory_format = MemoryFormat::Contiguous;
        let mut own = Vec::new();
        for (name, value) in fields {
            match name {
                "dtype" => dtype = field::required("dtype", &value)?,
                "memory_format" => memory_format = field::required("memory_format", &value)?,
                _ => own.push((name, value)),
            }
        }
        Self::new(Op::from_fields(kind, &own)?, dtype, memory_format)
    }

    /// The kind with its hyperparameters.
    pub fn op(&self) -> &Op {
        &self.op
    }

    /// The kind alone.
    pub fn kind(&self) -> Kind {
        self.op.kind()
    }

    /// The number type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How four-dimensional tensors lie in memory.
    pub fn memory_format(&self) -> MemoryFormat {
        self.memory_format
    }

    /// Every field with its value in the kind's order, without dtype and memory format.
    pub fn fields(&self) -> Vec<(&'static str, Value)> {
        self.op.fields()
    }

    /// The canonical form, version 1: `wattfarm.layer.v1|KIND|FIELD=VALUE|...|dtype=..|memory_format=..`, every field
    /// of the kind in its declared order, sizes in decimal, lists joined by `;`. Adding a field to a kind, or changing
    /// the order, makes a new version.
    pub fn canonical(&self) -> String {
        let mut text = format!("wattfarm.layer.v1|{}", self.kind());
        for (name, value) in self.fields() {
            text.push_str(&format!("|{name}={value}"));
        }
        text.push_str(&format!(
            "|dtype={}|memory_format={}",
            self.dtype, self.memory_format
        ));
        text
    }

    /// The layer's name among machines: the blake3 of its canonical form.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.canonical())
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

/// For people: the kind and every field that is not at its default.
impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.kind())?;
        let mut separator = "";
        for (name, value) in self.fields() {
            if self.kind().default_of(name).as_ref() != Some(&value) {
                write!(f, "{separator}{name}={value}")?;
                separator = ", ";
            }
        }
        if self.dtype != Dtype::F32 {
            write!(f, "{separator}dtype={}", self.dtype)?;
        }
        if self.memory_format != MemoryFormat::Contiguous {
            write!(f, "{separator}memory_format={}", self.memory_format)?;
        }
        f.write_str(")")
    }
}

impl Serialize for Layer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", &self.kind())?;
        for (name, value) in self.fields() {
            map.serialize_entry(name, &value)?;
        }
        map.serialize_entry("dtype", &self.dtype)?;
        map.serialize_entry("memory_format", &self.memory_format)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = std::collections::BTreeMap::<String, Value>::deserialize(deserializer)?;
        let kind = match fields.remove("kind") {
            Some(Value::Word(name)) => name.parse().map_err(D::Error::custom)?,
            _ => return Err(D::Error::missing_field("kind")),
        };
        let named = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        Self::from_fields(kind, named).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv() -> Conv2d {
        Conv2d {
            batch: 1,
            in_channels: 64,
            in_height: 56,
            in_width: 56,
            out_channels: 128,
            kernel_h: 3,
            kernel_w: 3,
            stride_h: 2,
            stride_w: 2,
            pad_top: 1,
            pad_bottom: 1,
            pad_left: 1,
            pad_right: 1,
            dilation_h: 1,
            dilation_w: 1,
            groups: 1,
            bias: false,
            activation: Activation::None,
        }
    }

    /// Stored hashes must never change: a layer measured last year is the same layer.
    #[test]
    fn canonical_form_and_hash_are_golden() {
        let layer = Layer::f32(Op::Conv2d(conv())).expect("valid");
        assert_eq!(
            layer.canonical(),
            "wattfarm.layer.v1|conv2d|batch=1|in_channels=64|in_height=56|in_width=56|out_channels=128|kernel_h=3|\
             kernel_w=3|stride_h=2|stride_w=2|pad_top=1|pad_bottom=1|pad_left=1|pad_right=1|dilation_h=1|dilation_w=1|\
             groups=1|bias=0|activation=none|dtype=f32|memory_format=contiguous"
        );
        assert_eq!(layer.hash(), Hash::of(&layer.canonical()));
        assert_eq!(
            layer.hash().to_string(),
            "bd54e16ab8bb0078ac3eaaf563c8c62eb85b2f9be498b077ebab6259ffb3eea1"
        );
    }

    #[test]
    fn impossible_layers_name_their_field() {
        let refused = |op| Layer::f32(op).expect_err("impossible").field().to_owned();
        assert_eq!(
            refused(Op::Conv2d(Conv2d {
                groups: 3,
                ..conv()
            })),
            "in_channels"
        );
        assert_eq!(
            refused(Op::Conv2d(Conv2d {
                kernel_h: 59,
                ..conv()
            })),
            "kernel_h"
        );
        assert_eq!(refused(Op::Conv2d(Conv2d { batch: 0, ..conv() })), "batch");
        assert_eq!(
            refused(Op::Conv2d(Conv2d {
                in_height: 1 << 39,
                in_width: 1 << 39,
                ..conv()
            })),
            "in_height"
        );
        assert_eq!(
            refused(Op::Conv2d(Conv2d {
                batch: u64::MAX,
                ..conv()
            })),
            "batch"
        );
        assert_eq!(
            refused(Op::Concat(Concat {
                batch: 1,
                inner: 1,
                in_channels: vec![]
            })),
            "in_channels"
        );
        assert_eq!(
            refused(Op::Permute(Permute {
                shape: vec![2, 3],
                order: vec![0, 0]
            })),
            "order"
        );
    }

    #[test]
    fn an_error_repeats_the_beginning_of_a_long_list() {
        let order = Value::Sizes((0..2000).collect());
        let fields = [("shape", Value::Sizes(vec![2, 3])), ("order", order)];
        let error = Layer::from_fields(Kind::Permute, fields).expect_err("too long");
        assert_eq!(error.field(), "order");
        let text = error.to_string();
        assert!(text.len() < 200 && text.contains("0;1;2;3;"), "{text}");
    }

    #[test]
    fn fields_round_trip_through_json() {
        for kind in Kind::ALL {
            let layer = kind.example();
            let text = serde_json::to_string(&layer).expect("serializes");
            assert_eq!(
                serde_json::from_str::<Layer>(&text).expect("reads back"),
                layer
            );
            let named: Vec<_> = layer.fields().into_iter().collect();
            let again = Layer::from_fields(kind, named).expect("its own fields are valid");
            assert_eq!(again.hash(), layer.hash());
        }
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        let unknown =
            Layer::from_fields(Kind::Linear, [("colour", Value::Size(1))]).expect_err("unknown");
        assert_eq!(unknown.field(), "colour");
        let missing =
            Layer::from_fields(Kind::Linear, [("batch", Value::Size(1))]).expect_err("missing");
        assert_eq!(missing.to_string(), "in_features: missing for linear");
    }
}
