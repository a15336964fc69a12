//! The built-in networks against what is known of them: torchvision's published counts, and each other.

use std::collections::BTreeSet;

use wattfarm_cost::network::{Network, NetworkError, Step, zoo};
use wattfarm_cost::{Dtype, Kind};

fn built(name: &str, batch: u64) -> Network {
    zoo::build(name, Some(batch), Dtype::F32)
        .unwrap_or_else(|error| panic!("{name} at batch {batch}: {error}"))
}

/// Trained numbers. Of a batch normalisation's four per channel, the running mean and variance are not.
fn trained_parameters(network: &Network) -> u64 {
    let of_layers = network.layers().map(|(_, layer)| match layer.kind() {
        Kind::BatchNorm2d => layer.work().parameters / 2,
        _ => layer.work().parameters,
    });
    let of_network = network.nodes().iter().map(|node| match &node.step {
        Step::Parameter(shape) => shape.iter().product(),
        Step::Layer(_)
        | Step::Reshape(_)
        | Step::Select { .. }
        | Step::Slice { .. }
        | Step::Transpose(_) => 0,
    });
    of_layers.sum::<u64>() + of_network.sum::<u64>()
}

/// Multiply-adds of convolutions and products; attention has two products of the same size.
fn macs(network: &Network) -> u64 {
    let products = network.layers().filter_map(|(_, layer)| {
        let gemm = layer.gemm()?;
        let times = if layer.kind() == Kind::Attention {
            2
        } else {
            1
        };
        Some(times * gemm.m * gemm.n * gemm.k * gemm.count)
    });
    products.sum()
}

/// `num_params` and `_ops` (multiply-adds in thousand millions) of torchvision's own weights' metadata.
const TORCHVISION: [(&str, u64, f64); 17] = [
    ("alexnet", 61_100_840, 0.714),
    ("resnet18", 11_689_512, 1.814),
    ("resnet50", 25_557_032, 4.089),
    ("mobilenet_v2", 3_504_872, 0.301),
    ("densenet121", 7_978_856, 2.834),
    ("squeezenet1_1", 1_235_496, 0.349),
    ("vgg16", 138_357_544, 15.470),
    ("vgg19", 143_667_240, 19.632),
    ("googlenet", 6_624_904, 1.498),
    ("vit_b_16", 86_567_656, 17.564),
    ("resnet34", 21_797_672, 3.664),
    ("resnet101", 44_549_160, 7.801),
    ("resnext50_32x4d", 25_028_904, 4.230),
    ("mnasnet1_0", 4_383_312, 0.314),
    ("densenet169", 14_149_480, 3.360),
    ("squeezenet1_0", 1_248_424, 0.819),
    ("vgg11", 132_863_336, 7.609),
];

#[test]
fn parameters_and_macs_are_torchvisions() {
    for (name, parameters, gigamacs) in TORCHVISION {
        let network = built(name, 1);
        assert_eq!(trained_parameters(&network), parameters, "{name}");
        let found = macs(&network) as f64 / 1e9;
        assert!(
            (found / gigamacs - 1.0).abs() < 0.005,
            "{name}: {found} and not {gigamacs}"
        );
        assert_eq!(
            network.shape(network.nodes().len() - 1),
            &vec![1, 1000],
            "{name}"
        );
    }
}

#[test]
fn every_network_builds_at_any_batch_and_is_another_one_there() {
    let mut hashes = BTreeSet::new();
    let mut names = BTreeSet::new();
    for builtin in zoo::all() {
        assert!(names.insert(builtin.name), "{} twice", builtin.name);
        assert_eq!(
            builtin.build(None, Dtype::F32).expect("builds").batch(),
            builtin.default_batch
        );
        for batch in [1, 8] {
            let network = built(builtin.name, batch);
            assert_eq!((network.name(), network.batch()), (builtin.name, batch));
            assert!(
                hashes.insert(network.hash()),
                "{} at batch {batch} is some other network",
                builtin.name
            );
            let step_names: BTreeSet<_> = network.nodes().iter().map(|node| &node.name).collect();
            assert_eq!(
                step_names.len(),
                network.nodes().len(),
                "{}: two steps of one name",
                builtin.name
            );
        }
        assert_eq!(
            macs(&built(builtin.name, 8)),
            8 * macs(&built(builtin.name, 1)),
            "{}",
            builtin.name
        );
        assert!(
            hashes.insert(builtin.build(Some(1), Dtype::F16).expect("builds").hash()),
            "{}",
            builtin.name
        );
    }
}

/// Stored results name networks by hash: a change here makes them another network's.
#[test]
fn a_networks_hash_is_golden() {
    let hash = built("resnet18", 1).hash();
    assert_eq!(
        hash.to_string(),
        "c659e501ba32119138601eb083e961a859fc5c9dcb5f0f505ab9eea5aca6e746"
    );
}

#[test]
fn steps_have_torchvisions_names_in_its_order() {
    let network = built("resnet18", 1);
    let names: Vec<&str> = network
        .nodes()
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(
        names[..6],
        [
            "conv1",
            "bn1",
            "relu",
            "maxpool",
            "layer1.0.conv1",
            "layer1.0.bn1"
        ]
    );
    let block = names
        .iter()
        .position(|name| *name == "layer2.0.conv2")
        .expect("there");
    let rest = ["bn2", "downsample.0", "downsample.1", "add", "relu2"]
        .map(|name| format!("layer2.0.{name}"));
    assert_eq!(names[block + 1..block + 6], rest);
    assert_eq!(names[names.len() - 3..], ["avgpool", "flatten", "fc"]);

    let network = built("mobilenet_v2", 1);
    let names: Vec<&str> = network
        .nodes()
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(
        names[3..8],
        ["0.0", "0.1", "0.2", "1", "2"].map(|name| format!("features.1.conv.{name}"))
    );
    assert!(names.contains(&"features.3.add") && !names.contains(&"features.2.add"));
}

#[test]
fn refusals_say_what_is_wrong() {
    let unknown = zoo::build("lenet", None, Dtype::F32).expect_err("unknown");
    assert_eq!(unknown, NetworkError::UnknownName("lenet".to_owned()));
    assert_eq!(
        unknown.to_string(),
        "`lenet` is not a built-in network: `wattfarm networks` lists them"
    );

    let empty = zoo::build("resnet18", Some(0), Dtype::F32).expect_err("empty");
    assert_eq!(
        empty.to_string(),
        "node 0 (`conv1`): batch: must be at least 1"
    );
    for builtin in zoo::all() {
        for batch in [0, 1 << 30, 1 << 40, u64::MAX] {
            let refused = builtin
                .build(Some(batch), Dtype::F32)
                .expect_err("no such batch");
            assert!(
                matches!(refused, NetworkError::Node { index: 0, .. }),
                "{}: {refused}",
                builtin.name
            );
        }
    }
}

#[test]
fn a_network_round_trips_through_json() {
    let network = built("vit_b_16", 2);
    let text = serde_json::to_string(&network).expect("serializes");
    let again: Network = serde_json::from_str(&text).expect("reads back");
    assert_eq!(again, network);
    assert_eq!(again.hash(), network.hash());
}
