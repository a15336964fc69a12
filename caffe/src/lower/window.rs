//! Convolutions, pools, and what else looks at an image.

use wattfarm_cost::layer::{Activation, Adaptive, Conv2d, ConvTranspose2d, Op, Pool2d};
use wattfarm_cost::network::Tensor;

use super::{Lowering, Outcome};
use crate::net::Layer;
use crate::text::Message;

/// Rows and columns of what a layer says of its window.
struct Window {
    kernel: (u64, u64),
    stride: (u64, u64),
    /// On each side.
    pad: (u64, u64),
    dilation: (u64, u64),
}

/// A pair of sizes: `NAME_h` and `NAME_w`, or one number for both, or two.
fn pair(parameters: &Message, name: &str, single: &str) -> Result<Option<(u64, u64)>, String> {
    let each = [format!("{name}_h"), format!("{name}_w")];
    let [h, w] = [parameters.size(&each[0])?, parameters.size(&each[1])?];
    let both = parameters.sizes(single)?;
    Ok(match (h, w, both.as_slice()) {
        (None, None, []) => None,
        (None, None, &[both]) => Some((both, both)),
        (None, None, &[h, w]) => Some((h, w)),
        (None, None, more) => {
            return Err(format!(
                "{single} has {} numbers: two axes are known",
                more.len()
            ));
        }
        (h, w, _) => Some((h.unwrap_or(0), w.unwrap_or(0))),
    })
}

impl Window {
    /// The window; without a kernel, the whole of an image of `height` x `width`.
    fn of(parameters: &Message, whole: Option<(u64, u64)>) -> Result<Self, String> {
        let kernel = pair(parameters, "kernel", "kernel_size")?.or(whole);
        Ok(Self {
            kernel: kernel.ok_or("has no kernel_size")?,
            stride: pair(parameters, "stride", "stride")?.unwrap_or((1, 1)),
            pad: pair(parameters, "pad", "pad")?.unwrap_or((0, 0)),
            dilation: pair(parameters, "dilation", "dilation")?.unwrap_or((1, 1)),
        })
    }
}

/// How many windows there are along an axis, rounded up as Caffe's pools do: where there is padding, the last one begins
/// inside of the image or of the padding before it.
fn pooled(size: u64, pad: u64, kernel: u64, stride: u64, rounds_up: bool) -> Option<u64> {
    let room = (size + 2 * pad).checked_sub(kernel)?;
    match rounds_up {
        true => {
            let steps = room.div_ceil(stride);
            Some(match pad > 0 && steps * stride >= size + pad {
                true => steps,
                false => steps + 1,
            })
        }
        false => Some(room / stride + 1),
    }
}

impl Lowering {
    /// An image's batch, channels, rows and columns.
    fn image(&self, x: Tensor) -> Result<[u64; 4], String> {
        let shape = self.builder.shape(x);
        <[u64; 4]>::try_from(shape.as_slice())
            .map_err(|_| format!("reads {shape:?}, which is no batch of images"))
    }

    pub(super) fn convolution(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("convolution_param");
        let x = self.read(layer, 0)?;
        let [batch, in_channels, in_height, in_width] = self.image(x)?;
        let window = Window::of(&parameters, None)?;
        let groups = match layer.kind.as_str() {
            "Convolution" => parameters.size("group")?.unwrap_or(1),
            _ => in_channels,
        };
        let conv = Conv2d {
            batch,
            in_channels,
            in_height,
            in_width,
            out_channels: parameters.size("num_output")?.ok_or("has no num_output")?,
            kernel_h: window.kernel.0,
            kernel_w: window.kernel.1,
            stride_h: window.stride.0,
            stride_w: window.stride.1,
            pad_top: window.pad.0,
            pad_bottom: window.pad.0,
            pad_left: window.pad.1,
            pad_right: window.pad.1,
            dilation_h: window.dilation.0,
            dilation_w: window.dilation.1,
            groups,
            bias: parameters.switch("bias_term", true)?,
            activation: Activation::None,
        };
        let title = self.title(layer);
        Ok(Outcome::Costed(self.builder.layer(
            &title,
            &[x],
            Op::Conv2d(conv),
        )))
    }

    pub(super) fn deconvolution(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("convolution_param");
        let x = self.read(layer, 0)?;
        let [batch, in_channels, in_height, in_width] = self.image(x)?;
        let window = Window::of(&parameters, None)?;
        let conv = ConvTranspose2d {
            batch,
            in_channels,
            in_height,
            in_width,
            out_channels: parameters.size("num_output")?.ok_or("has no num_output")?,
            kernel_h: window.kernel.0,
            kernel_w: window.kernel.1,
            stride_h: window.stride.0,
            stride_w: window.stride.1,
            pad_h: window.pad.0,
            pad_w: window.pad.1,
            output_pad_h: 0,
            output_pad_w: 0,
            dilation_h: window.dilation.0,
            dilation_w: window.dilation.1,
            groups: parameters.size("group")?.unwrap_or(1),
            bias: parameters.switch("bias_term", true)?,
        };
        let title = self.title(layer);
        Ok(Outcome::Costed(self.builder.layer(
            &title,
            &[x],
            Op::ConvTranspose2d(conv),
        )))
    }

    pub(super) fn pooling(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("pooling_param");
        let x = self.read(layer, 0)?;
        let [batch, channels, height, width] = self.image(x)?;
        let title = self.title(layer);
        let is_mean = match parameters.word("pool").unwrap_or("MAX") {
            "MAX" | "0" => false,
            "AVE" | "1" => true,
            other => {
                let what = format!("{} pooling as max_pool2d", crate::error::shown(other));
                *self.coverage.stand_ins.entry(what).or_default() += 1;
                false
            }
        };
        let is_global = parameters.switch("global_pooling", false)?;
        if is_global && is_mean {
            return Ok(Outcome::Costed(
                self.builder.adaptive_avg_pool2d(&title, x, 1, 1),
            ));
        }
        let window = Window::of(&parameters, is_global.then_some((height, width)))?;
        let rounds_up = match parameters.word("round_mode").unwrap_or("CEIL") {
            "CEIL" | "0" => parameters.switch("ceil_mode", true)?,
            "FLOOR" | "1" => false,
            other => {
                let other = crate::error::shown(other);
                return Err(format!("round_mode: `{other}` is neither CEIL nor FLOOR"));
            }
        };
        let ((kernel_h, kernel_w), (stride_h, stride_w)) = (window.kernel, window.stride);
        let (pad_h, pad_w) = window.pad;
        // Sizes are bounded here already: what follows multiplies some of them.
        let sizes = [kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w];
        if sizes.iter().any(|&size| size > 1 << 20) || stride_h == 0 || stride_w == 0 {
            return Err(format!("its window cannot be: {sizes:?}"));
        }
        let along = |rounds_up| {
            let h = pooled(height, pad_h, kernel_h, stride_h, rounds_up)?;
            Some((h, pooled(width, pad_w, kernel_w, stride_w, rounds_up)?))
        };
        let (wanted, rounded_down) = along(rounds_up).zip(along(false)).ok_or_else(|| {
            format!("its window is larger than the {height} x {width} that it reads")
        })?;
        let mut pool = Pool2d {
            batch,
            channels,
            in_height: height,
            in_width: width,
            kernel_h,
            kernel_w,
            stride_h,
            stride_w,
            pad_top: pad_h,
            pad_bottom: pad_h,
            pad_left: pad_w,
            pad_right: pad_w,
            // Where rounding makes no difference the layer is the plain one.
            ceil_mode: wanted != rounded_down,
        };
        if pool.ceil_mode && !pool.has_plain_padding() {
            // The rows and columns that windows hang over, as padding.
            let over = |count: u64, stride: u64, kernel: u64, size: u64, pad: u64| {
                ((count - 1) * stride + kernel).saturating_sub(size + 2 * pad)
            };
            pool.pad_bottom += over(wanted.0, stride_h, kernel_h, height, pad_h);
            pool.pad_right += over(wanted.1, stride_w, kernel_w, width, pad_w);
            pool.ceil_mode = false;
        }
        let op = match is_mean {
            true => Op::AvgPool2d(pool),
            false => Op::MaxPool2d(pool),
        };
        let made = self.builder.layer(&title, &[x], op);
        let shape = self.builder.shape(made);
        if self.builder.failed().is_none() && shape[2..] != [wanted.0, wanted.1] {
            return Err(format!(
                "makes {} x {} in Caffe, whose last windows see nothing of the image: no layer does that",
                wanted.0, wanted.1
            ));
        }
        Ok(Outcome::Costed(made))
    }

    pub(super) fn local_response_norm(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let parameters = layer.parameters("lrn_param");
        let x = self.read(layer, 0)?;
        self.image(x)?;
        if parameters
            .word("norm_region")
            .is_some_and(|region| region == "WITHIN_CHANNEL")
        {
            self.stands_for(layer, "local_response_norm");
        }
        let size = parameters.size("local_size")?.unwrap_or(5);
        let title = self.title(layer);
        Ok(Outcome::Costed(
            self.builder.local_response_norm(&title, x, size),
        ))
    }

    /// An image made larger, by a factor or to a size.
    pub(super) fn enlarge(&mut self, layer: &Layer) -> Result<Outcome, String> {
        let (field, is_interp) = match layer.kind.as_str() {
            "Interp" => ("interp_param", true),
            _ => ("upsample_param", false),
        };
        let parameters = layer.parameters(field);
        let x = self.read(layer, 0)?;
        let [batch, channels, in_height, in_width] = self.image(x)?;
        let factor = match is_interp {
            true => parameters.size("zoom_factor")?,
            false => parameters.size("scale")?,
        };
        let to = |size: Option<u64>, from: u64| match (size, factor) {
            (Some(size), _) => Ok(size),
            (None, Some(factor)) if is_interp => Ok(from
                .saturating_sub(1)
                .saturating_mul(factor.saturating_sub(1))
                .saturating_add(from)),
            (None, Some(factor)) => Ok(from.saturating_mul(factor)),
            (None, None) => Err("says neither to what size nor by what factor"),
        };
        let sizes = Adaptive {
            batch,
            channels,
            in_height,
            in_width,
            out_height: to(parameters.size("height")?, in_height)?,
            out_width: to(parameters.size("width")?, in_width)?,
        };
        let op = match is_interp {
            true => Op::UpsampleBilinear2d(sizes),
            false => Op::UpsampleNearest2d(sizes),
        };
        let title = self.title(layer);
        Ok(Outcome::Costed(self.builder.layer(&title, &[x], op)))
    }
}

#[cfg(test)]
mod tests {
    use super::pooled;

    #[test]
    fn pools_round_up_as_caffes_do() {
        // AlexNet's 55, GoogLeNet's 112, and a padded one whose last window would begin outside.
        assert_eq!(pooled(55, 0, 3, 2, true), Some(27));
        assert_eq!(pooled(112, 0, 3, 2, true), Some(56));
        assert_eq!(pooled(112, 0, 3, 2, false), Some(55));
        assert_eq!(pooled(4, 1, 2, 3, true), Some(2));
        assert_eq!(pooled(5, 1, 1, 3, true), Some(2));
        assert_eq!(pooled(2, 0, 3, 1, true), None);
    }
}
