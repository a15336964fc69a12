//! Building a network step by step: each layer's sizes follow from what it reads.

use super::{NODES_MAX, Network, NetworkError, Node, Source, Step, channels, items, numel, rows};
use crate::layer::{
    Activation, Adaptive, Attention, BatchNorm2d, Binary, Concat, Conv2d, Dtype, Elementwise,
    Layer, LayerError, Linear, LocalResponseNorm, MemoryFormat, Op, Permute, Pool2d, Rows, Shape,
};

/// The output of a step, to be read by later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tensor(Source);

/// Collects steps. The first step that cannot be is remembered, and [`NetworkBuilder::finish`] returns it; steps after
/// it are ignored, so that a network reads without a `?` on each line.
#[derive(Debug)]
pub struct NetworkBuilder {
    name: String,
    input: Shape,
    dtype: Dtype,
    nodes: Vec<Node>,
    shapes: Vec<Shape>,
    scopes: Vec<String>,
    failed: Option<NetworkError>,
}

/// A square window or kernel: how large, how far apart, how much padding on each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns of the kernel.
    pub kernel: (u64, u64),
    /// Rows and columns from one output to the next.
    pub stride: u64,
    /// Rows above and below, columns left and right.
    pub pad: (u64, u64),
}

/// A square window of `kernel` x `kernel`.
pub fn window(kernel: u64, stride: u64, pad: u64) -> Window {
    Window {
        kernel: (kernel, kernel),
        stride,
        pad: (pad, pad),
    }
}

impl NetworkBuilder {
    /// How many steps there are so far.
    pub fn steps(&self) -> usize {
        self.nodes.len()
    }

    /// A network whose input has this shape, batch first.
    pub fn new(name: &str, input: Shape, dtype: Dtype) -> Self {
        let (name, nodes, shapes) = (name.to_owned(), Vec::new(), Vec::new());
        // Sizes are the layers' to refuse; without even a batch there are none.
        let (input, failed) = match input.is_empty() {
            true => (vec![0], numel(&input).err().map(NetworkError::Input)),
            false => (input, None),
        };
        Self {
            name,
            input,
            dtype,
            nodes,
            shapes,
            scopes: Vec::new(),
            failed,
        }
    }

    /// The network's input.
    pub fn input(&self) -> Tensor {
        Tensor(Source::Input)
    }

    /// The network, or the first step that could not be.
    pub fn finish(self) -> Result<Network, NetworkError> {
        match self.failed {
            Some(error) => Err(error),
            None => Network::new(self.name, self.input, self.nodes),
        }
    }

    /// The first step that could not be, if there was one.
    pub fn failed(&self) -> Option<&NetworkError> {
        self.failed.as_ref()
    }

    /// Steps made inside have their names prefixed by `scope` and a dot.
    pub fn scoped<T>(&mut self, scope: &str, steps: impl FnOnce(&mut Self) -> T) -> T {
        self.scopes.push(scope.to_owned());
        let made = steps(self);
        self.scopes.pop();
        made
    }

    /// Shape of a tensor, batch first.
    pub fn shape(&self, tensor: Tensor) -> &Shape {
        match tensor.0 {
            Source::Input => &self.input,
            Source::Node(index) => &self.shapes[index],
        }
    }

    fn step(&mut self, name: &str, inputs: &[Tensor], step: Result<Step, LayerError>) -> Tensor {
        let fallback = inputs.first().copied().unwrap_or(self.input());
        if self.failed.is_some() {
            return fallback;
        }
        let index = self.nodes.len();
        // Refused here, and not when it is finished: a file may ask for millions.
        if index == NODES_MAX {
            self.failed = Some(NetworkError::Size(NODES_MAX + 1));
            return fallback;
        }
        let name = self
            .scopes
            .iter()
            .map(String::as_str)
            .chain([name])
            .collect::<Vec<_>>()
            .join(".");
        let inputs = inputs.iter().map(|tensor| tensor.0).collect();
        let made = step.map_err(|error| error.to_string()).and_then(|step| {
            let node = Node {
                name: name.clone(),
                step,
                inputs,
            };
            let shape = node.shape(&self.input, &self.shapes)?;
            Ok((node, shape))
        });
        match made {
            Ok((node, shape)) => {
                self.nodes.push(node);
                self.shapes.push(shape);
                Tensor(Source::Node(index))
            }
            Err(reason) => {
                self.failed = Some(NetworkError::Node {
                    index,
                    name,
                    reason,
                });
                fallback
            }
        }
    }

    /// Any layer, with its inputs.
    pub fn layer(&mut self, name: &str, inputs: &[Tensor], op: Op) -> Tensor {
        let layer = Layer::new(op, self.dtype, MemoryFormat::Contiguous);
        self.step(name, inputs, layer.map(Step::Layer))
    }

    /// The sizes of an image: batch, channels, height, width. Zeros (refused by every layer) if it is none.
    fn image(&self, tensor: Tensor) -> [u64; 4] {
        <[u64; 4]>::try_from(self.shape(tensor).as_slice()).unwrap_or([0; 4])
    }

    /// A convolution; `groups` and `bias` as given, no dilation, no activation.
    pub fn conv2d(
        &mut self,
        name: &str,
        x: Tensor,
        out_channels: u64,
        window: Window,
        groups: u64,
        bias: bool,
    ) -> Tensor {
        let (pad_h, pad_w) = window.pad;
        self.conv2d_padded(
            name,
            x,
            out_channels,
            window,
            [pad_h, pad_h, pad_w, pad_w],
            groups,
            bias,
        )
    }

    /// A convolution padded by `[top, bottom, left, right]` instead of the window's own padding.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a convolution's own parameter"
    )]
    pub fn conv2d_padded(
        &mut self,
        name: &str,
        x: Tensor,
        out_channels: u64,
        window: Window,
        [pad_top, pad_bottom, pad_left, pad_right]: [u64; 4],
        groups: u64,
        bias: bool,
    ) -> Tensor {
        let [batch, in_channels, in_height, in_width] = self.image(x);
        let conv = Conv2d {
            batch,
            in_channels,
            in_height,
            in_width,
            out_channels,
            kernel_h: window.kernel.0,
            kernel_w: window.kernel.1,
            stride_h: window.stride,
            stride_w: window.stride,
            pad_top,
            pad_bottom,
            pad_left,
            pad_right,
            dilation_h: 1,
            dilation_w: 1,
            groups,
            bias,
            activation: Activation::None,
        };
        self.layer(name, &[x], Op::Conv2d(conv))
    }

    fn pool(&self, x: Tensor, window: Window, ceil_mode: bool) -> Pool2d {
        let [batch, channels, in_height, in_width] = self.image(x);
        Pool2d {
            batch,
            channels,
            in_height,
            in_width,
            kernel_h: window.kernel.0,
            kernel_w: window.kernel.1,
            stride_h: window.stride,
            stride_w: window.stride,
            pad_top: window.pad.0,
            pad_bottom: window.pad.0,
            pad_left: window.pad.1,
            pad_right: window.pad.1,
            ceil_mode,
        }
    }

    /// Largest value of each window.
    pub fn max_pool2d(&mut self, name: &str, x: Tensor, window: Window, ceil_mode: bool) -> Tensor {
        let pool = self.pool(x, window, ceil_mode);
        self.layer(name, &[x], Op::MaxPool2d(pool))
    }

    /// Mean of each window.
    pub fn avg_pool2d(&mut self, name: &str, x: Tensor, window: Window, ceil_mode: bool) -> Tensor {
        let pool = self.pool(x, window, ceil_mode);
        self.layer(name, &[x], Op::AvgPool2d(pool))
    }

    /// Means that make an image of `out_height` x `out_width`.
    pub fn adaptive_avg_pool2d(
        &mut self,
        name: &str,
        x: Tensor,
        out_height: u64,
        out_width: u64,
    ) -> Tensor {
        let [batch, channels, in_height, in_width] = self.image(x);
        let pool = Adaptive {
            batch,
            channels,
            in_height,
            in_width,
            out_height,
            out_width,
        };
        self.layer(name, &[x], Op::AdaptiveAvgPool2d(pool))
    }

    /// Batch normalisation by stored statistics.
    pub fn batch_norm2d(&mut self, name: &str, x: Tensor) -> Tensor {
        let [batch, channels, height, width] = self.image(x);
        self.layer(
            name,
            &[x],
            Op::BatchNorm2d(BatchNorm2d {
                batch,
                channels,
                height,
                width,
            }),
        )
    }

    /// Normalisation by `size` neighbouring channels.
    pub fn local_response_norm(&mut self, name: &str, x: Tensor, size: u64) -> Tensor {
        let [batch, channels, height, width] = self.image(x);
        self.layer(
            name,
            &[x],
            Op::LocalResponseNorm(LocalResponseNorm {
                batch,
                channels,
                height,
                width,
                size,
            }),
        )
    }

    /// A function of each value alone, a copy or a view: `op` makes the kind, such as `Op::Relu`.
    pub fn elementwise(&mut self, name: &str, x: Tensor, op: fn(Elementwise) -> Op) -> Tensor {
        let sizes = items(self.shape(x));
        self.layer(
            name,
            &[x],
            op(Elementwise {
                batch: sizes[0],
                features: sizes[1],
            }),
        )
    }

    /// max(0, x).
    pub fn relu(&mut self, name: &str, x: Tensor) -> Tensor {
        self.elementwise(name, x, Op::Relu)
    }

    /// Items as rows.
    pub fn flatten(&mut self, name: &str, x: Tensor) -> Tensor {
        self.elementwise(name, x, Op::Flatten)
    }

    /// A product of each row (last axis) with a constant matrix.
    pub fn linear(&mut self, name: &str, x: Tensor, out_features: u64, bias: bool) -> Tensor {
        let sizes = rows(self.shape(x));
        let (batch, in_features) = (sizes[0], sizes[1]);
        let linear = Linear {
            batch,
            in_features,
            out_features,
            bias,
            activation: Activation::None,
        };
        self.layer(name, &[x], Op::Linear(linear))
    }

    /// A row-wise kind over the last axis: `Op::LayerNorm` or `Op::Softmax`.
    pub fn row_wise(&mut self, name: &str, x: Tensor, op: fn(Rows) -> Op) -> Tensor {
        let sizes = rows(self.shape(x));
        self.layer(
            name,
            &[x],
            op(Rows {
                batch: sizes[0],
                features: sizes[1],
            }),
        )
    }

    fn binary(&mut self, name: &str, x: Tensor, other: Tensor, op: fn(Binary) -> Op) -> Tensor {
        let (a, b) = (channels(self.shape(x)), channels(self.shape(other)));
        let sizes = Binary {
            batch: a[0],
            channels: a[1],
            inner: a[2],
            other_batch: b[0],
            other_channels: b[1],
            other_inner: b[2],
        };
        self.layer(name, &[x, other], op(sizes))
    }

    /// Sum; `other` may be 1 along an axis.
    pub fn add(&mut self, name: &str, x: Tensor, other: Tensor) -> Tensor {
        self.binary(name, x, other, Op::Add)
    }

    /// Product, value by value; `other` may be 1 along an axis.
    pub fn mul(&mut self, name: &str, x: Tensor, other: Tensor) -> Tensor {
        self.binary(name, x, other, Op::Mul)
    }

    /// Tensors joined along their second axis.
    pub fn concat(&mut self, name: &str, inputs: &[Tensor]) -> Tensor {
        let sizes: Vec<Shape> = inputs
            .iter()
            .map(|&tensor| channels(self.shape(tensor)))
            .collect();
        let (batch, inner) = sizes.first().map_or((0, 0), |first| (first[0], first[2]));
        let in_channels = sizes.iter().map(|size| size[1]).collect();
        self.layer(
            name,
            inputs,
            Op::Concat(Concat {
                batch,
                in_channels,
                inner,
            }),
        )
    }

    /// A copy with its axes in another order.
    pub fn permute(&mut self, name: &str, x: Tensor, order: &[u64]) -> Tensor {
        let shape = self.shape(x).clone();
        self.layer(
            name,
            &[x],
            Op::Permute(Permute {
                shape,
                order: order.to_vec(),
            }),
        )
    }

    /// Scaled dot-product attention over (batch, heads, tokens, features).
    pub fn attention(
        &mut self,
        name: &str,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        causal: bool,
    ) -> Tensor {
        let [batch, heads, query_length, head_dim] = self.image(query);
        let key_length = self.image(key)[2];
        let attention = Attention {
            batch,
            heads,
            query_length,
            key_length,
            head_dim,
            causal,
        };
        self.layer(name, &[query, key, value], Op::Attention(attention))
    }

    /// The same values under other axes. Free.
    pub fn reshape(&mut self, name: &str, x: Tensor, shape: &[u64]) -> Tensor {
        self.step(name, &[x], Ok(Step::Reshape(shape.to_vec())))
    }

    /// The slice at `index` along the first axis. Free.
    pub fn select(&mut self, name: &str, x: Tensor, index: u64) -> Tensor {
        self.step(name, &[x], Ok(Step::Select { index }))
    }

    /// `length` places along an axis, from `start` by `step`. Free.
    pub fn slice(
        &mut self,
        name: &str,
        x: Tensor,
        axis: u64,
        (start, step, length): (u64, u64, u64),
    ) -> Tensor {
        let step = Step::Slice {
            axis,
            start,
            step,
            length,
        };
        self.step(name, &[x], Ok(step))
    }

    /// The axes in another order, for what takes values as they lie. Free.
    pub fn transpose(&mut self, name: &str, x: Tensor, order: &[u64]) -> Tensor {
        self.step(name, &[x], Ok(Step::Transpose(order.to_vec())))
    }

    /// A constant of the network.
    pub fn parameter(&mut self, name: &str, shape: &[u64]) -> Tensor {
        self.step(name, &[], Ok(Step::Parameter(shape.to_vec())))
    }
}
