//! The layer kinds, each declared once: its fields, their types, order and defaults.
//!
//! The order is part of the canonical form, and so of every stored hash.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::field::{Activation, Field, Value, required};
use super::{Layer, LayerError};

/// The fields of one kind as a struct, with their names, values and defaults.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty $(= $default:expr)?,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field),)*];

            fn values(&self) -> Vec<(&'static str, Value)> {
                vec![$((stringify!($field), self.$field.to_value()),)*]
            }

            fn numbers(&self, into: &mut Vec<f64>) {
                into.extend([$(self.$field.number(),)*]);
            }

            fn defaults() -> Vec<(&'static str, Value)> {
                vec![$($((stringify!($field), <$type as Field>::to_value(&$default)),)?)*]
            }

            fn from_fields(kind: Kind, given: &[(&str, Value)]) -> Result<Self, LayerError> {
                if let Some((field, _)) = given.iter().find(|(field, _)| !Self::NAMES.contains(field)) {
                    return Err(LayerError::UnknownField { kind, field: field.chars().take(80).collect() });
                }
                Ok(Self { $($field: {
                    let name = stringify!($field);
                    let value = given.iter().rev().find(|(field, _)| *field == name).map(|(_, value)| value.clone());
                    let value = value.or_else(|| kind.default_of(name));
                    required(name, &value.ok_or(LayerError::Missing { kind, field: name })?)?
                },)* })
            }
        }
    };
}

fields! {
    /// A two-dimensional convolution over `batch` x `in_channels` x `in_height` x `in_width`.
    Conv2d {
        /// Items in a batch.
        batch: u64,
        /// Channels of the input; a multiple of `groups`.
        in_channels: u64,
        /// Rows of the input.
        in_height: u64,
        /// Columns of the input.
        in_width: u64,
        /// Channels of the output; a multiple of `groups`.
        out_channels: u64,
        /// Rows of the kernel.
        kernel_h: u64,
        /// Columns of the kernel.
        kernel_w: u64,
        /// Rows from one output to the next.
        stride_h: u64 = 1,
        /// Columns from one output to the next.
        stride_w: u64 = 1,
        /// Rows of zeros above.
        pad_top: u64 = 0,
        /// Rows of zeros below.
        pad_bottom: u64 = 0,
        /// Columns of zeros on the left.
        pad_left: u64 = 0,
        /// Columns of zeros on the right.
        pad_right: u64 = 0,
        /// Rows from one kernel element to the next.
        dilation_h: u64 = 1,
        /// Columns from one kernel element to the next.
        dilation_w: u64 = 1,
        /// Groups that convolve apart from each other.
        groups: u64 = 1,
        /// Whether a bias is added.
        bias: bool = false,
        /// What follows in the same kernel.
        activation: Activation = Activation::None,
    }
}

fields! {
    /// A two-dimensional transposed convolution: each input value adds a weighted kernel to the output.
    ConvTranspose2d {
        /// Items in a batch.
        batch: u64,
        /// Channels of the input; a multiple of `groups`.
        in_channels: u64,
        /// Rows of the input.
        in_height: u64,
        /// Columns of the input.
        in_width: u64,
        /// Channels of the output; a multiple of `groups`.
        out_channels: u64,
        /// Rows of the kernel.
        kernel_h: u64,
        /// Columns of the kernel.
        kernel_w: u64,
        /// Rows of the output from one input to the next.
        stride_h: u64 = 1,
        /// Columns of the output from one input to the next.
        stride_w: u64 = 1,
        /// Rows taken off above and below.
        pad_h: u64 = 0,
        /// Columns taken off on the left and the right.
        pad_w: u64 = 0,
        /// Rows added below; fewer than `stride_h` or `dilation_h`.
        output_pad_h: u64 = 0,
        /// Columns added on the right; fewer than `stride_w` or `dilation_w`.
        output_pad_w: u64 = 0,
        /// Rows from one kernel element to the next.
        dilation_h: u64 = 1,
        /// Columns from one kernel element to the next.
        dilation_w: u64 = 1,
        /// Groups that convolve apart from each other.
        groups: u64 = 1,
        /// Whether a bias is added.
        bias: bool = false,
    }
}

fields! {
    /// A matrix product with a constant weight: `batch` rows of `in_features` to `out_features`.
    Linear {
        /// Rows: items, or items times tokens.
        batch: u64,
        /// Columns of the input.
        in_features: u64,
        /// Columns of the output.
        out_features: u64,
        /// Whether a bias is added.
        bias: bool = false,
        /// What follows in the same kernel.
        activation: Activation = Activation::None,
    }
}

fields! {
    /// A window that slides over each channel of `batch` x `channels` x `in_height` x `in_width`.
    Pool2d {
        /// Items in a batch.
        batch: u64,
        /// Channels.
        channels: u64,
        /// Rows of the input.
        in_height: u64,
        /// Columns of the input.
        in_width: u64,
        /// Rows of the window.
        kernel_h: u64,
        /// Columns of the window.
        kernel_w: u64,
        /// Rows from one output to the next.
        stride_h: u64,
        /// Columns from one output to the next.
        stride_w: u64,
        /// Rows of padding above.
        pad_top: u64 = 0,
        /// Rows of padding below.
        pad_bottom: u64 = 0,
        /// Columns of padding on the left.
        pad_left: u64 = 0,
        /// Columns of padding on the right.
        pad_right: u64 = 0,
        /// Whether a last window may hang over the edge.
        ceil_mode: bool = false,
    }
}

fields! {
    /// An image made into one of a fixed size, whatever the input's: by means of windows, or by interpolation.
    Adaptive {
        /// Items in a batch.
        batch: u64,
        /// Channels.
        channels: u64,
        /// Rows of the input.
        in_height: u64,
        /// Columns of the input.
        in_width: u64,
        /// Rows of the output.
        out_height: u64,
        /// Columns of the output.
        out_width: u64,
    }
}

fields! {
    /// Normalisation of each channel by stored statistics, scaled and shifted.
    BatchNorm2d {
        /// Items in a batch.
        batch: u64,
        /// Channels.
        channels: u64,
        /// Rows.
        height: u64,
        /// Columns.
        width: u64,
    }
}

fields! {
    /// Normalisation of each value by its neighbours among the channels.
    LocalResponseNorm {
        /// Items in a batch.
        batch: u64,
        /// Channels.
        channels: u64,
        /// Rows.
        height: u64,
        /// Columns.
        width: u64,
        /// Neighbouring channels in a sum.
        size: u64,
    }
}

fields! {
    /// Normalisation of groups of channels by their own mean and variance, scaled and shifted by channel.
    GroupNorm {
        /// Items in a batch.
        batch: u64,
        /// Channels; a multiple of `groups`.
        channels: u64,
        /// Values in a channel.
        inner: u64,
        /// Groups of channels with one mean and variance each.
        groups: u64,
    }
}

fields! {
    /// One value for each stretch of `length` values along an axis of `batch` x `length` x `inner`.
    Reduce {
        /// The product of the axes before.
        batch: u64,
        /// Values made one.
        length: u64,
        /// The product of the axes behind: 1 if neighbouring values are made one.
        inner: u64,
    }
}

fields! {
    /// `batch` rows picked from a constant table of `rows` x `features`.
    Embedding {
        /// Rows picked: items, or items times tokens.
        batch: u64,
        /// Rows of the table: words of a vocabulary.
        rows: u64,
        /// Length of a row.
        features: u64,
    }
}

fields! {
    /// One recurrent layer over `length` x `batch` x `in_features`, step by step.
    Recurrent {
        /// Items in a batch.
        batch: u64,
        /// Steps.
        length: u64,
        /// Features of an input.
        in_features: u64,
        /// Features of the state.
        hidden: u64,
        /// 2 if the steps are also gone through backwards, by a layer of its own; else 1.
        directions: u64 = 1,
    }
}

fields! {
    /// `batch` rows, each worked on as a whole: a softmax or a layer norm over the last axis.
    Rows {
        /// Rows: the product of all axes but the last.
        batch: u64,
        /// Length of a row.
        features: u64,
    }
}

fields! {
    /// A function of each value alone, or a copy, or a view, of `batch` x `features` values.
    Elementwise {
        /// Items in a batch.
        batch: u64,
        /// Values in an item.
        features: u64,
    }
}

fields! {
    /// Two tensors joined value by value. The second may be 1 along an axis, and is repeated along it then.
    Binary {
        /// Items in a batch.
        batch: u64,
        /// Channels.
        channels: u64,
        /// Values in a channel.
        inner: u64,
        /// `batch` or 1.
        other_batch: u64,
        /// `channels` or 1.
        other_channels: u64,
        /// `inner` or 1.
        other_inner: u64,
    }
}

fields! {
    /// Tensors of `batch` x `in_channels[i]` x `inner`, joined along their channels.
    Concat {
        /// Items in a batch.
        batch: u64,
        /// Channels of each input.
        in_channels: Vec<u64>,
        /// Values in a channel.
        inner: u64,
    }
}

fields! {
    /// A copy with its axes in another order.
    Permute {
        /// Sizes of the input.
        shape: Vec<u64>,
        /// Which input axis each output axis is.
        order: Vec<u64>,
    }
}

fields! {
    /// `batch` products of an `m` x `k` with a `k` x `n` matrix, both inputs.
    Matmul {
        /// Products.
        batch: u64,
        /// Rows of the first.
        m: u64,
        /// Columns of the second.
        n: u64,
        /// Columns of the first and rows of the second.
        k: u64,
    }
}

fields! {
    /// Scaled dot-product attention, softmax(QK^T / sqrt(head_dim)) V, as one kernel.
    Attention {
        /// Items in a batch.
        batch: u64,
        /// Heads.
        heads: u64,
        /// Tokens that ask.
        query_length: u64,
        /// Tokens that answer.
        key_length: u64,
        /// Features of a head.
        head_dim: u64,
        /// Whether a token sees only those before it.
        causal: bool = false,
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident($fields:ident) = $name:literal, $example:expr;)*) => {
        /// A layer kind with its hyperparameters.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Op { $($(#[$doc])* $variant($fields),)* }

        /// A layer kind.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind { $($(#[$doc])* #[serde(rename = $name)] $variant,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: [Self; [$($name,)*].len()] = [$(Self::$variant,)*];

            /// The kind's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The names of the kind's own fields, in canonical order.
            pub fn field_names(self) -> &'static [&'static str] {
                match self { $(Self::$variant => $fields::NAMES,)* }
            }

            /// What a field is when it is left out; `None` if it may not be.
            pub fn default_of(self, field: &str) -> Option<Value> {
                let defaults = match self { $(Self::$variant => $fields::defaults(),)* };
                defaults.into_iter().find(|(name, _)| *name == field).map(|(_, value)| value)
            }

            /// A small layer of the kind, for help texts and tests.
            pub fn example(self) -> Layer {
                let fields: &[(&str, &str)] = match self { $(Self::$variant => &$example,)* };
                Layer::from_fields(self, fields.iter().map(|&(name, text)| (name, Value::from(text))))
                    .expect("examples are valid: a test makes each")
            }
        }

        impl FromStr for Kind {
            type Err = LayerError;
            fn from_str(text: &str) -> Result<Self, LayerError> {
                match text {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(LayerError::UnknownKind(text.chars().take(80).collect())),
                }
            }
        }

        impl Op {
            /// The kind alone.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$variant(_) => Kind::$variant,)* }
            }

            pub(super) fn fields(&self) -> Vec<(&'static str, Value)> {
                match self { $(Self::$variant(fields) => fields.values(),)* }
            }

            /// The fields as numbers, in their order: a list as its sum, a word as its place among its kind's words.
            pub(crate) fn numbers(&self, into: &mut Vec<f64>) {
                match self { $(Self::$variant(fields) => fields.numbers(into),)* }
            }

            pub(super) fn from_fields(kind: Kind, given: &[(&str, Value)]) -> Result<Self, LayerError> {
                Ok(match kind { $(Kind::$variant => Self::$variant($fields::from_fields(kind, given)?),)* })
            }
        }
    };
}

const IMAGE: [(&str, &str); 4] = [
    ("batch", "1"),
    ("channels", "8"),
    ("height", "14"),
    ("width", "14"),
];
const FLAT: [(&str, &str); 2] = [("batch", "4"), ("features", "256")];
const WINDOW: [(&str, &str); 8] = [
    ("batch", "1"),
    ("channels", "8"),
    ("in_height", "14"),
    ("in_width", "14"),
    ("kernel_h", "2"),
    ("kernel_w", "2"),
    ("stride_h", "2"),
    ("stride_w", "2"),
];
const RESIZED: [(&str, &str); 6] = [
    ("batch", "1"),
    ("channels", "8"),
    ("in_height", "7"),
    ("in_width", "7"),
    ("out_height", "14"),
    ("out_width", "14"),
];
const SEQUENCE: [(&str, &str); 4] = [
    ("batch", "1"),
    ("length", "8"),
    ("in_features", "32"),
    ("hidden", "16"),
];
const PAIR: [(&str, &str); 6] = [
    ("batch", "1"),
    ("channels", "8"),
    ("inner", "196"),
    ("other_batch", "1"),
    ("other_channels", "8"),
    ("other_inner", "196"),
];

kinds! {
    /// Two-dimensional convolution.
    Conv2d(Conv2d) = "conv2d", [
        ("batch", "1"), ("in_channels", "8"), ("in_height", "14"), ("in_width", "14"), ("out_channels", "16"),
        ("kernel_h", "3"), ("kernel_w", "3"),
    ];
    /// Two-dimensional transposed convolution.
    ConvTranspose2d(ConvTranspose2d) = "conv_transpose2d", [
        ("batch", "1"), ("in_channels", "8"), ("in_height", "7"), ("in_width", "7"), ("out_channels", "16"),
        ("kernel_h", "3"), ("kernel_w", "3"), ("stride_h", "2"), ("stride_w", "2"), ("pad_h", "1"), ("pad_w", "1"),
        ("output_pad_h", "1"), ("output_pad_w", "1"),
    ];
    /// Product with a constant matrix.
    Linear(Linear) = "linear", [("batch", "1"), ("in_features", "64"), ("out_features", "32")];
    /// Largest value of a window.
    MaxPool2d(Pool2d) = "max_pool2d", WINDOW;
    /// Mean of a window.
    AvgPool2d(Pool2d) = "avg_pool2d", WINDOW;
    /// Mean over windows that make a fixed output.
    AdaptiveAvgPool2d(Adaptive) = "adaptive_avg_pool2d", [
        ("batch", "1"), ("channels", "8"), ("in_height", "14"), ("in_width", "14"), ("out_height", "1"),
        ("out_width", "1"),
    ];
    /// Larger or smaller image of the nearest values.
    UpsampleNearest2d(Adaptive) = "upsample_nearest2d", RESIZED;
    /// Larger or smaller image, linear in rows and columns between the values.
    UpsampleBilinear2d(Adaptive) = "upsample_bilinear2d", RESIZED;
    /// Normalisation of channels by stored statistics.
    BatchNorm2d(BatchNorm2d) = "batch_norm2d", IMAGE;
    /// Normalisation of rows.
    LayerNorm(Rows) = "layer_norm", FLAT;
    /// Normalisation of rows by their root mean square, scaled.
    RmsNorm(Rows) = "rms_norm", FLAT;
    /// Normalisation of groups of channels.
    GroupNorm(GroupNorm) = "group_norm", [("batch", "1"), ("channels", "8"), ("inner", "196"), ("groups", "2")];
    /// Normalisation by neighbouring channels.
    LocalResponseNorm(LocalResponseNorm) = "local_response_norm", [
        ("batch", "1"), ("channels", "8"), ("height", "14"), ("width", "14"), ("size", "5"),
    ];
    /// max(0, x).
    Relu(Elementwise) = "relu", FLAT;
    /// min(max(0, x), 6).
    Relu6(Elementwise) = "relu6", FLAT;
    /// x times the normal distribution function of x.
    Gelu(Elementwise) = "gelu", FLAT;
    /// x times the sigmoid of x.
    Silu(Elementwise) = "silu", FLAT;
    /// 1 / (1 + exp(-x)).
    Sigmoid(Elementwise) = "sigmoid", FLAT;
    /// x times relu6(x + 3) / 6.
    Hardswish(Elementwise) = "hardswish", FLAT;
    /// relu6(x + 3) / 6.
    Hardsigmoid(Elementwise) = "hardsigmoid", FLAT;
    /// Hyperbolic tangent.
    Tanh(Elementwise) = "tanh", FLAT;
    /// exp(x) over the sum of a row's.
    Softmax(Rows) = "softmax", FLAT;
    /// Nothing, at inference: what its call costs.
    Dropout(Elementwise) = "dropout", FLAT;
    /// Sum of two tensors.
    Add(Binary) = "add", PAIR;
    /// Product of two tensors, value by value.
    Mul(Binary) = "mul", PAIR;
    /// Mean along an axis.
    Mean(Reduce) = "mean", [("batch", "8"), ("length", "196"), ("inner", "1")];
    /// Tensors joined along their channels.
    Concat(Concat) = "concat", [("batch", "1"), ("in_channels", "8;16"), ("inner", "196")];
    /// Another view of the same values: what its call costs.
    Flatten(Elementwise) = "flatten", FLAT;
    /// A copy with its axes in another order.
    Permute(Permute) = "permute", [("shape", "1;196;64"), ("order", "0;2;1")];
    /// A plain copy.
    Copy(Elementwise) = "copy", FLAT;
    /// Products of two inputs.
    Matmul(Matmul) = "matmul", [("batch", "2"), ("m", "16"), ("n", "16"), ("k", "32")];
    /// Scaled dot-product attention.
    Attention(Attention) = "attention", [
        ("batch", "1"), ("heads", "2"), ("query_length", "16"), ("key_length", "16"), ("head_dim", "32"),
    ];
    /// Rows of a table.
    Embedding(Embedding) = "embedding", [("batch", "16"), ("rows", "100"), ("features", "32")];
    /// Long short-term memory.
    Lstm(Recurrent) = "lstm", SEQUENCE;
    /// Gated recurrent units.
    Gru(Recurrent) = "gru", SEQUENCE;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
