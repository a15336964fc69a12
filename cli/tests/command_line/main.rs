//! The command as scripts use it: what it prints, and how it ends.

mod design;
mod files;
mod models;
mod speed;

use std::process::{Command, Output};

/// The command with nothing from the surrounding environment.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattfarm"));
    command
        .args(arguments)
        .env_remove("WATTFARM_COORDINATOR")
        .env_remove("WATTFARM_OPERATOR_KEY_FILE")
        .env_remove("WATTFARM_PLATFORMS");
    command
}

fn wattfarm(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the command runs")
}

fn exit_code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// What a command that succeeds prints.
fn printed(arguments: &[&str]) -> String {
    let output = wattfarm(arguments);
    let said = text(&output.stderr);
    assert_eq!(exit_code(&output), 0, "{arguments:?}: {said}");
    text(&output.stdout).to_owned()
}

/// How a command ends that doesn't succeed, and why.
fn refused(arguments: &[&str]) -> (i32, String) {
    let output = wattfarm(arguments);
    assert!(output.stdout.is_empty(), "{arguments:?}");
    (exit_code(&output), text(&output.stderr).to_owned())
}

#[test]
fn predicts_offline() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write(&path, 0);
    let models = path.to_str().expect("UTF-8");

    let one = wattfarm(&[
        "predict", "resnet18", "--models", models, "--batch", "8", "--format", "json",
    ]);
    assert_eq!(exit_code(&one), 0, "{}", text(&one.stderr));
    let mut json: serde_json::Value = serde_json::from_slice(&one.stdout).expect("JSON");
    let layers = json["layers"].as_array_mut().expect("an array");
    assert!(layers.len() > 40);
    // One layer shows the shape of them all, and one part.
    layers.truncate(1);
    for parts in ["kinds", "stages"] {
        json[parts].as_array_mut().expect("an array").truncate(1);
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).expect("serializes"), @r#"
    {
      "batch": 8,
      "kinds": [
        {
          "bytes": 193991424,
          "energy_mj": null,
          "flops": 29016981504,
          "layers": 20,
          "name": "conv2d",
          "runtime_ms": 29.216981504000003
        }
      ],
      "layers": [
        {
          "bytes": 30544640,
          "energy_mj": null,
          "flops": 1888223232,
          "hash": "0bb073788cbe4c933919039dd4d4f745fc4f2994768770731df4a34cf0adeefb",
          "kind": "conv2d",
          "limit": "compute",
          "name": "conv1",
          "power_w": null,
          "runtime_ms": 1.898223232,
          "runtime_ms_high": 2.0978611120219632,
          "runtime_ms_low": 1.7175834080987542
        }
      ],
      "network": "resnet18",
      "platform": "test-avx2-1t-torch2.11.0",
      "stages": [
        {
          "bytes": 30544640,
          "energy_mj": null,
          "flops": 1888223232,
          "layers": 1,
          "name": "conv1",
          "runtime_ms": 1.898223232
        }
      ],
      "total": {
        "energy_mj": null,
        "energy_mj_per_item": null,
        "flops": 29104062272,
        "items_per_s": 268.50987713475627,
        "parameters": 11699112,
        "peak_activation_bytes": 56197120,
        "power_w": null,
        "runtime_ms": 29.794062272000012,
        "runtime_ms_high": 32.86702176521885,
        "runtime_ms_low": 27.013533538426785
      },
      "warnings": []
    }
    "#);

    let two = wattfarm(&[
        "--format", "json", "predict", "resnet18", "--models", models, "--batch", "1,8",
    ]);
    let json: serde_json::Value = serde_json::from_slice(&two.stdout).expect("JSON");
    let batches: Vec<_> = json
        .as_array()
        .expect("an array")
        .iter()
        .map(|one| one["batch"].clone())
        .collect();
    assert_eq!(batches, [1, 8]);
}

#[test]
fn a_kind_without_a_model_is_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write(&path, 0);
    let output = wattfarm(&[
        "predict",
        "vit_b_16",
        "--models",
        path.to_str().expect("UTF-8"),
    ]);
    assert_eq!(exit_code(&output), 0, "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("warning: no model for gelu"),
        "{}",
        text(&output.stdout)
    );
}

fn onnx(name: &str) -> String {
    format!(
        "{}/../onnx/tests/networks/{name}.onnx",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[test]
fn a_file_is_predicted_as_the_built_in_network() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write(&path, 0);
    let models = path.to_str().expect("UTF-8");
    let predict = |network: &str| {
        let output = wattfarm(&[
            "predict", network, "--models", models, "--batch", "1,8", "--format", "json",
        ]);
        assert_eq!(exit_code(&output), 0, "{}", text(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        json
    };
    let (file, built_in) = (predict(&onnx("resnet18")), predict("resnet18"));
    // Names are the exporter's, and the shortcut stands elsewhere.
    let hashes = |json: &serde_json::Value| {
        let layers = json["layers"].as_array().expect("an array").iter();
        let mut hashes: Vec<String> = layers.map(|layer| layer["hash"].to_string()).collect();
        hashes.sort();
        hashes
    };
    for batch in 0..2 {
        assert_eq!(hashes(&file[batch]), hashes(&built_in[batch]));
        for figure in ["flops", "parameters", "peak_activation_bytes"] {
            assert_eq!(
                file[batch]["total"][figure],
                built_in[batch]["total"][figure]
            );
        }
        assert_eq!(
            file[batch]["coverage"]["uncosted"].as_array().map(Vec::len),
            Some(0)
        );
    }
}

#[test]
fn a_file_is_predicted_for_people_and_for_spreadsheets() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write(&path, 0);
    let models = path.to_str().expect("UTF-8");
    let (network, size) = (onnx("segmentation"), "3x32x32");
    let all = [
        "predict", &network, "--models", models, "--input", size, "--batch", "2",
    ];
    let shown = wattfarm(&all);
    assert_eq!(exit_code(&shown), 0, "{}", text(&shown.stderr));
    insta::assert_snapshot!("predicted_file", text(&shown.stdout));

    let csv = wattfarm(&[&all[..], &["--format", "csv"]].concat());
    let lines: Vec<&str> = text(&csv.stdout).lines().collect();
    assert_eq!(lines.len(), 13);
    assert!(lines[1].starts_with("segmentation,2,test-avx2-1t-torch2.11.0,stem.0,conv2d,"));
}

/// With no coordinator there, a platform's name finds what is on the shelf: in the current folder, or in one that is named.
#[test]
fn a_platform_is_found_on_the_shelf_where_there_is_no_coordinator() {
    let folder = tempfile::tempdir().expect("a folder");
    let platform = "test-avx2-1t-torch2.11.0";
    let shelf = folder.path().join("platforms");
    std::fs::create_dir(&shelf).expect("made");
    let path = shelf.join(format!("{platform}.json"));
    models::write(&path, 0);
    let hash = wattfarm_cost::Hash::of(&std::fs::read_to_string(&path).expect("written"));
    std::fs::write(
        shelf.join("CHECKSUMS"),
        format!("{hash}  {platform}.json\n"),
    )
    .expect("written");

    let predict = |arguments: &[&str], at: &std::path::Path, of: Option<&std::path::Path>| {
        let mut command = command(arguments);
        // Port 1 is nobody's.
        command
            .current_dir(at)
            .env("WATTFARM_COORDINATOR", "127.0.0.1:1");
        if let Some(of) = of {
            command.env("WATTFARM_PLATFORMS", of);
        }
        command.output().expect("the command runs")
    };
    let by_name = [
        "predict",
        "resnet18",
        "--platform",
        platform,
        "--format",
        "json",
    ];
    let by_file = [
        "predict",
        "resnet18",
        "--models",
        path.to_str().expect("UTF-8"),
        "--format",
        "json",
    ];
    let known = wattfarm(&by_file).stdout;
    let elsewhere = tempfile::tempdir().expect("a folder");
    let shelf_named = [&by_name[..], &["--shelf", shelf.to_str().expect("UTF-8")]].concat();
    for found in [
        predict(&by_name, folder.path(), None),
        predict(&by_name, elsewhere.path(), Some(&shelf)),
        predict(&shelf_named, elsewhere.path(), None),
    ] {
        let said = text(&found.stderr);
        assert_eq!(exit_code(&found), 0, "{said}");
        assert_eq!(found.stdout, known);
        assert!(
            said.starts_with("there is no coordinator: `test-avx2-1t-torch2.11.0` is predicted by"),
            "{said}"
        );
    }
    let compared = [
        "compare",
        "resnet18",
        "--platforms",
        platform,
        "--format",
        "json",
    ];
    assert_eq!(exit_code(&predict(&compared, folder.path(), None)), 0);

    // Neither there nor there.
    let nowhere = predict(&by_name, elsewhere.path(), None);
    assert_eq!(exit_code(&nowhere), 3, "{}", text(&nowhere.stderr));
    // What was altered is not used for want of anything better.
    std::fs::write(&path, "{}").expect("written");
    let altered = predict(&by_name, folder.path(), None);
    assert_eq!(exit_code(&altered), 2, "{}", text(&altered.stderr));
}

#[test]
fn budgets_decide_the_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write(&path, 0);
    let models = path.to_str().expect("UTF-8");
    let within = |network: &str, budget: &[&str]| {
        let output = wattfarm(&[&["predict", network, "--models", models], budget].concat());
        assert!(!output.stdout.is_empty(), "what was predicted is shown");
        exit_code(&output)
    };
    // 3.6 GFLOPs and 69 calls: 4.3 ms.
    assert_eq!(within("resnet18", &["--budget-ms", "5"]), 0);
    assert_eq!(within("resnet18", &["--budget-ms", "4"]), 7);
    assert_eq!(
        within("resnet18", &["--budget-mj", "4"]),
        6,
        "no models of energy"
    );
    // Dropout has no model and needs none; GELU has none.
    assert_eq!(within("neuralpower/alexnet", &["--budget-ms", "1e9"]), 0);
    assert_eq!(within("vit_b_16", &["--budget-ms", "1e9"]), 6);
    // Nothing is over NaN.
    let limits = ["--budget-ms", "--budget-mj"].map(|limit| [limit, "nan"]);
    for limit in limits {
        let output = wattfarm(&[&["predict", "resnet18", "--models", models], &limit[..]].concat());
        assert_eq!(exit_code(&output), 2, "{limit:?}");
    }
}

#[test]
fn a_file_that_is_wrong_is_exit_code_2_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write(&path, 0);
    let models = path.to_str().expect("UTF-8");
    let cut = folder.path().join("cut.onnx");
    let whole = std::fs::read(onnx("resnet18")).expect("there");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
    let cut = cut.to_str().expect("UTF-8");
    let missing = folder.path().join("missing.onnx");
    let missing = missing.to_str().expect("UTF-8");
    let fixed = onnx("resnet18");
    for (arguments, told) in [
        (&[cut][..], "this is no whole ONNX file"),
        (&[missing], "read the file"),
        (
            &[&fixed, "--input", "5x224x224"],
            "node `/conv1/Conv` (Conv)",
        ),
        (&[&fixed, "--input", "ids=3"], "input `ids`"),
        (
            &["resnet18", "--input", "3x32x32"],
            "`resnet18` is a built-in network",
        ),
    ] {
        let output = wattfarm(&[&["predict", "--models", models], arguments].concat());
        assert_eq!(
            exit_code(&output),
            2,
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(
            text(&output.stderr).contains(told),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn an_unknown_network_is_exit_code_4() {
    for arguments in [
        &["predict", "resnet19", "--platform", "any"][..],
        &["measure", "resnet19", "--platform", "any"],
        &["networks", "resnet19"],
        &[
            "request",
            "--platform",
            "any",
            "--exclude",
            "resnet18,resnet19@8",
        ],
    ] {
        let output = wattfarm(arguments);
        assert_eq!(exit_code(&output), 4, "{arguments:?}");
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).starts_with("error: `resnet19` is not a built-in network"));
    }
}

#[test]
fn models_that_come_along_are_found_and_predict() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../platforms");
    let files = std::fs::read_dir(folder).expect("a folder");
    let names: Vec<String> = files
        .filter_map(|file| file.expect("a file").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    assert!(!names.is_empty());
    for name in names {
        let output = Command::new(env!("CARGO_BIN_EXE_wattfarm"))
            .args(["predict", "resnet50", "--models", &name, "--format", "json"])
            .env("WATTFARM_PLATFORMS", folder)
            .output()
            .expect("runs");
        assert_eq!(exit_code(&output), 0, "{name}: {}", text(&output.stderr));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(
            told["total"]["items_per_s"].as_f64() > Some(0.0),
            "{name}: every layer has a model"
        );
    }
}

/// Wherever a network is named with its batch, as `--exclude` does as well.
#[test]
fn a_network_named_with_its_batch_may_be_a_file() {
    let file = format!("{}@8", onnx("resnet18"));
    let output = wattfarm(&["networks", &file]);
    assert_eq!(exit_code(&output), 0, "{}", text(&output.stderr));
    let listed = text(&output.stdout);
    let convolutions = listed
        .lines()
        .filter(|line| line.contains("conv2d(batch=8, "));
    assert_eq!(convolutions.count(), 20);
}

#[test]
fn an_unreachable_coordinator_is_exit_code_3() {
    // A port that was free a moment ago.
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = address.expect("a port").to_string();
    let output = wattfarm(&["platforms", "--coordinator", &address]);
    assert_eq!(exit_code(&output), 3);
    assert!(
        text(&output.stderr)
            .starts_with(&format!("error: connect to the coordinator at {address}"))
    );
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("models.json");
    for arguments in [
        &["predict", "resnet18"][..],
        &[
            "predict",
            "resnet18",
            "--models",
            missing.to_str().expect("UTF-8"),
        ],
        &["predict", "resnet18", "--platform", "any", "--batch", "0"],
        &["request", "--platform", "any", "--budget", "much"],
        &["request", "--platform", "any", "--kinds", "conv9d"],
        &["networks", "resnet18@many"],
        &["jobs", "--format", "csv"],
        &[
            "agents",
            "--operator-key-file",
            missing.to_str().expect("UTF-8"),
        ],
    ] {
        let output = wattfarm(arguments);
        assert_eq!(
            exit_code(&output),
            2,
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn what_is_the_operators_wants_the_key() {
    for arguments in [
        &["agents"][..],
        &["jobs"],
        &["campaigns"],
        &["token", "create"],
    ] {
        let output = wattfarm(arguments);
        assert_eq!(exit_code(&output), 5, "{arguments:?}");
    }
}

#[test]
fn formats_may_stand_before_or_behind_the_command() {
    for arguments in [
        &["--format", "json", "networks"][..],
        &["networks", "--format", "json"],
    ] {
        let output = wattfarm(arguments);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(
            json.as_array()
                .expect("an array")
                .iter()
                .any(|network| network["name"] == "resnet18")
        );
    }
}

#[test]
fn a_model_is_explained_as_a_formula() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write(&path, 0);
    let path = path.to_str().expect("UTF-8");
    let output = wattfarm(&["explain", "linear", "--models", path]);
    assert_eq!(exit_code(&output), 0, "{}", text(&output.stderr));
    insta::assert_snapshot!(text(&output.stdout));
    let output = wattfarm(&["explain", "linear", "--models", path, "--target", "power_w"]);
    assert_eq!(exit_code(&output), 4);
    assert!(text(&output.stderr).contains("has no model for power_w of f32 linear"));
}

/// `export` has its own `--format` in the place of the global one.
#[test]
fn export_writes_csv_or_ndjson() {
    for format in ["csv", "ndjson"] {
        let output = wattfarm(&["export", "-o", "unused", "--format", format]);
        assert_eq!(exit_code(&output), 5, "{}", text(&output.stderr));
    }
    assert_eq!(
        exit_code(&wattfarm(&["export", "-o", "unused", "--format", "text"])),
        2
    );
}

#[test]
fn pages_need_nothing_from_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write_with_power(&path, "board", 1.0);
    let models = path.to_str().expect("UTF-8");
    let (file, size) = (onnx("segmentation"), "3x32x32");
    let predicted = [
        "predict", &file, "--models", models, "--input", size, "--batch", "2", "--format", "html",
    ];
    let compared = [
        "compare", "resnet18", "vgg16", "--models", models, "--format", "html",
    ];
    for (name, arguments) in [
        ("predicted_page", &predicted[..]),
        ("compared_page", &compared),
    ] {
        let page = printed(arguments);
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        // One element a line, and without the style sheet: a change shows as a diff to read.
        let (begin, end) = (page.find("<style>"), page.find("</style>"));
        let (begin, end) = begin.zip(end).expect("a style sheet");
        let page = format!("{}{}", &page[..begin], &page[end + "</style>".len()..]);
        insta::assert_snapshot!(name, page.replace("><", ">\n<"));
    }
    let (code, told) = refused(&["networks", "--format", "html"]);
    assert_eq!(code, 2);
    assert!(
        told.contains("only predictions, comparisons and validations are written as html"),
        "{told}"
    );
}

#[test]
fn caffes_description_is_predicted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.json");
    models::write(&path, 0);
    let models = path.to_str().expect("UTF-8");
    let file = |name: &str| {
        let folder = env!("CARGO_MANIFEST_DIR");
        format!("{folder}/../caffe/tests/networks/{name}.prototxt")
    };
    let nin = file("nin");
    let all = ["predict", &nin, "--models", models, "--batch", "1"];
    insta::assert_snapshot!("predicted_description", printed(&all));
    let (code, told) = refused(&["predict", &file("vgg16_train_val"), "--models", models]);
    assert_eq!(code, 2);
    assert!(
        told.contains("give that of one item by --input 3x224x224"),
        "{told}"
    );
}
