//! Descriptions of networks as they were published, against what is known of them.

use std::path::Path;

use wattfarm_caffe::{CaffeError, Converted, Model};
use wattfarm_cost::Dtype;
use wattfarm_cost::layer::{Kind, Layer, Value};
use wattfarm_cost::network::{Network, Sizes, zoo};

fn read(name: &str, sizes: &Sizes) -> Result<Converted, CaffeError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/networks");
    let model = wattfarm_caffe::open(&folder.join(name))?;
    model.network(name, sizes, Dtype::F32)
}

fn convert(text: &str) -> Result<Converted, CaffeError> {
    Model::read(text.as_bytes())?.network("net", &Sizes::default(), Dtype::F32)
}

fn refused(text: &str) -> String {
    convert(text).expect_err("refused").to_string()
}

fn batch(batch: u64) -> Sizes {
    Sizes {
        batch: Some(batch),
        ..Sizes::default()
    }
}

/// The layers that the paper's authors timed: no functions of single values, no softmax, no bias.
fn timed(network: &Network) -> Vec<Layer> {
    let kinds = [
        Kind::Conv2d,
        Kind::MaxPool2d,
        Kind::AvgPool2d,
        Kind::Dropout,
    ];
    let layers = network.layers().map(|(_, layer)| layer);
    let without_bias = |layer: &Layer| {
        let has_bias = layer.kind().field_names().contains(&"bias");
        let bias = has_bias.then_some(("bias", Value::Size(0)));
        Layer::from_fields(layer.kind(), layer.fields().into_iter().chain(bias))
    };
    layers
        .filter(|layer| kinds.contains(&layer.kind()))
        .map(|layer| without_bias(layer).expect("a layer without its bias"))
        .collect()
}

/// The five networks of the NeuralPower paper: what is read is, layer for layer, what the zoo has by hand.
#[test]
fn the_papers_networks_are_the_built_in_ones() {
    // Every convolution but a last one that classifies is followed by its function, in place.
    for (name, own_batch, functions) in [
        ("alexnet", 128, 7),
        ("nin", 128, 12),
        ("vgg16", 64, 15),
        ("overfeat", 128, 7),
        ("cifar10-6conv", 128, 8),
    ] {
        for sizes in [Sizes::default(), batch(8)] {
            let batch = sizes.batch.unwrap_or(own_batch);
            let built_in = format!("neuralpower/{name}");
            let built_in = zoo::build(&built_in, Some(batch), Dtype::F32).expect("built in");
            let Converted { network, coverage } =
                read(&format!("{name}.prototxt"), &sizes).expect("well formed");
            assert_eq!(timed(&network), timed(&built_in), "{name}");
            let names = |network: &Network| {
                let convolutions = network
                    .layers()
                    .filter(|(_, layer)| layer.kind() == Kind::Conv2d);
                convolutions
                    .map(|(name, _)| name.to_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!(names(&network), names(&built_in), "{name}");
            let relus = network
                .layers()
                .filter(|(_, layer)| layer.kind() == Kind::Relu);
            assert_eq!(relus.count(), functions, "{name}");
            assert!(coverage.uncosted.is_empty(), "{coverage:?}");
            assert_eq!(coverage.nodes, coverage.costed + coverage.free);
        }
    }
}

/// A description to train and to test is read as its test phase, and is what torchvision has under the name.
#[test]
fn a_description_to_train_is_read_as_its_test_phase() {
    let item = Sizes {
        batch: Some(2),
        item: Some(vec![3, 224, 224]),
        ..Sizes::default()
    };
    let Converted { network, coverage } = read("vgg16_train_val.prototxt", &item).expect("fits");
    let built_in = zoo::build("vgg16", Some(2), Dtype::F32).expect("built in");
    let working = |network: &Network| {
        let layers = network.layers().map(|(_, layer)| layer.clone());
        layers
            .filter(|layer| !layer.is_view() && layer.kind() != Kind::AdaptiveAvgPool2d)
            .collect::<Vec<_>>()
    };
    assert_eq!(working(&network), working(&built_in));
    assert_eq!(coverage.parameters, 138_357_544);
    assert!(coverage.uncosted.is_empty(), "{coverage:?}");

    let error = read("vgg16_train_val.prototxt", &Sizes::default());
    assert_eq!(
        error.expect_err("the data are elsewhere").to_string(),
        "input `data`: the file does not say its shape: give that of one item by --input 3x224x224"
    );
}

/// The older generation of the format, groups, and pools that round up: parameters and operations as published.
#[test]
fn the_older_format_is_read() {
    let Converted { network, coverage } =
        read("bvlc_alexnet.prototxt", &batch(1)).expect("well formed");
    assert_eq!(coverage.parameters, 60_965_224);
    let multiplied = [Kind::Conv2d, Kind::Linear];
    let products: u64 = network
        .layers()
        .filter(|(_, layer)| multiplied.contains(&layer.kind()))
        .map(|(_, layer)| layer.gemm().expect("a product"))
        .map(|gemm| gemm.m * gemm.n * gemm.k * gemm.count)
        .sum();
    assert_eq!(products, 724_406_816);
    let pool = network
        .layers()
        .find(|(name, _)| *name == "pool2")
        .expect("there")
        .1;
    assert_eq!(pool.output_shape(), [1, 256, 13, 13]);
}

#[test]
fn a_residual_block_is_read() {
    let text = r#"
        input: "data" input_shape { dim: 1 dim: 64 dim: 56 dim: 56 }
        layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
            convolution_param { num_output: 64 kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 1 bias_term: false } }
        layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true } }
        layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
        layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
        layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "conv" top: "sum" eltwise_param { operation: SUM } }
        layer { name: "halves" type: "Slice" bottom: "sum" top: "a" top: "b" slice_param { slice_point: 16 } }
        layer { name: "joined" type: "Concat" bottom: "b" bottom: "a" top: "joined" }
        layer { name: "out" type: "InnerProduct" bottom: "joined" top: "out" inner_product_param { num_output: 10 } }
    "#;
    let Converted { network, coverage } = convert(text).expect("well formed");
    let kinds: Vec<&str> = network
        .layers()
        .map(|(_, layer)| layer.kind().name())
        .collect();
    assert_eq!(
        kinds,
        ["conv2d", "batch_norm2d", "relu", "add", "concat", "linear"]
    );
    assert_eq!((coverage.nodes, coverage.costed, coverage.free), (8, 7, 1));
}

#[test]
fn what_is_wrong_is_named() {
    let input = "input: \"data\" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n";
    for (layers, told) in [
        (
            "layer { name: \"a\" type: \"ReLU\" bottom: \"b\" top: \"a\" }",
            "layer `a` (ReLU, line 2): reads `b`, which nothing before it makes",
        ),
        (
            "layer { name: \"a\" type: \"Convolution\" bottom: \"data\" top: \"a\" convolution_param { num_output: 8 kernel_size: 11 } }",
            "layer `a` (Convolution, line 2): kernel_h: does not fit the padded input: the output would be empty",
        ),
        (
            "layer { name: \"a\" type: \"Pooling\" bottom: \"data\" top: \"a\" pooling_param { kernel_size: 9 } }",
            "layer `a` (Pooling, line 2): its window is larger than the 8 x 8 that it reads",
        ),
        (
            "layer { name: \"a\" type: \"Pooling\" bottom: \"data\" top: \"a\" pooling_param { kernel_size: 2 stride: 0 } }",
            "layer `a` (Pooling, line 2): its window cannot be: [2, 2, 0, 0, 0, 0]",
        ),
        (
            "layer { name: \"a\" type: \"Dropout\" bottom: \"data\" top: \"a\" dropout_param { dropout_ratio: 1.5 } }",
            "layer `a` (Dropout, line 2): dropout_ratio is no share that could be dropped",
        ),
        (
            "layer { name: \"a\" type: \"Python\" bottom: \"data\" top: \"a\" }\n\
             layer { name: \"b\" type: \"ReLU\" bottom: \"a\" top: \"b\" }",
            "layer `b` (ReLU, line 3): reads `a`, whose shape is not known: no rule tells what `a` (Python) makes. Cut the \
             network before it",
        ),
        (
            "layer { name: \"a\" type: \"InnerProduct\" bottom: \"data\" top: \"a\" inner_product_param { num_output: -4 } }",
            "layer `a` (InnerProduct, line 2): num_output: `-4` is not a size",
        ),
        ("", "the network has no layers"),
    ] {
        assert_eq!(refused(&format!("{input}{layers}")), told);
    }
    assert_eq!(
        refused("layer { name: \"a\" type: \"ReLU\" bottom: \"b\" top: \"a\" }"),
        "the network has no input: a description to deploy begins with one"
    );
    let unknown = format!(
        "{input}layer {{ name: \"a\" type: \"ReLU\" bottom: \"data\" top: \"a\" }}\n\
         layer {{ name: \"b\" type: \"Python\" bottom: \"a\" top: \"b\" }}"
    );
    let warnings = convert(&unknown)
        .expect("nothing reads it")
        .coverage
        .warnings();
    assert_eq!(
        warnings,
        ["no layer stands for Python, 0.00 % of all FLOPs: not in the total are `b`"]
    );
}
