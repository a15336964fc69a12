//! Windows that slide over an image: how many fit, and what is padded.

use crate::file::Node;

/// A window along every axis of an image but batch and channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) kernel: Vec<u64>,
    pub(crate) stride: Vec<u64>,
    pub(crate) dilation: Vec<u64>,
    pub(crate) before: Vec<u64>,
    pub(crate) after: Vec<u64>,
    /// Added behind, of a transposed convolution.
    pub(crate) output_pad: Vec<u64>,
    pub(crate) ceil_mode: bool,
    pub(crate) output: Vec<u64>,
}

fn list(node: &Node, name: &str, axes: usize, default: u64) -> Result<Vec<u64>, String> {
    let Some(given) = node.ints(name) else {
        return Ok(vec![default; axes]);
    };
    let sizes: Option<Vec<u64>> = given
        .iter()
        .map(|&size| u64::try_from(size).ok().filter(|&size| size <= 1 << 32))
        .collect();
    match sizes {
        Some(sizes) if sizes.len() == axes && (default == 0 || !sizes.contains(&0)) => Ok(sizes),
        _ => Err(format!("{name} of {given:?} for {axes} axes")),
    }
}

fn unpadded(node: &Node, of: &[u64], kernel: &[u64]) -> Result<Windows, String> {
    if of.len() < 3 || of.len() != kernel.len() + 2 {
        return Err(format!(
            "a window of {} axes over {} axes",
            kernel.len(),
            of.len()
        ));
    }
    let axes = kernel.len();
    if kernel.iter().any(|size| !(1..=1 << 32).contains(size)) {
        return Err("a kernel that is empty or enormous".to_owned());
    }
    let pads = match node.ints("pads") {
        Some(_) => list(node, "pads", 2 * axes, 0)?,
        None => vec![0; 2 * axes],
    };
    Ok(Windows {
        kernel: kernel.to_vec(),
        stride: list(node, "strides", axes, 1)?,
        dilation: list(node, "dilations", axes, 1)?,
        before: pads[..axes].to_vec(),
        after: pads[axes..].to_vec(),
        output_pad: list(node, "output_padding", axes, 0)?,
        ceil_mode: node.int("ceil_mode") == Some(1),
        output: Vec::with_capacity(axes),
    })
}

impl Windows {
    fn extent(&self, axis: usize) -> u64 {
        // Both are at most 2^32.
        ((self.kernel[axis] - 1) as u128 * u128::from(self.dilation[axis]) + 1)
            .try_into()
            .unwrap_or(u64::MAX)
    }
}

/// The windows of a convolution or a pool over `of`: batch, channels, and the axes of the image.
pub(crate) fn windows(node: &Node, of: &[u64], kernel: &[u64]) -> Result<Windows, String> {
    let mut windows = unpadded(node, of, kernel)?;
    let same = match node.text("auto_pad").unwrap_or("NOTSET") {
        "SAME_UPPER" => Some(false),
        "SAME_LOWER" => Some(true),
        _ => None,
    };
    for (axis, &size) in of[2..].iter().enumerate() {
        let (extent, stride) = (windows.extent(axis), windows.stride[axis]);
        if let Some(lower) = same {
            let wanted = (size.div_ceil(stride).saturating_sub(1)).saturating_mul(stride);
            let pad = wanted.saturating_add(extent).saturating_sub(size);
            let (small, large) = (pad / 2, pad.div_ceil(2));
            (windows.before[axis], windows.after[axis]) = if lower {
                (large, small)
            } else {
                (small, large)
            };
        }
        let padded = size
            .saturating_add(windows.before[axis])
            .saturating_add(windows.after[axis]);
        let span = padded.checked_sub(extent).ok_or_else(|| {
            format!("a window of {extent} does not fit the padded {padded}: the input is too small")
        })?;
        let mut count = match windows.ceil_mode {
            true => span.div_ceil(stride) + 1,
            false => span / stride + 1,
        };
        // A last window may hang over the edge, but not start in the padding: what frameworks do, if not every opset.
        if windows.ceil_mode
            && (count - 1).saturating_mul(stride) >= size.saturating_add(windows.before[axis])
        {
            count -= 1;
        }
        windows.output.push(count);
    }
    Ok(windows)
}

/// The windows of a transposed convolution.
pub(crate) fn transposed(node: &Node, of: &[u64], weight: &[u64]) -> Result<Windows, String> {
    if weight.len() < 3 || of.len() != weight.len() {
        return Err(format!(
            "weights of {} axes for {} axes",
            weight.len(),
            of.len()
        ));
    }
    if of[1] != weight[0] {
        return Err(format!("{} channels, and weights for {}", of[1], weight[0]));
    }
    let mut windows = unpadded(node, of, &weight[2..])?;
    let wanted = node.ints("output_shape");
    let same = matches!(node.text("auto_pad"), Some("SAME_UPPER" | "SAME_LOWER"));
    for (axis, &size) in of[2..].iter().enumerate() {
        let stride = windows.stride[axis];
        let full = (size.saturating_sub(1))
            .saturating_mul(stride)
            .saturating_add(windows.extent(axis))
            .saturating_add(windows.output_pad[axis]);
        let wanted = match wanted {
            Some(wanted) => wanted
                .get(wanted.len().saturating_sub(weight.len() - 2) + axis)
                .and_then(|&size| u64::try_from(size).ok()),
            None => same.then(|| size.saturating_mul(stride)),
        };
        if let Some(wanted) = wanted {
            let pad = full.saturating_sub(wanted);
            (windows.before[axis], windows.after[axis]) = (pad / 2, pad - pad / 2);
        }
        let pad = windows.before[axis].saturating_add(windows.after[axis]);
        let output = full.checked_sub(pad).filter(|&size| size > 0);
        windows
            .output
            .push(output.ok_or("the padding takes all of the output")?);
    }
    Ok(windows)
}
