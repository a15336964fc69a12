//! What physics forbids: readings that no device of the platform can have brought about.
//!
//! The bounds are wide on purpose. They find what is broken or made up by a lot, never what is a little wrong: a good box
//! must not be accused. What stays below them is taken; docs/reliability.md says what cannot be seen this way.

use wattfarm_cost::measurement::Reading;
use wattfarm_cost::platform::Device;
use wattfarm_cost::{Dtype, Layer, Platform, Subject};

/// How many times faster than its best a device has to be before it isn't believed. Algorithms that multiply less than the
/// sum of products says (Winograd's with 4 x 4 outputs a quarter, by FFT for large kernels less still) stay within it.
const MARGIN: f64 = 10.0;

/// The clock that no CPU on sale reaches, in Hz.
const CPU_CLOCK: f64 = 6.5e9;

/// How far over its power limit a board's mean may lie: limits are kept over a second or so, and sensors are off by 12 % at
/// worst.
const POWER_MARGIN: f64 = 1.5;

/// Operations a second of boards at their best, dense, by a part of their name: in f32, where cuDNN may use TF32, and in 16
/// bits. From the vendor's data sheets, the larger of variants; the first that fits.
const BOARDS: [(&str, f64, f64); 11] = [
    ("GTX 10", 11.4e12, 11.4e12),
    ("TITAN X", 12.2e12, 12.2e12),
    ("P100", 10.6e12, 21.2e12),
    ("V100", 16.4e12, 131e12),
    ("T4", 8.1e12, 65e12),
    ("A100", 156e12, 312e12),
    ("RTX 30", 40e12, 160e12),
    ("RTX 40", 83e12, 331e12),
    ("L40", 183e12, 366e12),
    ("H100", 495e12, 990e12),
    ("H200", 495e12, 990e12),
];

/// No board on sale does more.
const ANY_BOARD: (f64, f64) = (1250e12, 2500e12);

/// Why a reading cannot be; `None` if it can.
pub(super) fn forbids(platform: &Platform, subject: &Subject, reading: &Reading) -> Option<String> {
    too_fast(platform, subject, reading.runtime.median_ms)
        .or_else(|| too_much_power(platform, reading))
}

fn too_fast(platform: &Platform, subject: &Subject, median_ms: f64) -> Option<String> {
    let least_s: f64 = match subject {
        Subject::Layer(layer) => least_seconds(platform, layer),
        Subject::Network(network) => network
            .layers()
            .map(|(_, layer)| least_seconds(platform, layer))
            .sum(),
    };
    let least_ms = least_s * 1e3;
    (median_ms < least_ms).then(|| {
        format!(
            "{median_ms} ms are less than {least_ms:.2e} ms, a tenth of what its products take at the device's best"
        )
    })
}

/// What the layer's matrix products take at the least, with the margin, in s. Other kinds are not judged: what only moves
/// memory may be a view, or lie in a cache.
fn least_seconds(platform: &Platform, layer: &Layer) -> f64 {
    let Some(product) = layer.gemm() else {
        return 0.0;
    };
    let sizes = [product.m, product.n, product.k, product.count];
    let operations: f64 = sizes.iter().map(|&size| size as f64).product::<f64>() * 2.0;
    operations / best(&platform.device, layer.dtype()) / MARGIN
}

/// Operations a second of a device at its best.
fn best(device: &Device, dtype: Dtype) -> f64 {
    let is_half = match dtype {
        Dtype::F32 | Dtype::Tf32 => false,
        Dtype::F16 | Dtype::Bf16 => true,
    };
    match device {
        Device::Cpu {
            threads,
            instruction_set,
            ..
        } => {
            // Two units that multiply and add, each as wide as the registers; in 16 bits the tiles of AMX.
            let a_cycle = match (instruction_set.contains("512"), is_half) {
                (true, true) => 2048.0,
                (true, false) => 64.0,
                (false, true) => 128.0,
                (false, false) => 32.0,
            };
            f64::from(*threads) * a_cycle * CPU_CLOCK
        }
        Device::Cuda { model, .. } => {
            let known = BOARDS.iter().find(|(name, ..)| model.contains(name));
            let (single, half) = known.map_or(ANY_BOARD, |&(_, single, half)| (single, half));
            if is_half { half } else { single }
        }
    }
}

fn too_much_power(platform: &Platform, reading: &Reading) -> Option<String> {
    let Device::Cuda {
        power_limit_w: Some(limit_w),
        ..
    } = &platform.device
    else {
        return None;
    };
    let watts = reading.power.as_ref()?.mean_w;
    let most = f64::from(*limit_w) * POWER_MARGIN;
    (watts > most)
        .then(|| format!("{watts} W are over {most} W, half as much again as the board's limit"))
}

#[cfg(test)]
mod tests {
    use wattfarm_cost::Kind;
    use wattfarm_cost::layer::Value;
    use wattfarm_cost::measurement::{Conditions, Power, Runtime};

    use super::*;

    fn cpu(instruction_set: &str) -> Platform {
        let device = Device::Cpu {
            model: "test".to_owned(),
            threads: 1,
            instruction_set: instruction_set.to_owned(),
        };
        Platform {
            device,
            libtorch: "2.11.0".to_owned(),
        }
    }

    fn cuda(model: &str) -> Platform {
        let device = Device::Cuda {
            model: model.to_owned(),
            memory_mib: 11_000,
            power_limit_w: Some(250),
            clock_policy: "default".to_owned(),
            cuda: "12.8".to_owned(),
            cudnn: None,
            cudnn_benchmark: false,
        };
        Platform { device, ..cpu("") }
    }

    /// 4096^3 multiply-adds: 137.4 GFLOP.
    fn product(dtype: Dtype) -> Subject {
        let sizes = [
            ("batch", 4096),
            ("in_features", 4096),
            ("out_features", 4096),
        ];
        let mut fields: Vec<_> = sizes.map(|(name, size)| (name, Value::Size(size))).into();
        fields.push(("dtype", Value::Word(dtype.name().to_owned())));
        Subject::Layer(Layer::from_fields(Kind::Linear, fields).expect("valid"))
    }

    fn reading(median_ms: f64, watts: Option<f64>) -> Reading {
        let runtime = Runtime {
            median_ms,
            low_ms: median_ms,
            high_ms: median_ms,
            repetitions: 1,
            warmup: 1,
            disturbed: 0,
            samples_ms: vec![median_ms as f32],
        };
        let power = |mean_w| Power {
            mean_w,
            idle_w: None,
            sensor: "test".to_owned(),
            window_s: 1.0,
        };
        Reading {
            runtime,
            power: watts.map(power),
            conditions: Conditions::default(),
        }
    }

    /// The bound by hand: 137.4e9 / (64 x 6.5e9) / 10 = 33.0 ms on one core with AVX-512, twice that with AVX2.
    #[test]
    fn a_tenth_of_the_best_time_is_the_bound() {
        let cases = [
            (cpu("AVX512"), Dtype::F32, 33.0),
            (cpu("AVX2"), Dtype::F32, 66.1),
            (cpu("AVX512"), Dtype::Bf16, 1.032),
            (cuda("NVIDIA GeForce GTX 1080 Ti"), Dtype::F32, 1.205),
            (cuda("NVIDIA H100 80GB HBM3"), Dtype::F32, 0.02777),
            (cuda("NVIDIA H200"), Dtype::Bf16, 0.01388),
            (cuda("a board to come"), Dtype::F16, 0.005498),
        ];
        for (platform, dtype, bound_ms) in cases {
            let judge = |ms| forbids(&platform, &product(dtype), &reading(ms, None));
            assert_eq!(judge(bound_ms * 1.01), None, "{platform:?}");
            let because = judge(bound_ms * 0.99).expect("too fast");
            assert!(because.contains("are less than"), "{because}");
        }
    }

    /// Layers that may be views, or whose operations may be skipped, are never too fast.
    #[test]
    fn what_only_moves_memory_is_not_judged() {
        for kind in Kind::ALL {
            let layer = kind.example();
            if layer.gemm().is_none() {
                let subject = Subject::Layer(layer);
                assert_eq!(forbids(&cpu("AVX2"), &subject, &reading(1e-9, None)), None);
            }
        }
    }

    #[test]
    fn power_is_judged_by_the_boards_limit() {
        let judge = |platform: &Platform, watts| {
            forbids(platform, &product(Dtype::F32), &reading(1e3, Some(watts)))
        };
        let board = cuda("NVIDIA GeForce GTX 1080 Ti");
        assert_eq!(judge(&board, 374.0), None);
        assert!(judge(&board, 376.0).is_some_and(|because| because.contains("limit")));
        assert_eq!(judge(&cpu("AVX2"), 376.0), None, "it has no limit");
    }
}
