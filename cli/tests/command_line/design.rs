//! Commands that weigh networks against each other, and against what they could be.

use super::{models, onnx, printed, refused};

/// Table 7 of the NeuralPower paper, from the energies that it rests on.
#[test]
fn the_papers_ratios_are_printed() {
    let table = printed(&[
        "epr",
        "vgg16",
        "alexnet",
        "nin",
        "--error",
        "7.30%,17%,0.202",
        "--energy-mj",
        "1178.9375,59.328125,89.5703125",
    ]);
    insta::assert_snapshot!("papers_ratios", table);
}

#[test]
fn ratios_of_predicted_networks_are_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write_with_power(&path, "board", 1.0);
    let models = path.to_str().expect("UTF-8");
    let all = [
        "epr",
        "resnet18",
        "mobilenet_v2",
        "--error",
        "0.302,0.281",
        "--alpha",
        "2",
        "--batch",
        "1,8",
        "--models",
        models,
    ];
    insta::assert_snapshot!("predicted_ratios", printed(&all));

    let (code, told) = refused(&["epr", "resnet18", "--error", "0.1,0.2", "--models", models]);
    assert_eq!(code, 2);
    assert!(
        told.contains("--error has 2 values for 1 networks"),
        "{told}"
    );
    let (code, told) = refused(&["epr", "resnet18", "--error", "30", "--models", models]);
    assert_eq!(code, 2);
    assert!(
        told.contains("`30` is not a share of errors such as `0.24` or `24%`"),
        "{told}"
    );
    // Models of time alone.
    models::write(&path, 0);
    let (code, told) = refused(&["epr", "vgg16", "--error", "0.1", "--models", models]);
    assert_eq!(code, 6);
    assert!(
        told.contains("there is no model of power or energy for"),
        "{told}"
    );
}

#[test]
fn a_change_is_priced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write_with_power(&path, "board", 1.0);
    let models = path.to_str().expect("UTF-8");
    let vgg = [
        "whatif",
        "neuralpower/vgg16",
        "--layer",
        "conv3_2",
        "--set",
        "out_channels=192",
        "--batch",
        "1",
        "--models",
        models,
    ];
    insta::assert_snapshot!("changed_network", printed(&vgg));

    let csv = printed(&[&vgg[..], &["--format", "csv"]].concat());
    assert_eq!(csv.lines().count(), 3, "{csv}");
    // A file's layers have their modules' names.
    let file = onnx("mobilenet_v2");
    let hidden = [
        "whatif",
        &file,
        "--layer",
        "features.2.conv.0.0",
        "--set",
        "out_channels=48",
        "--format",
        "json",
        "--models",
        models,
    ];
    let json: serde_json::Value = serde_json::from_str(&printed(&hidden)).expect("JSON");
    let changed: Vec<&str> = json[0]["layers"]
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(|layer| layer["layer"].as_str())
        .filter(|name| !name.contains("Clip"))
        .collect();
    assert_eq!(
        changed,
        [
            "features.2.conv.0.0",
            "features.2.conv.0.1",
            "features.2.conv.1.0",
            "features.2.conv.1.1",
            "features.2.conv.2"
        ],
        "the depthwise convolution and its norms follow, and the projection reads less"
    );

    let (code, told) = refused(&[
        "whatif",
        "resnet18",
        "--layer",
        "layer1.0.conv2",
        "--set",
        "out_channels=48",
        "--models",
        models,
    ]);
    assert_eq!(code, 2);
    assert!(told.contains("node 9 (`layer1.0.add`)"), "{told}");
}

#[test]
fn networks_are_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = ["slow", "fast"].map(|name| folder.path().join(format!("{name}.json")));
    models::write_with_power(&paths[0], "slow", 1.0);
    models::write_with_power(&paths[1], "fast", 8.0);
    let both = paths
        .map(|path| path.to_str().expect("UTF-8").to_owned())
        .join(",");
    let all = [
        "compare",
        "resnet18",
        "resnet50",
        "mobilenet_v2",
        "--batch",
        "1,8",
        "--models",
        &both,
    ];
    insta::assert_snapshot!("compared", printed(&all));
    let csv = printed(&[&all[..], &["--format", "csv"]].concat());
    assert_eq!(csv.lines().count(), 13);

    let with_errors = [
        &all[..],
        &["--error", "30.2%,23.9%,28.1%", "--format", "json"],
    ]
    .concat();
    let json: serde_json::Value = serde_json::from_str(&printed(&with_errors)).expect("JSON");
    assert_eq!(json["against"], "error");
    let rows = json["rows"].as_array().expect("an array");
    let on_front = |row: &&serde_json::Value| row["on_front"] == serde_json::Value::Bool(true);
    let front: Vec<(&str, &str, u64)> = rows
        .iter()
        .filter(on_front)
        .map(|row| {
            let name = |field: &str| row[field].as_str().expect("text");
            (
                name("network"),
                name("platform"),
                row["batch"].as_u64().expect("a number"),
            )
        })
        .collect();
    let fast = "fast-avx2-1t-torch2.11.0";
    assert_eq!(front, [("resnet50", fast, 1), ("mobilenet_v2", fast, 1)]);
}
