//! Real files, as `generate.py` exported them from PyTorch, against what is known of their networks.

use std::path::{Path, PathBuf};

use wattfarm_cost::Dtype;
use wattfarm_cost::layer::{Kind, Layer};
use wattfarm_cost::network::{Network, zoo};
use wattfarm_onnx::{Converted, Sizes};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/networks")
        .join(name)
}

fn read(name: &str, sizes: &Sizes) -> Converted {
    let model = wattfarm_onnx::open(&path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let converted = model.network(name, sizes, Dtype::F32);
    converted.unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn at_batch(batch: u64) -> Sizes {
    Sizes {
        batch: Some(batch),
        ..Sizes::default()
    }
}

/// A network's layers but for those that only rename: exporters leave dropout out and flatten in their own ways.
fn layers(network: &Network) -> Vec<Layer> {
    let layers = network.layers().map(|(_, layer)| layer.clone());
    layers.filter(|layer| !layer.is_view()).collect()
}

fn sorted(mut layers: Vec<Layer>) -> Vec<Layer> {
    layers.sort_by_key(Layer::canonical);
    layers
}

/// The strongest test of all: what torchvision exports is, layer for layer, what the zoo has by hand.
#[test]
fn exported_networks_are_the_built_in_ones() {
    for name in [
        "alexnet",
        "resnet18",
        "resnet50",
        "mobilenet_v2",
        "densenet121",
        "squeezenet1_1",
        "vgg16",
        "vgg19",
        "googlenet",
    ] {
        for batch in [1, 8] {
            let built_in = zoo::build(name, Some(batch), Dtype::F32).expect("built in");
            let Converted { network, coverage } = read(&format!("{name}.onnx"), &at_batch(batch));
            // Branches come in another order.
            let (found, known) = (sorted(layers(&network)), sorted(layers(&built_in)));
            for (found, known) in found.iter().zip(&known) {
                assert_eq!(found, known, "{name}");
            }
            assert_eq!(found.len(), known.len(), "{name}");
            assert_eq!(network.batch(), batch);
            assert!(
                coverage.uncosted.is_empty() && coverage.stand_ins.is_empty(),
                "{coverage:?}"
            );
            let parameters: u64 = built_in
                .layers()
                .map(|(_, layer)| layer.work().parameters)
                .sum();
            assert_eq!(coverage.parameters, parameters, "{name}");
        }
    }
}

/// The transformer's layers come in the exporter's way: other transpositions and more views. What multiplies does not.
#[test]
fn an_exported_transformer_multiplies_as_the_built_in_one() {
    let products = |network: &Network| {
        let kinds = [
            Kind::Conv2d,
            Kind::Linear,
            Kind::Attention,
            Kind::LayerNorm,
            Kind::Gelu,
        ];
        let layers = layers(network).into_iter();
        sorted(
            layers
                .filter(|layer| kinds.contains(&layer.kind()))
                .collect(),
        )
    };
    let built_in = zoo::build("vit_b_16", Some(2), Dtype::F32).expect("built in");
    let Converted { network, coverage } = read("vit_b_16.onnx", &at_batch(2));
    assert_eq!(products(&network).len(), 12 * 8 + 3);
    assert_eq!(products(&network), products(&built_in));
    assert!(coverage.uncosted.is_empty(), "{coverage:?}");
}

/// Kinds of a network's layers in order, but for those that copy and rename.
fn kinds(name: &str, batch: u64) -> Vec<&'static str> {
    let Converted { network, coverage } = read(name, &at_batch(batch));
    assert!(coverage.uncosted.is_empty(), "{name}: {coverage:?}");
    assert_eq!(
        coverage.nodes,
        coverage.costed + coverage.free,
        "{name}: each node is one or the other"
    );
    let moved = [Kind::Permute, Kind::Copy, Kind::Flatten];
    let kinds = network.layers().map(|(_, layer)| layer.kind());
    kinds
        .filter(|kind| !moved.contains(kind))
        .map(Kind::name)
        .collect()
}

#[test]
fn what_exporters_spell_out_is_one_layer() {
    let bert = [
        "embedding",
        "add",
        "layer_norm",
        "linear",
        "linear",
        "linear",
        "add",
        "mul",
        "attention",
        "linear",
        "add",
        "layer_norm",
        "linear",
        "gelu",
        "linear",
        "add",
        "layer_norm",
    ];
    let gpt2 = [
        "layer_norm",
        "linear",
        "attention",
        "linear",
        "add",
        "layer_norm",
        "linear",
        "gelu",
        "linear",
        "add",
    ];
    for exporter in ["", "-dynamo"] {
        let mut found = kinds(&format!("bert_block{exporter}.onnx"), 3);
        // The mask is made at another time.
        let mut known = bert.to_vec();
        found.sort_unstable();
        known.sort_unstable();
        assert_eq!(found, known, "{exporter}");
        assert_eq!(
            kinds(&format!("gpt2_block{exporter}.onnx"), 3),
            gpt2,
            "{exporter}"
        );
    }
    assert_eq!(
        kinds("attention-opset23.onnx", 2),
        ["linear", "attention", "linear"]
    );
    assert_eq!(
        kinds("recurrent.onnx", 2),
        ["embedding", "lstm", "gru", "linear"]
    );
}

/// However an exporter takes attention's one call apart, what is copied is what the module itself has moved: its projections,
/// once, and what comes out.
#[test]
fn attentions_one_call_copies_nothing_of_its_own() {
    for name in ["attention", "attention-dynamo", "attention-opset23"] {
        let Converted { network, coverage } = read(&format!("{name}.onnx"), &at_batch(2));
        let found: Vec<&str> = network
            .layers()
            .map(|(_, layer)| layer.kind().name())
            .collect();
        assert_eq!(
            found,
            ["linear", "permute", "attention", "permute", "linear"],
            "{name}"
        );
        assert!(
            coverage.stand_ins.is_empty() && coverage.uncosted.is_empty(),
            "{name}: {coverage:?}"
        );
    }
}

#[test]
fn both_exporters_make_one_network() {
    let work = |name: &str| {
        let network = read(name, &at_batch(4)).network;
        let works = network.layers().map(|(_, layer)| layer.work());
        works.fold((0, 0), |sum, work| {
            (sum.0 + work.flops, sum.1 + work.parameters)
        })
    };
    assert_eq!(work("resnet18.onnx"), work("resnet18-dynamo.onnx"));
    let found = kinds("segmentation-dynamo.onnx", 2);
    assert!(
        found.contains(&"conv_transpose2d") && found.contains(&"upsample_bilinear2d"),
        "{found:?}"
    );
    let small = kinds("mobilenet_v3_small-dynamo.onnx", 1);
    let count = |kind: &str| small.iter().filter(|other| **other == kind).count();
    assert_eq!(
        (count("hardsigmoid"), count("hardswish"), count("conv2d")),
        (9, 19, 52)
    );
}

#[test]
fn a_file_for_one_batch_serves_others() {
    let of = |batch| read("signal-fixed.onnx", &at_batch(batch)).network;
    assert_eq!(of(1).batch(), 1);
    assert_eq!(of(16).input(), &vec![16, 2, 256]);
    let flops = |network: &Network| {
        network
            .layers()
            .map(|(_, layer)| layer.work().flops)
            .sum::<u64>()
    };
    assert_eq!(flops(&of(16)), 16 * flops(&of(1)));
}

#[test]
fn sizes_are_given_and_refused_by_name() {
    let wider = Sizes {
        batch: Some(2),
        item: Some(vec![3, 256, 192]),
        named: vec![],
    };
    assert_eq!(
        read("resnet18.onnx", &wider).network.input(),
        &vec![2, 3, 256, 192]
    );
    let model = wattfarm_onnx::open(&path("resnet18.onnx")).expect("readable");
    let refused = |sizes: Sizes| {
        let error = model
            .network("net", &sizes, Dtype::F32)
            .expect_err("refused");
        error.to_string()
    };
    let item = |item: &[u64]| Sizes {
        item: Some(item.to_vec()),
        ..Sizes::default()
    };
    assert_eq!(
        refused(item(&[224, 224])),
        "input `input`: has 4 axes, and 2 were given beside the batch"
    );
    assert!(refused(item(&[5, 224, 224])).starts_with("node `/conv1/Conv` (Conv): 5 channels"));
    let unknown = Sizes {
        named: vec![("ids".to_owned(), vec![128])],
        ..Sizes::default()
    };
    assert_eq!(
        refused(unknown),
        "input `ids`: is neither an input nor a named axis of one: the inputs are `input`"
    );
    assert!(refused(at_batch(1 << 40)).contains("beyond 2^40 values"));
}
