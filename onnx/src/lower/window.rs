//! Convolutions, pools, resizing, and the normalisation of channels.

use wattfarm_cost::layer::{
    Activation, Adaptive, BatchNorm2d, Conv2d, ConvTranspose2d, GroupNorm, LocalResponseNorm, Op,
    Pool2d,
};
use wattfarm_cost::network::Tensor;

use super::{Lowering, Outcome};
use crate::graph::Step;
use crate::infer::{Windows, windows};

/// An image's sizes: those of one axis are images of one row, as frameworks run them.
struct Image {
    batch: u64,
    channels: u64,
    height: u64,
    width: u64,
}

impl Image {
    fn of(shape: &[u64]) -> Option<Self> {
        let (height, width) = match shape {
            [_, _] => (1, 1),
            &[_, _, width] => (1, width),
            &[_, _, height, width] => (height, width),
            _ => return None,
        };
        Some(Self {
            batch: shape[0],
            channels: shape[1],
            height,
            width,
        })
    }

    fn shape(&self) -> [u64; 4] {
        [self.batch, self.channels, self.height, self.width]
    }
}

/// A window's two values, rows first.
fn pair(values: &[u64], alone: u64) -> (u64, u64) {
    match *values {
        [width] => (alone, width),
        [height, width] => (height, width),
        _ => (alone, alone),
    }
}

impl Lowering<'_> {
    fn image(&mut self, step: &Step) -> Result<Option<(Image, Tensor)>, String> {
        let Some(image) = Image::of(&self.input_info(step, 0)?.shape) else {
            return Ok(None);
        };
        let x = self.read_input(step, 0)?;
        let x = self.view(x, &image.shape());
        Ok(Some((image, x)))
    }

    /// `step` convolves, `last` makes the output: a later addition of the bias, or the same step.
    pub(super) fn conv(&mut self, step: &Step, last: &Step, bias: bool) -> Result<Outcome, String> {
        let weight = self.input_info(step, 1)?.shape.clone();
        let shape = self.input_info(step, 0)?.shape.clone();
        let of = windows(&step.node, &shape, &weight[2..])?;
        let groups = step.node.int("group").unwrap_or(1) as u64;
        let bias = bias || self.has_bias(step);
        let Some((image, x)) = self.image(step)? else {
            let products = weight[1..]
                .iter()
                .fold(2u64, |product, &size| product.saturating_mul(size));
            let outputs = self.output(last, 0)?.1.numel();
            return Ok(Outcome::Uncosted(outputs.saturating_mul(products)));
        };
        let (kernel_h, kernel_w) = pair(&of.kernel, 1);
        let (stride_h, stride_w) = pair(&of.stride, 1);
        let (dilation_h, dilation_w) = pair(&of.dilation, 1);
        let (pad_top, pad_left) = pair(&of.before, 0);
        let (pad_bottom, pad_right) = pair(&of.after, 0);
        let conv = Conv2d {
            batch: image.batch,
            in_channels: image.channels,
            in_height: image.height,
            in_width: image.width,
            out_channels: weight[0],
            kernel_h,
            kernel_w,
            stride_h,
            stride_w,
            pad_top,
            pad_bottom,
            pad_left,
            pad_right,
            dilation_h,
            dilation_w,
            groups,
            bias,
            activation: Activation::None,
        };
        let made = self.layer(&[x], Op::Conv2d(conv));
        self.put(last, 0, made)?;
        Ok(Outcome::Costed)
    }

    pub(super) fn conv_transpose(
        &mut self,
        step: &Step,
        last: &Step,
        bias: bool,
    ) -> Result<Outcome, String> {
        let weight = self.input_info(step, 1)?.shape.clone();
        let output = Image::of(&self.output(last, 0)?.1.shape);
        let groups = step.node.int("group").unwrap_or(1) as u64;
        let bias = bias || self.has_bias(step);
        let (Some((image, x)), Some(output)) = (self.image(step)?, output) else {
            let products = weight[1..]
                .iter()
                .fold(2u64, |product, &size| product.saturating_mul(size));
            let inputs = self.input_info(step, 0)?.numel();
            return Ok(Outcome::Uncosted(inputs.saturating_mul(products)));
        };
        let shape = self.input_info(step, 0)?.shape.clone();
        let of = crate::infer::transposed(&step.node, &shape, &weight)?;
        let (kernel_h, kernel_w) = pair(&of.kernel, 1);
        let (stride_h, stride_w) = pair(&of.stride, 1);
        let (dilation_h, dilation_w) = pair(&of.dilation, 1);
        let (pad_h, pad_w) = pair(&of.before, 0);
        // What is padded less behind than before is added behind, as frameworks say it.
        let added = |size: u64, kernel: u64, stride: u64, dilation: u64, pad: u64, output: u64| {
            let plain = ((size - 1) * stride + (kernel - 1) * dilation + 1).checked_sub(2 * pad)?;
            output.checked_sub(plain)
        };
        let output_pad_h = added(
            image.height,
            kernel_h,
            stride_h,
            dilation_h,
            pad_h,
            output.height,
        );
        let output_pad_w = added(
            image.width,
            kernel_w,
            stride_w,
            dilation_w,
            pad_w,
            output.width,
        );
        let (Some(output_pad_h), Some(output_pad_w)) = (output_pad_h, output_pad_w) else {
            return Err("padding that is larger behind than before has no rule".to_owned());
        };
        let conv = ConvTranspose2d {
            batch: image.batch,
            in_channels: image.channels,
            in_height: image.height,
            in_width: image.width,
            out_channels: output.channels,
            kernel_h,
            kernel_w,
            stride_h,
            stride_w,
            pad_h,
            pad_w,
            output_pad_h,
            output_pad_w,
            dilation_h,
            dilation_w,
            groups,
            bias,
        };
        let made = self.layer(&[x], Op::ConvTranspose2d(conv));
        self.put(last, 0, made)?;
        Ok(Outcome::Costed)
    }

    pub(super) fn pool(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let kernel = step
            .node
            .ints("kernel_shape")
            .ok_or("has no kernel_shape")?;
        let kernel: Vec<u64> = kernel.iter().map(|&size| size.max(0) as u64).collect();
        let of = windows(&step.node, &shape, &kernel)?;
        if step.outputs.get(1).copied().flatten().is_some() {
            self.coverage.notes.push(format!(
                "`{}`: the places of its largest values are not costed",
                self.step_name
            ));
        }
        let Some((image, x)) = self.image(step)? else {
            return Ok(self.one_each(step));
        };
        let is_max = step.node.operator == "MaxPool";
        if step.node.operator == "LpPool" {
            self.stands_for(step, "avg_pool2d");
        }
        let output = self.output(step, 0)?.1.shape.clone();
        let made = match self.pooled(&image, &of, is_max, output.last() == shape.last()) {
            Some(op) => self.layer(&[x], op),
            None => return Ok(self.one_each(step)),
        };
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    fn pooled(&self, image: &Image, of: &Windows, is_max: bool, same_size: bool) -> Option<Op> {
        let (kernel_h, kernel_w) = pair(&of.kernel, 1);
        let (stride_h, stride_w) = pair(&of.stride, 1);
        let (pad_top, pad_left) = pair(&of.before, 0);
        let (pad_bottom, pad_right) = pair(&of.after, 0);
        // A window of one value, each value once: what exporters make of adaptive pooling to the input's own size.
        if !is_max && same_size && (kernel_h, kernel_w, stride_h, stride_w) == (1, 1, 1, 1) {
            return Some(Op::AdaptiveAvgPool2d(Adaptive {
                batch: image.batch,
                channels: image.channels,
                in_height: image.height,
                in_width: image.width,
                out_height: image.height,
                out_width: image.width,
            }));
        }
        if of.dilation.iter().any(|&dilation| dilation > 1) {
            return None;
        }
        let pool = Pool2d {
            batch: image.batch,
            channels: image.channels,
            in_height: image.height,
            in_width: image.width,
            kernel_h,
            kernel_w,
            stride_h,
            stride_w,
            pad_top,
            pad_bottom,
            pad_left,
            pad_right,
            ceil_mode: of.ceil_mode,
        };
        Some(match is_max {
            true => Op::MaxPool2d(pool),
            false => Op::AvgPool2d(pool),
        })
    }

    pub(super) fn global_pool(&mut self, step: &Step) -> Result<Outcome, String> {
        let Some((image, x)) = self.image(step)? else {
            return Ok(self.one_each(step));
        };
        if step.node.operator != "GlobalAveragePool" {
            self.stands_for(step, "adaptive_avg_pool2d");
        }
        self.averaged(step, &image, x)
    }

    fn averaged(&mut self, step: &Step, image: &Image, x: Tensor) -> Result<Outcome, String> {
        let pool = Adaptive {
            batch: image.batch,
            channels: image.channels,
            in_height: image.height,
            in_width: image.width,
            out_height: 1,
            out_width: 1,
        };
        let made = self.layer(&[x], Op::AdaptiveAvgPool2d(pool));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    /// The mean of each channel of an image, where a reduction is one.
    pub(super) fn channel_mean(&mut self, step: &Step) -> Result<Outcome, String> {
        match self.image(step)? {
            Some((image, x)) => self.averaged(step, &image, x),
            None => Ok(self.one_each(step)),
        }
    }

    pub(super) fn resize(&mut self, step: &Step) -> Result<Outcome, String> {
        let output = Image::of(&self.output(step, 0)?.1.shape);
        let (Some((image, x)), Some(output)) = (self.image(step)?, output) else {
            return Ok(self.one_each(step));
        };
        if output.channels != image.channels || output.batch != image.batch {
            return Ok(self.one_each(step));
        }
        let sizes = Adaptive {
            batch: image.batch,
            channels: image.channels,
            in_height: image.height,
            in_width: image.width,
            out_height: output.height,
            out_width: output.width,
        };
        let op = match step.node.text("mode").unwrap_or("nearest") {
            "nearest" => Op::UpsampleNearest2d(sizes),
            "linear" | "bilinear" => Op::UpsampleBilinear2d(sizes),
            _ => {
                self.stands_for(step, "upsample_bilinear2d");
                Op::UpsampleBilinear2d(sizes)
            }
        };
        let made = self.layer(&[x], op);
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    pub(super) fn batch_norm(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let &[batch, channels, ..] = shape.as_slice() else {
            return Ok(self.one_each(step));
        };
        // More axes than an image's are one long column to each channel.
        let image = Image::of(&shape).unwrap_or(Image {
            batch,
            channels,
            height: shape[2..].iter().product(),
            width: 1,
        });
        let x = self.read_input(step, 0)?;
        let x = self.view(x, &image.shape());
        let norm = BatchNorm2d {
            batch,
            channels,
            height: image.height,
            width: image.width,
        };
        let made = self.layer(&[x], Op::BatchNorm2d(norm));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    pub(super) fn group_norm(&mut self, step: &Step) -> Result<Outcome, String> {
        let shape = self.input_info(step, 0)?.shape.clone();
        let &[batch, channels, ref inner @ ..] = shape.as_slice() else {
            return Ok(self.one_each(step));
        };
        let groups = match step.node.operator.as_str() {
            "GroupNormalization" => step.node.int("num_groups").unwrap_or(1).max(1) as u64,
            _ => channels,
        };
        let x = self.read_input(step, 0)?;
        let norm = GroupNorm {
            batch,
            channels,
            inner: inner.iter().product(),
            groups,
        };
        let made = self.layer(&[x], Op::GroupNorm(norm));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }

    pub(super) fn local_response_norm(&mut self, step: &Step) -> Result<Outcome, String> {
        let Some((image, x)) = self.image(step)? else {
            return Ok(self.one_each(step));
        };
        let norm = LocalResponseNorm {
            batch: image.batch,
            channels: image.channels,
            height: image.height,
            width: image.width,
            size: step.node.int("size").unwrap_or(1).max(0) as u64,
        };
        let made = self.layer(&[x], Op::LocalResponseNorm(norm));
        self.put(step, 0, made)?;
        Ok(Outcome::Costed)
    }
}
