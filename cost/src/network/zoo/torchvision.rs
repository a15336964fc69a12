//! Networks as torchvision runs them in eager mode, for evaluation: layer for layer, under the paths of its modules.
//! Functional steps have names of their own, such as `add`. Dropout is there, because its call is.

use crate::layer::Op;
use crate::network::{NetworkBuilder, Tensor, window};

const CLASSES: u64 = 1000;

/// A convolution and its normalisation, each under its own name.
fn conv_bn(
    net: &mut NetworkBuilder,
    [conv, bn]: [&str; 2],
    x: Tensor,
    out: u64,
    (kernel, stride, pad): (u64, u64, u64),
    groups: u64,
) -> Tensor {
    let x = net.conv2d(conv, x, out, window(kernel, stride, pad), groups, false);
    net.batch_norm2d(bn, x)
}

fn dropout(net: &mut NetworkBuilder, name: &str, x: Tensor) -> Tensor {
    net.elementwise(name, x, Op::Dropout)
}

/// The mean of each channel, as rows.
fn pooled(net: &mut NetworkBuilder, x: Tensor) -> Tensor {
    let x = net.adaptive_avg_pool2d("avgpool", x, 1, 1);
    net.flatten("flatten", x)
}

/// Channels of an image.
fn channels(net: &NetworkBuilder, x: Tensor) -> u64 {
    net.shape(x).get(1).copied().unwrap_or(0)
}

// AlexNet and VGG: `features` and `classifier` are numbered lists.

pub(super) fn alexnet(net: &mut NetworkBuilder) {
    let x = net.input();
    let x = net.scoped("features", |net| {
        let x = net.conv2d("0", x, 64, window(11, 4, 2), 1, true);
        let x = net.relu("1", x);
        let x = net.max_pool2d("2", x, window(3, 2, 0), false);
        let x = net.conv2d("3", x, 192, window(5, 1, 2), 1, true);
        let x = net.relu("4", x);
        let x = net.max_pool2d("5", x, window(3, 2, 0), false);
        let x = net.conv2d("6", x, 384, window(3, 1, 1), 1, true);
        let x = net.relu("7", x);
        let x = net.conv2d("8", x, 256, window(3, 1, 1), 1, true);
        let x = net.relu("9", x);
        let x = net.conv2d("10", x, 256, window(3, 1, 1), 1, true);
        let x = net.relu("11", x);
        net.max_pool2d("12", x, window(3, 2, 0), false)
    });
    let x = net.adaptive_avg_pool2d("avgpool", x, 6, 6);
    let x = net.flatten("flatten", x);
    net.scoped("classifier", |net| {
        let x = dropout(net, "0", x);
        let x = net.linear("1", x, 4096, true);
        let x = net.relu("2", x);
        let x = dropout(net, "3", x);
        let x = net.linear("4", x, 4096, true);
        let x = net.relu("5", x);
        net.linear("6", x, CLASSES, true)
    });
}

pub(super) fn vgg11(net: &mut NetworkBuilder) {
    vgg(net, [(64, 1), (128, 1), (256, 2), (512, 2), (512, 2)]);
}

pub(super) fn vgg16(net: &mut NetworkBuilder) {
    vgg(net, [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]);
}

pub(super) fn vgg19(net: &mut NetworkBuilder) {
    vgg(net, [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]);
}

/// `stages`: channels, and how many convolutions before the pool.
fn vgg(net: &mut NetworkBuilder, stages: [(u64, u64); 5]) {
    let mut x = net.input();
    let mut names = (0..).map(|number: u64| format!("features.{number}"));
    let mut name = || names.next().expect("the numbers never end");
    for (out, convolutions) in stages {
        for _ in 0..convolutions {
            x = net.conv2d(&name(), x, out, window(3, 1, 1), 1, true);
            x = net.relu(&name(), x);
        }
        x = net.max_pool2d(&name(), x, window(2, 2, 0), false);
    }
    let x = net.adaptive_avg_pool2d("avgpool", x, 7, 7);
    let x = net.flatten("flatten", x);
    net.scoped("classifier", |net| {
        let x = net.linear("0", x, 4096, true);
        let x = net.relu("1", x);
        let x = dropout(net, "2", x);
        let x = net.linear("3", x, 4096, true);
        let x = net.relu("4", x);
        let x = dropout(net, "5", x);
        net.linear("6", x, CLASSES, true)
    });
}

// ResNet and ResNeXt.

pub(super) fn resnet18(net: &mut NetworkBuilder) {
    resnet(net, [2, 2, 2, 2], basic_block);
}

pub(super) fn resnet34(net: &mut NetworkBuilder) {
    resnet(net, [3, 4, 6, 3], basic_block);
}

pub(super) fn resnet50(net: &mut NetworkBuilder) {
    resnet(net, [3, 4, 6, 3], bottleneck);
}

pub(super) fn resnet101(net: &mut NetworkBuilder) {
    resnet(net, [3, 4, 23, 3], bottleneck);
}

pub(super) fn resnext50_32x4d(net: &mut NetworkBuilder) {
    resnet(net, [3, 4, 6, 3], grouped_bottleneck);
}

fn resnet(
    net: &mut NetworkBuilder,
    blocks: [u64; 4],
    block: fn(&mut NetworkBuilder, Tensor, width: u64, stride: u64) -> Tensor,
) {
    let x = net.input();
    let x = conv_bn(net, ["conv1", "bn1"], x, 64, (7, 2, 3), 1);
    let x = net.relu("relu", x);
    let mut x = net.max_pool2d("maxpool", x, window(3, 2, 1), false);
    for (layer, blocks, width, stride) in [
        (1, blocks[0], 64, 1),
        (2, blocks[1], 128, 2),
        (3, blocks[2], 256, 2),
        (4, blocks[3], 512, 2),
    ] {
        for index in 0..blocks {
            let stride = if index == 0 { stride } else { 1 };
            x = net.scoped(&format!("layer{layer}.{index}"), |net| {
                block(net, x, width, stride)
            });
        }
    }
    let x = pooled(net, x);
    net.linear("fc", x, CLASSES, true);
}

fn basic_block(net: &mut NetworkBuilder, input: Tensor, width: u64, stride: u64) -> Tensor {
    let x = conv_bn(net, ["conv1", "bn1"], input, width, (3, stride, 1), 1);
    let x = net.relu("relu1", x);
    let x = conv_bn(net, ["conv2", "bn2"], x, width, (3, 1, 1), 1);
    let identity = downsample(net, input, width, stride);
    let x = net.add("add", x, identity);
    net.relu("relu2", x)
}

/// The stride is at the 3 x 3 convolution: torchvision's ("v1.5"), not the paper's.
fn bottleneck(net: &mut NetworkBuilder, input: Tensor, width: u64, stride: u64) -> Tensor {
    narrowed(net, input, 4 * width, (width, 1), stride)
}

/// 32 groups of 4 channels where the first stage's width is 64.
fn grouped_bottleneck(net: &mut NetworkBuilder, input: Tensor, width: u64, stride: u64) -> Tensor {
    narrowed(net, input, 4 * width, (2 * width, 32), stride)
}

fn narrowed(
    net: &mut NetworkBuilder,
    input: Tensor,
    out: u64,
    (width, groups): (u64, u64),
    stride: u64,
) -> Tensor {
    let x = conv_bn(net, ["conv1", "bn1"], input, width, (1, 1, 0), 1);
    let x = net.relu("relu1", x);
    let x = conv_bn(net, ["conv2", "bn2"], x, width, (3, stride, 1), groups);
    let x = net.relu("relu2", x);
    let x = conv_bn(net, ["conv3", "bn3"], x, out, (1, 1, 0), 1);
    let identity = downsample(net, input, out, stride);
    let x = net.add("add", x, identity);
    net.relu("relu3", x)
}

/// The shortcut: a projection where the block changes the shape, else the block's input itself.
fn downsample(net: &mut NetworkBuilder, x: Tensor, out: u64, stride: u64) -> Tensor {
    match stride == 1 && channels(net, x) == out {
        true => x,
        false => conv_bn(
            net,
            ["downsample.0", "downsample.1"],
            x,
            out,
            (1, stride, 0),
            1,
        ),
    }
}

// MobileNetV2.

pub(super) fn mobilenet_v2(net: &mut NetworkBuilder) {
    // Expansion, output channels, blocks, stride of the first: table 2 of the paper.
    let stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    let blocks = stages.iter().flat_map(|&(expansion, out, blocks, stride)| {
        (0..blocks).map(move |index| (expansion, out, if index == 0 { stride } else { 1 }))
    });
    let x = net.input();
    let x = net.scoped("features", |net| {
        let mut x = conv_bn_relu6(net, "0", x, 32, (3, 2, 1), 1);
        for (number, (expansion, out, stride)) in (1..).zip(blocks) {
            x = net.scoped(&format!("{number}"), |net| {
                inverted_residual(net, x, expansion, out, stride)
            });
        }
        conv_bn_relu6(net, "18", x, 1280, (1, 1, 0), 1)
    });
    let x = pooled(net, x);
    let x = dropout(net, "classifier.0", x);
    net.linear("classifier.1", x, CLASSES, true);
}

fn inverted_residual(
    net: &mut NetworkBuilder,
    input: Tensor,
    expansion: u64,
    out: u64,
    stride: u64,
) -> Tensor {
    let hidden = channels(net, input) * expansion;
    let x = net.scoped("conv", |net| match expansion {
        1 => {
            let x = conv_bn_relu6(net, "0", input, hidden, (3, stride, 1), hidden);
            conv_bn(net, ["1", "2"], x, out, (1, 1, 0), 1)
        }
        _ => {
            let x = conv_bn_relu6(net, "0", input, hidden, (1, 1, 0), 1);
            let x = conv_bn_relu6(net, "1", x, hidden, (3, stride, 1), hidden);
            conv_bn(net, ["2", "3"], x, out, (1, 1, 0), 1)
        }
    });
    match stride == 1 && channels(net, input) == out {
        true => net.add("add", input, x),
        false => x,
    }
}

fn conv_bn_relu6(
    net: &mut NetworkBuilder,
    name: &str,
    x: Tensor,
    out: u64,
    window: (u64, u64, u64),
    groups: u64,
) -> Tensor {
    net.scoped(name, |net| {
        let x = conv_bn(net, ["0", "1"], x, out, window, groups);
        net.elementwise("2", x, Op::Relu6)
    })
}

// MNASNet.

pub(super) fn mnasnet1_0(net: &mut NetworkBuilder) {
    // Output channels, kernel, stride of the first, expansion, blocks: torchvision's for a depth of 1.
    let stacks = [
        (24, 3, 2, 3, 3),
        (40, 5, 2, 3, 3),
        (80, 5, 2, 6, 3),
        (96, 3, 1, 6, 2),
        (192, 5, 2, 6, 4),
        (320, 3, 1, 6, 1),
    ];
    let x = net.input();
    let x = net.scoped("layers", |net| {
        let x = conv_bn(net, ["0", "1"], x, 32, (3, 2, 1), 1);
        let x = net.relu("2", x);
        let x = conv_bn(net, ["3", "4"], x, 32, (3, 1, 1), 32);
        let x = net.relu("5", x);
        let mut x = conv_bn(net, ["6", "7"], x, 16, (1, 1, 0), 1);
        for (number, (out, kernel, stride, expansion, blocks)) in (8..).zip(stacks) {
            for block in 0..blocks {
                let stride = if block == 0 { stride } else { 1 };
                x = net.scoped(&format!("{number}.{block}"), |net| {
                    mnas_block(net, x, expansion, out, (kernel, stride))
                });
            }
        }
        let x = conv_bn(net, ["14", "15"], x, 1280, (1, 1, 0), 1);
        net.relu("16", x)
    });
    let x = pooled(net, x);
    let x = dropout(net, "classifier.0", x);
    net.linear("classifier.1", x, CLASSES, true);
}

fn mnas_block(
    net: &mut NetworkBuilder,
    input: Tensor,
    expansion: u64,
    out: u64,
    (kernel, stride): (u64, u64),
) -> Tensor {
    let hidden = channels(net, input) * expansion;
    let x = net.scoped("layers", |net| {
        let x = conv_bn(net, ["0", "1"], input, hidden, (1, 1, 0), 1);
        let x = net.relu("2", x);
        let middle = (kernel, stride, kernel / 2);
        let x = conv_bn(net, ["3", "4"], x, hidden, middle, hidden);
        let x = net.relu("5", x);
        conv_bn(net, ["6", "7"], x, out, (1, 1, 0), 1)
    });
    match stride == 1 && channels(net, input) == out {
        true => net.add("add", x, input),
        false => x,
    }
}

// DenseNet.

pub(super) fn densenet121(net: &mut NetworkBuilder) {
    densenet(net, [6, 12, 24, 16]);
}

pub(super) fn densenet169(net: &mut NetworkBuilder) {
    densenet(net, [6, 12, 32, 32]);
}

/// `blocks`: the layers of each dense block.
fn densenet(net: &mut NetworkBuilder, blocks: [u64; 4]) {
    let x = net.input();
    let x = net.scoped("features", |net| {
        let x = conv_bn(net, ["conv0", "norm0"], x, 64, (7, 2, 3), 1);
        let x = net.relu("relu0", x);
        let mut x = net.max_pool2d("pool0", x, window(3, 2, 1), false);
        for (block, layers) in (1..).zip(blocks) {
            x = net.scoped(&format!("denseblock{block}"), |net| {
                dense_block(net, x, layers)
            });
            if block < 4 {
                x = net.scoped(&format!("transition{block}"), |net| transition(net, x));
            }
        }
        net.batch_norm2d("norm5", x)
    });
    let x = net.relu("relu", x);
    let x = pooled(net, x);
    net.linear("classifier", x, CLASSES, true);
}

/// Each layer joins everything before it anew; the first one's concatenation, of one tensor, is a copy.
fn dense_block(net: &mut NetworkBuilder, x: Tensor, layers: u64) -> Tensor {
    let mut features = vec![x];
    for layer in 1..=layers {
        let new = net.scoped(&format!("denselayer{layer}"), |net| {
            let x = net.concat("concat", &features);
            let x = net.batch_norm2d("norm1", x);
            let x = net.relu("relu1", x);
            let x = conv_bn(net, ["conv1", "norm2"], x, 4 * 32, (1, 1, 0), 1);
            let x = net.relu("relu2", x);
            net.conv2d("conv2", x, 32, window(3, 1, 1), 1, false)
        });
        features.push(new);
    }
    net.concat("concat", &features)
}

fn transition(net: &mut NetworkBuilder, x: Tensor) -> Tensor {
    let half = channels(net, x) / 2;
    let x = net.batch_norm2d("norm", x);
    let x = net.relu("relu", x);
    let x = net.conv2d("conv", x, half, window(1, 1, 0), 1, false);
    net.avg_pool2d("pool", x, window(2, 2, 0), false)
}

// SqueezeNet.

pub(super) fn squeezenet1_0(net: &mut NetworkBuilder) {
    let x = net.input();
    let x = net.scoped("features", |net| {
        let x = net.conv2d("0", x, 96, window(7, 2, 0), 1, true);
        let x = net.relu("1", x);
        let x = net.max_pool2d("2", x, window(3, 2, 0), true);
        let x = fire(net, "3", x, 16, 64);
        let x = fire(net, "4", x, 16, 64);
        let x = fire(net, "5", x, 32, 128);
        let x = net.max_pool2d("6", x, window(3, 2, 0), true);
        let x = fire(net, "7", x, 32, 128);
        let x = fire(net, "8", x, 48, 192);
        let x = fire(net, "9", x, 48, 192);
        let x = fire(net, "10", x, 64, 256);
        let x = net.max_pool2d("11", x, window(3, 2, 0), true);
        fire(net, "12", x, 64, 256)
    });
    squeezed_classifier(net, x);
}

pub(super) fn squeezenet1_1(net: &mut NetworkBuilder) {
    let x = net.input();
    let x = net.scoped("features", |net| {
        let x = net.conv2d("0", x, 64, window(3, 2, 0), 1, true);
        let x = net.relu("1", x);
        let x = net.max_pool2d("2", x, window(3, 2, 0), true);
        let x = fire(net, "3", x, 16, 64);
        let x = fire(net, "4", x, 16, 64);
        let x = net.max_pool2d("5", x, window(3, 2, 0), true);
        let x = fire(net, "6", x, 32, 128);
        let x = fire(net, "7", x, 32, 128);
        let x = net.max_pool2d("8", x, window(3, 2, 0), true);
        let x = fire(net, "9", x, 48, 192);
        let x = fire(net, "10", x, 48, 192);
        let x = fire(net, "11", x, 64, 256);
        fire(net, "12", x, 64, 256)
    });
    squeezed_classifier(net, x);
}

fn squeezed_classifier(net: &mut NetworkBuilder, x: Tensor) {
    let x = net.scoped("classifier", |net| {
        let x = dropout(net, "0", x);
        let x = net.conv2d("1", x, CLASSES, window(1, 1, 0), 1, true);
        let x = net.relu("2", x);
        net.adaptive_avg_pool2d("3", x, 1, 1)
    });
    net.flatten("flatten", x);
}

fn fire(net: &mut NetworkBuilder, name: &str, x: Tensor, squeeze: u64, expand: u64) -> Tensor {
    net.scoped(name, |net| {
        let x = net.conv2d("squeeze", x, squeeze, window(1, 1, 0), 1, true);
        let x = net.relu("squeeze_activation", x);
        let small = net.conv2d("expand1x1", x, expand, window(1, 1, 0), 1, true);
        let small = net.relu("expand1x1_activation", small);
        let large = net.conv2d("expand3x3", x, expand, window(3, 1, 1), 1, true);
        let large = net.relu("expand3x3_activation", large);
        net.concat("concat", &[small, large])
    })
}

// GoogLeNet, without `transform_input`: the rescaling of the pretrained weights' input, which a network made without
// them doesn't run.

pub(super) fn googlenet(net: &mut NetworkBuilder) {
    let x = net.input();
    let x = basic_conv(net, "conv1", x, 64, (7, 2, 3));
    let x = net.max_pool2d("maxpool1", x, window(3, 2, 0), true);
    let x = basic_conv(net, "conv2", x, 64, (1, 1, 0));
    let x = basic_conv(net, "conv3", x, 192, (3, 1, 1));
    let x = net.max_pool2d("maxpool2", x, window(3, 2, 0), true);
    let x = inception(net, "inception3a", x, 64, [96, 128], [16, 32], 32);
    let x = inception(net, "inception3b", x, 128, [128, 192], [32, 96], 64);
    let x = net.max_pool2d("maxpool3", x, window(3, 2, 0), true);
    let x = inception(net, "inception4a", x, 192, [96, 208], [16, 48], 64);
    let x = inception(net, "inception4b", x, 160, [112, 224], [24, 64], 64);
    let x = inception(net, "inception4c", x, 128, [128, 256], [24, 64], 64);
    let x = inception(net, "inception4d", x, 112, [144, 288], [32, 64], 64);
    let x = inception(net, "inception4e", x, 256, [160, 320], [32, 128], 128);
    let x = net.max_pool2d("maxpool4", x, window(2, 2, 0), true);
    let x = inception(net, "inception5a", x, 256, [160, 320], [32, 128], 128);
    let x = inception(net, "inception5b", x, 384, [192, 384], [48, 128], 128);
    let x = pooled(net, x);
    let x = dropout(net, "dropout", x);
    net.linear("fc", x, CLASSES, true);
}

/// The third branch is 3 x 3 where the paper has 5 x 5: torchvision's known deviation, kept for its weights.
fn inception(
    net: &mut NetworkBuilder,
    name: &str,
    x: Tensor,
    branch1: u64,
    branch2: [u64; 2],
    branch3: [u64; 2],
    branch4: u64,
) -> Tensor {
    net.scoped(name, |net| {
        let first = basic_conv(net, "branch1", x, branch1, (1, 1, 0));
        let second = basic_conv(net, "branch2.0", x, branch2[0], (1, 1, 0));
        let second = basic_conv(net, "branch2.1", second, branch2[1], (3, 1, 1));
        let third = basic_conv(net, "branch3.0", x, branch3[0], (1, 1, 0));
        let third = basic_conv(net, "branch3.1", third, branch3[1], (3, 1, 1));
        let fourth = net.max_pool2d("branch4.0", x, window(3, 1, 1), true);
        let fourth = basic_conv(net, "branch4.1", fourth, branch4, (1, 1, 0));
        net.concat("concat", &[first, second, third, fourth])
    })
}

fn basic_conv(
    net: &mut NetworkBuilder,
    name: &str,
    x: Tensor,
    out: u64,
    window: (u64, u64, u64),
) -> Tensor {
    net.scoped(name, |net| {
        let x = conv_bn(net, ["conv", "bn"], x, out, window, 1);
        net.relu("relu", x)
    })
}

// Vision transformer.

const HIDDEN: u64 = 768;
const HEADS: u64 = 12;
const PATCHES: u64 = 14 * 14;
/// The patches and the class token.
const TOKENS: u64 = PATCHES + 1;

/// Two steps differ from torchvision's by what a `Step` can say. The class token is a parameter of the
/// whole batch, already repeated. And since a slice is along the first axis, the class token's output is reached by
/// swapping batch and tokens, a small copy (none at batch 1) where torchvision has a view.
pub(super) fn vit_b_16(net: &mut NetworkBuilder) {
    let x = net.input();
    let batch = net.shape(x)[0];
    let x = net.conv2d("conv_proj", x, HIDDEN, window(16, 16, 0), 1, true);
    let x = net.reshape("reshape", x, &[batch, HIDDEN, PATCHES]);
    let x = net.permute("permute", x, &[0, 2, 1]);
    let class_token = net.parameter("class_token", &[batch, 1, HIDDEN]);
    let x = net.concat("concat", &[class_token, x]);
    let x = net.scoped("encoder", |net| {
        let pos_embedding = net.parameter("pos_embedding", &[1, TOKENS, HIDDEN]);
        let x = net.add("add", x, pos_embedding);
        let mut x = dropout(net, "dropout", x);
        for layer in 0..12 {
            x = net.scoped(&format!("layers.encoder_layer_{layer}"), |net| {
                encoder_block(net, x, batch)
            });
        }
        net.row_wise("ln", x, Op::LayerNorm)
    });
    let x = net.permute("tokens_first", x, &[1, 0, 2]);
    let x = net.select("class_token_output", x, 0);
    net.linear("heads.head", x, CLASSES, true);
}

fn encoder_block(net: &mut NetworkBuilder, input: Tensor, batch: u64) -> Tensor {
    let x = net.row_wise("ln_1", input, Op::LayerNorm);
    let x = net.scoped("self_attention", |net| self_attention(net, x, batch));
    let x = dropout(net, "dropout", x);
    let x = net.add("add1", x, input);

    let y = net.row_wise("ln_2", x, Op::LayerNorm);
    let y = net.scoped("mlp", |net| {
        let y = net.linear("0", y, 4 * HIDDEN, true);
        let y = net.elementwise("1", y, Op::Gelu);
        let y = dropout(net, "2", y);
        let y = net.linear("3", y, HIDDEN, true);
        dropout(net, "4", y)
    });
    net.add("add2", x, y)
}

fn self_attention(net: &mut NetworkBuilder, x: Tensor, batch: u64) -> Tensor {
    let x = net.linear("in_proj", x, 3 * HIDDEN, true);
    let x = net.reshape("split_heads", x, &[batch, TOKENS, 3, HEADS, HIDDEN / HEADS]);
    let x = net.permute("heads_first", x, &[2, 0, 3, 1, 4]);
    let (query, key, value) = (
        net.select("query", x, 0),
        net.select("key", x, 1),
        net.select("value", x, 2),
    );
    let x = net.attention("attention", query, key, value, false);
    let x = net.permute("tokens_first", x, &[0, 2, 1, 3]);
    let x = net.reshape("join_heads", x, &[batch, TOKENS, HIDDEN]);
    net.linear("out_proj", x, HIDDEN, true)
}
