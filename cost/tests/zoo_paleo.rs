//! Paleo's analytical model (Qi, Sparks, Talwalkar, ICLR 2017), written from its formulas over our networks. The
//! NeuralPower paper prints Paleo's totals for the five networks and draws the layers of two; the layers of the others
//! are from an earlier derivation of ours, apart from this code, with the same totals.

use wattfarm_cost::Dtype;
use wattfarm_cost::layer::{Conv2d, Elementwise, Layer, Op, Pool2d};
use wattfarm_cost::network::zoo;

// Titan X as Paleo has it; all transfers and operations at full speed.
const GFLOPS: f64 = 6144.0;
/// Called GB/s there, and used as GiB/s.
const BANDWIDTH: f64 = 336.5;
/// One cycle at 1000 MHz: no term is shorter.
const TICK_MS: f64 = 1e-6;

fn compute_ms(flops: u64) -> f64 {
    (flops as f64 / 1e9 / GFLOPS * 1e3).max(TICK_MS)
}

/// The time to move this many 32-bit values.
fn memory_ms(values: u64) -> f64 {
    ((4 * values) as f64 / f64::from(1 << 30) / BANDWIDTH * 1e3).max(TICK_MS)
}

fn conv_ms(conv: &Conv2d, out_height: u64, out_width: u64) -> f64 {
    // Paleo pads both sides by the smaller half. In these networks the halves are equal.
    assert_eq!(
        (conv.pad_top, conv.pad_left),
        (conv.pad_bottom, conv.pad_right)
    );
    let padded = (conv.in_height + 2 * conv.pad_top) * (conv.in_width + 2 * conv.pad_left);
    let weights = conv.kernel_h * conv.kernel_w * conv.in_channels * conv.out_channels;
    let places = conv.batch * out_height * out_width;
    compute_ms(2 * weights * places)
        + memory_ms(conv.batch * padded * conv.in_channels)
        + memory_ms(weights)
        + memory_ms(places * conv.out_channels)
}

fn pool_ms(pool: &Pool2d, out_height: u64, out_width: u64) -> f64 {
    let maps = pool.batch * pool.channels;
    compute_ms(2 * pool.kernel_h * pool.kernel_w * maps * out_height * out_width)
        + memory_ms(maps * pool.in_height * pool.in_width)
        + memory_ms(maps * out_height * out_width)
}

fn dropout_ms(values: &Elementwise) -> f64 {
    let numel = values.batch * values.features;
    compute_ms(numel) + 2.0 * memory_ms(numel)
}

fn paleo_ms(layer: &Layer) -> f64 {
    let output = layer.output_shape();
    match layer.op() {
        Op::Conv2d(conv) => conv_ms(conv, output[2], output[3]),
        Op::MaxPool2d(pool) | Op::AvgPool2d(pool) => pool_ms(pool, output[2], output[3]),
        Op::Dropout(values) => dropout_ms(values),
        _ => panic!("{layer} is no layer of these networks"),
    }
}

/// Compares each layer with its published time, to the last decimal, and then their sum.
fn check(name: &str, total_ms: &str, layers_ms: &str) {
    let network = zoo::build(name, None, Dtype::F32).expect("built in");
    let times: Vec<(&str, f64)> = network
        .layers()
        .map(|(layer_name, layer)| (layer_name, paleo_ms(layer)))
        .collect();
    let published: Vec<&str> = layers_ms.split_whitespace().collect();
    assert_eq!(times.len(), published.len(), "{name}");
    for ((layer_name, ms), published) in times.iter().zip(published) {
        assert!(
            prints_as(*ms, published),
            "{name}, {layer_name}: {ms} ms and not {published}"
        );
    }
    let sum: f64 = times.iter().map(|(_, ms)| ms).sum();
    assert!(
        prints_as(sum, total_ms),
        "{name}: {sum} ms and not {total_ms}"
    );
}

/// Half of the last decimal, and a little for a tie that was rounded the other way.
fn prints_as(ms: f64, published: &str) -> bool {
    let (_, decimals) = published.split_once('.').expect("a decimal fraction");
    let number: f64 = published.parse().expect("a number");
    (ms - number).abs() <= 0.6 * 0.1f64.powi(decimals.len() as i32)
}

#[test]
fn alexnet() {
    let layers = "3.301 0.342 8.922 0.233 4.120 8.162 5.477 0.064 1.397 0.012 0.896 0.012 0.223";
    check("neuralpower/alexnet", "33.162", layers);
}

#[test]
fn overfeat() {
    let layers = "3.547 0.364 10.115 0.267 7.267 28.715 57.221 0.267 6.029 0.009 0.674 0.012 0.223";
    check("neuralpower/overfeat", "114.709", layers);
}

#[test]
fn cifar10_6conv() {
    let layers = "0.338 6.689 0.238 3.301 6.508 0.119 3.241 6.437 1.817 0.003 0.058 0.003 0.002";
    check("neuralpower/cifar10-6conv", "28.754", layers);
}

/// Two decimals: read from the paper's figure, which has no dropout.
#[test]
fn nin() {
    let layers =
        "4.84 1.91 1.91 0.51 17.68 2.34 2.34 0.31 5.47 1.04 1.04 0.10 0.027 3.79 1.18 1.15 0.04";
    check("neuralpower/nin", "45.679", layers);
}

/// Two decimals: read from the paper's figure, which has no dropout.
#[test]
fn vgg16() {
    let layers = "4.19 43.13 2.91 21.00 40.85 1.46 20.15 39.72 39.72 0.73 19.73 39.17 39.17 0.36 \
                  9.82 9.82 9.82 0.09 3.30 0.006 0.54 0.006 0.13";
    check("neuralpower/vgg16", "345.831", layers);
}
