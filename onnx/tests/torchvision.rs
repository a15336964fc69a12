//! Every network of torchvision against fvcore's counts: `make bench-onnx` exports them and runs this.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wattfarm_cost::layer::Kind;
use wattfarm_cost::{Dtype, Network};
use wattfarm_onnx::{Converted, Sizes};

/// Multiply-adds of what multiplies matrices. fvcore does not know attention's own call, of which `counts.json` says whether
/// there was one, and counts its two products only where they are spelled out; a transposed convolution is counted alike.
fn macs(network: &Network, with_attention: bool) -> u64 {
    let products = network.layers().filter_map(|(_, layer)| {
        let gemm = layer.gemm()?;
        let times = match layer.kind() {
            Kind::Attention if with_attention => 2,
            Kind::Attention => 0,
            _ => 1,
        };
        Some(times * gemm.m * gemm.n * gemm.k * gemm.count)
    });
    products.sum()
}

#[test]
#[ignore = "needs the files of `generate.py torchvision`, whose folder is in WATTFARM_TORCHVISION"]
fn torchvisions_networks_are_covered_and_counted() {
    let folder =
        PathBuf::from(std::env::var("WATTFARM_TORCHVISION").expect("the folder of the files"));
    let counts = std::fs::read_to_string(folder.join("counts.json")).expect("there");
    let counts: BTreeMap<String, BTreeMap<String, u64>> =
        serde_json::from_str(&counts).expect("JSON");
    let mut failures = Vec::new();
    println!(
        "| network | nodes | layers | GMACs | of fvcore's % | M parameters | of fvcore's % | FLOPs % | bytes % |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (name, known) in &counts {
        let model = wattfarm_onnx::open(&folder.join(format!("{name}.onnx")));
        let converted = model.and_then(|model| model.network(name, &Sizes::default(), Dtype::F32));
        let Converted { network, coverage } = match converted {
            Ok(converted) => converted,
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let percent = |found: u64, known: u64| 100.0 * found as f64 / known as f64;
        let counted = macs(&network, known["attention_left_out"] == 0);
        let of_macs = percent(counted, known["macs"]);
        let trained: u64 = network
            .layers()
            .filter(|(_, layer)| layer.kind() == Kind::BatchNorm2d)
            .map(|(_, layer)| layer.work().parameters / 2)
            .sum();
        // A running mean and variance are no parameters to PyTorch.
        let parameters = coverage.parameters - trained;
        let of_parameters = percent(parameters, known["parameters"]);
        let (flops, bytes) = (
            100.0 * coverage.flops_share(),
            100.0 * coverage.bytes_share(),
        );
        println!(
            "| {name} | {} | {} | {:.3} | {of_macs:.2} | {:.2} | {of_parameters:.2} | {flops:.2} | {bytes:.2} |",
            coverage.nodes,
            network.layers().count(),
            macs(&network, true) as f64 / 1e9,
            parameters as f64 / 1e6,
        );
        if flops < 99.0 || bytes < 98.0 {
            failures.push(format!("{name}: {:?}", coverage.warnings()));
        }
        // Exporters fold the small tables of position biases, and what is computed from them, into the biases themselves:
        // more numbers in the file than PyTorch has parameters.
        let folds = ["swin", "maxvit"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        let more = if folds { 3.5 } else { 0.5 };
        if (of_macs - 100.0).abs() > 0.5 || of_parameters < 99.5 || of_parameters > 100.0 + more {
            failures.push(format!(
                "{name}: {of_macs:.2} % of the MACs, {of_parameters:.2} % of the parameters"
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        counts.len(),
        failures.join("\n")
    );
}
